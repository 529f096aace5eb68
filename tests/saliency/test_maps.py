"""GradCAM++ of M and the mask itself: their values, and that looking changes nothing."""

from __future__ import annotations

import copy
import importlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ciao_peft import (
    CIAOConfig,
    get_ciao_model,
    gradcam_plus_plus,
    mask_strength,
)
from ciao_peft.errors import (
    AdapterNotFoundError,
    InputError,
    NoActiveAdapterError,
    UntraceableBackboneError,
)
from helpers.fakes import (
    NETWORKS,
    SIZE,
    Undecided,
    bits,
    pixels,
    residual_backbone,
    same_bits,
    tiny_backbone,
    train,
    wrap,
)

PROBLEMS = ("single_label_classification", "regression", "multi_label_classification")


class Branches(nn.Module):
    """Two masked convolutions side by side, of different size and number of channels; one mask is signed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.fine = nn.Conv2d(4, 5, 3, padding=1)
        self.act = nn.ReLU()
        self.coarse = nn.Conv2d(4, 3, 4, stride=2, padding=1)
        self.input_size = SIZE

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return torch.cat([F.avg_pool2d(self.act(self.fine(x)), 2), F.relu(self.coarse(x) + 0.1)], dim=1)


class Following(nn.Module):
    """What follows the masked convolution may write into its answer."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.act = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()
        self.in_place, self.input_size = in_place, SIZE
        nn.init.constant_(self.conv.bias, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x if x.mean() < 100 else -x)  # cannot be traced
        if not self.in_place:
            return self.act(out + 0.5).mean(dim=(2, 3))
        out += 0.5
        return self.act(out).mean(dim=(2, 3))


def of_branches(**changes) -> nn.Module:
    torch.manual_seed(0)
    return wrap(Branches().eval(), hidden_sizes=(), pooling="flatten", **changes)


def masked_maps(model, x: Tensor) -> list[Tensor]:
    """M of a chain or of `Branches`, from the layers themselves."""
    net, adapter = model.backbone, model.adapters["default"]
    with torch.no_grad():
        if isinstance(net, Branches):
            inputs = F.relu(net.stem(x))
            answers = {
                "fine": F.relu(net.fine(inputs)),
                "coarse": net.coarse(inputs),
            }  # the unit ends where 0.1 is added
            places = adapter.config.target_modules
            return [layer(inputs, answers[place]) for layer, place in zip(adapter.inhibition, places, strict=True)]
        inputs = net[:3](x)
        return [adapter.inhibition[0](inputs, net[3:6](inputs))]


def by_definition(mask: Tensor, gradient: Tensor) -> Tensor:
    """GradCAM++ of one face spelled out with loops: Eq. 19, 5 and 1 of its paper; mask and gradient `(C, h, w)`."""
    channels, height, width = mask.shape
    saliency = torch.zeros(height, width, dtype=torch.float64)
    for c in range(channels):
        total, weight = max(float(mask[c].sum()), 0.0), 0.0
        for y in range(height):
            for x in range(width):
                g = float(gradient[c, y, x])
                if g > 0:
                    weight += g**2 / (2 * g**2 + total * g**3) * g
        saliency += weight * mask[c].double()
    return saliency.clamp(min=0)


def gradients_by_differences(decide, masks: list[Tensor], row: int, step: float = 1e-3) -> list[Tensor]:
    """Of the score of one row by every number of its masks, by central differences."""
    found = []
    for mask in masks:
        gradient = torch.zeros_like(mask[row])
        for place in np.ndindex(*gradient.shape):
            kept = mask[row][place].item()
            scores = []
            for value in (kept + step, kept - step):
                mask[row][place] = value
                scores.append(decide(masks)[row].item())
            mask[row][place] = kept
            gradient[place] = (scores[0] - scores[1]) / (2 * step)
        found.append(gradient)
    return found


# -- values ------------------------------------------------------------------------------------------------------------


