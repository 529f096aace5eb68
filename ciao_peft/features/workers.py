"""Errors of the worker processes of `DataLoader`: they come as they were raised, and no worker stays behind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ..engine import sendable
from ..errors import LaunchError

__all__ = ["ErrorsSent", "deaths_told", "received"]


class ErrorsSent:
    """A dataset that hands out an error in place of raising it, for `received` to raise.

    What a worker raises, `DataLoader` raises with another message, and its workers wait until that is forgotten.

    Args:
        data: Indexed by whatever the sampler gives.

    Example:
        >>> list(received(ErrorsSent([5, 6])[n] for n in (1, 0)))
        [6, 5]
        >>> ErrorsSent([5, 6])[2]
        IndexError('list index out of range')
    """

    def __init__(self, data: Any):
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: Any) -> Any:
        try:
            return self.data[index]
        except Exception as error:
            return sendable(error, "A sample cannot be read")


def received(values: Iterable[Any]) -> Iterator[Any]:
    """What workers read of an `ErrorsSent`.

    Args:
        values: A `DataLoader`, or its iterator.

    Raises:
        LaunchError: a worker has ended by itself, or was killed.
        Exception: what the dataset raised.

    Example:
        >>> list(received([1, 2]))
        [1, 2]
    """
    value = None
    iterator = iter(values)
    try:
        while True:
            value = _next(iterator)
            if isinstance(value, Exception):
                raise value
            if value is _END:
                return
            yield value
    finally:
        del values, iterator, value  # an error that holds the workers would keep them until garbage is collected


_END = object()


@contextmanager
def deaths_told() -> Iterator[None]:
    """A `with` block in which the death of a worker is an error of ours, wherever it is noticed.

    PyTorch raises it from the handler of a signal: in whatever this process does just then, not only where it waits for
    a batch.

    Raises:
        LaunchError: a worker has ended by itself, or was killed.

    Example:
        >>> with deaths_told():
        ...     raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
        Traceback (most recent call last):
        ...
        ciao_peft.errors.LaunchError: A process that reads samples has ended: ...
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise _ended(error) from error


def _next(iterator: Iterator[Any]) -> Any:
    try:
        with deaths_told():
            return next(iterator, _END)
    except (ConnectionError, EOFError) as error:
        raise _ended(error) from error


def _ended(error: Exception) -> LaunchError:
    return LaunchError(
        f"A process that reads samples has ended: {error}. A full memory ends processes, and so do some decoders "
        "on damaged files; `dataloader_num_workers=0` reads in this process, whose error says more."
    )
