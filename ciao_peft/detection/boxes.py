"""Where a face is: a rectangle in pixels, and what a detector tells of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Box", "Detector"]


class Box(NamedTuple):
    """A rectangle in pixels; x to the right, y down, from the upper left corner.

    Args:
        x: Left edge.
        y: Upper edge.
        width: Pixels to the right of `x`.
        height: Pixels below `y`.

    Example:
        >>> Box(4, 2, 10, 20).area
        200
    """

    x: int
    y: int
    width: int
    height: int

    @property
    def area(self) -> int:
        """Number of pixels inside; 0 where a side is negative."""
        return max(0, self.width) * max(0, self.height)

    def overlap(self, other: Box) -> float:
        """Intersection over union of two boxes, 0 to 1; 0 if both are empty.

        Args:
            other: The box to compare with.

        Example:
            >>> Box(0, 0, 2, 2).overlap(Box(1, 0, 2, 2))
            0.3333333333333333
        """
        width = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        height = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        shared = max(0, width) * max(0, height)
        union = self.area + other.area - shared
        return shared / union if union else 0.0


Detector = Callable[["np.ndarray"], Sequence[Sequence[float]]]
"""Takes `(H, W, 3)` uint8 RGB and gives x, y, width, height of each face, in pixels.

A score from 0 to 1 may follow, and what else a detector knows: after its score, `YuNetDetector` gives x and y of five
landmarks.
"""
