"""Servers on the loopback, started once, and an empty cache for each test."""

from __future__ import annotations

import fsspec
import pytest

from helpers.local_stores import LocalS3, LocalWeb


@pytest.fixture(scope="session")
def _s3_server():
    pytest.importorskip("s3fs", reason="needs the extra `stores`")
    pytest.importorskip("moto", reason="needs moto[s3], flask and flask-cors")
    pytest.importorskip("flask_cors")
    with LocalS3() as server:
        yield server


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ciao_peft" / "stores"


@pytest.fixture
def s3(_s3_server, cache, monkeypatch):
    """An S3 server with one empty bucket, `worlds`; the environment leads to it."""
    server = _s3_server
    server.faulty.clear()
    for name, value in {**server.KEYS, "AWS_ENDPOINT_URL": server.url}.items():
        monkeypatch.setenv(name, value)
    client = server.client()
    for bucket in client.list_buckets()["Buckets"]:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket["Name"]):
            for entry in page.get("Contents", []):
                client.delete_object(Bucket=bucket["Name"], Key=entry["Key"])
        client.delete_bucket(Bucket=bucket["Name"])
    client.create_bucket(Bucket="worlds")
    client.close()
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.faulty.clear()
    return server


@pytest.fixture
def web(cache):
    """A web server without files."""
    fsspec.filesystem("http").clear_instance_cache()
    with LocalWeb() as server:
        yield server
