"""Which axes of a tensor are the positions of a picture: maps and tokens, read as `(B, C, H, W)`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

__all__ = ["MapLayout", "average_cells", "find_layout", "is_map", "tokens_layout", "vector_layout"]

_MOST_PREFIX_TOKENS = 8  # class, distillation and register tokens before the patches


@dataclass(frozen=True)
class MapLayout:
    """How to read a tensor as a map.

    Args:
        axes: The axes of the tensor that are channels, height and width; for tokens, channels and positions; for a
            vector, channels.
        grid: `(H, W)` of the map.
        prefix: Tokens without a position, before those that have one. They are no part of the map.

    Shapes:
        tensor: `(B, C, H, W)`, `(B, H, W, C)`, tokens `(B, N, C)` or `(B, C, N)`, or vectors `(B, C)`; the map
        `(B, C, H, W)`.

    Example:
        >>> import torch
        >>> layout = find_layout((2, 50, 192), (7, 7))  # a class token and 49 patches
        >>> layout.grid, layout.prefix, layout.as_map(torch.rand(2, 50, 192)).shape
        ((7, 7), 1, torch.Size([2, 192, 7, 7]))
    """

    axes: tuple[int, ...]
    grid: tuple[int, int]
    prefix: int = 0

    def as_map(self, tensor: Tensor) -> Tensor:
        """Reads a tensor as a map.

        Returns:
            `(B, C, H, W)`, a view where the memory allows it.

        Example:
            >>> import torch
            >>> MapLayout(axes=(3, 1, 2), grid=(7, 7)).as_map(torch.rand(2, 7, 7, 16)).shape  # channels last
            torch.Size([2, 16, 7, 7])
        """
        tensor = tensor.permute(0, *self.axes)
        if tensor.ndim == 4:
            return tensor
        if tensor.ndim == 3:
            tensor = tensor[:, :, self.prefix :]
        return tensor.reshape(*tensor.shape[:2], *self.grid)


def is_map(shape: Sequence[int]) -> bool:
    """Whether a shape is that of maps with more than one position, channels first.

    Example:
        >>> is_map((2, 16, 7, 7)), is_map((2, 16, 1, 1)), is_map((2, 49, 16))
        (True, False, False)
    """
    return len(shape) == 4 and shape[2] * shape[3] > 1


def average_cells(feature_map: Tensor, grid: int = 1) -> Tensor:
    """Averages a map over the cells of a square grid, as `adaptive_avg_pool2d` lays it.

    Args:
        feature_map: `(B, C, H, W)`.
        grid: Rows and columns of the grid; no more than the map has.

    Returns:
        `(B, C * rows * columns)`, the cells of a channel one after the other; `(B, C)` for one cell.

    Example:
        >>> import torch
        >>> average_cells(torch.arange(8.0).view(1, 2, 2, 2)), average_cells(torch.rand(4, 8, 6, 1), 3).shape
        (tensor([[1.5000, 5.5000]]), torch.Size([4, 24]))
    """
    if grid == 1:
        return feature_map.mean(dim=(2, 3))
    height, width = feature_map.shape[2:]
    return F.adaptive_avg_pool2d(feature_map, (min(grid, height), min(grid, width))).flatten(1)


def find_layout(shape: Sequence[int], *like: tuple[int, int]) -> MapLayout | None:
    """How to read a tensor of this shape as a map, if it is one.

    A map has the sides of one that it was computed from, or smaller ones in the same proportion.

    Args:
        shape: Shape of a map, channels first or last, or of tokens, `(B, N, C)` or `(B, C, N)`.
        *like: `(H, W)` of maps that it was computed from, the likeliest first.

    Returns:
        The layout, or None for a tensor that is no such map.

    Example:
        >>> find_layout((2, 16, 7, 7), (14, 14)).axes, find_layout((2, 7, 7, 16), (14, 14)).axes
        ((1, 2, 3), (3, 1, 2))
        >>> find_layout((2, 1000), (14, 14)) is None
        True
    """
    height, width = max(like, key=lambda sides: sides[0] * sides[1])

    def fits(h: int, w: int) -> bool:
        return 1 < h * w <= height * width and abs(h * width - w * height) <= max(height, width)

    if len(shape) == 4:
        options = [MapLayout((1, 2, 3), (shape[2], shape[3])), MapLayout((3, 1, 2), (shape[1], shape[2]))]
        options = [option for option in options if option.grid in like or fits(*option.grid)]
        return next((option for option in options if option.grid in like), options[0] if options else None)
    if len(shape) != 3:
        return None
    smaller = [(-(-h // k), -(-w // k)) for k in (2, 4, 8) for h, w in like]
    for grids in (like, smaller):
        for axes, most_prefix in (((2, 1), _MOST_PREFIX_TOKENS), ((1, 2), 0)):
            for h, w in grids:
                prefix = shape[axes[1]] - h * w
                if fits(h, w) and 0 <= prefix <= most_prefix and shape[axes[0]] > 1:
                    return MapLayout(axes, (h, w), prefix)
    return None


def tokens_layout(shape: Sequence[int]) -> MapLayout | None:
    """How to read tokens of no known grid as a map of one column.

    Example:
        >>> tokens_layout((2, 50, 192)).grid
        (50, 1)
    """
    return MapLayout((2, 1), (shape[1], 1)) if len(shape) == 3 and shape[1] > 1 else None


def vector_layout(shape: Sequence[int]) -> MapLayout | None:
    """How to read vectors `(B, C)`, or maps of one position, as a map of one position.

    Example:
        >>> vector_layout((2, 512)).grid, vector_layout((2, 50, 192)) is None
        ((1, 1), True)
    """
    if len(shape) == 4 and shape[2] * shape[3] == 1:
        return MapLayout((1, 2, 3), (1, 1))
    return MapLayout((1,), (1, 1)) if len(shape) == 2 else None
