"""Several adapters in one batch and on one trunk pass (promises 12 and 13)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ciao_peft.errors import (
    AdapterNotFoundError,
    InputError,
    UntraceableBackboneError,
)
from helpers.fakes import (
    BACKBONES,
    Undecided,
    pixels,
    residual_backbone,
    small_config,
    tiny_backbone,
    worlds,
    wrap,
)


def trunk_calls(backbone, do):
    """How often the backbone's first convolution ran."""
    calls = []
    first = next(m for m in backbone.modules() if isinstance(m, nn.Conv2d))
    handle = first.register_forward_hook(lambda *_: calls.append(1))
    try:
        do()
    finally:
        handle.remove()
    return len(calls)


@BACKBONES
@pytest.mark.parametrize("source", ["pixels", "features"])
def test_a_mixed_batch_is_each_adapters_result_row_by_row(make, source):  # promise 12
    model = worlds(make)
    names = ["values", "classes", "__base__", "classes", "own", "labels"]
    if source == "pixels":
        names += ["encoder", "early", "early", "__base__"]
    images = pixels(len(names))
    given = {"pixel_values": images} if source == "pixels" else {"features": model.extract_features(images)}
    mixed = model(**given, adapter_names=names)
    base = make()(images)
    for row, name in enumerate(names):
        if name == "__base__":
            torch.testing.assert_close(mixed.logits[row], base[row], rtol=1e-5, atol=1e-6)
            assert mixed.embeddings[row] is None
            continue
        model.set_adapter(name)
        alone = model(images[row : row + 1])
        torch.testing.assert_close(mixed.logits[row], alone.logits[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mixed.embeddings[row], alone.embeddings[0], rtol=1e-5, atol=1e-5)


def test_a_mixed_batch_on_a_backbone_that_cannot_be_traced():  # promise 12
    model = wrap(Undecided()).eval()
    model.add_adapter("other", small_config(init_seed=1, decay_init=0.5))
    mixed = model(pixels(3), adapter_names=["other", "__base__", "default"])
    assert not model.traceable
    torch.testing.assert_close(mixed.logits[1], Undecided()(pixels(3))[1])
    for row, name in ((0, "other"), (2, "default")):
        model.set_adapter(name)
        torch.testing.assert_close(mixed.logits[row], model(pixels(3)).logits[row])


@pytest.mark.parametrize("make", [tiny_backbone, residual_backbone, Undecided])
@pytest.mark.parametrize("source", ["pixels", "features"])
def test_a_mixed_batch_that_cannot_be_right_is_refused_on_every_path(make, source):  # promise 12
    model = wrap(make()).eval()
    if source == "features" and make is Undecided:
        with pytest.raises(UntraceableBackboneError, match="could not be traced"):
            model.extract_features(pixels(3))
        return
    given = {"pixel_values": pixels(3)} if source == "pixels" else {"features": model.extract_features(pixels(3))}
    for names in (["default"] * 2, ["default"] * 4, []):
        with pytest.raises(InputError, match=f"must name an adapter for each of the 3 rows; got {len(names)}"):
            model(**given, adapter_names=names)
    with pytest.raises(InputError, match="takes one name per row, a list; got the text 'default'"):
        model(**given, adapter_names="default")
    with pytest.raises(AdapterNotFoundError, match="No adapter named 'defaul'"):
        model(**given, adapter_names=["default", "defaul", "default"])
    with pytest.raises(InputError, match="A mixed batch has no loss"):
        model(**given, labels=torch.tensor([0, 1, 2]), adapter_names=["default"] * 3)
    model.train()
    with pytest.raises(InputError, match=r"A mixed batch is for inference: .* Call `model.eval\(\)` first"):
        model(**given, adapter_names=["default"] * 3)
    with pytest.raises(InputError, match="read is for inference"):
        model.read(**given)


@BACKBONES
def test_all_adapters_on_one_cut_share_one_trunk_pass_and_equal_separate_calls(make):  # promise 13
    model = worlds(make)
    shared = ["classes", "values", "labels", "own"]
    separate = {}
    for name in model.adapters:
        model.set_adapter(name)
        separate[name] = model(pixels()).logits
    assert trunk_calls(model.backbone, lambda: model.read(pixels(), adapter_names=shared)) == 1
    assert (
        trunk_calls(model.backbone, lambda: model(pixels(), adapter_names=["values", "classes", "__base__", "own"]))
        == 1
    )
    assert trunk_calls(model.backbone, lambda: model.read(pixels(), adapter_names=["encoder"])) == 0
    found = model.read(pixels())
    assert list(found) == list(model.adapters)
    for name, logits in found.items():
        assert torch.equal(logits, separate[name]), name