def test_one_channel_of_two_numbers_worked_by_hand():
    # M = (3, 1), s = 2 M1 + M2, so g = (2, 1) and sum(M) = 4: w = 4/(8 + 32) * 2 + 1/(2 + 4) * 1 = 1/5 + 1/6.
    conv = nn.Conv2d(1, 1, (1, 3), padding=(0, 1), bias=False)
    net = nn.Sequential(conv, nn.ReLU()).eval()
    nn.init.zeros_(conv.weight)
    conv.weight.data[0, 0, 0, 1] = 1.0
    settings = {"pooling": "flatten", "hidden_sizes": (), "num_labels": 1, "inhibition": False}
    model = get_ciao_model(net, CIAOConfig(problem_type="regression", **settings), input_size=(1, 1, 2)).eval()
    with torch.no_grad():
        next(p for p in model.adapters["default"].head.parameters() if p.ndim == 2).copy_(torch.tensor([[2.0, 1.0]]))
    x = torch.tensor([3.0, 1.0]).view(1, 1, 1, 2)
    raw = gradcam_plus_plus(model, x, target=0, scaled=False)
    torch.testing.assert_close(raw, (1 / 5 + 1 / 6) * x[0])
    torch.testing.assert_close(gradcam_plus_plus(model, x, target=0), torch.tensor([[[1.0, 0.0]]]))


@pytest.mark.parametrize("problem", PROBLEMS)
def test_matches_the_definition_on_a_chain(problem):
    model = wrap(problem_type=problem).double().eval()
    x = pixels(2).double()
    masks = masked_maps(model, x)

    def decide(masks):
        return model.adapters["default"].decide(F.max_pool2d(masks[0], 2))[0][:, 1].detach()

    found = gradcam_plus_plus(model, x, target=1, scaled=False)
    for row in range(2):
        (gradient,) = gradients_by_differences(decide, masks, row, step=1e-6)
        expected = by_definition(masks[0][row], gradient)[None, None]
        expected = F.interpolate(expected, size=SIZE[1:], mode="bilinear", align_corners=False)[0, 0]
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-8)


def test_maps_of_several_masked_convolutions_are_added_at_the_size_of_the_pixels():
    model = of_branches().double().eval()
    x = pixels(1).double()
    masks = masked_maps(model, x)
    assert model.peft_config["default"].target_modules == ("fine", "coarse")
    assert (masks[1].sum(dim=(2, 3)) < 0).any()

    def decide(masks):
        joined = torch.cat([F.avg_pool2d(masks[0], 2), (masks[1] + 0.1).relu()], dim=1)
        return model.adapters["default"].decide(joined)[0][:, 2].detach()

    expected = torch.zeros(SIZE[1:], dtype=torch.float64)
    for mask, gradient in zip(masks, gradients_by_differences(decide, masks, 0, step=1e-6), strict=True):
        part = by_definition(mask[0], gradient)[None, None]
        expected += F.interpolate(part, size=SIZE[1:], mode="bilinear", align_corners=False)[0, 0]
    found = gradcam_plus_plus(model, x, target=2, scaled=False)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-8)


def test_the_grad_cam_package_gives_the_same_on_a_plain_network():
    grad_cam = pytest.importorskip("pytorch_grad_cam", reason="the extra `bench` has it")
    targets = importlib.import_module("pytorch_grad_cam.utils.model_targets")

    # Without inhibition M is u, and the adapter a plain network.
    model = wrap(inhibition=False, pooling="flatten", hidden_sizes=()).eval()
    adapter = model.adapters["default"]
    with torch.no_grad():
        for parameter in adapter.head.parameters():
            parameter.mul_(50)  # the package adds 1e-6 to the fraction's denominator, which small gradients would feel

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.head = copy.deepcopy(model.backbone[:7]).requires_grad_(True), adapter.head

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.net(x).flatten(1))[0]

    plain, x = Plain().eval(), pixels(3)
    torch.testing.assert_close(plain(x), model(x).logits)
    for target in (None, 0, 2):
        theirs_asked = None if target is None else [targets.ClassifierOutputTarget(target)] * 3
        with grad_cam.GradCAMPlusPlus(model=plain, target_layers=[plain.net[5]]) as package:
            theirs = torch.from_numpy(package(input_tensor=x, targets=theirs_asked))
        torch.testing.assert_close(gradcam_plus_plus(model, x, target=target), theirs, rtol=0, atol=1e-3)


def test_where_nothing_counts_the_map_is_zero():
    model = wrap().eval()
    with torch.no_grad():
        for parameter in model.adapters["default"].head.parameters():
            parameter.zero_()
    assert torch.equal(gradcam_plus_plus(model, pixels()), torch.zeros(4, 16, 16))


def test_scaled_maps_go_from_zero_to_one_on_each_face():
    found = gradcam_plus_plus(train(wrap()), pixels())
    assert found.shape == (4, 16, 16)
    assert torch.equal(found.amax(dim=(1, 2)), torch.ones(4))
    assert torch.equal(found.amin(dim=(1, 2)), torch.zeros(4))


