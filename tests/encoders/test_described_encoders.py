"""An encoder's files describe a network: neither one that fills the machine, nor one that lies elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import socket

import pytest
import torch
from safetensors.torch import save_file

from ciao_peft import load_encoder
from ciao_peft.encoders import save_encoder
from ciao_peft.encoders.bounds import bounded_building, check_config
from ciao_peft.encoders.from_transformers import build
from ciao_peft.errors import AdapterFileError, CIAOError, ConfigError
from helpers import anybodys
from helpers.fakes import sealed


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("somebody asked elsewhere")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


COVERED = ("model.safetensors", "preprocessor_config.json")


def ours(folder, architecture, kind):
    """A folder of ours with any architecture and small weights."""
    folder = save_encoder(load_encoder("small-face", pretrained=False, channels=[4, 4], embedding_size=4), folder)
    config = json.loads((folder / "config.json").read_text())
    config = sealed(config | {"ciao_encoder": kind, "architecture": architecture}, folder, COVERED)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def of_others(folder, config):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"weight": torch.ones(4)}, folder / "model.safetensors")
    return folder


LARGE = [
    ("small-face", {"embedding_size": 400_000_000}),
    ("small-face", {"embedding_size": 4_000_000}),
    ("small-face", {"channels": [64, 10**6, 10**6]}),
    ("small-face", {"channels": [64] * 40_000}),
    ("transformers", {"model_type": "resnet", "embedding_size": 400_000}),
    ("transformers", {"model_type": "resnet", "depths": [10_000] * 4, "hidden_sizes": [8] * 4}),
    ("transformers", {"model_type": "resnet", "num_labels": 10**9}),
    ("transformers", {"model_type": "vit", "num_hidden_layers": 10**9}),
    ("transformers", {"model_type": "vit", "hidden_size": 10**6}),
    ("timm", {"name": "test_resnet", "in_chans": 10**6}),
    ("timm", {"name": "vit_tiny_patch16_224", "depth": 10**6}),
    ("timm", {"name": "test_resnet", "num_classes": 10**12}),
]


@pytest.mark.parametrize(("kind", "architecture"), LARGE)
@pytest.mark.parametrize("pretrained", [True, False])
def test_a_network_that_its_weights_cannot_fill_is_not_built(kind, architecture, pretrained, tmp_path):
    folder = ours(tmp_path / "ours", architecture, kind)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        AdapterFileError, match=r"describes a network of more than|no network needs more|Error"
    ) as caught:
        load_encoder(folder, pretrained=pretrained)
    assert len(str(caught.value)) < 3000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # KiB


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "resnet", "embedding_size": 400_000},
        {"model_type": "resnet", "depths": [10_000] * 4},
        {"model_type": "timm_wrapper", "architecture": "test_resnet", "model_args": {"in_chans": 10**7}},
        {"architecture": "test_resnet", "model_args": {"in_chans": 10**7}},
        {"architecture": "test_resnet", "model_args": [1]},
        {"architecture": "test_resnet", "pretrained_cfg": "x"},
        {"architecture": "test_resnet", "pretrained_cfg": {"input_size": 7}, "model_args": {"in_chans": 3}},
        {"architecture": ["test_resnet"], "model_type": 3},
    ],
)
def test_the_same_of_folders_of_other_libraries(config, tmp_path):
    folder = of_others(tmp_path / "theirs", config)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CIAOError):
        load_encoder(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # KiB


ELSEWHERE = [
    {"model_type": "timm_backbone", "backbone": "hf-hub:evil/x"},
    {"model_type": "timm_backbone", "backbone": "hf_hub:evil/x"},
    {"model_type": "timm_backbone", "backbone": "local-dir:/tmp"},
    {"model_type": "timm_backbone", "backbone": "evil/x"},
    {"model_type": "timm_backbone", "backbone": "test_resnet", "use_pretrained_backbone": True},
    {"model_type": "upernet", "backbone_config": {"model_type": "timm_backbone", "backbone": "hf-hub:evil/x"}},
    {"model_type": "detr", "backbone": "evil/x", "backbone_config": None},
    {"model_type": "timm_wrapper", "architecture": "hf-hub:evil/x"},
    {"model_type": "timm_wrapper", "architecture": "test_resnet", "pretrained_cfg": {"hf_hub_id": "evil/x"}},
    {"model_type": "timm_wrapper", "architecture": "test_resnet", "model_args": {"deep": [{"url": "https://evil"}]}},
    {"model_type": "vit", "_attn_implementation": "evil/kernel"},
    {"model_type": "vit", "attn_implementation": "evil/kernel"},
    {"model_type": "vit", "quantization_config": {"quant_method": "evil"}},
]


@pytest.mark.parametrize("architecture", ELSEWHERE)
def test_a_config_that_names_another_place_is_refused_and_nothing_is_asked(architecture, tmp_path, no_network):
    with pytest.raises(AdapterFileError, match=r"comes from|timm has no model"):
        load_encoder(ours(tmp_path / "ours", architecture, "transformers"))
    with pytest.raises(AdapterFileError, match=r"comes from|timm has no model"):
        load_encoder(of_others(tmp_path / "theirs", architecture))
    with pytest.raises(ConfigError):
        build(**architecture)


def test_an_adapter_beside_a_model_is_not_followed(tmp_path, no_network):
    folder = of_others(tmp_path / "theirs", {"model_type": "resnet"})
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "evil/x", "peft_type": "LORA"}))
    with pytest.raises(AdapterFileError, match="an adapter lies there too"):
        load_encoder(folder)


def test_networks_of_timm_inside_models_of_transformers_are_still_built():
    encoder = build(model_type="timm_backbone", backbone="test_resnet", out_indices=[-1])
    assert sum(parameter.numel() for parameter in encoder.parameters()) > 0


def test_only_this_thread_and_only_while_it_is_open_is_bounded():
    with pytest.raises(AdapterFileError), bounded_building(1000, "config.json"):
        torch.empty(1000)
    assert torch.empty(1000).shape == (1000,)
    for make in (
        lambda: torch.arange(10**12),
        lambda: torch.eye(10**6),
        lambda: torch.full((10**6, 10**6), 1.0),
        lambda: torch.randint(0, 5, (10**6, 10**6)),
        lambda: torch.ones(3).repeat(10**6, 10**6),
        lambda: torch.ones(3).new_zeros(10**6, 10**6),
        lambda: torch.linspace(0, 1, 10**12),
        lambda: torch.randn(size=(10**6, 10**6)),
    ):
        with pytest.raises(AdapterFileError, match="more than 1,000,000 bytes"), bounded_building(10**6, "config.json"):
            make()


def test_a_config_may_hold_what_networks_need():
    check_config({"depths": [3, 4, 6, 3], "backbone": "resnet18", "id2label": {"0": "happy: yes"}, "x": None}, "a file")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json"])
@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("nowhere"),
        lambda path: path.mkdir(),
        lambda path: None,
    ],
)
def test_what_is_no_file_is_refused(name, make, tmp_path):
    folder = save_encoder(load_encoder("small-face", pretrained=False, channels=[4, 4]), tmp_path / "ours")
    (folder / name).unlink()
    make(folder / name)
    with pytest.raises(AdapterFileError, match=name):
        load_encoder(folder)


def test_weights_far_larger_than_the_network_are_not_read(tmp_path):
    folder = save_encoder(load_encoder("small-face", pretrained=False, channels=[4, 4]), tmp_path / "ours")
    with (folder / "model.safetensors").open("ab") as file:
        file.truncate(8 * 2**30)  # takes no room on the disk
    with pytest.raises(AdapterFileError, match=r"8,589,934,592 bytes, and its header tells of"):
        load_encoder(folder)


def test_a_preprocessor_that_is_a_dangling_link_is_not_none(tmp_path):
    from transformers import ResNetConfig, ResNetModel

    folder = tmp_path / "theirs"
    ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])).save_pretrained(folder)
    load_encoder(folder)
    assert len(hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()) == 64
    (folder / "preprocessor_config.json").symlink_to("nowhere")
    with pytest.raises(AdapterFileError, match=r"preprocessor_config.json' is missing"):
        load_encoder(folder)


@pytest.mark.parametrize("kind", ["timm", "transformers"])
@pytest.mark.parametrize(
    "make",
    [
        lambda path: os.truncate(path, 200 * 10**9),  # a hole behind the weights, which takes no room on the disk
        lambda path: path.write_bytes(b"") or os.truncate(path, 200 * 10**9),
        lambda path: os.truncate(path, 1000),
        lambda path: path.write_bytes((10**9).to_bytes(8, "little") + bytes(100)),
        lambda path: path.write_bytes((4).to_bytes(8, "little") + b"[[]]"),
        lambda path: path.write_bytes((12).to_bytes(8, "little") + b'{"a": {"x"}}'),
        lambda path: path.unlink() or os.mkfifo(path),
        lambda path: path.unlink() or path.symlink_to("/dev/zero"),
    ],
    ids=["hole", "all-hole", "cut", "long-header", "list", "no-json", "pipe", "device"],
)
def test_weights_of_others_are_measured_before_anybody_maps_them(kind, make, tmp_path):
    if kind == "timm":
        folder = anybodys.of_timm_in(tmp_path)
    else:
        folder = anybodys.written(anybodys.of_transformers(), tmp_path / "theirs")
    load_encoder(folder)
    make(folder / "model.safetensors")
    with pytest.raises(AdapterFileError, match=r"model\.safetensors") as caught:
        load_encoder(folder)
    assert len(str(caught.value)) < 1000
