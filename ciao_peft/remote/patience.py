"""Answers from elsewhere: waited for within bounds, and asked for again where a server stumbles."""

from __future__ import annotations

import math
import os
import queue
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar, cast

from ..errors import ConfigError, RemoteServerError, quoted

__all__ = ["TooLate", "patiently", "seconds_to_wait", "within"]

T = TypeVar("T")

TIMEOUT_VARIABLE = "CIAO_STORE_TIMEOUT"
"""The variable of the environment with the seconds that one answer of a store may take."""

_SECONDS = 60.0
_TRIES = 4
_FIRST_PAUSE = 0.25  # seconds; doubled from try to try


class TooLate(Exception):
    """An answer has not come in time; it may still come, and nobody waits for it."""


def within(seconds: float, ask: Callable[[], T], name: str = "ciao_peft asks a store") -> T:
    """What a call gives, if it is done within some seconds.

    The clients' own timeouts count from one byte to the next, so that a server that sends a byte now and then would be
    waited for without an end.

    Args:
        seconds: For the whole call.
        ask: The call; goes on in a thread of its own, and is left alone, where it takes longer.
        name: Of that thread.

    Raises:
        TooLate: it takes longer.

    Example:
        >>> within(10, lambda: "here")
        'here'
    """
    answers: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue()

    def work() -> None:
        try:
            answers.put((ask(), None))
        except BaseException as error:  # raised again where it is waited for
            answers.put((None, error))

    threading.Thread(target=work, daemon=True, name=name).start()
    try:
        answer, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TooLate from None
    if error is not None:
        raise error
    return cast("T", answer)


def seconds_to_wait() -> float:
    """The seconds that one answer of a store may take: a minute, or what `CIAO_STORE_TIMEOUT` says.

    Raises:
        ConfigError: that is no positive number.

    Example:
        >>> seconds_to_wait()
        60.0
    """
    text = os.environ.get(TIMEOUT_VARIABLE, "")
    if not text:
        return _SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ConfigError(f"{TIMEOUT_VARIABLE} must be a number of seconds above 0; got {quoted(text)}.")
    return seconds


def patiently(ask: Callable[[], T]) -> T:
    """What a call gives, which is made again where a server stumbles, a few times and ever more slowly.

    Args:
        ask: The call; raises `RemoteServerError` where another try may help.

    Raises:
        RemoteServerError: that of the last try.

    Example:
        >>> answers = [RemoteServerError("busy"), "here"]
        >>> def ask():
        ...     answer = answers.pop(0)
        ...     if isinstance(answer, Exception):
        ...         raise answer
        ...     return answer
        >>> patiently(ask)
        'here'
    """
    until = time.monotonic() + 2 * seconds_to_wait()
    for attempt in range(_TRIES):
        try:
            return ask()
        except RemoteServerError:
            if attempt == _TRIES - 1 or time.monotonic() > until:
                raise
            # Not in step with the others that met the same fault; a generator of its own moves no global state.
            time.sleep(_FIRST_PAUSE * 2**attempt * random.SystemRandom().uniform(0.5, 1))
    raise AssertionError