def test_a_face_is_read_as_it_is_alone():
    model, x = train(wrap()).eval(), pixels()
    together = gradcam_plus_plus(model, x)
    for row in range(len(x)):
        torch.testing.assert_close(gradcam_plus_plus(model, x[row : row + 1])[0], together[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [wrap, of_branches], ids=["chain", "branches"])
def test_the_mask_is_the_mean_of_its_gates(make):
    model, x = make().eval(), pixels()
    net, layers = model.backbone, model.adapters["default"].inhibition
    with torch.no_grad():
        for layer in layers:
            layer.raw_decay.uniform_(-1, 2)
        inputs = F.relu(net.stem(x)) if isinstance(net, Branches) else net[:3](x)
        gates = [1 / (layer.decay.view(-1, 1, 1) + layer.inhibition(inputs)) for layer in layers]
    grown = [F.interpolate(gate, size=SIZE[1:], mode="bilinear", align_corners=False) for gate in gates]
    torch.testing.assert_close(mask_strength(model, x), torch.cat(grown, dim=1).mean(dim=1))


# -- what is asked about -----------------------------------------------------------------------------------------------


def test_without_a_target_each_face_is_asked_about_its_likeliest_label():
    model, x = train(wrap()).eval(), pixels()
    likeliest = model(x).logits.argmax(dim=1)
    assert torch.equal(gradcam_plus_plus(model, x), gradcam_plus_plus(model, x, target=likeliest))


def test_without_a_target_regression_is_asked_what_drives_its_strongest_value():
    model, x = wrap(problem_type="regression", num_labels=2).eval(), pixels()
    bias = next(p for p in reversed([*model.adapters["default"].head.parameters()]) if p.ndim == 1)
    with torch.no_grad():
        bias.copy_(torch.tensor([0.0, -1000.0]))
    down = gradcam_plus_plus(model, x, target=lambda logits: -logits[:, 1])
    assert down.any()
    assert torch.equal(gradcam_plus_plus(model, x), down)
    assert not torch.equal(gradcam_plus_plus(model, x, target=1), down)


def test_a_label_goes_by_its_name_or_index_for_all_rows_or_each():
    model, x = train(wrap(id2label={0: "calm", 1: "glad", 2: "sad"})).eval(), pixels()
    by_label = [gradcam_plus_plus(model, x, target=index) for index in range(3)]
    assert not torch.equal(by_label[1], by_label[2])
    assert torch.equal(gradcam_plus_plus(model, x, target="sad"), by_label[2])
    mixed = gradcam_plus_plus(model, x, target=["sad", 1, "calm", 2])
    expected = torch.stack([by_label[label][row] for row, label in enumerate((2, 1, 0, 2))])
    torch.testing.assert_close(mixed, expected)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("angry", "There is no label 'angry'. Labels: 'calm', 'glad', 'sad', or their indices from 0 to 2."),
        (3, "no label 3"),
        (-1, "no label -1"),
        ([True] * 4, "no label True"),
        ([0, 1], "one for each of the 4 rows; got 2"),
        (lambda logits: logits, r"shape \(4,\); got \(4, 3\)"),
        (lambda logits: 1.0, r"shape \(4,\); got float"),
    ],
)
def test_a_target_that_does_not_fit_is_refused(target, message):
    model = wrap(id2label={0: "calm", 1: "glad", 2: "sad"}).eval()
    with pytest.raises(InputError, match=message):
        gradcam_plus_plus(model, pixels(), target=target)


# -- any model, any source ---------------------------------------------------------------------------------------------


@NETWORKS
def test_every_network_of_the_paper_can_be_looked_at(network):
    model = train(wrap(**network)).eval()
    assert gradcam_plus_plus(model, pixels()).any()


@pytest.mark.parametrize("make", [tiny_backbone, residual_backbone, Branches])
def test_features_give_the_same_as_pixels(make):
    model, x = train(wrap(make().eval())).eval(), pixels()
    features = model.extract_features(x)
    assert torch.equal(gradcam_plus_plus(model, features=features), gradcam_plus_plus(model, x))
    assert torch.equal(mask_strength(model, features=features), mask_strength(model, x))


def test_features_of_a_model_that_cannot_be_cut_are_refused():
    with pytest.raises((InputError, UntraceableBackboneError), match=r"[Ff]eatures"):
        gradcam_plus_plus(wrap(Undecided()), features=[torch.rand(4, 8, 8, 8)])


