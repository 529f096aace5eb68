"""A page in the browser: pictures, webcam and videos read in many worlds, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .page import build_demo as build_demo
    from .serving import launch_demo as launch_demo
    from .space import write_space as write_space
    from .worlds import World as World
    from .worlds import WorldPool as WorldPool

__all__ = ["World", "WorldPool", "build_demo", "launch_demo", "write_space"]

_MODULE_OF = {
    "World": "worlds",
    "WorldPool": "worlds",
    "build_demo": "page",
    "launch_demo": "serving",
    "write_space": "space",
}

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
