"""Numbers: dtypes, edges, kinds of convolution, compiled code, cached features (promises 21 to 25)."""

from __future__ import annotations

import copy
import shutil
import warnings

import pytest
import torch
from torch import nn

from ciao_peft.errors import (
    BackboneError,
    InputError,
    MergeError,
    TargetModulesError,
)
from ciao_peft.model import CIAOModel, get_ciao_model
from helpers.fakes import (
    BACKBONES,
    NETWORKS,
    SIZE,
    Undecided,
    bits,
    pixels,
    residual_backbone,
    same_bits,
    small_config,
    tiny_backbone,
    train,
    wrap,
)


def hooks(module):
    return sum(
        len(getattr(m, kind))
        for m in module.modules()
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@BACKBONES
@NETWORKS
def test_backbones_in_other_dtypes_work(make, network, dtype):  # promise 21
    model = wrap(make().to(dtype), **network).eval()
    output = model(pixels(6), labels=torch.tensor([0, 0, 1, 1, 2, 2]))
    assert output.logits.dtype == dtype
    assert output.embeddings.dtype == output.loss.dtype == torch.float32
    exact = wrap(make(), **network).eval()(pixels(6)).logits
    torch.testing.assert_close(output.logits.float(), exact, rtol=0.05, atol=0.05)
    train(model)
    assert all(p.isfinite().all() for p in model.parameters())
    assert all(p.dtype == torch.float32 for p in model.adapters["default"].parameters())
    assert {t.dtype for t in model.backbone.state_dict().values() if t.is_floating_point()} == {dtype}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("decay", [1e-5, 1e6])
@pytest.mark.parametrize("loudness", [0.0, 1e-3, 1e3])
def test_denominators_near_zero_or_huge_give_finite_outputs_and_gradients(dtype, decay, loudness):  # promise 21
    model = wrap(tiny_backbone().to(dtype), decay_init=decay).eval()
    output = model(loudness * pixels(6), labels=torch.tensor([0, 0, 1, 1, 2, 2]))
    assert output.logits.isfinite().all()
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("mixed_precision", [torch.bfloat16, torch.float16], ids=str)
@NETWORKS
def test_training_under_autocast_keeps_parameters_finite_and_in_float32(network, mixed_precision):  # promise 21
    model = wrap(**network).train()
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):
        optimiser.zero_grad()
        with torch.autocast("cpu", mixed_precision):
            output = model(pixels(6), labels=torch.tensor([0, 0, 1, 1, 2, 2]))
        assert output.loss.dtype == torch.float32
        output.loss.backward()
        optimiser.step()
    for parameter in model.adapters["default"].parameters():
        assert parameter.dtype == torch.float32
        assert parameter.isfinite().all()


CONVOLUTIONS = {
    "grouped": nn.Conv2d(8, 12, 3, groups=4),
    "depthwise": nn.Conv2d(8, 8, 3, groups=8),
    "dilated": nn.Conv2d(8, 12, 3, dilation=2),
    "strided": nn.Conv2d(8, 12, 3, stride=2),
    "padded": nn.Conv2d(8, 12, (1, 3), padding=(0, 2), padding_mode="reflect"),
    "same": nn.Conv2d(8, 12, 5, padding="same"),
    "1x1": nn.Conv2d(8, 12, 1, bias=False),
}


@pytest.mark.parametrize("conv", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_every_kind_of_convolution_carries_a_mask(conv, tmp_path):  # promise 22
    def network():
        backbone = tiny_backbone()
        return nn.Sequential(*backbone[:3], copy.deepcopy(conv), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    backbone = network()
    model = get_ciao_model(backbone, small_config(tuning="last_conv"), input_size=SIZE)
    fresh = model.eval()(pixels()).logits
    train(model).eval()
    trained = model(pixels()).logits
    assert not torch.equal(fresh, trained)
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(CIAOModel.from_pretrained(network(), tmp_path / "saved").eval()(pixels()).logits, trained)


@pytest.mark.parametrize(
    ("backbone", "targets", "error", "message"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(768, 4)),
            None,
            BackboneError,
            "has no convolution with an output larger",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 4, 16), nn.Flatten()),
            None,
            BackboneError,
            "has no convolution with an output larger",
        ),
        (nn.Flatten(), None, BackboneError, "has no parameters"),
        (lambda x: x, None, BackboneError, "A backbone is an nn.Module without adapters; got function"),
        (nn.Conv2d(4, 4, 3), None, BackboneError, r"cannot be called on pixels of \(3, 16, 16\)"),
        (
            tiny_backbone(),
            ("layer4",),
            TargetModulesError,
            "names 'layer4', which matches no module. .* end with: 0, 3",
        ),
        (tiny_backbone(), ("4",), TargetModulesError, "names '4', a BatchNorm2d; a mask sits on a Conv2d"),
        (tiny_backbone(), ("0", "3"), TargetModulesError, "names '0', which feeds '3'"),
        (residual_backbone(), ("conv",), TargetModulesError, "names 'conv', which matches no module"),
        (Undecided(), ("conv2",), TargetModulesError, "names 'conv2', which matches no module"),
    ],
)
def test_a_backbone_or_target_that_carries_no_mask_is_refused_before_anything_changes(
    backbone, targets, error, message
):  # promise 22
    is_module, before = isinstance(backbone, nn.Module), {}
    if is_module:
        backbone.train()
        before = bits(backbone)
    state = torch.get_rng_state()
    with pytest.raises(error, match=message):
        get_ciao_model(backbone, small_config(target_modules=targets), input_size=SIZE)
    assert torch.equal(torch.get_rng_state(), state)
    if is_module:
        assert same_bits(bits(backbone), before)
        assert all(m.training for m in backbone.modules())
        assert all(p.requires_grad for p in backbone.parameters())
        assert hooks(backbone) == 0


