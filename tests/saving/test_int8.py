"""Adapters saved in int8: a quarter of the size, within the error that is promised, and whole or not at all."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ciao_peft import CIAOModel
from ciao_peft.errors import AdapterConfigError, AdapterFileError
from ciao_peft.saving import CONFIG_FILE, WEIGHTS_FILE, load_adapter
from ciao_peft.saving.digest import sha256_of, with_digest
from ciao_peft.saving.int8 import SCALE, from_int8, in_int8
from helpers.fakes import bits, pixels, same_bits, tiny_backbone, train, wrap

FORMS = {
    "paper": {},
    "compact": {"inhibition_rank": 2, "excitation_rank": 2, "spatial_maps": 2, "hidden_sizes": ()},
    "own-convolution": {"tuning": "last_conv"},
    "clips": {"frames": 2, "recurrent_size": 4},
}
KEY = "inhibition.0.conv.weight"


def bound(tensor):
    """Half a step of each output channel, and the rounding of float32."""
    largest = tensor.flatten(1).abs().amax(dim=1)
    return (largest / 254 * (1 + 1e-5)).view(-1, *[1] * (tensor.ndim - 1))


@pytest.mark.parametrize("changes", FORMS.values(), ids=FORMS)
def test_every_weight_comes_back_in_float32_within_the_error_that_is_promised(changes, tmp_path):
    model = (wrap(**changes) if "frames" in changes else train(wrap(**changes))).eval()
    whole, small = model.save_pretrained(tmp_path / "whole"), model.save_pretrained(tmp_path / "small", dtype="int8")
    again = CIAOModel.from_pretrained(tiny_backbone(), small).eval()
    before, after = bits(model.adapters["default"]), bits(again.adapters["small"])
    assert {key: (tensor.dtype, tensor.shape) for key, tensor in after.items()} == {
        key: (tensor.dtype, tensor.shape) for key, tensor in before.items()
    }
    for key, tensor in before.items():
        if tensor.ndim <= 1:
            assert torch.equal(after[key], tensor), key
        else:
            assert ((after[key] - tensor).abs() <= bound(tensor)).all(), key
    assert any(not torch.equal(after[key], tensor) for key, tensor in before.items())
    sizes = [(folder / WEIGHTS_FILE).stat().st_size for folder in (whole, small)]
    assert sizes[1] < 0.8 * sizes[0]  # of a tiny one, half is its header


def test_a_large_weight_takes_a_quarter():
    tensors = {"0.weight": torch.randn(64, 1000)}
    small = in_int8(tensors)
    assert sum(tensor.nbytes for tensor in small.values()) < 0.26 * tensors["0.weight"].nbytes
    assert small["0.weight"].dtype == torch.int8 and small["0.weight" + SCALE].shape == (64,)


@pytest.mark.parametrize("factor", [1e-42, 1e-30, 1.0, 1e30])
def test_the_bound_holds_at_every_size_and_for_channels_of_zeros(factor):
    weight = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0)) * factor
    weight[2] = 0
    again = from_int8(in_int8({"w": weight}), Path("x"))["w"]
    smallest = 1e-45 * 254  # steps of numbers this small are whole multiples of the smallest float32
    assert ((again - weight).abs() <= bound(weight) + smallest).all()
    assert not again[2].any()


def test_the_model_that_is_saved_stays_as_it_is_and_what_was_loaded_can_be_saved_again(tmp_path):
    model = train(wrap())
    before = bits(model)
    model.save_pretrained(tmp_path / "small", dtype="int8")
    assert same_bits(bits(model), before)
    again = CIAOModel.from_pretrained(tiny_backbone(), tmp_path / "small")
    again.save_pretrained(tmp_path / "twice", dtype="int8")
    first, second = (load_file(tmp_path / name / WEIGHTS_FILE) for name in ("small", "twice"))
    for key, tensor in first.items():
        assert torch.equal(second[key], tensor) if tensor.dtype == torch.int8 else torch.allclose(second[key], tensor)


def test_the_folder_says_what_it_is_and_a_folder_in_float32_is_of_the_format_from_before(tmp_path):
    model = wrap()
    small, whole = model.save_pretrained(tmp_path / "small", dtype="int8"), model.save_pretrained(tmp_path / "whole")
    records = [json.loads((folder / CONFIG_FILE).read_text()) for folder in (small, whole)]
    assert [(record["format_version"], record.get("weights_dtype")) for record in records] == [(3, "int8"), (2, None)]
    assert "bytes in int8, SHA-256" in (small / "README.md").read_text()
    assert " in int8" not in (whole / "README.md").read_text()
    half = model.save_pretrained(tmp_path / "half", dtype="float16")
    assert "bytes in float16, SHA-256" in (half / "README.md").read_text()


def test_a_saved_adapter_that_never_was_on_disk_is_restored_as_well():
    from ciao_peft.adapters.restore import restore_adapter
    from ciao_peft.backbone import FrozenBackbone

    model = wrap()
    frozen = FrozenBackbone(tiny_backbone(), input_size=model.input_size)
    adapter, _ = restore_adapter(model.saved_adapter(dtype="int8"), "here", frozen, None)
    weight = model.adapters["default"].state_dict()[KEY]
    assert ((adapter.state_dict()[KEY] - weight).abs() <= bound(weight)).all()


def changed(folder, change=lambda tensors: None, record_change=lambda record: None):
    """The folder after a change by somebody who knows the digests."""
    tensors = load_file(folder / WEIGHTS_FILE)
    change(tensors)
    save_file(tensors, folder / WEIGHTS_FILE)
    record = json.loads((folder / CONFIG_FILE).read_text())
    content = (folder / WEIGHTS_FILE).read_bytes()
    del record["digest"]
    record |= {"weights_sha256": sha256_of(content), "weights_bytes": len(content)}
    record_change(record)
    covered = {WEIGHTS_FILE: sha256_of(content)}
    if (folder / "preprocessor_config.json").exists():
        covered["preprocessor_config.json"] = sha256_of((folder / "preprocessor_config.json").read_bytes())
    (folder / CONFIG_FILE).write_bytes(with_digest(record, covered))
    return folder


FAULTS = {
    "missing steps": (lambda t: t.pop(KEY + SCALE), f"the steps of '{KEY}' are missing"),
    "steps of nothing": (lambda t: t.update({"more" + SCALE: torch.ones(1)}), "steps of 'more', which are no weights"),
    "a weight in float": (lambda t: t.update({KEY: t[KEY].float()}), f"steps of '{KEY}', which are no weights"),
    "too few steps": (
        lambda t: t.update({KEY + SCALE: t[KEY + SCALE][1:].clone()}),
        r"the steps of .* are \(\d+,\) in",
    ),
    "a number as steps": (lambda t: t.update({KEY + SCALE: torch.tensor(1.0)}), r"the steps of .* are \(\) in"),
    "steps in float16": (lambda t: t.update({KEY + SCALE: t[KEY + SCALE].half()}), r"in torch\.float16 for"),
    "a negative step": (lambda t: t[KEY + SCALE][0].fill_(-1), "is negative, infinite or NaN"),
    "a step of NaN": (lambda t: t[KEY + SCALE][0].fill_(math.nan), "NaN or infinite"),
    "a step beyond": (lambda t: t[KEY + SCALE].fill_(3e38), "beyond what float32 holds"),
    "another shape": (
        lambda t: t.update({KEY: t[KEY].flatten(1), KEY + SCALE: t[KEY + SCALE]}),
        f"'{KEY}' of shape",
    ),
}


@pytest.mark.parametrize(("change", "message"), FAULTS.values(), ids=FAULTS)
def test_a_damaged_folder_is_refused_by_name_and_the_model_stays(change, message, tmp_path):
    model = train(wrap())
    folder = changed(model.save_pretrained(tmp_path / "small", dtype="int8"), change)
    before = bits(model)
    with pytest.raises(AdapterFileError, match=message):
        model.load_adapter(folder)
    assert same_bits(bits(model), before) and list(model.adapters) == ["default"]


def test_an_unknown_dtype_of_the_weights_is_refused(tmp_path):
    folder = wrap().save_pretrained(tmp_path / "small", dtype="int8")
    changed(folder, record_change=lambda record: record.update(weights_dtype="int4"))
    with pytest.raises(AdapterConfigError, match="weights in 'int4'; this version knows 'int8'"):
        load_adapter(folder)


def test_whole_numbers_of_eight_bits_of_its_own_are_refused():
    with pytest.raises(AdapterFileError, match=r"eight bits of its own in '0\.table'"):
        in_int8({"0.table": torch.zeros(2, 2, dtype=torch.int8)})


def test_weights_that_diverged_are_refused_as_in_float32(tmp_path):
    model = wrap()
    with torch.no_grad():
        model.adapters["default"].inhibition[0].conv.weight[0, 0, 0, 0] = math.nan
    with pytest.raises(AdapterFileError, match=r"NaN or infinite values in 'inhibition\.0\.conv\.weight'"):
        model.save_pretrained(tmp_path / "small", dtype="int8")
    assert not (tmp_path / "small").exists()


def test_what_it_reads_is_close_to_what_was_saved(tmp_path):
    model = train(wrap()).eval()
    again = CIAOModel.from_pretrained(tiny_backbone(), model.save_pretrained(tmp_path / "small", dtype="int8")).eval()
    torch.testing.assert_close(again(pixels()).logits, model(pixels()).logits, atol=0.05, rtol=0.05)
