"""Where masks sit and what the head sees, on networks small enough to tell by hand; cut and hooked alike."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from ciao_peft.backbone import CutBackbone, HookedBackbone, open_backbone
from ciao_peft.backbone.maps import find_layout
from ciao_peft.backbone.pieces import PerRow, per_row
from ciao_peft.backbone.tracing import Rooted
from ciao_peft.errors import BackboneError, TargetModulesError, UntraceableBackboneError
from helpers.fakes import SIZE, _fill, pixels, residual_backbone, tiny_backbone


class Fake(nn.Module):
    """A stem to 12x8x8 and a convolution of it; `between`, given by a test, does what the test is about."""

    def __init__(self, between=None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=2, padding=1)
        self.conv = nn.Conv2d(12, 12, 3, padding=1)
        self.other = nn.Conv2d(12, 12, 1)
        self.act = nn.ReLU()
        self.norm = nn.LayerNorm(12)
        self.classifier = nn.Linear(12, 5)
        self.between = between
        _fill(self, 0)

    def forward(self, x: Tensor):
        return self.between(self, x)


def cut(between, size=SIZE) -> CutBackbone:
    return CutBackbone(Fake(between), example(size))


def example(size=SIZE, batch_size: int = 2) -> Tensor:
    return torch.rand((batch_size, *size), generator=torch.Generator().manual_seed(3))


def halved(index, features, excitation):
    return excitation() / 2


def run(opened, x: Tensor, mask=None, rooted: Rooted | None = None) -> Tensor:
    with torch.no_grad():
        return opened.run(opened.rooted if rooted is None else rooted, [(None, mask)], pixel_values=x)[0]


def check_alike(opened: CutBackbone) -> None:
    """The pieces give what the network gives, at batch sizes that the graph was not made with, from features too."""
    backbone = opened.rooted.backbone
    for batch_size in (1, 3, 5):
        x = example(opened.input_size, batch_size)
        with torch.no_grad():
            expected = opened.rooted(x.clone())
            features = opened.features(opened.rooted, x)
            assert all(len(f) == batch_size for f in features)
            from_features = opened.run(opened.rooted, [(None, None), (None, halved)], features=features)
        assert torch.allclose(run(opened, x), expected, atol=1e-6)
        assert torch.equal(from_features[0], run(opened, x))
        assert torch.equal(from_features[1], run(opened, x, halved))
        assert tuple(from_features[1].shape[1:]) == opened.map_shape
    rows = torch.tensor([2, 0])
    x = example(opened.input_size, 3)
    with torch.no_grad():
        chosen = opened.run(opened.rooted, [(rows, halved)], pixel_values=x)[0]
    assert torch.allclose(chosen, run(opened, x, halved)[rows], atol=1e-6)
    twin = Rooted(copy.deepcopy(backbone))
    assert torch.equal(run(opened, x, halved, twin), run(opened, x, halved))


# -- which convolutions ----------------------------------------------------------------------------------------------


def pooled(self, x: Tensor) -> Tensor:
    return self.classifier(x.mean(dim=(2, 3)))


def gated(self, x: Tensor) -> Tensor:
    x = self.conv(self.stem(x))
    return pooled(self, x * self.other(x.mean(dim=(2, 3), keepdim=True)).sigmoid())


def side_by_side(self, x: Tensor) -> Tensor:
    x = self.stem(x)
    return pooled(self, torch.cat([self.conv(x)[:, :6], self.other(x)[:, 6:]], dim=1))


def again(self, x: Tensor) -> Tensor:
    return pooled(self, self.conv(self.conv(self.stem(x)).relu()))


def cut_off(self, x: Tensor) -> Tensor:
    """Ends with a convolution whose answers stay beside the class token that alone is read."""
    x = self.conv(self.stem(x))
    tokens = nn.functional.pad(self.other(x).flatten(2), (1, 0)).transpose(1, 2)
    return self.classifier(tokens[:, 0] + x.mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("between", "targets"),
    [(gated, ("conv",)), (side_by_side, ("conv", "other")), (again, ("conv",)), (cut_off, ("conv",))],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_last_spatial_convolutions_that_the_output_hears_are_masked(between, targets):
    opened = cut(between)
    assert opened.targets == targets
    check_alike(opened)


def test_a_convolution_that_the_output_cannot_hear_is_refused_as_target():
    with pytest.raises(
        TargetModulesError, match="names 'other', whose answer changes nothing in the backbone's output"
    ):
        CutBackbone(Fake(cut_off), example(), ("other",))


def test_gains_of_zero_do_not_move_the_mask():  # those of an untrained network; training moves them
    backbone = residual_backbone()
    nn.init.zeros_(backbone.classifier.weight)
    nn.init.zeros_(backbone.bn2.weight)
    assert open_backbone(backbone, SIZE).targets == ("conv2",)


def test_only_the_last_run_of_a_shared_convolution_is_masked():
    backbone = Fake(again)
    x = example()
    with torch.no_grad():
        first = backbone.conv(backbone.stem(x)).relu()
        expected = backbone.conv(first) / 2
    for opened in (CutBackbone(backbone, x), HookedBackbone(backbone, x, None, "a test")):
        if isinstance(opened, CutBackbone):
            assert torch.equal(run(opened, x, halved), expected)


@pytest.mark.parametrize(
    "kind", [CutBackbone, lambda b, x, t=None: HookedBackbone(b, x, t, "a test")], ids=["cut", "hooked"]
)
def test_targets_that_no_mask_can_sit_on_are_refused(kind):
    def twice_beside(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return pooled(self, self.conv(x) + self.conv(x.flip(3)))

    with pytest.raises(TargetModulesError, match=r"runs more than once side by side; choose .* from: stem, conv, conv"):
        kind(Fake(twice_beside), example())
    with pytest.raises(TargetModulesError, match="names 'conv', which runs more than once in one pass"):
        kind(Fake(again), example(), ("conv",))
    with pytest.raises(TargetModulesError, match="names 'other', which runs not at all on a map larger than 1x1"):
        kind(Fake(gated), example(), ("other",))
    with pytest.raises(TargetModulesError, match="names 'stem', which feeds"):
        kind(Fake(side_by_side), example(), ("other", "stem"))
    with pytest.raises(BackboneError, match="has no convolution with an output larger than 1x1"):
        kind(Fake(lambda self, x: self.classifier(x.flatten(1)[:, :12])), example())


def test_targets_are_taken_in_the_order_given():
    opened = CutBackbone(Fake(side_by_side), example(), ("other", "conv"))
    assert opened.targets == ("other", "conv")
    check_alike(opened)


def test_what_follows_a_convolution_alone_belongs_to_its_unit():
    chain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 3)), nn.Identity(), nn.BatchNorm2d(4))
    backbone = _fill(nn.Sequential(*chain, nn.SiLU(inplace=True), nn.Hardtanh(), nn.AvgPool2d(2)), 0)
    for opened in (CutBackbone(backbone, example()), HookedBackbone(backbone, example(), None, "a test")):
        assert dict(opened.units_spec[0].steps) == {"conv": "1.0", "norm": "3", "act": "4"}

    def also_read_before(self, x: Tensor) -> Tensor:
        u = self.conv(self.stem(x))
        return pooled(self, u + self.act(u))

    for opened in (cut(also_read_before), HookedBackbone(Fake(also_read_before), example(), None, "a test")):
        assert dict(opened.units_spec[0].steps) == {"conv": "conv"}


# -- which map -------------------------------------------------------------------------------------------------------


def channels_last(self, x: Tensor) -> Tensor:
    x = self.norm(self.conv(self.stem(x)).permute(0, 2, 3, 1))
    return self.classifier(x.mean(dim=(1, 2)))


def tokens(self, x: Tensor) -> Tensor:
    return self.classifier(self.norm(self.conv(self.stem(x)).flatten(2).transpose(1, 2)).mean(dim=1))


def class_token(self, x: Tensor) -> Tensor:
    x = self.conv(self.stem(x)).flatten(2).transpose(1, 2)
    x = torch.cat([self.norm.weight.expand(x.shape[0], 1, -1), x], dim=1)
    attention = (x @ x.transpose(1, 2)).softmax(dim=2)
    return self.classifier(self.norm(attention @ x)[:, 0])


def positions_last(self, x: Tensor) -> Tensor:
    return self.classifier(self.conv(self.stem(x)).flatten(2).relu().mean(dim=2))


def halved_again(self, x: Tensor) -> Tensor:
    return pooled(self, nn.functional.max_pool2d(self.conv(self.stem(x)).relu(), 2))


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        (channels_last, lambda self, u: self.norm(u.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
        (tokens, lambda self, u: self.norm(u.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
        (positions_last, lambda self, u: u.relu()),
        (halved_again, lambda self, u: nn.functional.max_pool2d(u.relu(), 2)),
    ],
    ids=lambda value: value.__name__ if value.__name__ != "<lambda>" else "",
)
def test_the_head_sees_the_last_map_with_its_positions_in_place(between, expected):
    opened = cut(between)
    backbone, x = opened.rooted.backbone, example()
    with torch.no_grad():
        u = backbone.conv(backbone.stem(x))
        unit = opened.units_spec[0].build(backbone)
        masked = unit(backbone.stem(x)) / 2
        alone = len(opened.units_spec[0].steps) == 1
        answer = expected(backbone, u / 2) if alone else expected(backbone, masked)
    assert torch.allclose(run(opened, x, halved), answer, atol=1e-6)
    check_alike(opened)


def test_tokens_that_have_no_position_are_no_part_of_the_map():
    opened = cut(class_token)
    assert opened.map_shape == (12, 8, 8)
    check_alike(opened)


@pytest.mark.parametrize(
    ("shape", "like", "channels", "grid"),
    [
        ((1, 512, 7, 7), (7, 7), 512, (7, 7)),
        ((1, 7, 7, 512), (7, 7), 512, (7, 7)),
        ((1, 512, 3, 3), (7, 7), 512, (3, 3)),
        ((1, 64, 5, 8), (10, 16), 64, (5, 8)),
        ((1, 49, 384), (7, 7), 384, (7, 7)),
        ((1, 50, 384), (7, 7), 384, (7, 7)),
        ((1, 384, 49), (7, 7), 384, (7, 7)),
        ((1, 49, 384), (14, 14), 384, (7, 7)),
        ((1, 512, 1, 1), (7, 7), None, None),
        ((1, 512, 14, 14), (7, 7), None, None),
        ((1, 8, 49, 49), (7, 7), None, None),  # attention: heads, queries, keys
        ((1, 384, 1), (7, 7), None, None),
        ((1, 49, 1), (7, 7), None, None),  # pooled to forty-nine channels
        ((1, 384), (7, 7), None, None),
    ],
)
def test_layouts_by_shape(shape, like, channels, grid):
    layout = find_layout(shape, like)
    assert (layout and layout.grid) == grid
    if layout:
        assert layout.as_map(torch.rand(shape)).shape == (1, channels, *grid)


def test_a_map_of_the_sides_of_the_masks_own_is_read_channels_first():
    # A convolution with other strides or dilations for rows than for columns: 14 x 14 goes in, 5 x 7 comes out.
    layout = find_layout((1, 6, 5, 7), (5, 7), (14, 14))
    assert (layout.axes, layout.grid) == ((1, 2, 3), (5, 7))


@pytest.mark.parametrize("pack", [list, tuple, lambda maps: dict(enumerate(maps))], ids=["list", "tuple", "dict"])
def test_of_several_maps_nobody_guesses_which_one_is_meant(pack):
    pyramid = Fake(lambda net, x: pack([net.stem(x), nn.functional.max_pool2d(net.conv(net.stem(x)), 2)])).eval()
    with pytest.raises(BackboneError, match=r"several maps, of \(12, 8, 8\) and \(12, 4, 4\).*`out_indices=\[-1\]`"):
        open_backbone(pyramid, SIZE)
    last = Fake(lambda net, x: pack([net.conv(net.stem(x))])).eval()
    assert open_backbone(last, SIZE).targets == ("conv",)
    pooled = Fake(lambda net, x: pack([net.conv(net.stem(x)), net.stem(x).mean((2, 3))])).eval()
    assert open_backbone(pooled, SIZE).targets == ("conv",)


def test_of_named_answers_of_one_shape_the_first_is_meant():
    segments = Fake(lambda net, x: {"out": net.conv(net.stem(x)), "aux": net.other(net.stem(x))}).eval()
    assert open_backbone(segments, SIZE).targets == ("conv",)


# -- what crosses the cut --------------------------------------------------------------------------------------------


def shortcut(self, x: Tensor) -> Tensor:
    x = self.stem(x)
    return pooled(self, self.conv(x) + x)


def shape_of_before(self, x: Tensor) -> Tensor:
    before = self.stem(x).relu()
    shape = before.shape
    return pooled(self, self.conv(before).flatten(1).view(shape) * shape[0] / before.size(0))


def windows(self, x: Tensor) -> Tensor:
    """Cuts the picture into four windows, folded into the batch, and puts them together after the cut."""
    batch_size, channels, height, width = self.stem(x).shape
    x = self.stem(x).view(batch_size, channels, 2, height // 2, 2, width // 2)
    x = x.permute(0, 2, 4, 1, 3, 5).reshape(batch_size * 4, channels, height // 2, width // 2)
    x = self.conv(x).view(batch_size, 2, 2, channels, height // 2, width // 2).permute(0, 3, 1, 4, 2, 5)
    return pooled(self, x.reshape(batch_size, channels, height, width))


def positions(self, x: Tensor) -> Tensor:
    """Adds what depends on the picture's size alone, in the dtype and on the device of what came before."""
    before = self.stem(x)
    rows = torch.arange(before.shape[2], device=before.device).to(before.dtype)
    return pooled(self, self.conv(before) + rows[:, None] / 3)


