"""Successive halving over the candidates of a task, as a worklist: few epochs for many, all epochs for few."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import CIAOError
from ..data import LoadedTask, load_training_split
from ..plan import Encoder, Method, Plan, Run, Task
from ..records import Record
from ..training import Training
from ..worklist import Progress, Rate, Worklist
from .candidates import head_of, what_trains
from .folds import dealt

REDUCTION = 4
"""One of so many candidates goes on to the next rung, which has so many times the epochs."""

RUNGS = 3


def epochs_of_rungs(epochs: float) -> tuple[float, ...]:
    """Epochs of each rung; the last one has all, and whole epochs come before.

    Example:
        >>> epochs_of_rungs(12), epochs_of_rungs(60), epochs_of_rungs(1)
        ((1, 3, 12), (4, 15, 60), (1,))
    """
    before = [math.ceil(epochs / REDUCTION**place) for place in range(RUNGS - 1, 0, -1)]
    return (*sorted({each for each in before if each < epochs}), epochs)


def going_on(methods: Sequence[Method], scores: Mapping[str, float]) -> tuple[Method, ...]:
    """The best quarter of what trains the same with the same head, at least one of it.

    Small heads learn slowly at first, and what has no mask is what the masks are compared with: halved among
    themselves, all of them are there at the end.

    Args:
        methods: Of a rung.
        scores: Mean over the parts, by name; what diverged or could not be trained has none.

    Example:
        >>> methods = [Method(name=str(number)) for number in range(4)]
        >>> methods += [Method(name="bare", config={"inhibition": False})]
        >>> [method.name for method in going_on(methods, {"0": 0.5, "2": 0.7, "3": 0.6, "bare": 0.1})]
        ['2', 'bare']
    """
    kept: set[str] = set()
    for group in _groups(methods).values():
        reached = [method.name for method in group if scores.get(method.name, -math.inf) > -math.inf]
        best = sorted(reached, key=lambda name: -scores[name])  # of equal ones, the first in the list
        kept.update(best[: _left_of(len(group))])
    return tuple(method for method in methods if method.name in kept)


def _groups(methods: Iterable[Method]) -> dict[tuple[object, ...], list[Method]]:
    groups: dict[tuple[object, ...], list[Method]] = defaultdict(list)
    for method in methods:
        groups[what_trains(method.config), head_of(method.config)].append(method)
    return groups


def _left_of(count: int) -> int:
    return math.ceil(count / REDUCTION)


class Halving(Worklist):
    """The trainings of all rungs, each rung begun when the one before it is done.

    What goes on depends on the records alone, so that every process that works at it, and one that begins again after
    a kill, takes the same way.

    Args:
        plan: One task, one encoder, and the candidates; `epochs` are those of the last rung, `search_seeds` says how
            many parts are held out in turn, and `search_fraction` into how many the training split is dealt.
        folder: For the records, stored features and claims.
        say: Called with every line for people.
        **engine: Of the worklist that hands the trainings to others, where one of this kind does.

    Attributes:
        rung: At which this is, from 0.
        epochs: Of every rung.
        told: Called with each record that is new, when `progress` has it.
    """

    epochs: tuple[float, ...]
    told: Callable[[Record], None] | None = None

    def __init__(self, plan: Plan, folder: Path, say: Callable[[str], None] = print, **engine: Any):
        super().__init__(plan, folder, say, **engine)
        self._candidates, self.epochs = plan.methods, epochs_of_rungs(plan.epochs)
        self._entered: list[tuple[Method, ...]] = []
        self._working = False
        self._by_name: dict[tuple[str, int, float], Record] = {}
        self._enter(plan.methods)

    @property
    def task(self) -> Task:
        """The one task."""
        return self.plan.tasks[0]

    @property
    def encoder(self) -> Encoder:
        """The one encoder."""
        return self.plan.encoders[0]

    def _enter(self, methods: tuple[Method, ...]) -> None:
        self.rung = len(self._entered)
        self._entered.append(methods)
        self.plan = replace(self.plan, methods=methods, search_epochs=self.epochs[self.rung])

    def searches(self, task: Task, encoder: Encoder, method: Method) -> list[Run]:
        """The trainings of a candidate on this rung: one for each part that is held out."""
        seeds, rate = range(self.plan.search_seeds), method.rates[0]
        return [Run(task=task, encoder=encoder, method=method, seed=n, split="validation", rate=rate) for n in seeds]

    def finals(self, task: Task, encoder: Encoder, method: Method, rate: Rate = None) -> list[Run]:
        """None: the test split is not looked at."""
        return []

    def chosen_rate(self, task: Task, encoder: Encoder, method: Method) -> Rate:
        """None: a candidate has one rate."""
        return None

    def load_task(self, task: Task) -> LoadedTask:
        """The training split alone, dealt into parts."""
        return self.load()

    def load(self, loaded: LoadedTask | None = None) -> LoadedTask:
        """The task's training split, dealt into parts; loaded when first asked for.

        Args:
            loaded: What `load_training_split` gave, where that is at hand.

        Raises:
            DataNotFoundError, DataError, ConfigError: it cannot be read or dealt.
        """
        if self.task.name not in self._tasks:
            loaded = load_training_split(self.task) if loaded is None else loaded
            self._tasks[self.task.name] = dealt(loaded, round(1 / self.plan.search_fraction))
        return self._tasks[self.task.name]

    def work(self, on_progress: Callable[[Progress, str], None] = lambda progress, doing: None) -> Progress:
        """Trains whatever is free until the last rung is done; see `Worklist.work`."""
        self._working = True
        try:
            super().work(on_progress)
            while self._next(self.means()):
                super().work(on_progress)
        finally:
            self._working = False
        return self.look()

    def _next(self, means: Mapping[str, float]) -> bool:
        """Enters the next rung; false where there is none, or nobody is left for it."""
        methods = going_on(self.plan.methods, means)
        if self.rung + 1 == len(self.epochs) or not methods:
            return False
        self._enter(methods)
        return True

    def records(self, method: Method, rung: int | None = None) -> list[Record]:
        """Of a candidate, part by part; empty where one of them is missing.

        Args:
            method: The candidate.
            rung: On which it was trained; this one when left out.
        """
        if self.task.name not in self._tasks or self.encoder.name not in self._encoders:
            return []
        plan, material = self._plan_of(self.rung if rung is None else rung), self._material(self.task, self.encoder)
        runs = self.searches(self.task, self.encoder, method)
        try:
            found = [self._by_key.get(Training(run, plan, material).key) for run in runs]
        except CIAOError:  # its settings do not fit, as `progress.failed` has it
            return []
        return [record for record in found if record is not None] if None not in found else []

    def rungs_of(self, method: Method) -> list[int]:
        """The rungs that a candidate was on."""
        return [rung for rung, methods in enumerate(self._entered) if method in methods]

    def _plan_of(self, rung: int) -> Plan:
        # With all candidates: the features are stored with the depths that any of them reads.
        return replace(self.plan, methods=self._candidates, search_epochs=self.epochs[rung])

    def means(self) -> dict[str, float]:
        """Mean score over the parts of each candidate on this rung that could be trained."""
        scores = {method.name: [record.score for record in self.records(method)] for method in self.plan.methods}
        return {name: sum(own) / len(own) for name, own in scores.items() if own}

    def look(self) -> Progress:
        """Reads what was added to the records. Loads no data: records are told apart by what the plan says of them."""
        new = self._results.update()
        for record in new:
            self._by_key[record.key] = record
            if record.metric == self.task.metric:
                self._by_name[record.method, record.seed, record.epochs] = record
        while not self._working and self._is_done() and self._next(self._means_by_name()):
            pass  # others work, and this one watches
        self.progress.done = sum(
            (method.name, part, epochs) in self._by_name
            for methods, epochs in zip(self._entered, self.epochs, strict=False)
            for method in methods
            for part in range(self.plan.search_seeds)
        )
        self.progress.total = self.plan.search_seeds * sum(self._sizes())
        if self.told is not None:
            for record in new:
                self.told(record)
        return self.progress

    def _is_done(self) -> bool:
        return all(
            (method.name, part, self.epochs[self.rung]) in self._by_name
            for method in self.plan.methods
            for part in range(self.plan.search_seeds)
        )

    def _means_by_name(self) -> dict[str, float]:
        epochs, parts = self.epochs[self.rung], range(self.plan.search_seeds)
        return {
            method.name: sum(self._by_name[method.name, part, epochs].score for part in parts) / len(parts)
            for method in self.plan.methods
        }

    def _sizes(self) -> list[int]:
        """Candidates of each rung; of those to come, as many as if none diverges."""
        sizes = [len(methods) for methods in self._entered]
        counts = Counter({group: len(methods) for group, methods in _groups(self._entered[-1]).items()})
        for _ in self.epochs[len(sizes) :]:
            counts = Counter({group: _left_of(count) for group, count in counts.items()})
            sizes.append(sum(counts.values()))
        return sizes

    def _training(self, run: Run) -> Training:
        return replace(super()._training(run), plan=self._plan_of(self.rung))
