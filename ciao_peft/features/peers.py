"""Which of the processes that work together no longer answers: they leave notes in the store of their group."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..checking import is_number
from ..errors import ConfigError, LaunchError, quoted

__all__ = ["Peers", "named", "seconds_to_answer", "those_that_are_silent"]

TIMEOUT_VARIABLE = "CIAO_DDP_TIMEOUT"
"""Of the environment: seconds without a sign of work after which a process counts as one that hangs; 60 otherwise."""

_SECONDS_TO_ANSWER = 60.0
_SECONDS_BETWEEN_SIGNS = 1.0
_SECONDS_TO_GIVE_UP = 5.0
_NOTES = "ciao_peft"

_meetings = 0  # of this process with the others of its group; all of them count alike


def seconds_to_answer() -> float:
    """How long a process may show no sign of work while others wait for it.

    Raises:
        ConfigError: `CIAO_DDP_TIMEOUT` is no number of 1 or more.

    Example:
        >>> seconds_to_answer()
        60.0
    """
    text = os.environ.get(TIMEOUT_VARIABLE)
    if text is None:
        return _SECONDS_TO_ANSWER
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not is_number(seconds, float, 1):
        raise ConfigError(
            f"The variable {TIMEOUT_VARIABLE} must be a number of seconds, 1 or more; got {quoted(text)}."
        )
    return seconds


def named(ranks: Sequence[int]) -> str:
    """Processes in a message.

    Example:
        >>> named([1]), named([1, 3]), named([])
        ('process 1', 'processes 1 and 3', 'another one')
    """
    if not ranks:
        return "another one"
    *first, last = map(str, ranks)
    return f"processes {', '.join(first)} and {last}" if first else f"process {last}"


def _store() -> Any:
    """The notes that all processes of the group read and write; None where torch does not give it."""
    from torch.distributed import distributed_c10d

    get = getattr(distributed_c10d, "_get_default_store", None)  # torch has no public way
    with contextlib.suppress(ValueError, RuntimeError):
        return None if get is None else get()
    return None


def those_that_are_silent(rank: int, count: int) -> list[int]:
    """Which processes do not say within seconds that they, too, have waited in vain.

    Called by each process that has given up; one that hangs does not, nor does one that has ended.

    Args:
        rank: Number of this process.
        count: Number of processes.

    Returns:
        Their numbers; none where nobody can tell.
    """
    store = _store()
    if store is None:
        return []
    left = [other for other in range(count) if other != rank]
    try:
        store.set(f"{_NOTES}/gave_up/{rank}", "1")
        end = time.monotonic() + _SECONDS_TO_GIVE_UP
        while left and time.monotonic() < end:
            left = [other for other in left if not store.check([f"{_NOTES}/gave_up/{other}"])]
            time.sleep(0.1)
    except RuntimeError:  # the process that keeps the notes has ended
        return []
    return left


class Peers:
    """The other processes of a group, as one that works and waits with them sees them.

    Args:
        rank: Number of this process.
        count: Number of processes.
    """

    def __init__(self, rank: int, count: int):
        self._rank, self._count, self._seconds = rank, count, seconds_to_answer()
        self._store: Any = _store() if count > 1 else None
        self._signs, self._last_sign = 0, 0.0

    def sign(self) -> None:
        """Says that this process is at work; to be called again and again while the others may wait. Costs nothing."""
        if self._store is None or time.monotonic() - self._last_sign < _SECONDS_BETWEEN_SIGNS:
            return
        self._last_sign = time.monotonic()
        self._signs += 1
        with contextlib.suppress(RuntimeError):  # whoever waits next says what is wrong
            self._store.set(f"{_NOTES}/sign/{self._rank}", f"{self._signs} {self._last_sign}")

    @contextmanager
    def signing(self) -> Iterator[None]:
        """A `with` block of work that cannot say by itself that it goes on, such as making large files."""
        if self._store is None:
            yield
            return
        ended = threading.Event()

        def sign() -> None:
            while not ended.wait(_SECONDS_BETWEEN_SIGNS):
                self.sign()

        thread = threading.Thread(target=sign, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def meet(self) -> None:
        """Waits until all processes are here, as long as those that are missing show signs of work.

        Raises:
            LaunchError: one of them has shown none for too long; names it.
        """
        global _meetings
        if self._store is None:
            return
        _meetings += 1
        missing = [other for other in range(self._count) if other != self._rank]
        seen: dict[int, tuple[bytes, float]] = dict.fromkeys(missing, (b"", time.monotonic()))
        pause = 0.001
        try:
            self._store.set(f"{_NOTES}/here/{self._rank}", str(_meetings))
            while missing := [other for other in missing if self._meetings_of(other) < _meetings]:
                for other in missing:
                    sign = self._note(f"sign/{other}")
                    if sign != seen[other][0]:
                        seen[other] = sign, time.monotonic()
                silent = [other for other in missing if time.monotonic() - seen[other][1] > self._seconds]
                if silent:
                    raise LaunchError(
                        f"Process {self._rank} of {self._count} waits for {named(silent)}: ended, or without a sign of "
                        f"work for {self._seconds:g} s ({TIMEOUT_VARIABLE}). What was printed last there may say why. "
                        "Start all of them again: what was stored is kept."
                    )
                time.sleep(pause)
                pause = min(2 * pause, 0.25)
        except RuntimeError as error:
            if isinstance(error, LaunchError):
                raise
            raise LaunchError(
                f"Process {self._rank} of {self._count} no longer reaches the one that it was started with: {error}"
            ) from error

    def _meetings_of(self, other: int) -> int:
        return int(self._note(f"here/{other}") or 0)

    def _note(self, name: str) -> bytes:
        name = f"{_NOTES}/{name}"
        return self._store.get(name) if self._store.check([name]) else b""