def constant(self, x: Tensor) -> Tensor:
    return pooled(self, self.conv(self.stem(x - torch.tensor([0.5, 0.25, 0.0])[:, None, None])) * torch.tensor(3.0))


def parts(self, x: Tensor) -> Tensor:
    first, second = self.stem(x).chunk(2, dim=1)
    u = self.conv(torch.cat([first, second], dim=1))
    third, fourth = u.split([6, 6], dim=1)
    return pooled(self, torch.cat([third * first, fourth], dim=1))


def into_its_input(self, x: Tensor) -> Tensor:
    x = x.sub_(0.5)
    return pooled(self, self.conv(self.stem(x)))


def into_what_crosses(self, x: Tensor) -> Tensor:
    x = self.stem(x)
    x = x.add_(self.conv(x))
    return pooled(self, x)


def into_its_answer(self, x: Tensor) -> Tensor:
    return pooled(self, self.conv(self.stem(x)).add_(1))


def two_answers(self, x: Tensor) -> tuple[Tensor, Tensor]:
    x = self.conv(self.stem(x))
    return pooled(self, x), x


def named_answers(self, x: Tensor) -> dict[str, Tensor]:
    x = self.conv(self.stem(x))
    return {"hidden": x, "logits": pooled(self, x)}


def decides_by_shape(self, x: Tensor) -> Tensor:
    x = self.stem(x)
    if x.shape[2] % 3:
        x = nn.functional.pad(x, (0, 3 - x.shape[2] % 3))
    return pooled(self, self.conv(x))


