"""Where the package for a store is not installed, an error names it and the extra that brings it."""

from __future__ import annotations

import importlib.util
import re

import pytest

from ciao_peft import CIAOModel, cache_features, load_encoder
from ciao_peft.data import open_shards
from ciao_peft.encoders import save_encoder
from ciao_peft.errors import MissingExtraError
from ciao_peft.features import load_features
from helpers.fakes import tiny_backbone, wrap
from helpers.features import faces

DOORS = {
    "load_encoder": load_encoder,
    "save_encoder": lambda url: save_encoder(load_encoder("small-face"), url),
    "from_pretrained": lambda url: CIAOModel.from_pretrained(tiny_backbone(), url),
    "save_pretrained": lambda url: wrap().save_pretrained(url),
    "cache_features": lambda url: cache_features(tiny_backbone(), faces(), url),
    "load_features": load_features,
    "open_shards": open_shards,
}


@pytest.fixture
def without(monkeypatch):
    """Takes a package away."""
    find = importlib.util.find_spec

    def take(package):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *more: None if name == package else find(name, *more)
        )

    return take


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("scheme", "package", "extra"),
    [
        ("gs", "gcsfs", "gcs"),
        ("gcs", "gcsfs", "gcs"),
        ("az", "adlfs", "azure"),
        ("abfs", "adlfs", "azure"),
        ("s3", "s3fs", "stores"),
    ],
)
def test_a_store_without_its_package_is_told_with_the_extra(
    scheme, package, extra, door, without, tmp_path, monkeypatch
):
    without(package)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said = f"A URL of {scheme} needs {package}: pip install 'ciao_peft[{extra}]'."
    with pytest.raises(MissingExtraError, match=re.escape(said)):
        DOORS[door](f"{scheme}://bucket/faces")


def test_a_web_server_needs_a_package_too(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "aiohttp" else find(name, *more)
    )
    with pytest.raises(MissingExtraError, match=r"A URL of https needs aiohttp: pip install 'ciao_peft\[stores\]'"):
        load_encoder("https://example.org/faces")
