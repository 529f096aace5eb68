"""What people use instead of CIAO, on the same encoder, cut, head, samples and budget."""

from __future__ import annotations

from .base import Rival, Trainee
from .build import BUILDERS, build_rival
from .fit import fit, predict

__all__ = ["BUILDERS", "Rival", "Trainee", "build_rival", "fit", "predict"]