@pytest.mark.parametrize(
    "between",
    [
        shortcut,
        shape_of_before,
        windows,
        positions,
        constant,
        parts,
        into_its_input,
        into_what_crosses,
        into_its_answer,
        two_answers,
        named_answers,
        decides_by_shape,
    ],
    ids=lambda between: between.__name__,
)
def test_the_pieces_compute_what_the_network_computes(between):
    opened = open_backbone(Fake(between), SIZE)
    assert opened.traceable
    assert opened.targets == ("conv",)
    check_alike(opened)


def test_pixels_are_not_written_into():
    opened = cut(into_its_input)
    x = example()
    before = x.clone()
    run(opened, x, halved)
    assert torch.equal(x, before)


@pytest.mark.parametrize("between", [positions, constant, windows], ids=lambda between: between.__name__)
def test_a_cut_survives_a_change_of_dtype(between):
    opened = cut(between)
    opened.rooted.double()
    x = example().double()
    with torch.no_grad():
        assert torch.allclose(run(opened, x), opened.rooted(x), rtol=0, atol=1e-9)
    assert run(opened, x).dtype == torch.float64


def test_numbers_are_constant_or_proportional_to_the_batch():
    assert per_row((1, 64, 8), (2, 64, 8), batch_size=2) == (PerRow(1), 64, 8)
    assert per_row(12, 24, batch_size=2) == PerRow(12)
    assert per_row(None, None, batch_size=2) is None
    for one, other in ((1, 3), (0.5, 0.5), ((1, 2), (1, 2, 3)), (torch.ones(1), torch.ones(1))):
        with pytest.raises(UntraceableBackboneError, match="depends on the pixels"):
            per_row(one, other, batch_size=2)


