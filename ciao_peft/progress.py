"""Where a long call may say how far it is: a terminal, a notebook, a log, or nowhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

__all__ = [
    "Lines",
    "Place",
    "each_told_once",
    "hides_bars",
    "in_notebook",
    "long_work",
    "place_to_speak",
    "span",
    "told_later",
]

Place = Literal["terminal", "notebook", "log", "nowhere"]
"""Where words appear: bars move in a terminal and in a notebook, lines stay in a log."""


def in_notebook() -> bool:
    """Whether this is a cell of Jupyter, Colab, or the like, whose kernel shows more than text.

    Example:
        >>> in_notebook()
        False
    """
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None


def place_to_speak(disable_tqdm: bool | None) -> Place:
    """Where a call speaks.

    Args:
        disable_tqdm: True: nowhere; False: as on a terminal; None: as what stderr is allows.

    Example:
        >>> place_to_speak(True), place_to_speak(False)
        ('nowhere', 'terminal')
    """
    if disable_tqdm:
        return "nowhere"
    if in_notebook():
        return "notebook"
    stderr: Any = sys.stderr  # None in a program without a console
    is_terminal = stderr is not None and stderr.isatty()
    return "terminal" if is_terminal or disable_tqdm is False else "log"


def hides_bars(disable_tqdm: bool | None) -> bool:
    """Whether progress bars stay hidden.

    Args:
        disable_tqdm: As for `place_to_speak`.

    Example:
        >>> hides_bars(True), hides_bars(False)
        (True, False)
    """
    return place_to_speak(disable_tqdm) in ("log", "nowhere")


def long_work(total: int | None, desc: str, unit: str, disable_tqdm: bool | None, **more: Any) -> Any:
    """What shows how far a long call is: a bar of tqdm, lines in a log, or nothing.

    Args:
        total: Of what; None where nobody knows.
        desc: What is done.
        unit: Of what is counted, in the singular.
        disable_tqdm: As for `place_to_speak`.
        more: Further arguments of `tqdm`.

    Returns:
        A `tqdm`, or `Lines` where stderr is a log.

    Example:
        >>> with long_work(3, "features", "row", disable_tqdm=True) as bar:
        ...     bar.update(2)
    """
    if place_to_speak(disable_tqdm) == "log":
        return Lines(total, desc, unit, initial=more.get("initial", 0))
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=desc, unit=unit, disable=hides_bars(disable_tqdm), **more)


class Lines:
    """In a log, in place of a bar: a line on stderr every half minute, and none of what is done before.

    It has the methods of a `tqdm` that this library calls.

    Args:
        total: Of what; None where nobody knows.
        desc: What is done.
        unit: Of what is counted, in the singular.
        initial: How many there were before.
        seconds: Between two lines.
        clock: Tells the seconds.

    Attributes:
        initial: How many there were before.
        n: How many there are.
        total: Of how many.
        disable: False.

    Example:
        >>> lines = Lines(10, "features", "row", seconds=60)
        >>> lines.update(4)  # at once: nothing to say yet
        >>> lines.n
        4
    """

    def __init__(
        self,
        total: int | None,
        desc: str,
        unit: str,
        *,
        initial: int = 0,
        seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total: int | None = total
        self.initial: int = initial
        self.n: int = initial
        self.disable: bool = False
        self._desc, self._unit, self._seconds, self._clock = desc, unit, seconds, clock
        self._said, self._began = initial, clock()
        self._last = self._began

    def update(self, count: int = 1) -> None:
        """Counts further.

        Args:
            count: How many more there are.
        """
        self.n += count
        self.refresh()

    def refresh(self) -> None:
        """Says how far it is, where it is further than it said and time has passed."""
        if self.n > self._said and self._clock() - self._last >= self._seconds:
            self._say()

    def set_description(self, desc: str, refresh: bool = True) -> None:
        """Says from now on that something else is done.

        Args:
            desc: What.
            refresh: As for `tqdm`; a line comes when its time has come.
        """
        self._desc = desc

    def _say(self) -> None:
        took = self._clock() - self._began
        line = f"{self._desc}: {self.n:,}"
        units = self._unit if self.n == self.total == 1 else f"{self._unit}s"
        line += f" {units}" if self.total is None else f" of {self.total:,} {units}"
        line += f" after {span(took)}"
        if self.total is not None and self.initial < self.n < self.total:
            line += f", about {span(took * (self.total - self.n) / (self.n - self.initial))} left"
        self._last, self._said = self._clock(), self.n
        if sys.stderr is not None:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Says the last of it, where anything was said before."""
        if self._last != self._began and self.n > self._said:
            self._say()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def span(seconds: float) -> str:
    """A time that passed, as people say it.

    Args:
        seconds: Of it.

    Example:
        >>> span(12.4), span(100), span(3 * 3600 + 1790)
        ('12 s', '1 min 40 s', '3 h 30 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")


@contextmanager
def each_told_once(name: str) -> Iterator[None]:
    """A `with` block in which a logger tells nothing twice: one command may load the same faces again and again.

    Args:
        name: Of the logger.

    Example:
        >>> with each_told_once("ciao_peft.data"), told_later("ciao_peft.data") as told:
        ...     for _ in range(2):
        ...         logging.getLogger("ciao_peft.data").warning("1 x empty file: %s", "a.png")
        >>> told
        ['1 x empty file: a.png']
    """
    logger, known = logging.getLogger(name), set[str]()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_known = message in known
        known.add(message)
        return not is_known

    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)


@contextmanager
def told_later(name: str) -> Iterator[list[str]]:
    """A `with` block in which warnings of a logger are kept, for others to tell.

    Args:
        name: Of the logger.

    Yields:
        The warnings so far, each as text.
    """
    logger, told = logging.getLogger(name), list[str]()

    def keep(record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        told.append(record.getMessage())
        return False

    logger.addFilter(keep)
    try:
        yield told
    finally:
        logger.removeFilter(keep)
