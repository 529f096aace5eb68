"""Which adapter reads: a choice for everybody, and one of each thread's own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any


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
        self._mine = threading.local()

    @property
    def active(self) -> str | None:
        """The name chosen by this thread, else the last one chosen by any."""
        # What others choose is looked at only where it counts: a compiled graph is made anew when what it saw changes.
        return self._mine.active if hasattr(self._mine, "active") else self._everybody

    @property
    def is_off(self) -> bool:
        """Whether this thread is inside `off()`."""
        return getattr(self._mine, "depth", 0) > 0

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
        self._mine.depth = getattr(self._mine, "depth", 0) + 1
        try:
            yield
        finally:
            self._mine.depth -= 1

    def __getstate__(self) -> dict[str, Any]:
        return {"active": self.active}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["active"])
