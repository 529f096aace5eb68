"""Whose an adapter's modes are: everybody's, or for a while those of the training that makes an update."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import TrainingError, quoted

__all__ = ["Hold"]


class Hold:
    """Keeps what others want of an adapter back while a training has hold of it, and does it afterwards.

    One thread at a time has hold; another that wants to waits. A copy or a pickle is that of an adapter nobody holds.

    Example:
        >>> hold, modes = Hold(), ["eval"]
        >>> with hold.taken():
        ...     hold.change("mode", lambda: modes.append("train"))
        ...     print(modes, hold.is_elsewhere)
        ['eval'] False
        >>> modes
        ['eval', 'train']
    """

    def __init__(self) -> None:
        self._turn = threading.RLock()  # who has hold of it
        self._notes = threading.RLock()  # for a moment only
        self._depth = 0
        self._mine = threading.local()  # how deep this thread is; `torch.compile` can read it, and no thread's number
        self._wishes: dict[str, Callable[[], Any]] = {}
        self.in_training: bool = False

    @property
    def is_elsewhere(self) -> bool:
        """Whether another thread has hold of it."""
        return self._depth > 0 and getattr(self._mine, "depth", 0) == 0

    def change(self, what: str, how: Callable[[], Any]) -> None:
        """Makes a change now or, while somebody has hold, afterwards; of several of one kind the last one counts.

        Args:
            what: The kind of change.
            how: Makes it.
        """
        with self._notes:
            if self._depth:
                self._wishes[what] = how
            else:
                how()

    @contextmanager
    def taken(
        self, take: Callable[[], Any] = lambda: None, give_back: Callable[[], Any] = lambda: None
    ) -> Iterator[None]:
        """A context in which nobody else changes anything.

        Args:
            take: Called at first.
            give_back: Called at last, before the changes that others wanted meanwhile.
        """
        with self._turn:
            with self._notes:
                self._depth += 1
                self._mine.depth = self._depth
                take()
            try:
                yield
            finally:
                with self._notes:
                    give_back()
                    self._depth -= 1
                    self._mine.depth = self._depth
                    if not self._depth:
                        wishes, self._wishes = self._wishes, {}
                        for wish in wishes.values():
                            wish()

    @contextmanager
    def for_training(self, name: str) -> Iterator[None]:
        """A context for a whole training, during which a second one is refused.

        Args:
            name: Of the adapter, for the message.

        Raises:
            TrainingError: the adapter is in training.
        """
        with self._notes:
            if self.in_training:
                raise TrainingError(
                    f"The adapter {quoted(name)} is being trained already, by another call of `train`. Wait for its "
                    "end, or add an adapter of another name and train that."
                )
            self.in_training = True
        try:
            yield
        finally:
            self.in_training = False

    def __reduce__(self) -> tuple[Any, ...]:
        return Hold, ()
