"""Which map the head sees, and where its positions are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ciao_peft.backbone import open_backbone
from ciao_peft.backbone.maps import find_layout
from ciao_peft.errors import BackboneError
from helpers.fakes import SIZE
from helpers.networks import Fake, check_alike, cut, example, halved, pooled, run, tokens


def channels_last(self, x: Tensor) -> Tensor:
    x = self.norm(self.conv(self.stem(x)).permute(0, 2, 3, 1))
    return self.classifier(x.mean(dim=(1, 2)))


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
