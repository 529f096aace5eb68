"""Work on pictures in threads, some of it ahead of whoever asks: the same results and errors, in the same order."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

__all__ = ["MAX_THREADS", "in_threads", "usable_cores"]

Given = TypeVar("Given")
Made = TypeVar("Made")

MAX_THREADS = 8
"""That work on pictures at once. Decoding and hashing leave Python's lock to others; what is around them does not."""


def usable_cores() -> int:
    """The number of cores that this process may use.

    Example:
        >>> usable_cores() >= 1
        True
    """
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def in_threads(
    work: Callable[[Given], Made], values: Iterable[Given], *, ahead: int = 32, threads: int | None = None
) -> Iterator[Made]:
    """Does the same to each of many values, several at a time, and hands out the results in order.

    The values are asked for in the thread of the caller. A picture of PIL, and a file that several of them read from,
    is in one thread at a time.

    Args:
        work: Called with one value, in any thread.
        values: What to work on, or an iterator that finds it as it goes.
        ahead: Results that are made before they are asked for, at most; 1 or more.
        threads: How many; as many as there are cores when left out, up to `MAX_THREADS`. With 1, or 0, the caller's own
            thread does the work when a result is asked for.

    Yields:
        One result for each value.

    Raises:
        BaseException: what `work` or the iterator raised, in its place in the order; then nothing is done any more.

    Example:
        >>> list(in_threads(len, ["a", "bcd", "ef"], threads=2))
        [1, 3, 2]
    """
    threads = min(usable_cores(), MAX_THREADS) if threads is None else threads
    if threads <= 1:
        yield from map(work, values)
        return
    source, problem = iter(values), None
    waiting: deque[Future[Made]] = deque()
    busy: dict[int, Future[Made]] = {}
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ciao_peft")
    try:
        while True:
            while problem is None and len(waiting) < max(ahead, threads):
                try:
                    value = next(source)
                except BaseException as error:  # raised when all before it are handed out; often StopIteration
                    problem = error
                    break
                shared = _shared(value)
                wait([busy[name] for name in shared if name in busy])
                future = pool.submit(work, value)
                waiting.append(future)
                for name in shared:
                    busy[name] = future
            if not waiting:
                break
            done = waiting.popleft()
            made = done.result()
            busy = {name: future for name, future in busy.items() if future is not done} if busy else busy
            yield made
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    if problem is not None and not isinstance(problem, StopIteration):
        raise problem


def _shared(value: Any) -> tuple[int, ...]:
    """What no two threads may use at once, by identity: a picture of PIL changes while it is read, so does its file."""
    # Nobody has a picture who did not import it; a thread that is at it just now has put half of it there.
    kind = getattr(sys.modules.get("PIL.Image"), "Image", None)
    pictures = [] if kind is None else [part for part in _parts(value) if isinstance(part, kind)]
    files = [file for picture in pictures if (file := getattr(picture, "fp", None)) is not None]
    return tuple(map(id, (*pictures, *files)))


def _parts(value: Any, depth: int = 2) -> Iterator[Any]:
    """A picture, those of a clip, or those that come with their numbers."""
    if depth and isinstance(value, (list, tuple)):
        for part in value:
            yield from _parts(part, depth - 1)
    else:
        yield value
