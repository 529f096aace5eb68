"""One page for all tests of the room, and programs that ask it."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from types import SimpleNamespace

import pytest

from helpers.places import REPOSITORY

PATIENCE = 180.0  # seconds until the page is there


@pytest.fixture(scope="session")
def page(tmp_path_factory):
    """A page that `ciao demo` serves on the loopback, in a process of its own; skips where gradio is missing."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("gradio is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("page")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "GRADIO_TEMP_DIR": str(folder / "uploads")}
    command = [sys.executable, "-m", "ciao_peft.cli", "demo", "--port", str(port)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
    address, end = f"http://127.0.0.1:{port}/", time.monotonic() + PATIENCE
    try:
        while True:
            assert process.poll() is None and time.monotonic() < end, (folder / "log").read_text()
            try:
                with urllib.request.urlopen(address, timeout=10):
                    break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        yield SimpleNamespace(local_url=address, log=folder / "log")
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def visitor(page):
    """Makes clients of gradio's, each a visitor of its own."""
    gradio_client = importlib.import_module("gradio_client")
    made = []

    def come():
        made.append(gradio_client.Client(page.local_url, verbose=False))
        return made[-1]

    yield come
    for client in made:
        client.close()
    made.clear()
    with warnings.catch_warnings():  # a client leaves sockets open, which would be told in some later test
        warnings.simplefilter("ignore")
        gc.collect()
