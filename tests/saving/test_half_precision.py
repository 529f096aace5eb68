"""Adapters saved in float16: half the size, within the error that is promised, and whole or not at all."""

from __future__ import annotations

import pytest
import torch

from ciao_peft import CIAOModel
from ciao_peft.errors import AdapterFileError, ConfigError
from helpers.fakes import bits, pixels, same_bits, tiny_backbone, train, wrap

FORMS = {
    "paper": {},
    "compact": {"inhibition_rank": 2, "excitation_rank": 2, "spatial_maps": 2, "hidden_sizes": ()},
    "own-convolution": {"tuning": "last_conv"},
}


@pytest.mark.parametrize("changes", FORMS.values(), ids=FORMS)
def test_every_weight_comes_back_within_the_error_that_is_promised(changes, tmp_path):
    model = train(wrap(**changes)).eval()
    whole, half = model.save_pretrained(tmp_path / "whole"), model.save_pretrained(tmp_path / "half", dtype="float16")
    again = CIAOModel.from_pretrained(tiny_backbone(), half).eval()
    before, after = bits(model.adapters["default"]), bits(again.adapters["half"])
    assert {tensor.dtype for tensor in after.values()} == {tensor.dtype for tensor in before.values()}
    for key, tensor in before.items():
        if tensor.ndim <= 1:
            assert torch.equal(after[key], tensor), key
        else:
            assert ((after[key] - tensor).abs() <= tensor.abs() * 2**-11 + 2**-25).all(), key
    assert any(not torch.equal(after[key], tensor) for key, tensor in before.items())
    torch.testing.assert_close(again(pixels()).logits, model(pixels()).logits, atol=0.01, rtol=0.01)
    sizes = [(folder / "adapter_model.safetensors").stat().st_size for folder in (whole, half)]
    assert sizes[1] < 0.75 * sizes[0]


def test_the_model_that_is_saved_stays_as_it_is_and_what_was_loaded_can_be_saved_again(tmp_path):
    model = train(wrap())
    before = bits(model)
    model.save_pretrained(tmp_path / "half", dtype="float16")
    assert same_bits(bits(model), before)
    again = CIAOModel.from_pretrained(tiny_backbone(), tmp_path / "half")
    again.save_pretrained(tmp_path / "twice", dtype="float16")
    first, second = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("half", "twice"))
    assert first == second


def test_a_weight_that_float16_does_not_hold_is_refused_and_nothing_is_written(tmp_path):
    model = wrap()
    with torch.no_grad():
        model.adapters["default"].inhibition[0].conv.weight[0, 0, 0, 0] = 7e4
    with pytest.raises(AdapterFileError, match=r"beyond 65504 in 'inhibition.0.conv.weight'"):
        model.save_pretrained(tmp_path / "half", dtype="float16")
    assert not (tmp_path / "half").exists()
    model.save_pretrained(tmp_path / "whole")


@pytest.mark.parametrize("dtype", ["int4", "float32", "", torch.float16, 16])
def test_another_dtype_is_refused(dtype, tmp_path):
    with pytest.raises(ConfigError, match="`dtype` must be one of 'float16', 'int8'"):
        wrap().save_pretrained(tmp_path / "half", dtype=dtype)
