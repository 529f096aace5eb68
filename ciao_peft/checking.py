"""Checks that every room uses, each refused in one way."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .errors import ConfigError, listed

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


def checked_keys(what: str, values: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """The values, if every key is known.

    Raises:
        ConfigError: one is not; the message lists those that are.

    Example:
        >>> checked_keys("a plan", {"seed": 3}, ["seeds", "tasks"])
        Traceback (most recent call last):
        ...
        ciao_peft.errors.ConfigError: Unknown key 'seed' in a plan; did you mean 'seeds'? Known keys: 'seeds', 'tasks'.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{what.capitalize()} must map keys to values; got {values!r}.")
    known = list(known)
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(f"Unknown key {key!r} in {what}; {hint}Known keys: {listed(known)}.")
    return dict(values)