# -- networks that cannot be traced ----------------------------------------------------------------------------------


def decides_by_content(self, x: Tensor) -> Tensor:
    x = self.stem(x)
    return pooled(self, self.conv(x if x.mean() > -100 else -x))


def writes_in_passing(self, x: Tensor) -> Tensor:
    x = self.conv(self.stem(x))
    x.relu_()
    return pooled(self, x)


def writes_unseen(self, x: Tensor) -> Tensor:
    x = self.conv(self.stem(x))
    x.clamp_(max=1000)  # more than the example reaches
    return pooled(self, x)


def counts_with_len(self, x: Tensor) -> Tensor:
    """Python insists on a number from `len`, so the batch size of the trace is in the graph for good."""
    x = self.conv(self.stem(x))
    row = self.norm.weight.view(1, 12, 1, 1).expand(len(x), 12, 1, 8)
    return pooled(self, torch.cat([x, row], dim=2))


@pytest.mark.parametrize(
    "between",
    [decides_by_content, writes_in_passing, writes_unseen, counts_with_len],
    ids=lambda between: between.__name__,
)
def test_a_network_that_cannot_be_traced_gets_its_masks_through_hooks(between):
    backbone = Fake(between)
    opened = open_backbone(backbone, SIZE)
    assert not opened.traceable
    assert opened.targets == ("conv",)
    x = example()
    with torch.no_grad():
        expected = backbone(x)
        u = backbone.conv(backbone.stem(x))
    assert torch.equal(run(opened, x), expected)
    assert torch.equal(run(opened, x, halved), u / 2)
    with pytest.raises(UntraceableBackboneError, match="Features of Fake cannot be taken or cached"):
        opened.features(opened.rooted, x)


