"""The old name of `ciao_peft.study`, kept for one release."""

from __future__ import annotations

from ._lazy import moved_names

__getattr__ = moved_names(__name__, "ciao_peft.study")
