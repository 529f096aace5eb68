"""A dependency below its bound is told by a word of ours, not by an import that fails somewhere inside."""

from __future__ import annotations

import importlib.metadata

import pytest

from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
from ciao_peft.errors import CIAOError, OutdatedPackageError
from ciao_peft.installed import check_installed

CONFIG = CIAOConfig(problem_type="regression", num_labels=2)


@pytest.fixture
def installed(monkeypatch):
    """Lets a package have another version than it has."""
    true = importlib.metadata.version

    def set_version(package: str, version: str) -> None:
        monkeypatch.setattr(importlib.metadata, "version", lambda name: version if name == package else true(name))

    return set_version


def test_every_way_to_a_model_of_timm_names_the_version_that_is_needed(installed):
    import timm

    network = timm.create_model("test_resnet", pretrained=False)
    installed("timm", "0.9.16")
    for way in (
        lambda: load_encoder("timm/test_resnet", pretrained=False),
        lambda: get_ciao_model(network, CONFIG),
    ):
        with pytest.raises(
            OutdatedPackageError, match=r"needs timm [\d.]+ or newer, and 0\.9\.16 is installed"
        ) as told:
            way()
        assert isinstance(told.value, CIAOError) and isinstance(told.value, ImportError)


@pytest.mark.parametrize("version", ["1.0.9", "1.0.9.dev0", "0.99", "1"])
def test_older_than_the_bound(installed, monkeypatch, version):
    monkeypatch.setattr("ciao_peft.installed._bound", lambda package: "1.0.31")
    installed("timm", version)
    with pytest.raises(OutdatedPackageError):
        check_installed("timm")


@pytest.mark.parametrize("version", ["1.0.31", "1.0.31.post1", "1.0.100", "1.1", "2", "1.0.31+local"])
def test_new_enough(installed, monkeypatch, version):
    monkeypatch.setattr("ciao_peft.installed._bound", lambda package: "1.0.31")
    installed("timm", version)
    check_installed("timm")


def test_without_metadata_nothing_is_compared(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    check_installed("timm")
