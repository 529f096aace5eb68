"""A plan worked off, training by training, by as many processes as like to share it."""

from __future__ import annotations

import itertools
import math
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ..errors import CIAOError, DataNotFoundError, TrainingError, listed
from ..trainer import sorted_alike, trains_at_once
from .data import LoadedEncoder, LoadedTask, Material, load_study_encoder, load_task
from .matching import fits
from .plan import Encoder, Method, Plan, Run, Task
from .records import RESULTS_FILE, Record, Results, append_record
from .training import Training, train_together

SECONDS_BETWEEN_LOOKS = 0.5
"""At what others have done meanwhile."""

MOST_AT_ONCE = 16
"""Trainings that one process makes at once; a kill loses no more."""


Rate: TypeAlias = float | Mapping[str, float] | None
"""A learning rate; one for each fold; or the method's own."""


@dataclass
class Progress:
    """How far a plan is.

    Attributes:
        total: Trainings of the plan, without those of `skipped`.
        done: Those with a record.
        skipped: Tasks and encoders that are not there, as "task NAME" or "encoder NAME", and why.
        failed: Trainings that could not be done, and why.

    Example:
        >>> progress = Progress(total=10, done=4)
        >>> progress.done / progress.total
        0.4
    """

    total: int = 0
    done: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


class _Name(NamedTuple):
    """What a record and a planned training are matched by where the data are not at hand; the rate only in a search."""

    task: str
    encoder: str
    method: str
    split: str
    seed: int
    rate: float | None

    @classmethod
    def of_run(cls, run: Run) -> _Name:
        rate = run.rate if run.split == "validation" else None
        return cls(run.task.name, run.encoder.name, run.method.name, run.split, run.seed, rate)

    @classmethod
    def of_record(cls, record: Record, rate_name: str) -> _Name:
        rate = record.arguments.get(rate_name) if record.split == "validation" else None
        return cls(record.task, record.encoder, record.method, record.split, record.seed, rate)


