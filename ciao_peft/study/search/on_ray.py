"""Trials of a search in Ray's workers; this process asks for them, and writes what came of them."""

from __future__ import annotations

import pickle
from functools import cache
from typing import TYPE_CHECKING

from ...engine import RayEngine, RayTasks, ray_running
from ...errors import DivergenceError
from ...progress import long_work
from ..plan import Method
from .objective import Objective
from .space import SearchSpace, method_with

if TYPE_CHECKING:
    from .trials import SharedStudy

__all__ = ["work_on_ray"]


def work_on_ray(
    study: SharedStudy,
    space: SearchSpace,
    objective: Objective,
    total: int,
    disable_tqdm: bool | None,
    engine: RayEngine,
) -> None:
    """Keeps every worker at a trial, until as many are done or at work in other processes.

    Args:
        study: Gives the trials, and keeps their scores.
        space: Where to look.
        objective: What a trial is scored on; each worker makes its own from the same task and encoder.
        total: How many trials, over all processes.
        disable_tqdm: As for `search`.
        engine: Says where Ray runs, and how many trials are made at once.

    Raises:
        Exception: what a trial raised; the trials at work count as never begun.
        LaunchError: Ray cannot be reached, or workers were lost again and again.
    """
    distributions, content = space.distributions(objective.method), pickle.dumps(objective.parts())
    with (
        ray_running(engine),
        long_work(total, "search", "trial", disable_tqdm, initial=len(study.done())) as bar,
    ):
        tasks, at_work = RayTasks(engine, _score_there), {}
        try:
            while True:
                while not tasks.are_full and (trial := study.ask(distributions, total)) is not None:
                    at_work[trial.number] = trial
                    tasks.start(trial, content, method_with(objective.method, trial.params))
                if not len(tasks):
                    return
                trial, score = tasks.first_done()
                if isinstance(score, Exception):
                    raise score
                study.tell(at_work.pop(trial.number), score)
                bar.n = len(study.done())
                bar.refresh()
        finally:
            tasks.give_up()
            for trial in at_work.values():
                study.forget(trial)


def _score_there(content: bytes, method: Method) -> float | None:
    """What a worker does: the score of one trial; None where it diverged."""
    try:
        return _objective_of(content).score(method, lambda step, score: None)
    except DivergenceError:
        return None


@cache
def _objective_of(content: bytes) -> Objective:
    """Keeps what a worker has loaded for its next trial."""
    positional, named = pickle.loads(content)
    return Objective(*positional, **named)
