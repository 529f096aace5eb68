"""Residual adapters in parallel (Rebuffi et al. 2018): a 1x1 convolution in parallel to each spatial one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...backbone import CutBackbone, HookedBackbone
from ...config import CIAOConfig
from ...errors import ConfigError, TrainingError
from .base import Baseline, check_cut, conv2d, convolutions, normalisations


class ParallelAdapter(nn.Module):
    """A convolution and, added to its answer, a 1x1 convolution of the pixels under the middle of its kernel.

    The 1x1 convolution has the stride and the groups of the other, no bias, and starts at zero.

    Args:
        conv: Stays as it is.

    Shapes:
        maps: `(B, C, H, W)`; returns `(B, C', H', W')`, as `conv` does.

    Raises:
        TrainingError: when called, if the convolution pads its input by other rules than its `padding` says.

    Example:
        >>> layer = ParallelAdapter(nn.Conv2d(3, 8, 5, stride=2, padding=1))
        >>> maps = torch.rand(2, 3, 9, 9)
        >>> torch.equal(layer(maps), layer.conv(maps)), tuple(layer.weight.shape)
        (True, (8, 3, 1, 1))
    """

    conv: nn.Conv2d
    weight: nn.Parameter
    margins: list[int]

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.conv = conv
        shape = (conv.out_channels, conv.in_channels // conv.groups, 1, 1)
        self.weight = nn.Parameter(torch.zeros(shape, device=conv.weight.device))
        # Left, right, top, bottom: what the kernel's middle never reaches is cut off.
        self.margins = []
        for size, dilation, (before, after) in zip(
            conv.kernel_size[::-1], conv.dilation[::-1], _padding(conv)[::-1], strict=True
        ):
            middle = (size - 1) // 2
            self.margins += [before - dilation * middle, after - dilation * (size - 1 - middle)]

    def forward(self, x: Tensor) -> Tensor:
        answer = self.conv(x)
        added = F.conv2d(F.pad(x, self.margins), self.weight, stride=self.conv.stride, groups=self.conv.groups)
        if added.shape != answer.shape:
            raise TrainingError(
                f"A {type(self.conv).__name__} pads its input by other rules than its `padding` says, so no 1x1 "
                "convolution can be put beside it."
            )
        return answer + added


def _padding(conv: nn.Conv2d) -> list[tuple[int, int]]:
    """Rows above and below, columns left and right."""
    if conv.padding == "same":
        totals = [dilation * (size - 1) for size, dilation in zip(conv.kernel_size, conv.dilation, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    if isinstance(conv.padding, str):  # "valid"
        return [(0, 0)] * 2
    return [(pad, pad) for pad in conv.padding]


def build_residual_adapters(
    cut: CutBackbone | HookedBackbone, config: CIAOConfig, *, everywhere: bool = False
) -> Baseline:
    """1x1 convolutions in parallel to the spatial ones, under CIAO's decision head.

    As in the paper, the gains and biases of the normalisations on the way are trained as well (there each domain has
    its own batch norm; here its statistics stay the encoder's). The 1x1 convolutions start at zero, so that training
    starts from the frozen encoder.

    Args:
        cut: The encoder, opened where CIAO masks it.
        config: Kind of problem and settings of the head.
        everywhere: In parallel to all convolutions larger than 1x1 on the way to the final map, from pixels; otherwise
            to those that CIAO masks, from features.

    Raises:
        ConfigError: there is no convolution larger than 1x1.

    Example:
        >>> from ciao_peft.backbone import open_backbone
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()).eval()
        >>> cut = open_backbone(net, (3, 16, 16))
        >>> config = CIAOConfig(problem_type="regression", num_labels=1, hidden_sizes=())
        >>> baseline = build_residual_adapters(cut, config, everywhere=True)
        >>> sum(p.numel() for p in baseline.parts()["encoder"])  # 8 x 3 and 16 x 8
        152
    """
    opened = check_cut(cut)
    backbone = opened.rooted.backbone
    paths = convolutions(opened, everywhere)
    if everywhere:
        paths = [path for path in paths if max(conv2d(backbone, path).kernel_size) > 1]
    if not paths:
        raise ConfigError(f"{type(backbone).__name__} has no convolution larger than 1x1 on the way to its final map.")
    norms = normalisations(opened, everywhere)

    def adapt(backbone: nn.Module) -> None:
        for path in norms:
            backbone.get_submodule(path).requires_grad_(True)
        for path in paths:
            backbone.set_submodule(path, ParallelAdapter(conv2d(backbone, path)))

    return Baseline(cut, config, adapt)
