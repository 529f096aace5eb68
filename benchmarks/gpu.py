"""Wall time and kernel time beside each other: how busy a GPU is, and how busy it could be."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measuring import machine
from torch.profiler import ProfilerActivity, profile

NO_GPU = "There is no NVIDIA GPU here, so nothing is measured; `--smoke --results FOLDER` runs it tiny on the CPU."


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device() -> torch.device:
    """The GPU; the CPU for a dry run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def kernel_seconds(profiled: profile) -> float:
    """Time in kernels of everything that was profiled; on the CPU that in operations."""
    name = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    return sum(getattr(event, name) for event in profiled.key_averages()) / 1e6


def activities() -> list[ProfilerActivity]:
    return [ProfilerActivity.CUDA] if torch.cuda.is_available() else [ProfilerActivity.CPU]


def measured(run: Callable[[], Any], repeats: int, warm_up: int = 3, at_a_time: int = 10) -> dict[str, float]:
    """Seconds of one run: what a user waits, what kernels take, and their ratio.

    Args:
        run: Made again and again.
        repeats: Times that wall time is taken, each over several runs.
        warm_up: Runs before.
        at_a_time: Runs of each time, and of the profile.
    """
    for _ in range(warm_up):
        run()
    walls = []
    for _ in range(repeats):
        synchronise()
        start = time.perf_counter()
        for _ in range(at_a_time):
            run()
        synchronise()
        walls.append((time.perf_counter() - start) / at_a_time)
    with profile(activities=activities()) as profiled:
        for _ in range(at_a_time):
            run()
        synchronise()
    wall, kernel = median(walls), kernel_seconds(profiled) / at_a_time
    return {"wall": wall, "kernel": kernel, "busy": kernel / wall}


def per_picture(run: Callable[[], Any], count: int, turns: int) -> dict[str, float]:
    """`measured` of one picture where a run is over so many, and how many a second."""
    found = measured(run, turns, warm_up=1, at_a_time=1)
    found |= {name: found[name] / count for name in ("wall", "kernel")}
    return found | {"pictures/s": 1 / found["wall"]}


class Figures:
    """Figures by name, each written to `<results>/<subject>.json` as soon as it is known.

    Args:
        subject: Name of the file.
        args: Of the command line.
    """

    def __init__(self, subject: str, args: argparse.Namespace):
        self._path: Path = args.results / f"{subject}.json"
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
        self.figures: dict[str, dict[str, Any]] = {}
        self._record = {"machine": machine(), "gpu": gpu, "commit": commit(), "figures": self.figures, "seconds": 0.0}
        self._started = time.perf_counter()

    def add(self, name: str, make: Callable[[], dict[str, Any]]) -> None:
        """Measures, prints and writes one figure; one that fails is written with its error, and the rest goes on."""
        try:
            figure = make()
        except Exception as error:
            figure = {"error": f"{type(error).__name__}: {error}"[:300]}
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.figures[name] = figure
        self._record["seconds"] = round(time.perf_counter() - self._started, 1)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self._record, indent=1) + "\n", encoding="utf-8")
        print(f"{name:70} {line_of(figure)}", flush=True)

    def ratio(self, name: str, over: str, under: str, target: float, at_least: bool = False, key: str = "wall") -> None:
        """Adds the ratio of two figures and whether it meets a target; nothing where one of them is missing."""
        both = [self.figures.get(side, {}).get(key) for side in (over, under)]
        if all(both):
            found = both[0] / both[1]
            met = found >= target if at_least else found <= target
            self.add(name, lambda: {"ratio": found, "target": target, "at_least": at_least, "met": met})

    def share(self, name: str, target: float) -> None:
        """Adds whether the GPU is busy enough in a figure."""
        if "busy" in self.figures.get(name, {}):
            busy = self.figures[name]["busy"]
            met = {"ratio": busy, "target": target, "at_least": True, "met": busy >= target}
            self.add(f"busy: {name}", lambda: met)


def line_of(figure: dict[str, Any]) -> str:
    if "error" in figure:
        return figure["error"]
    if "ratio" in figure:
        sign = ">=" if figure["at_least"] else "<="
        return f"{figure['ratio']:.2f} ({sign} {figure['target']:.2f}: {'met' if figure['met'] else 'NOT MET'})"
    text = f"wall {1000 * figure['wall']:9.3f} ms  kernel {1000 * figure['kernel']:9.3f} ms  busy {figure['busy']:6.1%}"
    return text + "".join(f"  {name} {value:,.4g}" for name, value in figure.items() if name not in "wall kernel busy")


def commit() -> str:
    here = Path(__file__).parent
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def apart(script: str, part: str, args: argparse.Namespace, seconds: int = 240) -> dict[str, Any]:
    """One figure from a process of its own: what captures or compiles may end it, and no other figure.

    Args:
        script: Path of the benchmark.
        part: What it calls the figure; given to it as `--part`.
        args: Of the command line.
        seconds: Until it is given up.
    """
    words = [sys.executable, script, "--part", part, "--results", str(args.results)]
    done = subprocess.run(
        [*words, *(["--smoke"] if args.smoke else [])],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        cwd=Path(script).parent,
    )
    if done.returncode:
        raise RuntimeError(f"{part} ended with {done.returncode}: {done.stderr.strip()[-200:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
