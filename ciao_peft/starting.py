"""The old name of `ciao_peft.calibration`, kept for one release."""

from __future__ import annotations

import warnings

from .calibration import decay_start, start_decay

__all__ = [
    "decay_start",
    "start_decay",
]

warnings.warn("`ciao_peft.starting` is `ciao_peft.calibration` now.", DeprecationWarning, stacklevel=2)
