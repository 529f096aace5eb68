"""Networks small enough to tell by hand where a mask sits."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ciao_peft.backbone import CutBackbone
from ciao_peft.backbone.tracing import Rooted

from .fakes import SIZE, _fill


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
        assert self.between is not None
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


def pooled(self, x: Tensor) -> Tensor:
    return self.classifier(x.mean(dim=(2, 3)))


def tokens(self, x: Tensor) -> Tensor:
    return self.classifier(self.norm(self.conv(self.stem(x)).flatten(2).transpose(1, 2)).mean(dim=1))
