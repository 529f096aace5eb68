"""One page for all tests of the room."""

from __future__ import annotations

import importlib.util
import warnings

import pytest

from ciao_peft.demo import launch_demo


@pytest.fixture(scope="session")
def page():
    """A page that is served on the loopback; skips where gradio is missing."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("gradio is not installed")
    with warnings.catch_warnings():  # what gradio and its own dependencies say of each other
        warnings.simplefilter("ignore")
        page = launch_demo(wait=False, quiet=True)
    yield page
    page.close(verbose=False)
