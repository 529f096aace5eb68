"""The processes that work together, as Accelerate counts them."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FeatureCacheError, LaunchError
from ..installed import check_installed
from .peers import Peers, seconds_to_answer

if TYPE_CHECKING:
    from filelock import FileLock

__all__ = ["Processes", "check_launch", "waiting_is_said"]

# Processes that wait together exchange a sign this often; without it they would give up after minutes.
_SECONDS_BETWEEN_SIGNS = 30.0


class Processes:
    """Knows which process this is and how many there are; loads Accelerate only if there are several.

    Attributes:
        rank: Number of this process, from 0.
        count: Number of processes.

    Raises:
        LaunchError: several processes were started that do not see one another; each would do all the work, over the
            others' files. From every method that waits: one of the others hangs, or has ended.

    Example:
        >>> processes = Processes()
        >>> processes.rank, processes.count
        (0, 1)
    """

    rank: int
    count: int

    def __init__(self) -> None:
        self.rank, self.count = 0, 1
        self._state: Any = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            check_installed("accelerate")
            from accelerate import PartialState
            from accelerate.utils import parse_flag_from_env

            self._state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
            self.rank, self.count = self._state.process_index, self._state.num_processes
            check_launch(self.count)
        self._peers = Peers(self.rank, self.count)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and prints, number 0."""
        return self.rank == 0

    @contextmanager
    def exclusively(self, path: Path, waiting: Callable[[], object]) -> Iterator[None]:
        """Lets these processes work together while processes that were started separately wait, or waits for them.

        Args:
            path: The lock file; the main process holds it, and loses it when it is killed.
            waiting: Called once by the main process if it has to wait.

        Raises:
            FeatureCacheError: the lock file cannot be written.
        """
        from filelock import FileLock

        lock, seconds = FileLock(path), 0.0
        try:
            while not self._holds(lock, seconds):
                if self.is_main and not seconds:
                    waiting()
                seconds = min(_SECONDS_BETWEEN_SIGNS, seconds_to_answer() / 2)
            yield
        finally:
            lock.release()

    def _holds(self, lock: FileLock, seconds: float) -> bool:
        """Whether the main process got the lock within so many seconds, for every process to know."""
        from filelock import Timeout

        held, problem = True, None
        if self.is_main:
            try:
                Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=seconds)
            except Timeout:
                held = False
            except OSError as error:
                problem = (
                    f"'{lock.lock_file}' cannot be written: {error.strerror or error}. Store the features elsewhere."
                )
        held, problem = self.collect([(held, problem)])[0]
        if problem is not None:
            raise FeatureCacheError(problem)
        return held

    def wait_for_everyone(self) -> None:
        """Blocks until every process has called this method."""
        if self._state is not None:
            with waiting_is_said(f"process {self.rank} of {self.count}"):
                self._peers.meet()
                self._state.wait_for_everyone()

    def sign(self) -> None:
        """Says that this process is at work; one that waits for it gives up where no sign comes for long."""
        self._peers.sign()

    def signing(self) -> AbstractContextManager[None]:
        """A `with` block of work that cannot give signs by itself."""
        return self._peers.signing()

    def share(self, count: int) -> range:
        """The part of `count` items that this process takes.

        Args:
            count: Number of items, 0 or more.

        Example:
            >>> Processes().share(5)
            range(0, 5)
        """
        return range(count * self.rank // self.count, count * (self.rank + 1) // self.count)

    def collect(self, values: list[Any]) -> list[Any]:
        """Joins the lists of all processes, in the order of their ranks.

        Args:
            values: The list of this process; its items must be picklable.

        Returns:
            The same list in every process.

        Example:
            >>> Processes().collect(["mine"])
            ['mine']
        """
        if self._state is None:
            return values
        from accelerate.utils import gather_object

        with waiting_is_said(f"process {self.rank} of {self.count}"):
            self._peers.meet()
            return gather_object(values)


@contextmanager
def waiting_is_said(who: str, seconds: float = 50.0) -> Iterator[None]:
    """A `with` block that says on stderr that it waits for other processes, once it has waited for long.

    Args:
        who: Who waits.
        seconds: After how long it is said.

    Example:
        >>> with waiting_is_said("process 0 of 2"):
        ...     pass  # nothing is said of a short wait
    """
    line = f"ciao_peft: {who} has waited {seconds:g} s for the others. Does one hang? Ctrl-C stops the waiting."
    timer = threading.Timer(seconds, lambda: print(line, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def check_launch(num_processes: int) -> None:
    """Refuses a launch that started several processes, each of which believes that it is the only one.

    Args:
        num_processes: The number of processes that Accelerate counts.

    Raises:
        LaunchError: `WORLD_SIZE` says more than one, and Accelerate counts one.

    Example:
        >>> check_launch(num_processes=1)  # fine, unless WORLD_SIZE says otherwise
    """
    started = os.environ.get("WORLD_SIZE", "1")
    if num_processes == 1 and started.isdigit() and int(started) > 1:
        raise LaunchError(
            f"{started} processes were started (WORLD_SIZE={started}), but Accelerate sees only this one, as it does "
            "on a machine without GPUs. Start them with `ACCELERATE_USE_CPU=true torchrun --nproc_per_node "
            f"{started} <script>`; `accelerate launch --cpu --num_processes {started}` starts a single one."
        )
