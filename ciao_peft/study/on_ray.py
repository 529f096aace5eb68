"""A study whose trainings are made by Ray's workers; this process claims them, and writes their records."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..engine import RayEngine, RayTasks, ray_running, sendable
from ..surroundings import set_num_threads
from .plan import Plan, Run
from .records import Record
from .worklist import SECONDS_BETWEEN_LOOKS, Progress, Worklist, described

__all__ = ["RayWorklist"]


@dataclass(frozen=True)
class _AtWork:
    """Trainings that a worker makes, and the claims that this process holds for it."""

    runs: list[Run]
    keys: list[str]
    claims: ExitStack


class RayWorklist(Worklist):
    """A worklist that hands its trainings to Ray's workers, and takes back their records.

    Claims and records are those of any worklist: processes with and without Ray share one folder. Only this process
    needs to see the folder. A worker needs the data of the tasks under the same path; it keeps the features that it
    stores under the path of the study, on its own disk where the folder is not shared.

    Args:
        plan: What to train.
        folder: As for `Worklist`.
        say: Called with every line for people.
        engine: Says where Ray runs, and how many trainings are made at once.
        num_threads: Of each worker; as Ray has it, one for each core it gives, when left out.

    Attributes:
        of_workers: The worklist that a worker makes of the same plan.
    """

    of_workers: type[Worklist] = Worklist

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        say: Callable[[str], None] = print,
        *,
        engine: RayEngine,
        num_threads: int | None = None,
    ):
        super().__init__(plan, folder, say)
        self._engine, self._num_threads = engine, num_threads
        self._content = pickle.dumps((self.of_workers, plan))

    def work(self, on_progress: Callable[[Progress, str], None] = lambda progress, doing: None) -> Progress:
        """Does what `Worklist.work` does, with the workers of Ray.

        Args:
            on_progress: As for `Worklist.work`.

        Raises:
            KeyboardInterrupt: as it comes; the trainings at work are lost, and no other.
            LaunchError: Ray cannot be reached, or was lost.
        """
        with ray_running(self._engine):
            tasks = RayTasks(self._engine, _train_there)
            at_work: dict[str, _AtWork] = {}  # by the key of their first training
            try:
                self._work(tasks, at_work, on_progress)
            finally:
                tasks.give_up()
                for work in at_work.values():
                    work.claims.close()
        return self.look()

    def _work(self, tasks: RayTasks, at_work: dict[str, _AtWork], on_progress: Callable[[Progress, str], None]) -> None:
        while True:
            self.look()
            waiting = False
            for runs in self._open_together():
                if tasks.are_full:
                    self._take(tasks, at_work, on_progress)
                waiting |= not self._hand_over(runs, tasks, at_work, on_progress)
            if len(tasks):  # what comes of these may open others, as a search opens what follows it
                self._take(tasks, at_work, on_progress)
            elif not waiting:
                if self._finished():
                    return
            else:
                time.sleep(SECONDS_BETWEEN_LOOKS)

    def _hand_over(
        self,
        runs: Sequence[Run],
        tasks: RayTasks,
        at_work: dict[str, _AtWork],
        on_progress: Callable[[Progress, str], None],
    ) -> bool:
        """Starts those that nobody else does; false where somebody does."""
        keys = {key for work in at_work.values() for key in work.keys}
        runs = [run for run in runs if self._training(run).key not in keys]
        with ExitStack() as claims:
            free = [run for run in runs if self._claimed(run, claims)]
            self.look()
            open_runs = [run for run in free if self._training(run).key not in self._by_key]
            if open_runs:
                own = [self._training(run).key for run in open_runs]
                on_progress(self.progress, described(open_runs[0]))
                tasks.start(own[0], self._content, str(self.folder), self._num_threads, open_runs, own, self.rung)
                at_work[own[0]] = _AtWork(open_runs, own, claims.pop_all())
        return len(free) == len(runs)

    def _take(self, tasks: RayTasks, at_work: dict[str, _AtWork], on_progress: Callable[[Progress, str], None]) -> None:
        """Waits for a worker, and writes down what came of its trainings."""
        name, outcomes = tasks.first_done()
        work = at_work.pop(name)
        with work.claims:
            self._write_down(work.runs, [outcomes] * len(work.runs) if isinstance(outcomes, Exception) else outcomes)
            on_progress(self.look(), described(work.runs[0]))


def _train_there(
    content: bytes, folder: str, num_threads: int | None, runs: list[Run], keys: list[str], rung: int
) -> list[Record | Exception]:
    """What a worker does: the records of some trainings, or why there are none."""
    set_num_threads(num_threads)
    worklist = _worklist_of(content, folder)
    worklist.rung = rung
    outcomes = worklist.trained(runs, keys)
    return [sendable(outcome) if isinstance(outcome, Exception) else outcome for outcome in outcomes]


@cache
def _worklist_of(content: bytes, folder: str) -> Worklist:
    """Keeps what a worker has loaded for its next training."""
    kind, plan = pickle.loads(content)
    return kind(plan, Path(folder), lambda line: None)
