"""Reading and losing, and what cannot be read."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ciao_peft.errors import (
    AdapterNotFoundError,
    BackboneError,
    CIAOError,
    ConfigError,
    InputError,
)
from ciao_peft.model import get_ciao_model
from helpers.fakes import (
    BACKBONES,
    Undecided,
    bits,
    pixels,
    same_bits,
    small_config,
    tiny_backbone,
    wrap,
)


@BACKBONES
@pytest.mark.parametrize(("form", "times"), [("divisive", 1.0), ("rescaled", 2.0)])
def test_a_fresh_adapter_computes_equation_1_on_the_backbones_own_maps(make, form, times):
    config = small_config(decay_init=2.0, pooling="flatten", embedding_source="features", inhibition_form=form)
    model = get_ciao_model(make(), config).eval()
    maps = {}
    backbone = make()
    if make is tiny_backbone:
        backbone[5].register_forward_hook(lambda m, i, output: maps.update(u=output))
        backbone(pixels())
        expected = times * maps["u"] / (2.0 + maps["u"])
        expected = nn.functional.max_pool2d(expected, 2)
    else:
        backbone.bn2.register_forward_hook(lambda m, i, output: maps.update(u=output.clone()))
        backbone.stem.register_forward_hook(lambda m, i, output: maps.update(shortcut=output.clone()))
        backbone(pixels())
        expected = (times * maps["u"] / (2.0 + maps["u"].clamp(min=0)) + maps["shortcut"]).clamp(min=0)
    torch.testing.assert_close(model(pixels()).embeddings, expected.flatten(1))


@pytest.mark.parametrize("source", ["features", "hidden", "logits"])
def test_the_loss_is_the_sum_of_equation_5(source):
    model = wrap(embedding_source=source, contrastive_weight=0.3, temperature=0.2).eval()
    output = model(pixels(6), labels=torch.tensor([0, 0, 1, 1, 2, 2]))
    task = nn.functional.cross_entropy(output.logits, torch.tensor([0, 0, 1, 1, 2, 2]))
    torch.testing.assert_close(output.task_loss, task)
    torch.testing.assert_close(output.loss, output.task_loss + 0.3 * output.contrastive_loss)
    assert output.contrastive_loss > 0
    sizes = {"features": 12 * 2 * 2, "hidden": 16, "logits": 3}
    assert output.embeddings.shape == (6, sizes[source])


def test_without_labels_there_is_no_loss_and_without_weight_no_contrastive_loss():
    output = wrap().eval()(pixels())
    assert output.loss is output.task_loss is output.contrastive_loss is None
    output = wrap(contrastive_weight=0.0).eval()(pixels(2), labels=torch.tensor([0, 0]))
    assert output.contrastive_loss == 0
    assert torch.equal(output.loss, output.task_loss)
    assert output.loss is output.task_loss


@pytest.mark.parametrize("size", [1, 2])
def test_training_on_a_batch_of_one_class_or_of_one_changes_the_adapter(size):
    model = wrap().train()
    model(pixels(size), labels=torch.zeros(size, dtype=torch.long)).loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert model.adapters["default"].inhibition[0].raw_decay.grad.any()


@pytest.mark.parametrize("make", [tiny_backbone, Undecided])
@pytest.mark.parametrize(
    ("pixel_values", "message"),
    [
        (torch.rand(2, 1, 16, 16), r"must be \(B, 3, 16, 16\) .* got \(2, 1, 16, 16\). Gray pictures need three"),
        (torch.rand(2, 3, 16, 17), r"must be \(B, 3, 16, 16\) with B of 1 or more; got \(2, 3, 16, 17\)"),
        (torch.rand(3, 16, 16), r"must be \(B, 3, 16, 16\) with B of 1 or more; got \(3, 16, 16\)"),
        (torch.rand(0, 3, 16, 16), r"with B of 1 or more; got \(0, 3, 16, 16\)"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), "must be floating point, .* got torch.uint8"),
        (torch.full((2, 3, 16, 16), torch.nan), "holds NaN or infinite values, first in row 0"),
        ([[0.0]], "must be a tensor; got list. `model.predict` takes files and images"),
        (None, "Give either `pixel_values` or `features`"),
    ],
    ids=["gray", "wide", "one", "none", "bytes", "nan", "list", "nothing"],
)
def test_pixels_that_no_adapter_could_be_right_about_are_refused(make, pixel_values, message):
    model = wrap(make()).eval()
    uses = [lambda: model(pixel_values), lambda: model(pixel_values, adapter_names=["default"] * 2)]
    if pixel_values is not None:
        uses += [lambda: model.read(pixel_values)]
    for use in uses:
        with pytest.raises(InputError, match=message):
            use()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: [*f, f[0]],
            r"`features` of this backbone are \(B, 8, 8, 8\) with one B of 1 or more, and behind them \(B, 12, 8, 8\) "
            r"if u is included; got \[\(4, 8, 8, 8\), \(4, 8, 8, 8\)\]",
        ),
        (
            lambda f: [*f, torch.rand(4, 12, 8, 8), f[0]],
            r"if u is included; got \[\(4, 8, 8, 8\), \(4, 12, 8, 8\), \(4, 8, 8, 8\)\]",
        ),
        (lambda f: [f[0][:, :4]], r"`features` of this backbone are \(B, 8, 8, 8\) .* got \[\(4, 4, 8, 8\)\]"),
        (lambda f: [f[0][:0]], "with one B of 1 or more"),
        (lambda f: [f[0].long()], "are the floating-point tensors that `extract_features` returns"),
        (lambda f: [f[0] / 0], "`features` hold NaN or infinite values"),
    ],
    ids=["more", "more-than-u", "narrow", "empty", "long", "nan"],
)
def test_features_of_another_cut_are_refused(change, message):
    model = wrap().eval()
    features = change(model.extract_features(pixels()))
    for use in (lambda: model(features=features), lambda: model.read(features=features)):
        with pytest.raises(InputError, match=message):
            use()


def test_features_before_another_convolution_are_refused_for_whoever_masks_that():
    model = wrap().eval()
    model.add_adapter("early", small_config(target_modules=("0",)))
    features = model.extract_features(pixels())
    message = r"The adapter 'early' masks '0', and `features` are those before '3'; give `pixel_values`"
    for use in (
        lambda: model.read(features=features),
        lambda: model(features=features, adapter_names=["default", "early", "default", "default"]),
    ):
        with pytest.raises(InputError, match=message):
            use()
    assert set(model.read(features=features, adapter_names=["default"])) == {"default"}
    model.set_adapter("early")
    mixed = model(features=model.extract_features(pixels()), adapter_names=["__base__", "early", "early", "early"])
    torch.testing.assert_close(mixed.logits[0], tiny_backbone()(pixels())[0])
    torch.testing.assert_close(mixed.logits[1], model(pixels()).logits[1])


def test_labels_of_another_batch_or_problem_are_refused():
    model = wrap()
    before = bits(model)
    for labels in (torch.tensor([0, 1]), torch.tensor([0, 1, 2, 3]), torch.rand(4, 2)):
        with pytest.raises(InputError):
            model(pixels(), labels=labels)
    assert same_bits(bits(model), before)


def test_unknown_settings_raise():
    with pytest.raises(ConfigError, match="did you mean 'temperature'"):
        small_config().from_dict({**small_config().to_dict(), "temperatur": 1})
    with pytest.raises(TypeError):
        small_config(temperatur=1)


def test_every_error_says_that_it_is_ours_and_what_it_is():
    for error, builtin in ((AdapterNotFoundError, LookupError), (InputError, ValueError), (BackboneError, ValueError)):
        assert issubclass(error, CIAOError)
        assert issubclass(error, builtin)


def test_parameter_groups_hold_every_trained_parameter_once():
    for tuning in ("decision_layer", "last_conv", "full"):
        model = wrap(tuning=tuning)
        groups = model.adapter_parameters("default")
        assert {name for name, group in groups.items() if group} == {"mask", "head"} | (
            {"encoder"} if tuning != "decision_layer" else set()
        )
        grouped = [p for group in groups.values() for p in group]
        assert len({id(p) for p in grouped}) == len(grouped)
        assert {id(p) for p in grouped} == {id(p) for p in model.parameters() if p.requires_grad}


def test_trainable_parameters_are_counted_and_printed(capsys):
    model = wrap()
    # The copied convolution, its batch norm and a; then the head on 12 maps of 2x2 after two poolings.
    expected = 12 * 8 * 9 + 2 * 12 + 12 + (48 + 1) * 16 + (16 + 1) * 3
    trainable, every = model.get_nb_trainable_parameters()
    assert trainable == expected
    assert every == expected + sum(p.numel() for p in model.backbone.parameters())
    model.print_trainable_parameters()
    line = f"trainable params: {trainable:,} || all params: {every:,} || trainable%: {100 * trainable / every:.4f}\n"
    assert capsys.readouterr().out == line
