"""The processes that work together, as Accelerate sees them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FeatureCacheError, LaunchError

if TYPE_CHECKING:
    from filelock import FileLock

_SECONDS_BETWEEN_SIGNS = 30.0  # of those who wait with the main process; without one they would give up after minutes


class Processes:
    """Which process this is and how many there are; loads Accelerate only where there are several.

    Raises:
        LaunchError: several were started that do not see one another: each would do all the work, over the others'
            files.

    Example:
        >>> processes = Processes()
        >>> processes.rank, processes.count
        (0, 1)
    """

    def __init__(self) -> None:
        self.rank, self.count = 0, 1
        self._state = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState
            from accelerate.utils import parse_flag_from_env

            self._state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
            self.rank, self.count = self._state.process_index, self._state.num_processes
            check_launch(self.count)

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    @contextmanager
    def alone(self, path: Path, waiting: Callable[[], object]) -> Iterator[None]:
        """These processes together, and none that was started apart from them, which waits or is waited for.

        Args:
            path: The lock file; the main process holds it, and a kill lets go of it.
            waiting: Called once by the main process, if others are to be waited for.

        Raises:
            FeatureCacheError: the lock file cannot be written.
        """
        from filelock import FileLock

        lock, seconds = FileLock(path), 0.0
        try:
            while not self._holds(lock, seconds):
                if self.is_main and not seconds:
                    waiting()
                seconds = _SECONDS_BETWEEN_SIGNS
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
        """Returns when every process got here."""
        if self._state is not None:
            self._state.wait_for_everyone()

    def share(self, count: int) -> range:
        """This process's part of so many things in a row."""
        return range(count * self.rank // self.count, count * (self.rank + 1) // self.count)

    def collect(self, values: list[Any]) -> list[Any]:
        """The lists of all processes, one after the other."""
        if self._state is None:
            return values
        from accelerate.utils import gather_object

        return gather_object(values)


def check_launch(num_processes: int) -> None:
    """Refuses a launch that started several processes, each of which believes to be alone.

    Raises:
        LaunchError: `WORLD_SIZE` says more than one, and Accelerate counts one.
    """
    started = os.environ.get("WORLD_SIZE", "1")
    if num_processes == 1 and started.isdigit() and int(started) > 1:
        raise LaunchError(
            f"{started} processes were started (WORLD_SIZE={started}), but Accelerate sees only this one, as it does "
            "on a machine without GPUs. Start them with `ACCELERATE_USE_CPU=true torchrun --nproc_per_node "
            f"{started} <script>`; `accelerate launch --cpu --num_processes {started}` starts a single one."
        )
