"""Features stored by Ray's workers against one process: processor seconds per row, rows per second, what a kill costs.

    python benchmarks/bench_ray.py

Takes about three minutes on free cores. Each arrangement is watched from its second block on, when all of its workers
are at work. Processor seconds are those of every process that takes part, Ray's own included. Its daemons need some all
the time, whatever the rows: where workers wait for a core, more of that falls on each row. `load` says how many
processes wanted one. Where that is more than `cores`, rows per second say what the machine was doing, not what Ray
costs, and the overhead is an upper bound. One of two workers is killed when two thirds are done.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import torch
from measuring import arguments, recorded, small_face

from ciao_peft import cache_features
from ciao_peft.engine import RayEngine, ray_running
from ciao_peft.features import extraction

BATCH, BLOCK, ROWS = 32, 128, 1536
FIRST = 2  # blocks that are not counted: workers start with them


class Faces(torch.utils.data.Dataset):
    """Noise as prepared faces; each reading through a worker's trunk may be noted.

    Args:
        count: How many.
        side: Of the pixels.
        notes: A file that gets the number of each face that is read; none where it is left out.
    """

    def __init__(self, count: int, side: int, notes: Path | None = None):
        self.pixels = torch.rand(64, 3, side, side, generator=torch.Generator().manual_seed(0))
        self.count, self.notes, self.labels, self.here = count, notes, [0] * count, os.getpid()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.notes is not None and os.getpid() != self.here:
            with self.notes.open("a") as file:
                file.write(f"{index}\n")
        return {"pixel_values": self.pixels[index % 64] + index / self.count, "labels": 0}


def seconds_of_all() -> float:
    """Processor seconds of this process and all below it: Ray's daemons and workers are among them."""
    total = 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


@contextmanager
def watched(module: Any, name: str, marks: list[tuple[int, float, float]], after: Any) -> Iterator[None]:
    """Notes rows, wall seconds and processor seconds, each time that a generator of the library gives a count."""
    inner, rows = getattr(module, name), 0

    def outer(*given: Any, **named: Any) -> Iterator[int]:
        nonlocal rows
        for count in inner(*given, **named):
            rows += count
            marks.append((rows, time.perf_counter(), seconds_of_all()))
            after(rows)
            yield count

    with mock.patch.object(module, name, outer):
        yield


def measure(faces: Faces, workers: int | None, rows_per_task: int, kills: bool = False) -> dict[str, float]:
    """Rows per second, and processor milliseconds per row, of one arrangement.

    Args:
        faces: What is stored.
        workers: Of Ray; None for this process.
        rows_per_task: As for `RayEngine`.
        kills: Whether a worker is killed when two thirds are done; nothing is measured from there on.
    """
    marks: list[tuple[int, float, float]] = []
    engine = None if workers is None else RayEngine(workers=workers, rows_per_task=rows_per_task)
    name = "pass_through_trunk" if engine is None else "pass_by_ray"
    last = len(faces) * 2 // 3 if kills else len(faces)

    def kill(rows: int) -> None:
        if not kills or rows < last or any(mark[0] >= last for mark in marks[:-1]):
            return
        found = [p for p in psutil.Process().children(recursive=True) if p.name().startswith("ray::MapWorker")]
        found[0].send_signal(signal.SIGKILL)

    before = time.perf_counter()
    with watched(extraction, name, marks, kill), tempfile.TemporaryDirectory() as folder:
        cache_features(small_face(), faces, Path(folder) / "features", batch_size=BATCH, engine=engine)
    whole = time.perf_counter() - before
    counted = [mark for mark in marks if FIRST * rows_per_task <= mark[0] <= max(last, marks[0][0])] or marks
    rows, wall, used = (end - start for end, start in zip(counted[-1], counted[0], strict=True))
    return {
        "rows_per_second": max(rows, 1) / max(wall, 1e-3),
        "processor_ms_per_row": 1000 * max(used, 0.01) / max(rows, 1),  # the system counts in hundredths
        "seconds_before_the_first_block": marks[0][1] - before,
        "whole_seconds": whole,
        "load": os.getloadavg()[0],
    }


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    count, block, side = (96, 16, 64) if args.smoke else (ROWS, BLOCK, 64)
    # In this process, pictures would be read while the trunk computes; a worker has one core.
    torch.set_num_threads(1)
    here = Path(__file__).resolve().parent  # workers import this file
    settings = {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(here), str(here.parent), os.environ.get("PYTHONPATH")))),
        "RAY_AUTH_MODE": "disabled",  # on the loopback alone
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # as the process that they are compared with
    }
    with mock.patch.dict(os.environ, settings), recorded("ray", args) as record:
        record["sizes"] = {"rows": count, "rows_per_task": block, "batch": BATCH}
        start = time.perf_counter()
        alone = record["one process"] = measure(Faces(count, side), None, block)
        with ray_running(RayEngine(workers=2, address="local", object_store_memory=200 * 2**20)):
            record["seconds_to_start_ray"] = time.perf_counter() - start - alone["whole_seconds"]
            found = {"Ray, 1 worker": measure(Faces(count, side), 1, block), "Ray, 2 workers": {}}
            record["a worker is killed"] = {}
            if not args.smoke:
                with tempfile.TemporaryDirectory() as folder:
                    faces = Faces(count, side, Path(folder) / "notes")
                    found["Ray, 2 workers"] = measure(faces, 2, block, kills=True)
                    read = (Path(folder) / "notes").read_text().split()
                record["a worker is killed"] = {"rows": count, "computed_twice": len(read) - len({*read})}
        for workers, (name, figures) in enumerate(found.items(), start=1):
            record[name] = figures
            if figures:
                figures["overhead_per_row"] = figures["processor_ms_per_row"] / alone["processor_ms_per_row"] - 1
                figures["of_ideal"] = figures["rows_per_second"] / (workers * alone["rows_per_second"])


if __name__ == "__main__":
    main()
