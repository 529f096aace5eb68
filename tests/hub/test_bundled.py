"""Adapters in the package: read by name without a network, small, and never in the way of somebody's repository."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys

import pytest
import torch

import ciao_peft
from ciao_peft import AutoCIAOModel, CIAOConfig, CIAOModel, get_ciao_model, load_encoder
from ciao_peft.cli import main
from ciao_peft.data import paint_face
from ciao_peft.errors import AdapterFileError, HubNotFoundError, HubOfflineError
from ciao_peft.hub import bundled_adapters, bundled_folder, list_adapters, publish_adapter, read_adapter
from helpers.places import PACKAGE, REPOSITORY
from helpers.processes import environment

NAMES = ["everyday-six", "painted-affect", "painted-eight", "painted-seven", "painted-signals"]
NO_NETWORK = """
import socket

def refuse(*arguments, **settings):
    raise AssertionError("the network was asked")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
"""


def narrow_adapter(folder):
    torch.manual_seed(0)
    encoder = load_encoder("small-face", pretrained=False, channels=[4, "pool", 8], embedding_size=6)
    return get_ciao_model(encoder, CIAOConfig(problem_type="regression", num_labels=2)).save_pretrained(folder)


def test_the_package_holds_what_it_says():
    assert list_adapters() == ciao_peft.list_adapters() == [f"ciao/{name}" for name in NAMES]
    for adapter in bundled_adapters():
        folder = bundled_folder(adapter.name)
        files = {"README.md", "adapter_config.json", "adapter_model.safetensors", "preprocessor_config.json"}
        assert {file.name for file in folder.iterdir()} == files  # no picture of a person, nor any other
        assert adapter.num_bytes < 300_000
        saved, snapshot = read_adapter(adapter.name)
        assert snapshot.repo_id is None and saved.preprocessing is not None
        assert all(tensor.dtype == torch.float16 for tensor in saved.tensors.values() if tensor.dim() > 1)
        card = (folder / "README.md").read_text()
        assert f'from_pretrained("{adapter.name}"' in card and "public domain" in card
        if saved.config.problem_type != "regression":
            assert saved.config.probability_temperature != 1.0


def test_all_of_them_read_one_face_with_one_model():
    model = AutoCIAOModel.from_pretrained("ciao/painted-eight")
    for name in sorted({*list_adapters()} - {"ciao/painted-eight"}):
        model.load_adapter(name)
    face = paint_face(expression=ciao_peft.data.Expression(mouth_curve=1.0, mouth_open=0.4), size=150)
    answers = model.predict(face, adapter_names=[*NAMES])
    assert {*answers} == {*NAMES}
    assert max(answers["everyday-six"], key=answers["everyday-six"].get) == "happiness"
    assert max(answers["painted-eight"], key=answers["painted-eight"].get) == "happiness"
    assert answers["painted-affect"]["valence"] > 0


def test_the_first_snippet_of_the_readme_reads_a_face_without_network(tmp_path):
    snippet = re.search(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL).group(1)
    assert "ciao/everyday-six" in snippet
    assert len([line for line in snippet.splitlines() if line and not line.startswith(("#", "from ", "import "))]) <= 3
    paint_face(size=200).save(tmp_path / "face.jpg")
    done = subprocess.run(
        [sys.executable, "-c", NO_NETWORK + snippet],
        cwd=tmp_path,
        env=environment(HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "empty")),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "happiness" in done.stdout


def test_a_folder_and_the_hub_can_still_be_meant(tmp_path, hub, monkeypatch):
    """A folder goes before the package, and what only a repository has is asked of the Hub."""
    assert read_adapter("ciao/everyday-six", local_files_only=True)[0].config.num_labels == 6
    for asked in ({"revision": "main"}, {"subfolder": "fer"}, {"force_download": True}):
        with pytest.raises(HubNotFoundError, match=r"'?ciao/everyday-six"):
            read_adapter("ciao/everyday-six", **asked)
    with pytest.raises(HubOfflineError, match="'ciao/somebody-else' is not in the cache"):
        read_adapter("ciao/somebody-else", local_files_only=True)
    monkeypatch.chdir(tmp_path)
    narrow_adapter("ciao/everyday-six")
    assert read_adapter("ciao/everyday-six")[0].config.num_labels == 2


def test_a_mistyped_name_is_told_from_a_repository_before_the_network(monkeypatch):
    def asked(*arguments, **settings):
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr("ciao_peft.hub.downloading.download", asked)
    for load in (read_adapter, AutoCIAOModel.from_pretrained):
        with pytest.raises(HubNotFoundError, match=r"'ciao/everyday-sx'\. Did you mean 'ciao/everyday-six'\? It holds"):
            load("ciao/everyday-sx")
    with pytest.raises(AdapterFileError, match=r"No adapter folder.* Did you mean 'ciao/everyday-six' of this package"):
        read_adapter("everyday-six")
    with pytest.raises(AssertionError, match="the Hub was asked"):
        read_adapter("ciao/everyday-sx", revision="main")
    monkeypatch.setattr("sys.argv", ["ciao"])
    assert main(["inspect", "ciao/painted-eigth"]) != 0


def test_what_the_hub_has_not_may_be_in_the_package(hub, tmp_path):
    with pytest.raises(HubNotFoundError, match="Did you mean 'ciao/everyday-six' of this package"):
        read_adapter("caio/everyday-six")
    with pytest.raises(HubNotFoundError, match="This package has 'ciao/everyday-six', "):
        read_adapter("ciao/jaffe")
    with pytest.raises(AdapterFileError) as damaged:  # a folder that is there is what is meant
        read_adapter(tmp_path)
    assert "Did you mean" not in str(damaged.value)


def test_who_publishes_under_such_a_name_is_told(tmp_path, hub):
    folder = narrow_adapter(tmp_path / "mine")
    with (
        pytest.warns(UserWarning, match="also an adapter in this package.* `revision='main'`"),
        pytest.raises(ciao_peft.CIAOError),  # this Hub has no user of that name
    ):
        publish_adapter(folder, "ciao/everyday-six", token="hf_ann")


def test_a_wheel_holds_all_files():
    text = (REPOSITORY / "pyproject.toml").read_text()
    (pattern,) = re.search(r'"ciao_peft.hub" = \["(.*)"\]', text).groups()
    for adapter in bundled_adapters():
        for file in bundled_folder(adapter.name).iterdir():
            assert fnmatch.fnmatch(str(file.relative_to(PACKAGE / "hub")), pattern)


@pytest.mark.parametrize("name", NAMES)
def test_they_load_on_the_encoder_that_they_name(name):
    entry = {adapter.name: adapter for adapter in bundled_adapters()}[f"ciao/{name}"]
    model = CIAOModel.from_pretrained(load_encoder(entry.encoder), entry.name)
    assert (model.active_adapter, model.preprocessing.align is not None) == (name, entry.aligned)
