"""The old name of `ciao_peft.study`, kept for one release."""

from __future__ import annotations

import warnings

from . import study
from .study import *  # noqa: F403

__all__ = [*study.__all__]

warnings.warn("`ciao_peft.experiments` is `ciao_peft.study` now.", DeprecationWarning, stacklevel=2)
