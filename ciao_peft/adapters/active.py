"""Which adapter reads: one choice for everybody, and one for each thread that chose."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["ActiveAdapter"]


class ActiveAdapter:
    """The name of the active adapter, and whether adapters are switched off.

    A thread that chose keeps its own choice; all others follow the last choice of any thread. Switching off holds for
    the thread that does it. Copies and pickles start with the adapter that was active where they were made.

    Args:
        name: The adapter that is active at first, or None.

    Example:
        >>> active = ActiveAdapter()
        >>> active.choose("jaffe")
        >>> with active.off():
        ...     print(active.name, active.is_off)
        jaffe True
        >>> active.is_off
        False
    """

    def __init__(self, name: str | None = None) -> None:
        self._everybody = name
        self._mine = threading.local()

    @property
    def name(self) -> str | None:
        """The name chosen by this thread, else the last one chosen by any."""
        # What others choose is looked at only where it counts: a compiled graph is made anew when what it saw changes.
        return self._mine.active if hasattr(self._mine, "active") else self._everybody

    @property
    def is_off(self) -> bool:
        """Whether this thread is inside `off()`."""
        return getattr(self._mine, "depth", 0) > 0

    def choose(self, name: str) -> None:
        """Makes a name the choice of this thread, and of all threads that never chose.

        Example:
            >>> active = ActiveAdapter()
            >>> active.choose("fer")
            >>> active.name
            'fer'
        """
        self._everybody = self._mine.active = name

    def forget(self, name: str) -> None:
        """Drops a name that is chosen here or by everybody; the choices of other threads stay.

        Example:
            >>> active = ActiveAdapter("fer")
            >>> active.forget("fer")
            >>> active.name is None
            True
        """
        if self._everybody == name:
            self._everybody = None
        if getattr(self._mine, "active", None) == name:
            self._mine.active = None

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Switches adapters off in this thread, inside a `with` block; blocks may be nested."""
        self._mine.depth = getattr(self._mine, "depth", 0) + 1
        try:
            yield
        finally:
            self._mine.depth -= 1

    @contextlib.contextmanager
    def only(self, name: str | None) -> Iterator[None]:
        """Makes a name this thread's choice inside a `with` block, switched on, whatever is chosen elsewhere.

        Args:
            name: The name, or None for no adapter.

        Example:
            >>> active = ActiveAdapter("fer")
            >>> with active.off(), active.only("jaffe"):
            ...     print(active.name, active.is_off)
            jaffe False
            >>> active.name
            'fer'
        """
        before = dict(vars(self._mine))
        self._mine.active, self._mine.depth = name, 0
        try:
            yield
        finally:
            vars(self._mine).clear()
            vars(self._mine).update(before)

    def __getstate__(self) -> dict[str, Any]:
        return {"active": self.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._everybody = state["active"]
        self._mine = threading.local()
