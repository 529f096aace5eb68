"""Faces read in pictures, videos, cameras and streams: found, followed, smoothed and written down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .frame import Frame as Frame
    from .reader import FaceReader as FaceReader
    from .reader import Reading as Reading
    from .smoothing import Exponential as Exponential
    from .smoothing import OneEuro as OneEuro
    from .tracking import Tracker as Tracker

__all__ = ["Exponential", "FaceReader", "Frame", "OneEuro", "Reading", "Tracker"]

_MODULE_OF = {
    "Exponential": "smoothing",
    "FaceReader": "reader",
    "Frame": "frame",
    "OneEuro": "smoothing",
    "Reading": "reader",
    "Tracker": "tracking",
}

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
