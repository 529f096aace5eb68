"""Checks that every room uses, each refused in one way."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def all_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite; numbers that are no floating point always are.

    Example:
        >>> import torch
        >>> all_finite(torch.tensor([3e38, 3e38])), all_finite(torch.tensor([float("inf"), float("-inf")]))
        (True, False)
    """
    import torch

    if not tensor.is_floating_point():
        return True
    # One pass over memory, and no copy: a sum is finite only if all are, unless it overflows.
    total = tensor.detach().sum(dtype=torch.promote_types(tensor.dtype, torch.float32))
    return bool(total.isfinite()) or bool(tensor.isfinite().all())
