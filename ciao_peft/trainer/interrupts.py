"""Ctrl-C during training waits for the update that is being made."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Interrupts:
    """A context in which the first Ctrl-C is noted and the second one is raised at once.

    In other threads, and under a handler that somebody else has set, nothing can be noted: Ctrl-C then does what it did
    before.

    Attributes:
        asked: Whether Ctrl-C was pressed since the context was entered.

    Example:
        >>> with Interrupts() as interrupts:
        ...     signal.raise_signal(signal.SIGINT)
        ...     interrupts.asked
        True
    """

    asked: bool

    def __init__(self) -> None:
        self.asked = False
        self._before = None

    def __enter__(self) -> Interrupts:
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *exception: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