def test_a_model_that_cannot_be_cut_is_looked_at_from_pixels():
    cut, hooked = wrap().eval(), wrap(Undecided()).eval()
    assert (cut.traceable, hooked.traceable) == (True, False)
    torch.testing.assert_close(gradcam_plus_plus(hooked, pixels()), gradcam_plus_plus(cut, pixels()))


def test_what_follows_may_write_into_the_mask():
    written, kept = (gradcam_plus_plus(wrap(Following(in_place).eval()), pixels()) for in_place in (True, False))
    assert written.any()
    assert torch.equal(written, kept)


def test_another_adapter_than_the_active_one_can_be_asked():
    model = train(wrap()).eval()
    model.add_adapter("other", CIAOConfig(problem_type="regression", num_labels=2, init_seed=5))
    other = gradcam_plus_plus(model, pixels(), adapter_name="other")
    model.set_adapter("other")
    assert torch.equal(gradcam_plus_plus(model, pixels()), other)


def test_works_where_gradients_are_off():
    model = wrap().eval()
    expected = gradcam_plus_plus(model, pixels())
    with torch.no_grad():
        assert torch.equal(gradcam_plus_plus(model, pixels()), expected)
    with torch.inference_mode():
        features = model.extract_features(pixels())
        assert torch.equal(gradcam_plus_plus(model, pixels().clone()), expected)
        assert torch.equal(gradcam_plus_plus(model, features=features), expected)


def test_a_backbone_in_half_precision_gives_float32():
    model = wrap(tiny_backbone().bfloat16()).eval()
    found = gradcam_plus_plus(model, pixels())
    assert found.dtype == mask_strength(model, pixels()).dtype == torch.float32
    torch.testing.assert_close(found, gradcam_plus_plus(wrap().eval(), pixels(), target=None), rtol=0, atol=0.2)


@pytest.mark.parametrize("look", [gradcam_plus_plus, mask_strength])
def test_an_adapter_that_is_not_there_is_refused(look):
    model = wrap()
    with pytest.raises(AdapterNotFoundError, match="'gone'"):
        look(model, pixels(), adapter_name="gone")
    model.delete_adapter("default")
    with pytest.raises(NoActiveAdapterError):
        look(model, pixels())


def test_pixels_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="Give either"):
        gradcam_plus_plus(wrap())
    with pytest.raises(InputError, match="pixel_values"):
        gradcam_plus_plus(wrap(), torch.rand(4, 3, 8, 8))


def test_an_adapter_without_inhibition_has_no_mask():
    with pytest.raises(InputError, match=r"'default' has no mask \(inhibition=False\)"):
        mask_strength(wrap(inhibition=False), pixels())


# -- looking changes nothing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("look", [gradcam_plus_plus, mask_strength])
@pytest.mark.parametrize("make", [tiny_backbone, Undecided], ids=["cut", "hooked"])
@pytest.mark.parametrize("tuning", ["decision_layer", "full"])
def test_the_model_is_as_it_was(look, make, tuning):
    model = wrap(make(), tuning=tuning, dropout=0.5, train_batch_norm=True).train()
    model(pixels(6), labels=torch.tensor([0, 0, 1, 1, 2, 2])).loss.backward()

    def state():
        hooks = [
            len(getattr(module, kind))
            for module in model.modules()
            for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
        ]
        return {
            "names": [name for name, _ in model.named_modules()],
            "modules": [id(module) for module in model.modules()],
            "attributes": [sorted(vars(module)) for module in model.modules()],
            "modes": [module.training for module in model.modules()],
            "wanted": [parameter.requires_grad for parameter in model.parameters()],
            "hooks": hooks,
            "active": model.active_adapter,
        }

    def gradients():
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    x = pixels().requires_grad_()
    before, tensors, grads, random = state(), bits(model), gradients(), torch.get_rng_state()
    found = look(model, x)
    assert not found.requires_grad
    assert x.grad is None
    assert state() == before
    assert same_bits(bits(model), tensors)
    assert same_bits(gradients(), grads)
    assert torch.equal(torch.get_rng_state(), random)


def test_training_mode_does_not_blur_what_is_seen():
    model = train(wrap(dropout=0.5, train_batch_norm=True))
    seen = gradcam_plus_plus(model.eval(), pixels())
    assert torch.equal(gradcam_plus_plus(model.train(), pixels()), seen)
