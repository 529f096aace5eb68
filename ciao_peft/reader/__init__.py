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
    from .writing import COLUMNS as COLUMNS
    from .writing import annotate_frames as annotate_frames
    from .writing import face_rows as face_rows
    from .writing import json_line as json_line
    from .writing import kind_of_copy as kind_of_copy
    from .writing import refuse_originals as refuse_originals

__all__ = [
    "COLUMNS",
    "Exponential",
    "FaceReader",
    "Frame",
    "OneEuro",
    "Reading",
    "Tracker",
    "annotate_frames",
    "face_rows",
    "json_line",
    "kind_of_copy",
    "refuse_originals",
]

_MODULE_OF = {
    "COLUMNS": "writing",
    "Exponential": "smoothing",
    "FaceReader": "reader",
    "Frame": "frame",
    "OneEuro": "smoothing",
    "Reading": "reader",
    "Tracker": "tracking",
    "annotate_frames": "writing",
    "face_rows": "writing",
    "json_line": "writing",
    "kind_of_copy": "writing",
    "refuse_originals": "writing",
}

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
