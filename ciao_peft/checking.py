"""Checks that every room uses, each refused in one way."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .errors import CIAOError, ConfigError, listed

if TYPE_CHECKING:
    from torch import Tensor


def is_number(value: Any, kind: type = float, low: float = -math.inf, high: float = math.inf) -> bool:
    """Whether a value is a finite number of Python's, `low` and `high` included; `True` and `False` are none.

    Args:
        value: Anything.
        kind: `int` for whole numbers only.
        low: The smallest that will do.
        high: The largest.

    Example:
        >>> is_number(2), is_number(2.5, int), is_number(True), is_number(float("nan"))
        (True, False, False, False)
    """
    allowed = int if kind is int else (int, float)
    return isinstance(value, allowed) and not isinstance(value, bool) and abs(value) < math.inf and low <= value <= high


def check_number(
    name: str,
    value: Any,
    kind: type = float,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: float | None = None,
    of: str = "",
    error: type[CIAOError] = ConfigError,
) -> None:
    """Refuses what is no finite number from `low` to `high`.

    Args:
        name: Of the setting, for the message.
        value: Its value.
        kind: `int` for whole numbers only.
        low: The smallest that will do.
        high: The largest.
        above: A bound that is itself too small, in place of `low`.
        of: Whose setting it is, where the name does not tell.
        error: What is raised.

    Raises:
        ConfigError: the value is of the wrong type or out of range; or another error, as `error` says.

    Example:
        >>> check_number("epochs", 0, above=0, of="a plan")
        Traceback (most recent call last):
        ...
        ciao_peft.errors.ConfigError: `epochs` of a plan must be a number above 0; got 0.
    """
    if is_number(value, kind, low, high) and (above is None or value > above):
        return
    if above is not None:
        bounds = f" above {above:g}"
    elif high == math.inf:
        bounds = "" if low == -math.inf else f" of {low:g} or more"
    else:
        bounds = f" from {low:g} to {f'{high:g}' if high < 1e9 else 'any size'}"
    noun = "whole number" if kind is int else "number"
    raise error(f"`{name}`{of and f' of {of}'} must be a {noun}{bounds}; got {value!r}.")


def check_flag(name: str, value: Any) -> None:
    """Refuses what is neither `True` nor `False`.

    Raises:
        ConfigError: the value is something else.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"`{name}` must be true or false; got {value!r}.")


def check_choice(name: str, value: Any, choices: Collection[Any], error: type[CIAOError] = ConfigError) -> None:
    """Refuses what is none of the choices.

    Raises:
        ConfigError: the value is something else; or another error, as `error` says.

    Example:
        >>> check_choice("optim", "adam", ("adamw", "sgd"))
        Traceback (most recent call last):
        ...
        ciao_peft.errors.ConfigError: `optim` must be one of 'adamw', 'sgd'; got 'adam'.
    """
    if value not in choices:
        raise error(f"`{name}` must be one of {listed(choices)}; got {value!r}.")


def check_known(noun: str, names: Iterable[Any], known: Collection[str], where: str) -> None:
    """Refuses a name that nobody knows; none is ever dropped, as it could change the mathematics.

    Args:
        noun: What the names are of, such as `"setting"`.
        names: Those that were given.
        known: Those that there are.
        where: With its preposition, such as `"of CIAOConfig"`.

    Raises:
        ConfigError: a name is unknown; the message has the one that was meant, or all there are.

    Example:
        >>> check_known("key", ["seed"], ["seeds", "tasks"], "in a plan")
        Traceback (most recent call last):
        ...
        ciao_peft.errors.ConfigError: Unknown key 'seed' in a plan; did you mean 'seeds'?
    """
    for name in names:
        if name not in known:
            close = closest(name, known)
            hint = f"did you mean {close[0]!r}?" if close else f"known {noun}s: {listed(known)}."
            raise ConfigError(f"Unknown {noun} {name!r} {where}; {hint}")


def closest(name: Any, known: Iterable[str], count: int = 1) -> list[str]:
    """Up to `count` known names that look like one, the most like it first.

    Example:
        >>> closest("temprature", ["dropout", "temperature"])
        ['temperature']
    """
    import difflib

    return difflib.get_close_matches(str(name), known, n=count)


def checked_keys(what: str, values: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """The values, if every key is known.

    Raises:
        ConfigError: one is not, or there are no keys; the message has those that are.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{what.capitalize()} must map keys to values; got {values!r}.")
    check_known("key", values, list(known), f"in {what}")
    return dict(values)


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
