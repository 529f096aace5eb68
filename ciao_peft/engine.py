"""Who does work that can be shared out: this process, or Ray's workers, here and on other machines."""

from __future__ import annotations

import importlib.util
import logging
import os
import pickle
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .checking import check_choice, check_number
from .errors import CIAOError, ConfigError, DataError, LaunchError, MissingExtraError, quoted, shortened

__all__ = ["RayEngine", "RayTasks", "engine_from", "ray_running", "sendable"]

ENGINES = ("ray",)
"""Names that stand for an engine with its defaults."""


@dataclass(frozen=True, kw_only=True)
class RayEngine:
    """Ray shares the work out: over the cores or GPUs of this machine, or over those of a cluster.

    `engine="ray"` is `engine=RayEngine()`. A Ray that runs already is used and left running: the one this process is
    connected to, that of `address` or of the variable `RAY_ADDRESS`, or one that `ray start` began on this machine.
    Where there is none, one is started here and stopped at the end.

    Args:
        workers: How many work at once, 1 or more; as many as the cluster has GPUs, where the model lies on one, or else
            cores, when left out.
        address: Of the cluster, such as `"10.0.0.5:6379"`; `"local"` starts one here, whatever runs already.
        rows_per_task: Rows of features, pictures times views, that a worker stores between two reports, 1 or more,
            rounded up to whole batches; eight batches when left out. A worker that is killed loses no more.
        retries: How often what a killed worker left is begun anew, 0 or more, before the error is told: a picture that
            kills a decoder kills each worker that opens it.
        object_store_memory: Bytes of memory for what travels between processes, of a Ray that is started here.

    Raises:
        ConfigError: a value is out of its range.

    Example:
        >>> RayEngine(workers=2).retries
        3
    """

    workers: int | None = None
    address: str | None = None
    rows_per_task: int | None = None
    retries: int = 3
    object_store_memory: int = 512 * 2**20

    def __post_init__(self) -> None:
        for name, low in (("workers", 1), ("rows_per_task", 1), ("retries", 0), ("object_store_memory", 80 * 2**20)):
            if (value := getattr(self, name)) is not None:
                check_number(name, value, int, low, of="RayEngine")
        if self.address is not None and not isinstance(self.address, str):
            raise ConfigError(f"`address` of RayEngine must be text; got {quoted(self.address)}.")


def engine_from(engine: str | RayEngine | None, what: str) -> RayEngine | None:
    """The engine that an argument names; None is this process itself.

    Args:
        engine: `"ray"`, a `RayEngine`, or None.
        what: What it is for; the subject of a message.

    Raises:
        ConfigError: it is none of these.
        MissingExtraError: Ray is not installed.

    Example:
        >>> engine_from(None, "Storing features") is None
        True
        >>> engine_from("spark", "Storing features")
        Traceback (most recent call last):
        ...
        ciao_peft.errors.ConfigError: `engine` must be one of 'ray'; got 'spark'.
    """
    if engine is None:
        return None
    if not isinstance(engine, RayEngine):
        check_choice("engine", engine, ENGINES)
        engine = RayEngine()
    if importlib.util.find_spec("ray") is None:
        raise MissingExtraError("ray", f"{what} with `engine='ray'`", "distributed")
    return engine


@contextmanager
def ray_running(engine: RayEngine | None) -> Iterator[Any]:
    """A `with` block in which Ray runs and this process is connected to it; gives the module `ray`.

    Args:
        engine: Says where. What was started here ends with the block. None starts nothing.

    Raises:
        LaunchError: Ray cannot be reached or started, or is lost on the way.
    """
    if engine is None:
        yield None
        return
    import ray
    import ray.exceptions

    own = not ray.is_initialized()
    if own:
        _connect(ray, engine)
    try:
        yield ray
    except ray.exceptions.RayError as error:
        raise LaunchError(
            f"Ray has lost the work: {type(error).__name__}: {shortened(str(error).strip(), 600)} What was done "
            "before is kept: the same call goes on with the rest. A full memory ends workers, and so do some decoders "
            "on damaged files; without `engine`, this process says more."
        ) from error
    finally:
        if own:
            ray.shutdown()


