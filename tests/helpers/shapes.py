"""Shapes are checked while the tests run: jaxtyping reads the annotations, beartype looks at the values."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

import jaxtyping
from beartype import beartype

from ciao_peft import _shapes

CHECKED = [
    f"ciao_peft.{module}"
    for module in ("inhibition", "labels", "contrastive", "losses", "heads", "metrics.problem", "metrics.scores")
]
"""Modules whose every call is checked."""


def install() -> None:
    """Checks the shapes of `CHECKED`, none of which may have been imported before."""
    early = [name for name in CHECKED if name in sys.modules]
    assert not early, f"imported before their shapes could be checked: {early}"
    for name in _shapes.__all__:
        setattr(_shapes, name, getattr(jaxtyping, name))
    jaxtyping.install_import_hook(CHECKED, "helpers.shapes.by_shape")


@contextmanager
def off() -> Iterator[None]:
    """No shape is checked meanwhile."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def by_shape(function: Callable[..., Any]) -> Callable[..., Any]:
    """`beartype` for the annotations that speak of shapes; what else is wrong is refused by the library itself."""
    hints = {name: hint for name, hint in inspect.get_annotations(function).items() if _has_shape(hint)}
    if not hints:
        return function
    function.__annotations__ = hints
    return beartype(function)


def _has_shape(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(_has_shape, get_args(hint)))