def test_an_adapter_that_does_not_fit_leaves_the_model_as_it_was():  # promise 22
    model = wrap()
    before, opened = bits(model), set(model._frozen._opened)
    with pytest.raises(TargetModulesError):
        model.add_adapter("other", small_config(target_modules=("9",)))
    assert same_bits(bits(model), before)
    assert set(model._frozen._opened) == opened
    assert list(model.adapters) == ["default"]


def test_a_model_is_no_backbone():  # promise 22
    with pytest.raises(BackboneError, match="More adapters go onto a CIAOModel with `add_adapter`"):
        wrap(wrap())


@BACKBONES
@pytest.mark.usefixtures("no_shape_checks")
def test_compiled_it_gives_the_same_outputs(make):  # promise 23
    model = wrap(make(), "one").eval()
    model.add_adapter("two", small_config(num_labels=5, tuning="last_conv", pooling="flatten"))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        for name in ("one", "two", "one"):
            model.set_adapter(name)
            torch.testing.assert_close(compiled(pixels()).logits, model(pixels()).logits)
        with model.disable_adapter():
            assert torch.equal(compiled(pixels()), make()(pixels()))


@pytest.mark.skipif(shutil.which("c++") is None, reason="no compiler to compile with")
@pytest.mark.usefixtures("no_shape_checks")
def test_compiled_to_machine_code_it_gives_the_same_outputs():  # promise 23
    model = wrap(residual_backbone()).eval()
    torch.compiler.reset()  # what other tests compiled counts towards the limit
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        compiled = torch.compile(model, fullgraph=True)
        torch.testing.assert_close(compiled(pixels()).logits, model(pixels()).logits, rtol=1e-5, atol=1e-5)


@BACKBONES
@pytest.mark.parametrize("tuning", ["decision_layer", "last_conv"])
@pytest.mark.parametrize("inhibition", [True, False], ids=["ciao", "without"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_features_give_the_outputs_and_gradients_of_pixels(make, tuning, inhibition, dtype):  # promise 24
    model = wrap(make().to(dtype), tuning=tuning, inhibition=inhibition, dropout=0.0).train()
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    features = model.extract_features(pixels(6))
    assert all(len(f) == 6 and not f.requires_grad for f in features)
    results = []
    for given in ({"pixel_values": pixels(6)}, {"features": features}):
        model.zero_grad()
        output = model(**given, labels=labels)
        output.loss.backward()
        results.append((output, [p.grad.clone() for p in model.parameters() if p.requires_grad]))
    (live, live_gradients), (cached, cached_gradients) = results
    assert torch.equal(live.logits, cached.logits)
    assert torch.equal(live.embeddings, cached.embeddings)
    assert torch.equal(live.loss, cached.loss)
    assert all(torch.equal(one, other) for one, other in zip(live_gradients, cached_gradients, strict=True))
    assert any(g.any() for g in live_gradients)


def test_features_row_by_row_are_features_of_the_batch():  # promise 24: a cache stores rows
    model = wrap(residual_backbone()).eval()
    whole = model.extract_features(pixels())
    rows = [model.extract_features(pixels()[i : i + 1]) for i in range(4)]
    for place, tensor in enumerate(whole):
        torch.testing.assert_close(torch.cat([row[place] for row in rows]), tensor, rtol=1e-5, atol=1e-6)


def test_features_mean_nothing_to_an_adapter_with_an_encoder_of_its_own():  # promise 24
    model = wrap(tuning="full").eval()
    features = model.extract_features(pixels())
    with pytest.raises(InputError, match=r"'default' owns its whole encoder \(tuning='full'\).* give `pixel_values`"):
        model(features=features)


def test_merging_says_that_it_is_impossible():  # promise 25
    model = wrap()
    before = bits(model)
    with pytest.raises(
        MergeError, match=r"cannot be merged into the backbone: M = \(u \+ E\) / \(a \+ I\) is no convolution"
    ):
        model.merge_and_unload()
    assert same_bits(bits(model), before)
    assert issubclass(MergeError, NotImplementedError)
