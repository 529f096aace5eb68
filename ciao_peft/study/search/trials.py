"""Trials of a search, shared by processes and safe from kills: Optuna's tree-parzen estimator on SQLite.

Imported when a search starts: it needs Optuna, `pip install 'ciao_peft[search]'`.
"""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from ...checking import check_choice
from ...errors import ConfigError, quoted

DATABASE = "search.db"
_STUDY = "search"

DRAWN_AT_RANDOM = 10
"""Trials of a search, the first ones, whose settings do not depend on what came of others."""

_DONE = (TrialState.COMPLETE, TrialState.PRUNED)

PRUNERS = {
    "none": lambda: optuna.pruners.NopPruner(),
    "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1),
    "hyperband": lambda: optuna.pruners.HyperbandPruner(min_resource=1),
}


class SharedStudy:
    """The trials in one folder.

    Each trial has an index, and its sampler draws from a generator seeded by it: what a trial tries depends on the seed
    and on the trials that were finished before, not on which process asked or how often one was killed. A trial whose
    process is gone counts as never begun, and its index is given out again.

    Args:
        folder: Where `search.db` lies, or will. On a disk whose locks work: that of one machine.
        settings: What decides the result, as plain data. The same for all who share the folder.
        seed: Of the sampler.
        pruner: Name of one of `PRUNERS`.

    Raises:
        ConfigError: the folder holds a search with other settings, or the pruner is unknown.
    """

    folder: Path
    seed: int
    study: optuna.Study

    def __init__(self, folder: Path, settings: Mapping[str, Any], seed: int, pruner: str = "none"):
        check_choice("pruner", pruner, PRUNERS)
        self.folder, self.seed, self._pruner = folder, seed, pruner
        self._workers = folder / "workers"
        self._workers.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / "search.lock")
        self._process = uuid.uuid4().hex
        with self._lock, _quiet():
            storage = optuna.storages.RDBStorage(
                f"sqlite:///{folder / DATABASE}", engine_kwargs={"connect_args": {"timeout": 60}}
            )
            self.study = optuna.create_study(
                storage=storage, study_name=_STUDY, direction="maximize", pruner=PRUNERS[pruner](), load_if_exists=True
            )
            self._check_settings(json.loads(json.dumps(settings)))

    def _check_settings(self, settings: dict[str, Any]) -> None:
        before = self.study.user_attrs.get("settings")
        if before is None:
            self.study.set_user_attr("settings", settings)
            return
        changed = [name for name in sorted({*before, *settings}) if before.get(name) != settings.get(name)]
        if changed:
            what = "; ".join(
                f"{name}: {quoted(before.get(name))} there, {quoted(settings.get(name))} here" for name in changed
            )
            raise ConfigError(
                f"'{self.folder}' holds a search with other settings ({what}). Give another `output_dir`, or delete it."
            )

    def locked(self) -> FileLock:
        """Inside, no other process asks or writes a result."""
        return self._lock

    @contextmanager
    def counted_as_alive(self) -> Iterator[None]:
        """Inside, this process counts as alive; it ends with the process, however that ends."""
        lock = FileLock(self._workers / self._process)
        with lock:
            yield
        (self._workers / self._process).unlink(missing_ok=True)

    def ask(self, distributions: Mapping[str, BaseDistribution], total: int) -> Trial | None:
        """The next trial, with its values drawn; None when `total` trials are done or at work elsewhere."""
        with self._lock:
            self._fail_trials_of_dead_processes()
            trials = self.trials()
            if len(trials) >= total:
                return None
            taken = {trial.user_attrs["index"] for trial in trials}
            index = next(number for number in range(len(taken) + 1) if number not in taken)
            own_seed = zlib.crc32(f"{self.seed},{index}".encode())
            self.study.sampler = optuna.samplers.TPESampler(n_startup_trials=DRAWN_AT_RANDOM, seed=own_seed)
            trial = self.study.ask(fixed_distributions=dict(distributions))
            trial.set_user_attr("worker", self._process)
            trial.set_user_attr("index", index)
        return trial

    def ask_several(self, distributions: Mapping[str, BaseDistribution], total: int, at_once: bool) -> list[Trial]:
        """The next trial; or, at once, all of those that are drawn at random, whatever came of the others.

        With a pruner, which compares a trial with those before it, it is one at a time.
        """
        trials: list[Trial] = []
        while not trials or (at_once and self._pruner == "none" and len(self.trials()) < DRAWN_AT_RANDOM):
            trial = self.ask(distributions, total)
            if trial is None:
                break
            trials.append(trial)
        return trials

    def tell(self, trial: Trial, value: float | None) -> None:
        """The score of a trial, or None for one that was given up: pruned, or diverged."""
        if value is None:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, value)

    def forget(self, trial: Trial) -> None:
        """The trial was interrupted: it counts as never begun."""
        self.study.tell(trial, state=TrialState.FAIL)

    def trials(self) -> list[FrozenTrial]:
        """Those done or at work, by index."""
        trials = self.study.get_trials(deepcopy=False, states=(*_DONE, TrialState.RUNNING))
        return sorted((t for t in trials if "index" in t.user_attrs), key=lambda trial: trial.user_attrs["index"])

    def done(self) -> list[FrozenTrial]:
        """Those done, by index; given-up ones among them."""
        return [trial for trial in self.trials() if trial.state in _DONE]

    def importances(self) -> dict[str, float]:
        """Share of each setting in what made trials good or bad (PED-ANOVA), the largest first; sums to 1."""
        complete = [trial for trial in self.done() if trial.state == TrialState.COMPLETE]
        if len({trial.value for trial in complete}) < 2:
            return {}
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        with _quiet():
            return optuna.importance.get_param_importances(self.study, evaluator=evaluator)

    def _fail_trials_of_dead_processes(self) -> None:
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            # Without a worker: killed while it asked, which it did under the lock that is held here.
            worker = trial.user_attrs.get("worker")
            if worker is None or (worker != self._process and not self._is_alive(worker)):
                self.study.tell(trial.number, state=TrialState.FAIL)

    def _is_alive(self, worker: str) -> bool:
        path = self._workers / worker
        if not path.exists():
            return False
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout:
            return True
        path.unlink(missing_ok=True)
        return False


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's own lines about studies."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
