"""Checks that every room uses, so that the same mistake gives the same error everywhere."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast

from .errors import CIAOError, ConfigError, InputError, listed, shortened

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "all_finite",
    "check_choice",
    "check_flag",
    "check_known",
    "check_number",
    "check_plain",
    "checked_keys",
    "closest",
    "is_number",
    "make_plain",
    "values_at_hand",
]


def is_number(value: Any, kind: type = float, low: float = -math.inf, high: float = math.inf) -> bool:
    """Whether a value is a finite number from `low` to `high`, of Python or NumPy. `True` and `False` are none here.

    Args:
        value: Any object.
        kind: `int` for whole numbers only, `float` for both.
        low: Smallest number allowed.
        high: Largest number allowed.

    Example:
        >>> is_number(2), is_number(2.5, int), is_number(True), is_number(float("nan"))
        (True, False, False, False)
    """
    value = _plain(value)
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
    """Refuses a value that is no finite number from `low` to `high`; one of NumPy is as good as one of Python.

    Args:
        name: Name of the setting, for the message.
        value: Value of the setting.
        kind: `int` for whole numbers only, `float` for both.
        low: Smallest number allowed.
        high: Largest number allowed.
        above: Lower bound that is itself not allowed, in place of `low`.
        of: What the setting belongs to, such as `"a plan"`, where the name alone would not be understood.
        error: Class of the error.

    Raises:
        ConfigError: the value is of the wrong type or out of range; another class where `error` says so.

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
        large = high >= 1e9 and not is_number(value, kind, high)  # a bound that nobody has met needs no digits
        bounds = f" from {low:g} to {'any size' if large else f'{high:g}'}"
    noun = "whole number" if kind is int else "number"
    raise error(f"`{name}`{of and f' of {of}'} must be a {noun}{bounds}; got {shortened(repr(value))}.")


def make_plain(settings: Any) -> None:
    """Puts Python's numbers in the place of NumPy's in a dataclass, also inside tuples and lists: JSON knows no others.

    Args:
        settings: A dataclass while it is made; may be frozen.

    Example:
        >>> import dataclasses, numpy
        >>> @dataclasses.dataclass(frozen=True)
        ... class Settings:
        ...     seed: int
        ...     def __post_init__(self):
        ...         make_plain(self)
        >>> Settings(numpy.int64(7))
        Settings(seed=7)
    """
    for field in fields(settings):
        value: Any = getattr(settings, field.name)
        if type(value) in (tuple, list):
            entries = cast("Sequence[Any]", value)
            if any(_plain(entry) is not entry for entry in entries):
                object.__setattr__(settings, field.name, type(value)(_plain(entry) for entry in entries))
        elif (plain := _plain(value)) is not value:
            object.__setattr__(settings, field.name, plain)


def _plain(value: Any) -> Any:
    """Python's value of a scalar of NumPy; anything else as it is."""
    is_scalar = type(value).__module__ == "numpy" and getattr(value, "shape", None) == () and hasattr(value, "item")
    return value.item() if is_scalar else value


def check_flag(name: str, value: Any) -> None:
    """Refuses a value that is neither `True` nor `False`.

    Args:
        name: Name of the setting, for the message.
        value: Value of the setting.

    Raises:
        ConfigError: the value is something else, also where it counts as true or false, such as 1.

    Example:
        >>> check_flag("bf16", "yes")
        Traceback (most recent call last):
        ...
        ciao_peft.errors.ConfigError: `bf16` must be true or false; got 'yes'.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"`{name}` must be true or false; got {shortened(repr(value))}.")


def check_choice(name: str, value: Any, choices: Collection[Any], error: type[CIAOError] = ConfigError) -> None:
    """Refuses a value that is none of the choices.

    Args:
        name: Name of the setting, for the message.
        value: Value of the setting.
        choices: Values allowed.
        error: Class of the error.

    Raises:
        ConfigError: the value is something else; another class where `error` says so.

    Example:
        >>> check_choice("optim", "adam", ("adamw", "sgd"))
        Traceback (most recent call last):
        ...
        ciao_peft.errors.ConfigError: `optim` must be one of 'adamw', 'sgd'; got 'adam'.
    """
    if value not in choices:
        raise error(f"`{name}` must be one of {listed(choices)}; got {shortened(repr(value))}.")


def check_known(
    noun: str, names: Iterable[Any], known: Collection[str], where: str, error: type[CIAOError] = ConfigError
) -> None:
    """Refuses unknown names. None is ever dropped, because it could change the mathematics.

    Args:
        noun: What the names stand for, such as `"setting"`.
        names: Names to check.
        known: Names allowed.
        where: Where they were given, with its preposition, such as `"of CIAOConfig"`.
        error: What to raise instead of a `ConfigError`.

    Raises:
        ConfigError: a name is unknown; the message has the known name that looks most like it, or all known ones.

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
            raise error(f"Unknown {noun} {shortened(repr(name))} {where}; {hint}")


