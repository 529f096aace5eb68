"""A dependency below its bound is told by a word of ours, not by an import that fails somewhere inside."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from pathlib import Path

import pytest

from ciao_peft import CIAOConfig, CIAOTrainingArguments, cli, get_ciao_model, load_encoder, load_faces
from ciao_peft.encoders import from_transformers
from ciao_peft.errors import CIAOError, OutdatedPackageError
from ciao_peft.features.processes import Processes
from ciao_peft.hub import RepoFile, publish
from ciao_peft.hub.client import open_client
from ciao_peft.hub.downloading import download
from ciao_peft.installed import check_installed
from ciao_peft.metrics import load_metric
from ciao_peft.trainer import make_accelerator

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


def import_anew():
    """As where neither was imported before: the integration, with a transformers that lacks what it asks for."""
    names = ("ciao_peft.integrations.transformers", "transformers.image_processing_base")
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, names[0], raising=False)
        patch.setitem(sys.modules, names[1], None)
        importlib.import_module(names[0])


@pytest.mark.parametrize(
    ("package", "way"),
    [
        ("accelerate", lambda: make_accelerator(CIAOTrainingArguments(report_to="none"))),
        ("accelerate", Processes),
        ("datasets", lambda: load_faces("painted_faces")),
        ("evaluate", lambda: load_metric("rmse")),
        ("huggingface-hub", lambda: download("user/ciao-fer", [RepoFile("config.json", 1000)], local_files_only=True)),
        ("huggingface-hub", lambda: publish("user/ciao-fer", lambda head: {})),
        ("huggingface-hub", lambda: open_client(None)),
        ("transformers", lambda: from_transformers.read(Path("nowhere"))),
        ("transformers", lambda: from_transformers.build(model_type="resnet")),
        ("transformers", import_anew),
    ],
)
def test_every_way_to_another_package_names_the_version_that_is_needed(package, way, installed, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # for which features ask accelerate
    installed(package, "0.1")
    with pytest.raises(OutdatedPackageError, match=rf"needs {package} [\d.]+ or newer, and 0\.1 is installed"):
        way()


@pytest.mark.parametrize(
    ("package", "brought"),
    [("datasets", "pyarrow"), ("evaluate", "pyarrow"), ("timm", "torchvision"), ("transformers", "huggingface-hub")],
)
def test_what_a_package_imports_is_named_too(package, brought, installed):
    installed(brought, "0.1")
    with pytest.raises(OutdatedPackageError, match=rf"needs {brought} "):
        check_installed(package)


def test_the_command_line_says_it_in_a_line(installed, capsys):
    installed("transformers", "4.40.0")
    assert cli.main(["train", "--help"]) == 1
    assert "ciao: ciao_peft needs transformers" in capsys.readouterr().err


@pytest.mark.parametrize("version", ["1.0.9", "1.0.9.dev0", "0.99", "1"])
def test_older_than_the_bound(installed, monkeypatch, version):
    monkeypatch.setattr("ciao_peft.installed._bound", lambda package: "1.0.31")
    installed("timm", version)
    with pytest.raises(OutdatedPackageError):
        check_installed("timm")


@pytest.mark.parametrize("version", ["1.0.31", "1.0.31.post1", "1.0.100", "1.1", "2", "1.0.31+local"])
def test_new_enough(installed, monkeypatch, version):
    monkeypatch.setattr("ciao_peft.installed._bound", lambda package: "1.0.31" if package == "timm" else None)
    installed("timm", version)
    check_installed("timm")


def test_without_metadata_nothing_is_compared(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    check_installed("timm")
