"""What people use instead of CIAO, on the same encoder, cut, head, samples and budget."""

from __future__ import annotations

from .base import Baseline, Trainee
from .build import BUILDERS, build_baseline
from .fit import fit, predict

__all__ = ["BUILDERS", "Baseline", "Trainee", "build_baseline", "fit", "predict"]
