"""From pictures of any kind to the pixel values of an encoder: one object for training and inference."""

from __future__ import annotations

from .agreement import agreed_input, aligned_as
from .alignment import Alignment
from .chips import face_chip
from .landmarks import five_points
from .pictures import RESAMPLES, Resample, as_mode, open_picture
from .preprocessing import CropMode, Mode, Preprocessing

__all__ = [
    "RESAMPLES",
    "Alignment",
    "CropMode",
    "Mode",
    "Preprocessing",
    "Resample",
    "agreed_input",
    "aligned_as",
    "as_mode",
    "face_chip",
    "five_points",
    "open_picture",
]
