"""What baselines put into an encoder, against the same written out by hand or by another library."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ciao_peft.backbone import open_backbone, parameters_reaching_the_map
from ciao_peft.errors import TrainingError
from ciao_peft.study.baselines import BUILDERS, build_baseline
from ciao_peft.study.baselines.residual import ParallelAdapter
from ciao_peft.study.baselines.scale_shift import ScaleAndShift
from helpers.fakes import SIZE, pixels, residual_backbone, small_config, tiny_backbone

CONVOLUTIONS = {
    "plain": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": 3, "stride": 2, "padding": 1},
    "strides-differ": {"kernel_size": (5, 3), "stride": (3, 2), "padding": (0, 1)},
    "unpadded": {"kernel_size": 5},
    "padded-beyond": {"kernel_size": 3, "padding": 4},
    "dilated": {"kernel_size": 3, "dilation": 2, "padding": 2},
    "dilations-differ": {"kernel_size": 3, "dilation": (3, 2), "stride": 2, "padding": (1, 2)},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 2},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 4, "stride": 2},
    "even": {"kernel_size": 4, "padding": 1},
    "even-strided": {"kernel_size": (2, 6), "stride": 2, "padding": (0, 2)},
    "even-same": {"kernel_size": 4, "padding": "same"},
    "same-dilated": {"kernel_size": (3, 2), "padding": "same", "dilation": 3},
    "valid": {"kernel_size": 3, "padding": "valid"},
    "one": {"kernel_size": 1, "stride": 2},
    "reflected": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
}


SAME = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")  # that is the point


@SAME
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_parallel_adapter_is_a_kernel_with_the_1x1_at_its_middle(kind):
    conv = nn.Conv2d(4, 8, **CONVOLUTIONS[kind]).double()
    adapter = ParallelAdapter(conv)
    adapter.weight.data = torch.randn(adapter.weight.shape, dtype=torch.float64)
    assert adapter.weight.shape == (8, 4 // conv.groups, 1, 1)
    dense = copy.deepcopy(conv)
    rows, columns = ((size - 1) // 2 for size in conv.kernel_size)
    with torch.no_grad():
        dense.weight[:, :, rows, columns] += adapter.weight[:, :, 0, 0]
    for height, width in ((11, 12), (12, 11)):
        maps = torch.randn(3, 4, height, width, dtype=torch.float64)
        torch.testing.assert_close(adapter(maps), dense(maps))


def test_a_convolution_that_pads_while_it_runs_is_told():
    from timm.layers.conv2d_same import Conv2dSame

    with pytest.raises(TrainingError, match="A Conv2dSame pads its input by other rules"):
        ParallelAdapter(Conv2dSame(3, 8, 3, stride=2))(torch.rand(1, 3, 9, 9))


def test_gain_and_shift_by_channel_wherever_the_channels_are():
    from timm.layers.norm import LayerNorm2d

    net = nn.Sequential(nn.Conv2d(3, 4, 3), LayerNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
    net.input_size = SIZE
    baseline = build_baseline("scale_and_shift", net.eval(), small_config(), everywhere=True)
    assert baseline.rooted.backbone[1].dim == 1
    gain, shift = torch.tensor([2.0, -1.0, 0.5, 3.0]), torch.tensor([0.0, 1.0, -1.0, 0.5])
    for layer, dim in ((nn.Conv2d(3, 4, 3), 1), (nn.LayerNorm(4), -1)):
        scaled = ScaleAndShift(layer, 4, dim)
        scaled.gain.data, scaled.shift.data = gain, shift
        x = torch.rand(2, 3, 8, 8) if dim == 1 else torch.rand(2, 7, 4)
        by_channel = scaled(x).movedim(dim, 0)
        for channel, answer in enumerate(layer(x).movedim(dim, 0)):
            torch.testing.assert_close(by_channel[channel], gain[channel] * answer + shift[channel])


@pytest.mark.parametrize(
    ("name", "dim"), [("LayerNorm", -1), ("RMSNorm", -1), ("LayerNorm2d", 1), ("RmsNorm", -1), ("RmsNorm2d", 1)]
)
def test_where_a_normalisation_has_its_channels(name, dim):
    import timm.layers

    from ciao_peft.study.baselines.scale_shift import _channel_dim

    kind = getattr(nn, name, None) or getattr(timm.layers, name)
    assert _channel_dim(kind(4)) == dim
    assert _channel_dim(nn.GroupNorm(2, 4)) == _channel_dim(nn.BatchNorm2d(4)) == 1


def test_a_norm_is_scaled_with_its_convolution():
    baseline = build_baseline("scale_and_shift", tiny_backbone(), small_config())
    generator = torch.Generator().manual_seed(2)
    conv, norm = baseline.rooted.backbone[3], baseline.rooted.backbone[4]
    for layer in (conv, norm):
        layer.gain.data = 0.5 + torch.rand(12, generator=generator)
        layer.shift.data = torch.rand(12, generator=generator) - 0.5
    frozen, x = tiny_backbone(), pixels()
    u = frozen[3](frozen[:3](x)) * conv.gain[:, None, None] + conv.shift[:, None, None]
    u = frozen[4](u) * norm.gain[:, None, None] + norm.shift[:, None, None]
    torch.testing.assert_close(baseline.feature_map(x), F.max_pool2d(u.relu(), 2))


# -- LoRA -------------------------------------------------------------------------------------------------------------


def lora_on(kind, rank=3, **settings):
    """A chain with a LoRA of random values on its last convolution, of this kind; and the chain itself."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, **CONVOLUTIONS[kind]), nn.ReLU()).eval()
    net.input_size = SIZE
    baseline = build_baseline("lora", net, small_config(), rank=rank, **settings)
    for parameter in baseline.parts()["encoder"]:
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())) / 3
    return baseline, net


