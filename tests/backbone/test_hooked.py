"""Networks that cannot be traced get their masks through hooks, and equal what is cut."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ciao_peft.backbone import CutBackbone, HookedBackbone, open_backbone
from ciao_peft.errors import UntraceableBackboneError
from helpers.fakes import SIZE, _fill, pixels, residual_backbone, tiny_backbone
from helpers.networks import Fake, example, halved, pooled, run


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

    def forward(self, input: Tensor) -> Tensor:
        x = input
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
