"""`CIAOModel`: one frozen backbone and the adapters on it."""

from __future__ import annotations

from .model import CIAOModel, get_ciao_model
from .output import CIAOOutput

__all__ = ["CIAOModel", "CIAOOutput", "get_ciao_model"]
