"""Adapters whose heads read earlier units of the trunk beside the masked map."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ciao_peft import CIAOModel, Preprocessing, get_ciao_model
from ciao_peft.adapters import stack
from ciao_peft.errors import (
    AdapterConfigError,
    AdapterFileError,
    BackboneMismatchError,
    InputError,
    TargetModulesError,
    UntraceableBackboneError,
)
from ciao_peft.heads import pool_map
from ciao_peft.saliency import gradcam_plus_plus
from helpers.fakes import (
    BACKBONES,
    SIZE,
    Undecided,
    bits,
    forge,
    pixels,
    residual_backbone,
    same_bits,
    small_config,
    tiny_backbone,
    train,
    wrap,
)

LABELS = torch.tensor([0, 0, 1, 2])
DEEP = {"depths": ("stem", "conv1"), "depth_grid": 2, "dropout": 0.0}
FORMS = pytest.mark.parametrize(
    "changes",
    [{}, {"tuning": "last_conv"}, {"inhibition": False}, {"spatial_maps": 2, "hidden_sizes": ()}, {"tuning": "full"}],
    ids=["mask", "last_conv", "no-mask", "compact", "full"],
)


def noisy(model):
    """Values of its own for every adapter, so that no layer normalisation is the identity."""
    for number, adapter in enumerate(model.adapters.values()):
        noise = torch.Generator().manual_seed(number)
        for parameter in adapter.parameters():
            parameter.data += 0.1 * torch.rand(parameter.shape, generator=noise)
    return model


def trunk_calls(model, do):
    calls = []
    hook = model.backbone.stem[0].register_forward_hook(lambda *_: calls.append(1))
    do()
    hook.remove()
    return len(calls)


def test_the_head_reads_the_normalised_averages_behind_the_masked_map():
    model = noisy(wrap(residual_backbone(), **DEEP, hidden_sizes=(), pooling="flatten")).eval()
    net, adapter, x = model.backbone, model.adapters["default"], pixels()
    stem = net.stem(x)
    unit = F.relu(net.bn1(net.conv1(stem)))
    excitation = net.bn2(net.conv2(unit))
    masked = F.relu(adapter.mask(0, unit, lambda: excitation) + stem)
    averages = [F.adaptive_avg_pool2d(each, 2).flatten(1) for each in (stem, unit)]
    normed = [
        F.layer_norm(each, (32,), norm.weight, norm.bias)
        for each, norm in zip(averages, adapter.head.depths, strict=True)
    ]
    linear = adapter.head.get_submodule("0")
    expected = torch.cat([pool_map(masked, "flatten"), *normed], dim=1) @ linear.weight.T + linear.bias
    torch.testing.assert_close(model(x).logits, expected, rtol=1e-5, atol=1e-5)


def test_an_adapter_that_reads_depths_does_not_answer_from_the_map_alone():
    adapter = wrap(residual_backbone(), **DEEP).adapters["default"]
    with pytest.raises(InputError, match="This adapter reads depths beside the map, and got the map alone"):
        adapter.decide(torch.rand(2, 8, 8, 8))


def test_a_number_of_depths_becomes_their_paths():
    model = wrap(residual_backbone(), depths=1)
    assert model.peft_config["default"].depths == ("conv1",)
    assert [depth.path for depth in model.depths] == ["conv1"]
    assert wrap(residual_backbone()).depths == ()


@FORMS
def test_features_with_depths_give_the_outputs_and_gradients_of_the_pixels(changes):
    model = noisy(wrap(residual_backbone(), **(DEEP | changes))).train()
    found = []
    sources = [{"pixel_values": pixels()}]
    if changes.get("tuning") != "full":
        sources += [{"features": model.extract_features(pixels(), u)} for u in (False, True)]
    for source in sources:
        output = model(**source, labels=LABELS)
        output.loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
        assert all(gradient.any() for name, gradient in gradients.items() if ".depths." in name)
        found.append([output.logits, output.embeddings, output.loss, *gradients.values()])
        model.zero_grad()
    for results in zip(*found, strict=True):
        for other in results[1:]:
            assert torch.equal(results[0], other)


def test_the_own_encoder_of_an_adapter_learns_through_its_depths():
    model = wrap(residual_backbone(), **DEEP, tuning="full", inhibition=False)
    before = bits(model.backbone)
    model(pixels(), labels=LABELS).loss.backward()
    assert model.adapters["default"].encoder.stem[0].weight.grad.any()
    with torch.no_grad():  # it is read, too: with another answer there, the logits are others
        was = model.eval()(pixels()).logits
        model.adapters["default"].encoder.stem[0].weight.mul_(2)
        assert not torch.equal(model(pixels()).logits, was)
    assert same_bits(before, bits(model.backbone))


def several():
    """Adapters of one cut with other depths, none, or an own encoder, and one of another cut."""
    model = wrap(residual_backbone(), "bare")
    model.add_adapter("stem", small_config(depths=("stem",), num_labels=4))
    model.add_adapter("both", small_config(depths=("conv1", "stem"), spatial_maps=2, hidden_sizes=()))
    model.add_adapter("cells", small_config(depths=("stem",), depth_grid=3))
    model.add_adapter("early", small_config(target_modules=("conv1",), depths=1))
    return noisy(model).eval()


def test_adapters_with_other_depths_share_one_trunk_pass_and_read_what_they_read_alone():
    model, x = several(), pixels()
    alone = {}
    for name in model.adapters:
        model.set_adapter(name)
        alone[name] = model(x).logits
    model.set_adapter("bare")
    assert trunk_calls(model, lambda: model.read(x, adapter_names=["bare", "stem", "both", "cells"])) == 1
    for name, logits in model.read(x).items():
        assert torch.equal(logits, alone[name])
    names = ["stem", "__base__", "both", "bare"]
    mixed = model(x, adapter_names=names)
    torch.testing.assert_close(mixed.logits[1], model.backbone(x)[1])
    for row, name in enumerate(names):
        if name != "__base__":
            torch.testing.assert_close(mixed.logits[row], alone[name][row], rtol=1e-5, atol=1e-6)
    assert trunk_calls(model, lambda: model(x, adapter_names=names)) == 1


def test_features_serve_every_adapter_whose_depths_they_hold():
    model, x = several(), pixels()
    expected = model.read(x)
    model.set_adapter("both")
    features = model.extract_features(x)
    assert len(features) == 4  # the unit's input, the shortcut, two depths
    for name in ("bare", "stem", "both"):
        assert torch.equal(model.read(features=features, adapter_names=[name])[name], expected[name])
    mixed = model(features=features, adapter_names=["bare", "both", "stem", "__base__"])
    torch.testing.assert_close(mixed.logits[2], expected["stem"][2], rtol=1e-5, atol=1e-6)
    with pytest.raises(
        InputError, match=r"'cells' reads depths that `features` are without, 'stem in 3 x 3': they have"
    ):
        model.read(features=features, adapter_names=["both", "cells"])
    model.set_adapter("stem")
    with pytest.raises(InputError, match="'both' reads depths that `features` are without, 'conv1'"):
        model.read(features=model.extract_features(x), adapter_names=["both"])


def test_features_without_depths_are_refused_where_they_are_read():
    model = several()
    features = model.extract_features(pixels(), include_excitation=True)
    model.set_adapter("both")
    for given in (features, features[:2]):
        with pytest.raises(InputError, match="are without the depths that the adapter reads"):
            model(features=given)
    chosen = model.extract_features(pixels(), depths=())
    assert len(chosen) == 2
    model.set_adapter("bare")
    assert torch.equal(model(features=chosen).logits, model(pixels()).logits)


def test_clips_read_the_depths_of_their_frames():
    model = noisy(wrap(residual_backbone(), **DEEP, frames=3, recurrent_size=8)).eval()
    clips = pixels(12).unflatten(0, (4, 3))
    output = model(clips)
    features = model.extract_features(clips)
    assert [tuple(f.shape[:2]) for f in features] == [(4, 3)] * 4
    assert torch.equal(model(features=features).logits, output.logits)
    changed = [*features[:2], features[2].flip(0), features[3]]
    assert not torch.allclose(model(features=changed).logits, output.logits)
    mixed = model(clips, adapter_names=["default"] * 4)
    torch.testing.assert_close(torch.stack(mixed.logits), output.logits, rtol=1e-5, atol=1e-6)


@BACKBONES
def test_saved_is_loaded_with_its_depths(make, tmp_path):
    model = train(wrap(make(), depths=1, depth_grid=2)).eval()
    x, folder = pixels(), model.save_pretrained(tmp_path / "deep")
    again = CIAOModel.from_pretrained(make(), folder).eval()
    assert again.depths == model.depths
    assert torch.equal(again(x).logits, model(x).logits)
    again.load_adapter(folder, "other")
    assert torch.equal(again.read(x)["other"], model(x).logits)


def test_folders_whose_depths_do_not_fit_are_refused_and_the_model_stays(tmp_path):
    model = wrap(residual_backbone(), depths=("stem",))
    folder = model.save_pretrained(tmp_path / "deep")
    config = model.peft_config["default"].to_dict()
    for depths, error, message in (
        (["nowhere"], BackboneMismatchError, "has no place on this backbone: `depths` names 'nowhere'"),
        (["conv2"], BackboneMismatchError, "which is masked or comes after a mask"),
        (2, AdapterConfigError, "has 2 for 'depths', where a saved adapter names them"),
        ([7], AdapterConfigError, "`depths` must be a non-empty tuple of module paths, or a number of units"),
        (["stem", "conv1"], Exception, "lacks|tensors|shape"),
        (None, Exception, "head"),
    ):
        forge(folder, config=config | {"depths": depths})
        before = list(model.adapters)
        with pytest.raises(error, match=message):
            model.load_adapter(folder, "other")
        assert list(model.adapters) == before


def test_no_memory_is_taken_for_depths_whose_numbers_are_not_there(tmp_path):
    model = wrap(residual_backbone(), depths=("stem",))
    folder = model.save_pretrained(tmp_path / "deep")
    forge(folder, config=model.peft_config["default"].to_dict() | {"depth_grid": 16})
    with pytest.raises(AdapterFileError, match=r"lacks numbers for a head of widths \(640, 16, 3\)"):
        model.load_adapter(folder, "other")


def test_an_adapter_that_is_refused_leaves_nothing():
    model = wrap(residual_backbone())
    with pytest.raises(TargetModulesError, match="`depths` names 'nowhere'"):
        model.add_adapter("deep", small_config(depths=("nowhere",)))
    assert list(model.adapters) == ["default"]
    with pytest.raises(UntraceableBackboneError, match="Leave them out"):
        get_ciao_model(Undecided(), small_config(depths=1))


def test_copies_and_pickles_read_the_same():
    model = noisy(wrap(residual_backbone(), **DEEP)).eval()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(pixels()).logits, model(pixels()).logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    model = noisy(wrap(residual_backbone().to(dtype), **DEEP)).eval()
    output = model(pixels())
    assert output.logits.dtype == dtype and output.logits.isfinite().all()
    assert torch.equal(model(features=model.extract_features(pixels())).logits, output.logits)


def test_compiled_code_gives_the_same(no_shape_checks):
    model = noisy(wrap(residual_backbone(), **DEEP))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for source in ({"pixel_values": pixels()}, {"features": model.extract_features(pixels())}):
        torch.testing.assert_close(compiled(**source).logits, model(**source).logits)


def test_pictures_are_answered_and_explained():
    looks = Preprocessing(size=SIZE[1:], mean=(0.5,) * 3, std=(0.2,) * 3)
    model = get_ciao_model(residual_backbone(), small_config(**DEEP), preprocessing=looks).eval()
    answer = model.predict(np.full((20, 20, 3), 90, dtype=np.uint8))
    assert sum(answer.values()) == pytest.approx(1)
    maps = gradcam_plus_plus(model, pixels(), target=1)
    assert maps.shape == (4, *SIZE[1:]) and maps.any()
    assert torch.equal(maps, gradcam_plus_plus(model, features=model.extract_features(pixels()), target=1))


@pytest.mark.parametrize("rows", [None, list("01020101")], ids=["read", "mixed"])
@BACKBONES
def test_stacked_adapters_read_their_own_depths(make, rows, monkeypatch):
    paths = ("0",) if make is tiny_backbone else ("stem", "conv1")
    model = wrap(make(), "0", depths=paths[:1])
    model.add_adapter("1", small_config(depths=paths[:1], init_seed=1))
    model.add_adapter("2", small_config(depths=paths[-1:], init_seed=2))  # of the same size
    model.add_adapter("3", small_config(init_seed=3))
    noisy(model).eval()
    x = pixels(8)

    def found():
        return model.read(x) if rows is None else dict(enumerate(model(x, adapter_names=rows).logits))

    alone = found()
    monkeypatch.setattr(stack, "STACKED_ON", {"cpu"})
    torch.testing.assert_close(found(), alone, rtol=1e-5, atol=1e-5)
