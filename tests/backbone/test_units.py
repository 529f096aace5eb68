"""Which convolutions carry a mask, and what belongs to their unit, on networks small enough to tell by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ciao_peft.backbone import CutBackbone, HookedBackbone, open_backbone
from ciao_peft.errors import BackboneError, TargetModulesError
from helpers.fakes import SIZE, _fill, residual_backbone
from helpers.networks import Fake, check_alike, cut, example, halved, pooled, run


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
