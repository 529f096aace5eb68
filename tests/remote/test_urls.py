"""Which URLs are followed, and that all others are refused by a sentence."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciao_peft import load_encoder
from ciao_peft.errors import CIAOError, ConfigError, RemoteURLError
from ciao_peft.hub import name_from, read_adapter
from ciao_peft.remote import is_url, parse_url, within
from ciao_peft.remote.patience import seconds_to_wait


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/fer",
        "s3://bucket/deep/er/fer.v2",
        "gs://bucket/fer",
        "gcs://bucket/fer",
        "az://container/fer",
        "abfs://container@account.dfs.core.windows.net/fer",
        "https://example.org/adapters/fer",
        "http://127.0.0.1:9000/fer",
        "memory://fer",
    ],
)
def test_a_url_is_what_was_written(url):
    assert is_url(url)
    assert str(parse_url(url)) == str(parse_url(url + "/")) == url
    assert name_from(url) == parse_url(url).name == url.rpartition("/")[2]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("simplecache::s3://bucket/fer", "chain"),
        ("zip://fer::s3://bucket/all.zip", "chain"),
        ("filecache::file:///etc", "chain"),
        ("s3://bucket/fer::file:///etc/passwd", "chain"),
        ("file:///etc", "of a kind that is not read"),
        ("local:///etc", "of a kind that is not read"),
        ("zip://etc", "of a kind that is not read"),
        ("tar://etc", "of a kind that is not read"),
        ("github://org:repo@/fer", "of a kind that is not read"),
        ("git://repo/fer", "of a kind that is not read"),
        ("ssh://host/fer", "of a kind that is not read"),
        ("sftp://host/fer", "of a kind that is not read"),
        ("dask://fer", "of a kind that is not read"),
        ("jupyter://host/fer", "of a kind that is not read"),
        ("reference://fer", "of a kind that is not read"),
        ("hf://user/fer", "of a kind that is not read"),
        ("s3://bucket", "names no folder"),
        ("s3:///fer", "must begin with a bucket"),
        ("s3://bucket//fer", "no plain path"),
        ("s3://bucket/../other/fer", "no plain path"),
        ("s3://bucket/./fer", "no plain path"),
        ("s3://bucket/%2e%2e/fer", "no plain path"),
        ("s3://bucket/fer?versionId=3", "no plain path"),
        ("s3://bucket/fer*", "no plain path"),
        ("s3://bucket/a\\b", "no plain path"),
        ("s3://bucket/a\nb", "no plain path"),
        ("https://example.org/fer#part", "no plain path"),
        ("https://ann:secret@example.org/fer", "without name and password"),
        ("https://exa mple.org/fer", "must begin with a host"),
        ("https://../fer", "must begin with a host"),
        ("https://example..org/fer", "must begin with a host"),
        ("https://.example.org/fer", "must begin with a host"),
        ("https://-/fer", "must begin with a host"),
        ("https://..:80/fer", "must begin with a host"),
        ("s3://../fer", "must begin with a bucket"),
        ("gs://./fer", "must begin with a bucket"),
        ("az://../fer", "must begin with a bucket"),
        ("abfs://container@../fer", "name and password"),
        ("s3://bucket/" + "a" * 2000, "at most 1024"),
    ],
)
def test_what_is_no_folder_in_a_store_is_refused(url, why, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for read in (parse_url, read_adapter, load_encoder):
        with pytest.raises(RemoteURLError, match=why) as caught:
            read(url)
        assert "secret" not in str(caught.value)
        assert len(str(caught.value)) < 400
    assert os.listdir(tmp_path) == []


def test_a_url_stays_one_in_capital_letters_and_a_path_is_none():
    assert str(parse_url("S3://bucket/Fer")) == "s3://bucket/Fer"
    assert not any(map(is_url, ("C:/runs/fer", "c:\\runs", "runs/fer", "user/fer", "./a::b", "", None, 3, b"s3://a/b")))


@given(st.text(max_size=30), st.sampled_from(["s3://", "https://", "memory://", "az://", "", "s3://bucket/"]))
def test_any_text_is_a_plain_folder_or_refused(text, start):
    try:
        url = parse_url(start + text)
    except CIAOError:
        return
    parts = str(url).partition("://")[2].split("/")
    assert all(part and part.strip(". ") for part in parts)
    assert url.scheme == "memory" or all(name[:1].isalnum() or name[:1] == "_" for name in parts[0].split("."))
    assert not set("%?#*[]\\\n\0") & set(str(url))
    assert parse_url(str(url)) == url


@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf", "nan"])
def test_a_timeout_that_is_none_is_refused(text, monkeypatch):
    monkeypatch.setenv("CIAO_STORE_TIMEOUT", text)
    with pytest.raises(ConfigError, match="CIAO_STORE_TIMEOUT must be a number of seconds"):
        seconds_to_wait()


def test_what_a_call_raises_is_raised_where_it_is_waited_for():
    with pytest.raises(KeyError):
        within(10, lambda: {}["missing"])
