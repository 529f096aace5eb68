"""From the pixels and labels of single samples to one tensor, or a refusal that names the sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checking import all_finite
from ..errors import DataError, listed
from ..surroundings import as_tensor

__all__ = ["labels_as_tensor", "stack_pixels"]


def stack_pixels(values: Sequence[Any], indices: Sequence[int], name: str, pin: bool = False) -> Tensor:
    """Stacks the `pixel_values` of samples into one tensor.

    Args:
        values: Pixels of each sample, `(C, H, W)`: tensors, arrays or nested lists.
        indices: Numbers of the samples, for messages.
        name: Name of the dataset in messages.
        pin: Whether into page-locked memory, from where a GPU fetches it while it computes. Needs a GPU.

    Returns:
        `(B, C, H, W)`.

    Raises:
        DataError: the pixels are no numbers, differ in shape or are not finite; names the sample.

    Example:
        >>> stack_pixels([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)], [0, 1], "the faces").shape
        torch.Size([2, 3, 8, 8])
    """
    values = [_pixels(value, index, name) for value, index in zip(values, indices, strict=True)]
    if len(shapes := {tuple(value.shape) for value in values}) > 1:
        raise DataError(f"'pixel_values' of {name} differ in shape: {listed(shapes)}. Bring them to one size.")
    stacked = torch.stack(values, out=_pinned(values) if pin else None)
    if not all_finite(stacked):
        index = next(index for index, value in zip(indices, values, strict=True) if not all_finite(value))
        raise DataError(
            f"'pixel_values' of sample {int(index)} of {name} hold NaN or infinite values. Check how it was prepared."
        )
    return stacked


def _pixels(value: Any, index: int, name: str) -> Tensor:
    try:
        return as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"'pixel_values' of sample {int(index)} of {name} are no pixels: {error}.") from error


def _pinned(values: Sequence[Tensor]) -> Tensor | None:
    """Page-locked room for tensors of one shape; None where they differ in dtype."""
    first = values[0]
    alike = all(value.dtype == first.dtype and value.device.type == "cpu" for value in values)
    return torch.empty((len(values), *first.shape), dtype=first.dtype, device="cpu", pin_memory=True) if alike else None


def labels_as_tensor(values: Any, name: str) -> Tensor:
    """Turns the labels of all samples into a tensor.

    Args:
        values: A tensor, an array, or a list of numbers, lists, arrays or tensors, one per sample.
        name: Name of the dataset in messages.

    Returns:
        `(N,)` or `(N, L)`.

    Raises:
        DataError: they are no numbers of one shape.

    Example:
        >>> labels_as_tensor([[0.5, 0.1], [0.2, -0.3]], "the faces").shape
        torch.Size([2, 2])
    """
    if isinstance(values, Tensor):
        return values
    if isinstance(values, (list, tuple)) and any(value is None for value in values):
        raise DataError(f"Sample {[value is None for value in values].index(True)} of {name} has no label, but None.")
    try:
        if isinstance(values, (list, tuple)) and isinstance(values[0], Tensor):
            return torch.stack([as_tensor(value) for value in values])
        array = np.asarray(values)
        if array.dtype == object:
            array = np.stack([np.asarray(value) for value in values])
        return as_tensor(array)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"The labels of {name} are no numbers of one shape: {error}.") from None