def _connect(ray: Any, engine: RayEngine) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    address = engine.address or os.environ.get("RAY_ADDRESS")
    try:
        if address not in (None, "local"):
            ray.init(address=address, **quiet)
            return
        try:
            if address is None:
                ray.init(address="auto", **quiet)
                return
        except ConnectionError:
            pass
        settings = {"num_cpus": engine.workers, "object_store_memory": engine.object_store_memory}
        ray.init(address="local", include_dashboard=False, **settings, **quiet)
    except (ConnectionError, OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        where = "started here" if address in (None, "local") else f"reached at {quoted(address)}"
        raise LaunchError(
            f"Ray cannot be {where}: {shortened(str(error).strip())} Start a cluster with `ray start --head`, and give "
            "`RayEngine(address=...)` or the variable RAY_ADDRESS; or leave `engine` out."
        ) from error


class RayTasks:
    """Calls of one function in Ray's workers, each call by itself, as many at once as there are workers.

    A worker that is killed, with its machine or alone, leaves its call to another one. What a worker has loaded stays
    with it for its next call, if the function keeps it in its module.

    Args:
        engine: Says how many at once, and how often a call is begun anew.
        function: At the top of a module that workers can import. What it raises, a worker sends as a value.

    Attributes:
        at_once: How many calls may be at work.

    Raises:
        LaunchError: the cluster has nothing to work with.
    """

    at_once: int

    def __init__(self, engine: RayEngine, function: Callable[..., Any]):
        import ray

        self._ray: Any = ray
        resources = ray.cluster_resources()
        unit = "GPU" if resources.get("GPU") else "CPU"
        there = int(resources.get(unit, 0))
        if not there:
            raise LaunchError("The cluster of Ray has no cores to work with. Start `ray start` with `--num-cpus`.")
        self.at_once = there if engine.workers is None else engine.workers
        options: dict[str, Any] = {f"num_{unit.lower()}s": 1, "max_retries": engine.retries}
        self._remote: Any = ray.remote(**options)(_valued)
        self._function = function
        self._at_work: dict[Any, Any] = {}

    def __len__(self) -> int:
        return len(self._at_work)

    @property
    def are_full(self) -> bool:
        """Whether no worker is free."""
        return len(self._at_work) >= self.at_once

    def start(self, what: Any, *arguments: Any) -> None:
        """Hands one call to the workers.

        Args:
            what: Comes back with its result.
            arguments: Of the function; they must be picklable.
        """
        self._at_work[self._remote.remote(self._function, *arguments)] = what

    def first_done(self) -> tuple[Any, Any]:
        """Waits until a call has ended.

        Returns:
            What `start` was given, and the result; or the error that the function raised, or a `LaunchError` where its
            worker was killed again and again.
        """
        ready, _ = self._ray.wait([*self._at_work], num_returns=1)
        what = self._at_work.pop(ready[0])
        try:
            return what, self._ray.get(ready[0])
        except self._ray.exceptions.RayError as error:
            kind = type(error).__name__
            return what, LaunchError(f"The worker of Ray was lost again and again ({kind}: {shortened(str(error))}).")

    def give_up(self) -> None:
        """Ends the calls that are at work, with their workers."""
        for reference in self._at_work:
            self._ray.cancel(reference, force=True)
        self._at_work.clear()


def _valued(function: Callable[..., Any], *arguments: Any) -> Any:
    """A result or an error as a value: Ray would raise another one."""
    try:
        return function(*arguments)
    except Exception as error:
        return sendable(error)


def sendable(error: Exception, what: str = "Another process has failed") -> Exception:
    """An error that another process can read: as it is, with a note of where it comes from, where it can be sent.

    Args:
        error: What was raised in this process.
        what: What it means, for an error that cannot be sent.

    Example:
        >>> sendable(DataError("The picture in row 3: it is empty."))
        DataError('The picture in row 3: it is empty.')
    """
    note = getattr(error, "add_note", None)  # from Python 3.11
    if note is not None and not isinstance(error, CIAOError):
        note(f"It was raised by another process:\n{traceback.format_exc()[-4000:]}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return DataError(f"{what}: {type(error).__name__}: {shortened(str(error))}")
    return error
