"""One adapter as modules, and everything that puts several of them on one backbone."""

from __future__ import annotations

from .adapter import Adapter, AdapterDict

__all__ = ["Adapter", "AdapterDict"]
