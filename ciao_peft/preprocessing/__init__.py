"""From pictures of any kind to the pixel values of an encoder: one object for training and inference."""

from __future__ import annotations

from .agreement import agreed_input
from .pictures import RESAMPLES, Resample, as_mode, open_picture
from .preprocessing import CropMode, Mode, Preprocessing

__all__ = ["RESAMPLES", "CropMode", "Mode", "Preprocessing", "Resample", "agreed_input", "as_mode", "open_picture"]
