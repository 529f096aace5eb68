"""Opens a network at its last convolutions: cut where it can be traced, else through hooks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import BackboneError, InputError, UntraceableBackboneError
from .cut import CutBackbone
from .hooked import HookedBackbone
from .identity import example_pixels
from .tracing import first_tensor

__all__ = ["OpenedBackbone", "open_backbone"]

OpenedBackbone = CutBackbone | HookedBackbone
"""A backbone with places for masks, whichever way they were made."""


def open_backbone(
    backbone: nn.Module, input_size: tuple[int, int, int], targets: tuple[str, ...] | None = None
) -> OpenedBackbone:
    """Opens the backbone at its terminal convolutions, with a place for a mask at each.

    A terminal convolution is a spatial one (its output larger than 1x1) on the way to the output from which no other
    spatial convolution can be reached: one in a chain, one per branch where branches run side by side.

    Args:
        backbone: Any convolutional network, in eval mode. Nothing of it is changed.
        input_size: `(C, H, W)` of its pixels.
        targets: Exact paths of the convolutions to take instead.

    Returns:
        A `CutBackbone` where `torch.fx` can follow the network, else a `HookedBackbone`.

    Raises:
        BackboneError: it cannot be called on such pixels, returns several maps, or has no spatial convolution.
        TargetModulesError: `targets` do not name convolutions side by side on the way to the output.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2)).eval()
        >>> opened = open_backbone(net, (3, 16, 16))
        >>> opened.targets, opened.map_shape, opened.traceable
        (('2',), (16, 6, 6), True)
    """
    example = example_pixels(backbone, input_size)
    try:
        _call(backbone, example)
    except BackboneError:
        raise
    except Exception as error:
        raise BackboneError(
            f"{type(backbone).__name__} cannot be called on pixels of {tuple(input_size)}: {error}. Give the size it "
            "was made for as `input_size=(channels, height, width)`."
        ) from error
    try:
        return CutBackbone(backbone, example, targets)
    except UntraceableBackboneError as error:
        return HookedBackbone(backbone, example, targets, str(error))


def _call(backbone: nn.Module, example: Tensor) -> None:
    with torch.no_grad():
        output = first_tensor(backbone(example))
    if len(output) != len(example):
        raise InputError(f"its output has {len(output)} rows for {len(example)} images")
