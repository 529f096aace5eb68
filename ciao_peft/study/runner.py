"""A study in one process or several, and from the command line's point of view: start, watch, stop."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ..engine import RayEngine
from ..progress import told_later
from ..surroundings import set_num_threads
from .on_ray import RayWorklist
from .plan import Plan
from .worklist import SECONDS_BETWEEN_LOOKS, Progress, Worklist, reason_of

_OF_DATA = "ciao_peft.data"  # the logger
_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


def leave_launcher() -> tuple[int, int]:
    """Rank and number of the processes that `torchrun` started; from here on each works for itself.

    The processes of a study share its folder, not a training, so nothing below may take them for one group.

    Example:
        >>> leave_launcher()  # nothing launched this process
        (0, 1)
    """
    rank, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    for name in [*os.environ]:
        if name in _LAUNCHER or name.startswith("TORCHELASTIC_"):
            del os.environ[name]
    return rank, count


def usable_cores() -> int:
    """Cores that this process may use.

    Example:
        >>> usable_cores() >= 1
        True
    """
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def train_here(plan: Plan, folder: Path, num_threads: int | None, *, bar: Any, say: Callable[[str], None]) -> Progress:
    """Trains what a plan asks for in this process, with a bar that shows how far everybody is together.

    Args:
        plan: What to train.
        folder: The study's.
        num_threads: Of torch; as many as it takes by itself when left out.
        bar: From a total to a progress bar, as `tqdm` makes it.
        say: Called with every line for people.
    """
    set_num_threads(num_threads)
    worklist = Worklist(plan, folder, say)
    with started(bar, worklist.look()) as shown:
        return worklist.work(lambda progress, doing: show(shown, progress, doing))


def train_in_processes(
    plan: Plan,
    folder: Path,
    num_threads: int | None,
    num_processes: int,
    *,
    bar: Any,
    say: Callable[[str], None],
    worklist_class: type[Worklist] = Worklist,
    watching: Worklist | None = None,
) -> Progress:
    """Trains what a plan asks for in new processes, and watches them.

    A process that is killed is named in `failed`; what it was training is trained by the others.

    Args:
        plan, folder, num_threads, bar, say: As for `train_here`.
        num_processes: How many.
        worklist_class: What each of them works off.
        watching: The worklist by which this process watches; one of `worklist_class` when left out.

    Raises:
        KeyboardInterrupt: on Ctrl-C, when every process has ended the update that it was making.
    """
    worklist = worklist_class(plan, folder, say) if watching is None else watching
    context = multiprocessing.get_context("spawn")
    stopped, stop = context.Pipe(duplex=False)  # closed with this process, however that ends, or before
    # A pool each: the death of a process breaks its pool, and with it all that a pool has.
    settings: dict[str, Any] = {"mp_context": context, "initializer": _start_worker, "initargs": (stopped,)}
    pools = [ProcessPoolExecutor(1, **settings) for _ in range(num_processes)]
    answers: list[Future[tuple[Progress, list[str], list[str]]]] = []
    try:
        with started(bar, worklist.look()) as shown:
            for pool in pools:
                answers.append(pool.submit(_work, plan, folder, num_threads, worklist_class))
                pool.shutdown(wait=False)  # its process ends with its work
            while wait(answers, SECONDS_BETWEEN_LOOKS).not_done:
                show(shown, worklist.look(), "")
            show(shown, worklist.look(), "")
    finally:
        stop.close()
        wait(answers)
    lines: dict[str, None] = {}
    warnings: dict[str, None] = {}
    for number, answer in enumerate(answers, start=1):
        if isinstance(answer.exception(), BrokenProcessPool):
            why = "it was killed, or ended before its work; the same command goes on with what is left"
            worklist.progress.failed[f"process {number} of {num_processes}"] = why
            continue
        progress, said, warned = answer.result()
        worklist.progress.failed |= progress.failed
        worklist.progress.skipped |= progress.skipped
        lines |= dict.fromkeys(said)
        warnings |= dict.fromkeys(warned)
    for line in lines:
        say(line)
    if watching is None:  # or else this process has loaded the same faces
        for warning in warnings:
            logging.getLogger(_OF_DATA).warning("%s", warning)
    return worklist.look()


def train_on_ray(
    plan: Plan, folder: Path, num_threads: int | None, engine: RayEngine, *, bar: Any, say: Callable[[str], None]
) -> Progress:
    """Trains what a plan asks for with the workers of Ray.

    Args:
        plan, folder, num_threads, bar, say: As for `train_here`.
        engine: Says where Ray runs, and how many trainings are made at once.

    Raises:
        KeyboardInterrupt: on Ctrl-C, when the workers were told to stop.
        LaunchError: Ray cannot be reached, or was lost.
    """
    worklist = RayWorklist(plan, folder, say, engine=engine, num_threads=num_threads)
    with started(bar, worklist.look()) as shown:
        return worklist.work(lambda progress, doing: show(shown, progress, doing))


class _Worker:
    """What a process that was started for a study has to know about the one that started it.

    Args:
        stopped: Ready for reading as soon as work is to end: its other end was closed, or went with its process.
    """

    def __init__(self, stopped: Connection):
        self.stopped, self.working = stopped, threading.Lock()

    def watch(self) -> None:
        """Interrupts the work when it is to end; ends the process where nobody is left to end it."""
        self.stopped.poll(None)
        thread, parent = threading.main_thread().ident, multiprocessing.parent_process()
        if thread is not None:
            signal.pthread_kill(thread, signal.SIGINT)
        if parent is not None:
            parent.join()
        with self.working:
            os._exit(1)


_worker: _Worker


def _start_worker(stopped: Connection) -> None:
    """Makes Ctrl-C in a terminal a matter of the process that started this one, which passes it on."""
    global _worker
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker = _Worker(stopped)
    threading.Thread(target=_worker.watch, daemon=True).start()


def _work(
    plan: Plan, folder: Path, num_threads: int | None, worklist_class: type[Worklist] = Worklist
) -> tuple[Progress, list[str], list[str]]:
    """What one process does: how far it came, its lines for people, and what loading faces warned of."""
    lines: list[str] = []
    worklist = worklist_class(plan, folder, lines.append)
    with _worker.working, told_later(_OF_DATA) as warnings:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            set_num_threads(num_threads)
            if not _worker.stopped.poll(0):
                worklist.work()
        except KeyboardInterrupt:
            pass
        except Exception as error:
            worklist.progress.failed[f"process {os.getpid()}"] = reason_of(error)
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            sys.stdout.flush()
    return worklist.progress, lines, warnings


def started(bar: Callable[[int], Any], progress: Progress) -> Any:
    """A bar that knows what was done before, so that it tells how long the rest takes.

    Args:
        bar: From a total to a progress bar, as `tqdm` makes it.
        progress: How far a study is at its start.
    """
    shown = bar(progress.total)
    shown.initial = shown.n = progress.done
    return shown


def show(bar: Any, progress: Progress, doing: str) -> None:
    """Moves a bar to where a study is."""
    bar.total, bar.n = progress.total, progress.done
    if doing:
        bar.set_description(doing, refresh=False)
    bar.refresh()