class Worklist:
    """The trainings of a plan, the results that are there, and which of the rest are free.

    A training counts as done when the results hold its key, which is made of all that decides its outcome; a claim is a
    lock that ends with its process, however that ends. So a worklist needs no state of its own: started again, it goes
    on; started twice, both share the work.

    Args:
        plan: What to train.
        folder: For `results.jsonl`, stored features and claims.
        say: Called with every line for people.

    Attributes:
        rung: At which a search is that goes from rung to rung; 0 for all else.

    Example:
        >>> import tempfile
        >>> from ciao_peft.study import plan_from_flags
        >>> plan = plan_from_flags(["painted_faces"], ["small-face"], ["decision layer"], seeds=2, search_rates=3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Worklist(plan, Path(folder)).look()  # 3 trainings of the search, 2 that are scored
        Progress(total=5, done=0, skipped={}, failed={})
    """

    plan: Plan
    folder: Path
    say: Callable[[str], None]
    progress: Progress
    disable_tqdm: bool | None = True
    """Of the passes that store features, as for `cache_features`."""
    rung: int = 0

    def __init__(self, plan: Plan, folder: Path, say: Callable[[str], None] = print):
        self.plan, self.folder, self.say = plan, folder, say
        self.progress = Progress()
        self._results = Results(folder / RESULTS_FILE)
        self._by_key: dict[str, Record] = {}
        self._names_done: set[_Name] = set()
        self._tasks: dict[str, LoadedTask] = {}
        self._encoders: dict[str, LoadedEncoder] = {}
        self._materials: dict[tuple[str, str], Material] = {}

    # -- what there is to do -------------------------------------------------------------------------------------------

    def searches(self, task: Task, encoder: Encoder, method: Method) -> list[Run]:
        """The trainings of a method's learning-rate search; none where one rate is all there is."""
        rates = method.grid(self.plan.search_rates) if self.plan.search_rates else ()
        if len(rates) < 2:
            return []
        what: dict[str, Any] = {"task": task, "encoder": encoder, "method": method, "split": "validation"}
        return [Run(**what, seed=seed, rate=rate) for rate in rates for seed in range(self.plan.search_seeds)]

    def finals(self, task: Task, encoder: Encoder, method: Method, rate: Rate = None) -> list[Run]:
        """The trainings that are scored on the test split, with the rate that the search chose."""
        chosen: dict[str, Any] = {"fold_rates": rate} if isinstance(rate, Mapping) else {"rate": rate}
        return [Run(task=task, encoder=encoder, method=method, seed=seed, **chosen) for seed in self.plan.seeds]

    def _groups(self) -> Iterator[tuple[Task, Encoder, Method]]:
        return itertools.product(self.plan.tasks, self.plan.encoders, self.plan.methods)

    def look(self) -> Progress:
        """Reads what was added to the results. Loads no data: trainings are told apart by what a plan says of them."""
        rates = {method.name: method.rate for method in self.plan.methods}
        for record in self._results.update():
            self._by_key[record.key] = record
            if fits(record, self.plan):
                self._names_done.add(_Name.of_record(record, rates[record.method]))
        self.progress.total = self.progress.done = 0
        for task, encoder, method in self._groups():
            if _part(task) in self.progress.skipped or _part(encoder) in self.progress.skipped:
                continue
            runs = [*self.searches(task, encoder, method), *self.finals(task, encoder, method)]
            self.progress.total += len(runs)
            self.progress.done += sum(_Name.of_run(run) in self._names_done for run in runs)
        return self.progress

    # -- doing it ------------------------------------------------------------------------------------------------------

    def work(self, on_progress: Callable[[Progress, str], None] = lambda progress, doing: None) -> Progress:
        """Trains whatever is free until nothing is left to do, then says how far everything is.

        What others have claimed is waited for. A training that cannot be done is noted in `progress.failed`, and the
        rest goes on.

        Args:
            on_progress: Called before and after each training.

        Raises:
            KeyboardInterrupt: as it comes; the training at hand is lost, or those made at once, and no other.
        """
        while True:
            self.look()
            waiting = False
            for runs in self._open_together():
                waiting |= not self._train_if_free(runs, on_progress)
            if not waiting:
                if self._finished():
                    break
                continue
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return self.look()

    def _open_together(self) -> Iterator[list[Run]]:
        """`_open_runs`, several at a time where those are faster trained at once."""
        if not trains_at_once():
            yield from ([run] for run in self._open_runs())
            return
        kinds = itertools.groupby(self._open_runs(), lambda r: (r.task.name, r.encoder.name, r.method.name, r.split))
        for _, runs in kinds:
            these = [*runs]
            for places in sorted_alike([self._training(run).shares for run in these]):
                for first in range(0, len(places), MOST_AT_ONCE):
                    yield [these[place] for place in places[first : first + MOST_AT_ONCE]]

    def _open_runs(self) -> Iterator[Run]:
        """Trainings that could begin now and have no record; a method's own come after its search."""
        for task, encoder, method in self._groups():
            group = f"{task.name}, {encoder.name}, {method.name}"
            if group in self.progress.failed or not self._load(task, encoder):
                continue
            try:
                searches = self._open(self.searches(task, encoder, method))
                yield from searches
                if not self._open(searches):
                    yield from self._open(self.finals(task, encoder, method, self.chosen_rate(task, encoder, method)))
            except CIAOError as error:  # settings that do not fit, or no rate that works
                self.progress.failed.setdefault(group, str(error))

    def _finished(self) -> bool:
        return next(self._open_runs(), None) is None

    def _open(self, runs: Iterable[Run]) -> list[Run]:
        """Those without a record that did not fail before."""
        return [run for run in runs if described(run) not in self.progress.failed and self._record(run) is None]

    def _record(self, run: Run) -> Record | None:
        return self._by_key.get(self._training(run).key)

    def _training(self, run: Run) -> Training:
        return Training(run, self.plan, self._material(run.task, run.encoder))

    def chosen_rate(self, task: Task, encoder: Encoder, method: Method) -> Rate:
        """The rate with the best mean score on held-out people, the lower of equal ones.

        Where there is no search, the only rate there is; `None` leaves it at the method's own. Of a task with several
        folds each has its own: what is held out for one fold is tested in another.

        Raises:
            TrainingError: training diverged at every rate, or could not be done at one of them: of the others alone,
                another process might choose another.
        """
        searches = self.searches(task, encoder, method)
        if not searches:
            return method.grid(self.plan.search_rates)[0] if self.plan.search_rates else None
        if failed := [run for run in searches if described(run) in self.progress.failed]:
            raise TrainingError(f"{len(failed)} of the {len(searches)} trainings of its search could not be done.")
        tried = [(run.rate, self._record(run)) for run in searches if run.rate is not None]
        if not self._tasks[task.name].has_folds:
            return _best((rate, -math.inf if record is None else record.score) for rate, record in tried)

        def of_fold(name: str, record: Record | None) -> float:
            return -math.inf if record is None else record.fold_scores.get(name, -math.inf)

        names = [fold.name for fold in self._tasks[task.name].folds]
        return {name: _best((rate, of_fold(name, record)) for rate, record in tried) for name in names}

    def _train_if_free(self, runs: Sequence[Run], on_progress: Callable[[Progress, str], None]) -> bool:
        """Trains those that nobody else does; false where somebody does."""
        with ExitStack() as claims:
            free = [run for run in runs if self._claimed(run, claims)]
            self.look()
            # The others were done by another process between the look and the claim.
            open_runs = [run for run in free if self._training(run).key not in self._by_key]
            if open_runs:
                doing = described(open_runs[0])
                more = f" and {len(open_runs) - 1} more" if len(open_runs) > 1 else ""
                on_progress(self.progress, doing + more)
                self._train(open_runs)
                on_progress(self.look(), doing + more)
        return len(free) == len(runs)

    def _claimed(self, run: Run, claims: ExitStack) -> bool:
        """Claims a training until the claims are given back; false where somebody else has."""
        from filelock import FileLock, Timeout

        folder = self.folder / "claims"
        folder.mkdir(parents=True, exist_ok=True)
        claim = FileLock(folder / f"{self._training(run).key}.lock")
        try:
            claim.acquire(blocking=False)
        except Timeout:
            return False
        claims.callback(claim.release)
        return True

    def _train(self, runs: Sequence[Run]) -> None:
        """Trains, and writes down every record and why there is none."""
        self._write_down(runs, train_together([self._training(run) for run in runs]))

    def trained(self, runs: Sequence[Run], keys: Sequence[str]) -> list[Record | Exception]:
        """Trains for another process, which holds the claims and writes the records.

        Args:
            runs: Trainings of the plan.
            keys: Their keys in the other process, which tell whether it has the same data.

        Returns:
            Their records, or why there is none.

        Raises:
            DataNotFoundError: a task or an encoder is not here, or is another one than there.
        """
        here = f"on '{socket.gethostname()}'"
        for run in runs:
            if not self._load(run.task, run.encoder):
                why = self.progress.skipped.get(_part(run.task)) or self.progress.skipped.get(_part(run.encoder))
                raise DataNotFoundError(f"{described(run)}, {here}: {why}")
        trainings = [self._training(run) for run in runs]
        if [training.key for training in trainings] != [*keys]:
            raise DataNotFoundError(
                f"{described(runs[0])}: the data or the encoder {here} are not those of the process that shares out "
                "the study. Give all machines the same files under the same paths."
            )
        return [*train_together(trainings)]

    def _write_down(self, runs: Sequence[Run], outcomes: Iterable[Record | Exception]) -> None:
        for run, record in zip(runs, outcomes, strict=True):
            if isinstance(record, Record):
                append_record(self.folder / RESULTS_FILE, record)
            else:  # such as too little memory for this method: the rest is done all the same
                doing = described(run)
                self.progress.failed[doing] = reason_of(record)
                self.say(f"{doing}: {self.progress.failed[doing]}")

    # -- data and encoders, loaded when first needed -------------------------------------------------------------------

    def _load(self, task: Task, encoder: Encoder) -> bool:
        """Loads both, and says once where one of them cannot be loaded; whether both are there."""
        parts: list[tuple[Task | Encoder, dict[str, Any], Callable[[Any], LoadedTask | LoadedEncoder]]] = [
            (task, self._tasks, self.load_task),
            (encoder, self._encoders, load_study_encoder),
        ]
        for item, loaded, load in parts:
            part = _part(item)
            if part in self.progress.skipped:
                return False
            if item.name in loaded:
                continue
            try:
                loaded[item.name] = load(item)
            except DataNotFoundError as error:
                self.progress.skipped[part] = str(error)
                self.say(f"{part} is skipped: {error}")
                return False
            except CIAOError as error:
                self.progress.skipped[part] = self.progress.failed[part] = str(error)
                self.say(f"{part} cannot be trained on: {error}" if item is task else f"{part} cannot be used: {error}")
                return False
            for note in getattr(loaded[item.name], "notes", ()):
                self.say(note)
        return True

    def load_task(self, task: Task) -> LoadedTask:
        """A task's faces; see `ciao_peft.study.data.load_task`."""
        return load_task(task)

    def _material(self, task: Task, encoder: Encoder) -> Material:
        pair = task.name, encoder.name
        if pair not in self._materials:
            self._materials[pair] = Material(
                self._tasks[task.name],
                self._encoders[encoder.name],
                self.folder / "features",
                self.plan.feature_dtype,
                disable_tqdm=self.disable_tqdm,
            )
        return self._materials[pair]