class NormAndAct(nn.BatchNorm2d):
    """Normalisation and activation as one module that reads its input twice."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x) / (1 + x.square().mean(dim=1, keepdim=True)))


def two_branches() -> nn.Module:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
            self.left = nn.Sequential(nn.Conv2d(8, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
            self.right = nn.Sequential(nn.Conv2d(8, 4, 1), NormAndAct(4), nn.Sequential(nn.Hardswish()))
            self.pool = nn.MaxPool2d(2)
            self.mix = nn.Identity()
            self.classifier = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).relu()
            x = self.mix(torch.cat([self.left(x), self.right(x)], dim=1))
            return self.classifier(self.pool(x).mean(dim=(2, 3)))

    return _fill(Branches(), 0)


@pytest.mark.parametrize("make", [tiny_backbone, residual_backbone, two_branches])
def test_hooked_is_equal_to_cut(make):
    backbone = make()
    by_graph, by_hooks = CutBackbone(backbone, example()), HookedBackbone(backbone, example(), None, "a test")
    assert by_hooks.units_spec == by_graph.units_spec
    assert [u.steps for u in by_hooks.units_spec] == [u.steps for u in by_graph.units_spec]
    assert by_hooks.map_shape == by_graph.map_shape
    x = pixels(5)
    assert torch.equal(run(by_hooks, x), run(by_graph, x))
    assert torch.allclose(run(by_hooks, x, halved), run(by_graph, x, halved), atol=1e-6)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.modules())


def test_hooks_mask_only_the_last_run_of_a_shared_convolution():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
            self.conv = nn.Conv2d(8, 8, 3, padding=1)
            self.act = nn.ReLU()
            self.pool = nn.AvgPool2d(2)
            self.classifier = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.act(self.conv(self.act(self.conv(self.stem(x)))))
            return self.classifier(self.pool(x).mean(dim=(2, 3)))

    backbone = _fill(Recurrent(), 0)
    x = example()
    by_graph, by_hooks = CutBackbone(backbone, x), HookedBackbone(backbone, x, None, "a test")
    assert by_hooks.units_spec == by_graph.units_spec
    with torch.no_grad():
        u = backbone.conv(backbone.conv(backbone.stem(x)).relu()).relu()
    assert torch.allclose(run(by_graph, x, halved), backbone.pool(u / 2), atol=1e-6)
    assert torch.allclose(run(by_hooks, x, halved), backbone.pool(u / 2), atol=1e-6)


# -- pixels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_backbones_in_other_dtypes_are_cut(dtype):
    opened = open_backbone(residual_backbone().to(dtype), SIZE)
    assert opened.traceable
    assert run(opened, pixels().to(dtype), halved).dtype == dtype


def test_gray_and_oblong_pictures_are_welcome():
    gray = _fill(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, bias=False), nn.ReLU()), 0)
    opened = open_backbone(gray, (1, 12, 20))
    assert opened.targets == ("2",)
    assert opened.map_shape == (6, 8, 16)
    check_alike(opened)


def test_a_deep_chain_opens_as_fast_as_it_is_long():
    """Twice the layers take about twice the graph's look-ups, not four times."""
    import sys

    def lookups(depth: int) -> int:
        layers = [layer for _ in range(depth) for layer in (nn.Conv2d(3, 3, 1), nn.ReLU())]
        backbone = nn.Sequential(*layers).eval()
        calls = 0

        def count(frame, event, argument):
            nonlocal calls
            calls += event == "call" and "places.py" in frame.f_code.co_filename

        sys.setprofile(count)
        try:
            CutBackbone(backbone, example((3, 4, 4)))
        finally:
            sys.setprofile(None)
        return calls

    assert lookups(80) < 3 * lookups(40)
