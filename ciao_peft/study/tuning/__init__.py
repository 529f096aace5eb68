"""`tune`: which form, head and loss suit a world, by people held out of its training split."""

from __future__ import annotations

from .choice import Tried, TuneResult
from .tune import tune

__all__ = ["Tried", "TuneResult", "tune"]