def _part(item: Task | Encoder) -> str:
    """What a plan calls it: a task and an encoder may share a name."""
    return f"{type(item).__name__.lower()} {item.name}"


def reason_of(error: Exception) -> str:
    """Why something could not be done; an error that is none of this library's comes with its type.

    Example:
        >>> reason_of(TrainingError("Too few faces.")), reason_of(ZeroDivisionError("division by zero"))
        ('Too few faces.', 'ZeroDivisionError: division by zero')
    """
    return str(error) if isinstance(error, CIAOError) else f"{type(error).__name__}: {error}"


def _best(scored: Iterable[tuple[float, float]]) -> float:
    """Of rates and their scores, the rate with the best mean, the lower of equal ones.

    Raises:
        TrainingError: training diverged at every rate.

    Example:
        >>> _best([(0.1, 0.5), (0.01, 0.7), (0.1, 0.9), (0.01, 0.7)])
        0.01
    """
    scores: dict[float, list[float]] = defaultdict(list)
    for rate, score in scored:
        scores[rate].append(score)
    means = {rate: sum(reached) / len(reached) for rate, reached in sorted(scores.items())}
    best = max(means.values(), default=-math.inf)
    if best == -math.inf:
        raise TrainingError(
            f"No learning rate of {listed(f'{rate:g}' for rate in means)} gave a result; set other `rates`."
        )
    return next(rate for rate, mean in means.items() if mean == best)


def described(run: Run) -> str:
    """A training in a few words.

    Args:
        run: The training.
    """
    tried = f", {run.method.rate} {run.rate:g}, held-out people" if run.split == "validation" else ""
    return f"{run.task.name}, {run.encoder.name}, {run.method.name}, seed {run.seed}{tried}"
