"""What every test can rely on: no network, nothing of the user's, one thread, the same random numbers."""

from __future__ import annotations

import atexit
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import shapes
from helpers.hub_server import LocalHub
from helpers.places import SHARED

# Before anything of Hugging Face is imported: it reads its environment once. Workers of xdist inherit all of this, and
# with it the one folder that they share.
if "PYTEST_XDIST_WORKER" not in os.environ:
    for variable in [*os.environ]:  # a developer's token, cache or launcher settings can neither help nor be harmed
        if variable.startswith(("ACCELERATE_", "HF_", "HUGGING", "TRANSFORMERS_")):
            del os.environ[variable]
    scratch = tempfile.mkdtemp(prefix="ciao-peft-tests-")
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    os.environ |= {
        "HF_HOME": scratch,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "1",
        "TORCH_HOME": scratch,
        "XDG_CACHE_HOME": scratch,
    }


# Before a module whose shapes are checked is imported.
shapes.install()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what is marked `cuda` where there is no GPU."""
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU"))


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries under test draw from the global generator
    torch.manual_seed(0)


@pytest.fixture
def no_shape_checks() -> Iterator[None]:
    """For tests of `torch.compile`, which cannot look through jaxtyping's wrappers."""
    with shapes.off():
        yield


@pytest.fixture(scope="session")
def real_faces() -> Path:
    """Real faces beside the checkout, where there are any: `train/` and `test/` with a `metadata.csv` each."""
    folder = SHARED / "faces"
    if not folder.is_dir():
        pytest.skip("no folder shared/faces beside the checkout")
    return folder


@pytest.fixture(scope="session")
def _hub_server() -> Iterator[LocalHub]:
    with LocalHub() as server:
        yield server


@pytest.fixture
def hub(_hub_server: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalHub:
    """A Hub without repositories on the loopback, and an empty cache. Its users are those of `hub_server.TOKENS`."""
    from huggingface_hub import constants

    _hub_server.clear()
    monkeypatch.setattr(constants, "ENDPOINT", _hub_server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", _hub_server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    return _hub_server