@SAME
@pytest.mark.parametrize("kind", [kind for kind, given in CONVOLUTIONS.items() if "groups" not in given])
def test_lora_is_a_convolution_by_w_plus_b_a(kind):
    baseline, net = lora_on(kind)
    below, above = (
        layer["default"].weight for layer in (baseline.rooted.backbone[2].lora_A, baseline.rooted.backbone[2].lora_B)
    )
    changed = copy.deepcopy(net)
    with torch.no_grad():
        changed[2].weight += torch.einsum("or,rikl->oikl", above[:, :, 0, 0], below)
    assert below.shape == (3, 4, *changed[2].weight.shape[2:])
    torch.testing.assert_close(baseline.feature_map(pixels()), changed(pixels()), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(net(pixels()), changed(pixels()), atol=0.01)


@pytest.mark.parametrize("kind", ["plain", "strided"])
def test_lora_answers_as_a_model_of_peft_with_the_same_values(kind):
    import peft

    baseline, net = lora_on(kind, everywhere=True)
    model = peft.get_peft_model(copy.deepcopy(net), peft.LoraConfig(r=3, lora_alpha=3, target_modules=["0", "2"]))
    values = {f"base_model.model.{k}": v for k, v in baseline.rooted.backbone.state_dict().items() if "lora_" in k}
    assert len(values) == 4
    assert not model.load_state_dict(values, strict=False).unexpected_keys
    torch.testing.assert_close(baseline.feature_map(pixels()), model(pixels()))
    trained = {n.removeprefix("base_model.model.") for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {n for n, p in baseline.rooted.backbone.named_parameters() if p.requires_grad}


def test_lora_starts_from_the_seed_of_the_config_alone():
    def start(seed):
        torch.manual_seed(torch.randint(1000, ()).item())
        baseline = build_baseline("lora", tiny_backbone(), small_config(init_seed=seed), rank=4)
        return baseline.rooted.backbone[3].lora_A["default"].weight

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))


def test_building_leaves_the_global_random_state():
    encoder = tiny_backbone()
    state = torch.get_rng_state()
    for name in BUILDERS:
        build_baseline(name, encoder, small_config())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_path_that_ends_like_another_is_not_adapted():
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(nn.Conv2d(3, 4, 3))
            self.inner = nn.ModuleDict({"block": nn.Sequential(nn.Conv2d(4, 4, 3))})
            self.input_size = SIZE

        def forward(self, x):
            return (
                self.block(self.inner["block"](x).new_zeros(0))
                if x.shape[1] == 4
                else self.inner["block"](self.block(x))
            )

    baseline = build_baseline("lora", Deep().eval(), small_config(target_modules=("block.0",)), rank=2)
    assert {name.split(".lora_")[0] for name, p in baseline.rooted.backbone.named_parameters() if p.requires_grad} == {
        "block.0"
    }


# -- what is on the way ------------------------------------------------------------------------------------------------


def test_the_old_classifier_is_not_on_the_way_to_the_final_map():
    for make, classifier in ((tiny_backbone, "8."), (residual_backbone, "classifier.")):
        encoder = make()
        encoder.requires_grad_(False)
        first = next(encoder.parameters()).requires_grad_(True)
        reached = parameters_reaching_the_map(open_backbone(encoder, SIZE), encoder)
        assert [parameter for parameter in encoder.parameters() if parameter.requires_grad] == [first]
        assert all(parameter.grad is None for parameter in encoder.parameters())
        assert reached == {name for name, _ in encoder.named_parameters() if not name.startswith(classifier)}
