"""A study in one process or several, and from the command line's point of view: start, watch, stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .plan import Plan
from .plan_file import PLAN_FILE, read_plan, write_plan
from .worklist import SECONDS_BETWEEN_LOOKS, Progress, Worklist

_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


def leave_launcher() -> tuple[int, int]:
    """Rank and number of the processes that `torchrun` started; from here on each works for itself.

    The processes of a study share its folder, not a training, so nothing below may take them for one group.
    """
    rank, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    for name in [*os.environ]:
        if name in _LAUNCHER or name.startswith("TORCHELASTIC_"):
            del os.environ[name]
    return rank, count


def usable_cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def work_here(
    plan: Plan,
    folder: Path,
    num_threads: int | None,
    *,
    bar: Any,
    say: Callable[[str], None],
    is_worker: bool = False,
) -> Progress:
    """Works a plan off in this process, with a bar that shows how far everybody is together.

    Args:
        plan: What to train.
        folder: The study's.
        num_threads: Of torch; as many as it takes by itself when left out.
        bar: From a total to a progress bar, as `tqdm` makes it.
        say: Called with every line for people.
        is_worker: Whether another process started this one: should that be killed, this one ends, too.
    """
    import torch

    if num_threads is not None:
        torch.set_num_threads(num_threads)
    worklist = Worklist(plan, folder, say)
    parent = os.getppid()
    with bar(worklist.look().total) as shown:

        def on_progress(progress: Progress, doing: str) -> None:
            show(shown, progress, doing)

        return worklist.work(on_progress, until=lambda: is_worker and os.getppid() != parent)


def show(bar: Any, progress: Progress, doing: str) -> None:
    """Moves a bar to where a study is."""
    bar.total, bar.n = progress.total, progress.done
    if doing:
        bar.set_description(doing, refresh=False)
    bar.refresh()


def work_together(
    plan: Plan,
    folder: Path,
    command: Sequence[str],
    num_processes: int,
    *,
    bar: Any,
    say: Callable[[str], None],
) -> Progress:
    """Starts processes that work a plan off, and watches them.

    Args:
        plan: What to train.
        folder: The study's.
        command: What starts one worker; it prints, as its last line, what `told` gives of its progress.
        num_processes: How many.
        bar, say: As for `work_here`.

    Raises:
        KeyboardInterrupt: on Ctrl-C, when every worker has ended the update that it was making.
    """
    worklist = Worklist(plan, folder, say)
    with ExitStack() as files:
        answers = [files.enter_context(tempfile.TemporaryFile()) for _ in range(num_processes)]
        # Sessions of their own: Ctrl-C reaches this process, which passes it on once.
        workers = [subprocess.Popen(command, start_new_session=True, stdout=answer) for answer in answers]
        try:
            with bar(worklist.look().total) as shown:
                while any(worker.poll() is None for worker in workers):
                    show(shown, worklist.look(), "")
                    for worker in workers:
                        try:
                            worker.wait(SECONDS_BETWEEN_LOOKS / num_processes)
                        except subprocess.TimeoutExpired:
                            continue
                show(shown, worklist.look(), "")
        finally:
            for worker in workers:
                if worker.poll() is None:
                    worker.send_signal(signal.SIGINT)
            for worker in workers:
                worker.wait()
        progress = worklist.progress
        for worker, answer in zip(workers, answers, strict=True):
            if worker.returncode != 0:
                progress.failed.setdefault(f"process {worker.pid}", f"ended with status {worker.returncode}")
                continue
            answer.seek(0)
            found = json.loads(answer.read().splitlines()[-1])
            progress.failed |= found["failed"]
            for name, why in found["skipped"].items():
                if name not in progress.skipped:
                    progress.skipped[name] = why
                    say(f"{name} is skipped: {why}")
    return worklist.look()


def told(progress: Progress) -> str:
    """What a worker says of its part, in one line."""
    return json.dumps({"failed": progress.failed, "skipped": progress.skipped})


def remember_plan(plan: Plan, folder: Path) -> None:
    """Writes `plan.yaml` of a study; whoever reads meanwhile sees the old one or the new one."""
    write_plan(plan, folder / PLAN_FILE)


def known_plan(folder: Path) -> Plan:
    """The plan of a study that was begun.

    Raises:
        ConfigError: there is none.
    """
    if not (folder / PLAN_FILE).is_file():
        raise ConfigError(
            f"'{folder}' holds no study to go on with. Say what to train: `--plan FILE`, or `--tasks NAME=DIR ...` "
            "with `--encoders` and `--methods`."
        )
    return read_plan(folder / PLAN_FILE)


def python_command(*words: str) -> list[str]:
    """`ciao WORDS` in a process of its own."""
    return [sys.executable, "-m", "ciao_peft.cli", *words]
