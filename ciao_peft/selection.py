"""Which adapter reads: a choice for everybody, and one of each thread's own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch


class Selection:
    """The active adapter's name, and whether adapters are switched off.

    A thread that chose has its own choice; the last choice of any thread is what the others get. Switching off holds
    for the thread that does it. Copies and pickles start with what was active where they were made.

    Example:
        >>> selection = Selection()
        >>> selection.choose("jaffe")
        >>> with selection.off():
        ...     print(selection.active, selection.is_off)
        jaffe True
        >>> selection.is_off
        False
    """

    def __init__(self, active: str | None = None):
        self._everybody = active
        self._depth = 0  # of all threads
        self._mine = threading.local()
        self._lock = threading.Lock()

    @property
    def active(self) -> str | None:
        """The name chosen by this thread, else the last one chosen by any."""
        # A compiled graph is made for one choice: that of everybody.
        return self._everybody if torch.compiler.is_compiling() else getattr(self._mine, "active", self._everybody)

    @property
    def is_off(self) -> bool:
        """Whether this thread is inside `off()`; for a compiled graph, whether any is."""
        return (self._depth if torch.compiler.is_compiling() else getattr(self._mine, "depth", 0)) > 0

    def choose(self, name: str) -> None:
        """Makes a name the choice of this thread, and of those that never chose."""
        self._everybody = self._mine.active = name

    def forget(self, name: str) -> None:
        """Nothing is chosen any more where this name was, whatever others chose."""
        if self._everybody == name:
            self._everybody = None
        if getattr(self._mine, "active", None) == name:
            self._mine.active = None

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Inside, `is_off` holds in this thread."""
        self._change_depth(1)
        try:
            yield
        finally:
            self._change_depth(-1)

    def _change_depth(self, by: int) -> None:
        self._mine.depth = getattr(self._mine, "depth", 0) + by
        with self._lock:
            self._depth += by

    def __getstate__(self) -> dict[str, Any]:
        return {"active": self.active}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["active"])
