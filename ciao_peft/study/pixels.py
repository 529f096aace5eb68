"""Pictures as an encoder is fed, prepared once for every training that reads pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


class PixelSplit:
    """A split as the encoder is fed, prepared once: a map-style dataset of `pixel_values` and `labels`.

    Args:
        pixels: `(N, C, H, W)` in half precision, in memory or mapped into it.
        labels: `(N,)` or `(N, num_labels)`: a row for each.
        rows: Which of them, or which are the frames of each clip; all when left out.
        label_names: Names of the labels, in the order of their indices, where they are known.

    Shapes:
        A sample holds `pixel_values` `(C, H, W)`, or `(T, C, H, W)` for clips, in float32.

    Example:
        >>> split = PixelSplit(np.zeros((4, 3, 8, 8), np.float16), torch.tensor([0, 1, 0, 1]))
        >>> len(split), split[1]["pixel_values"].shape, split.select([3, 0]).labels
        (4, torch.Size([3, 8, 8]), tensor([1, 0]))
    """

    labels: Tensor
    label_names: list[str] | None

    def __init__(
        self,
        pixels: np.ndarray,
        labels: Tensor,
        rows: list[Any] | None = None,
        label_names: list[str] | None = None,
    ):
        self._pixels, self.label_names = pixels, label_names
        self._rows = list(range(len(pixels))) if rows is None else rows
        self.labels = labels

    def __len__(self) -> int:
        return len(self._rows)

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        pixels = torch.from_numpy(np.array(self._pixels[[self._rows[index] for index in indices]])).float()
        return [{"pixel_values": row, "labels": self.labels[i]} for row, i in zip(pixels, indices, strict=True)]

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def select(self, indices: list[int]) -> PixelSplit:
        """A part of the samples."""
        return PixelSplit(
            self._pixels, self.labels[indices], [self._rows[index] for index in indices], self.label_names
        )

    def clips(self, rows: Any) -> PixelSplit:
        """Clips of the samples, as `FeatureDataset.clips` makes them."""
        chosen = [[self._rows[index] for index in clip] for clip in rows]
        return PixelSplit(self._pixels, self.labels[[clip[0] for clip in rows]], chosen, self.label_names)