def closest(name: Any, known: Iterable[str], count: int = 1) -> list[str]:
    """Finds the known names that look most like a name.

    Args:
        name: A name, perhaps misspelt.
        known: Names to choose from.
        count: How many to return at most.

    Returns:
        Up to `count` names, the most similar first; empty where none is similar.

    Example:
        >>> closest("temprature", ["dropout", "temperature"])
        ['temperature']
    """
    import difflib

    return difflib.get_close_matches(str(name)[:200], known, n=count)


def checked_keys(what: str, values: object, known: Iterable[str]) -> dict[str, Any]:
    """Checks that a value maps known keys to values.

    Args:
        what: What the value describes, with its article, such as `"a plan"`.
        values: Any object, such as what a JSON file held.
        known: Keys allowed.

    Returns:
        The keys and values as a new dict.

    Raises:
        ConfigError: the value is no mapping, or a key is unknown.

    Example:
        >>> checked_keys("a task", {"name": "jaffe"}, ["name", "folder"])
        {'name': 'jaffe'}
        >>> checked_keys("a task", "jaffe", ["name", "folder"])
        Traceback (most recent call last):
        ...
        ciao_peft.errors.ConfigError: A task must map keys to values; got 'jaffe'.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{what.capitalize()} must map keys to values; got {shortened(repr(values))}.")
    keyed = dict(cast("Mapping[str, Any]", values))
    check_known("key", keyed, list(known), f"in {what}")
    return keyed


def all_finite(tensor: Tensor) -> bool:
    """Whether no value of a tensor is NaN or infinite. Whole numbers never are.

    Args:
        tensor: Any shape, dtype and device. A tensor without values is finite.

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


def check_plain(name: str, tensor: Tensor, *, has_values: bool = False) -> None:
    """Refuses tensors that hold their values in another way than an array does: sparse, nested or quantized ones.

    Args:
        name: Of the argument, for the message.
        tensor: Any tensor. While `torch.compile` traces, it is taken for a plain one.
        has_values: Refuse tensors of the meta device as well, which have none.

    Raises:
        InputError: it is none.

    Example:
        >>> import torch
        >>> check_plain("labels", torch.eye(2).to_sparse())
        Traceback (most recent call last):
        ...
        ciao_peft.errors.InputError: `labels` must be a plain tensor; got a sparse one. Try `.to_dense()`.
    """
    import torch

    if torch.compiler.is_compiling():
        return
    if tensor.is_nested:
        raise InputError(f"`{name}` must be a plain tensor; got a nested one. Pad its rows to one size.")
    if tensor.layout is not torch.strided:
        raise InputError(f"`{name}` must be a plain tensor; got a sparse one. Try `.to_dense()`.")
    if tensor.is_quantized:
        raise InputError(f"`{name}` must be a plain tensor; got a quantized one. Try `.dequantize()`.")
    if has_values and tensor.device.type == "meta":
        raise InputError(f"`{name}` must hold values; got a tensor of the meta device, which has none.")


def values_at_hand(tensor: Tensor) -> bool:
    """Whether the values of a tensor can be looked at for nothing: on the CPU, and not while `torch.compile` traces.

    Elsewhere the host would have to wait for the device, and no CUDA graph could hold the call; there, shape, dtype and
    device are all that a forward pass or an update checks.

    Example:
        >>> import torch
        >>> values_at_hand(torch.zeros(2)), values_at_hand(torch.zeros(2, device="meta"))
        (True, False)
    """
    import torch

    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
