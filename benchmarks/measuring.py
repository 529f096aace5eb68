"""Fair times on a busy machine: everything side by side, in turns, and medians of ratios within a turn."""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

RESULTS = Path(__file__).parent / "results"
torch.set_num_threads(1)  # threads that wait for each other on a shared machine measure the machine


def machine() -> dict[str, Any]:
    """Where and with what a benchmark ran."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }


def rates(side: int = 1024, numbers: int = 2**25) -> dict[str, float]:
    """The two rates of a roofline, of one thread: products and sums in float32, and bytes to and from memory.

    Args:
        side: Of the square matrices that are multiplied.
        numbers: Of float32 in what is copied; far more than the caches hold.
    """
    a, b = torch.rand(side, side), torch.rand(side, side)
    source, target = torch.rand(numbers), torch.empty(numbers)
    runs = {"product": lambda: torch.mm(a, b, out=b.new_empty(side, side)), "copy": lambda: target.copy_(source)}
    seconds = {name: min(values) for name, values in in_turns(runs, 5).items()}
    return {"flop": 2 * side**3 / seconds["product"], "bytes": 2 * 4 * numbers / seconds["copy"]}


def arguments(description: str | None, argv: list[str] | None = None, **more: Any) -> argparse.Namespace:
    """What every benchmark takes from its command line.

    Args:
        description: The docstring of the script.
        argv: In place of the command line.
        more: Further arguments with their defaults.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny, in seconds: shows that it runs, measures nothing")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the figures (default: %(default)s)")
    for name, default in more.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    args = parser.parse_args(argv)
    if args.smoke and args.results == RESULTS:
        parser.error("--smoke measures nothing worth keeping: give --results another folder")
    return args


def processor_seconds() -> float:
    """Of this process and those it waited for: what others do on the machine changes it little."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def in_turns(cases: dict[str, Callable[[], Any]], turns: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Processor seconds of each case, turn after turn, in an order that changes: nobody always follows the same one."""
    names = list(cases)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warm_up, turns):
        for name in names if turn % 2 == 0 else reversed(names):
            gc.collect()
            start = processor_seconds()
            cases[name]()
            passed = processor_seconds() - start
            if turn >= 0:
                seconds[name].append(passed)
    return seconds


def ratio(seconds: dict[str, list[float]], slow: str, fast: str) -> float:
    """The median over turns of how many times longer one case took than the other."""
    return median(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True))


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    """The median seconds of each case."""
    return {name: median(values) for name, values in seconds.items()}


class LiveBytes(TorchDispatchMode):
    """Bytes of tensors made inside and alive at the same time, at most."""

    def __init__(self) -> None:
        super().__init__()
        self._known: WeakSet = WeakSet()
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in given:
                self._known.add(tensor.untyped_storage())
        self.peak = max(self.peak, sum(storage.nbytes() for storage in self._known))
        return result


@contextmanager
def recorded(subject: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A record to fill in, written to `<results>/<subject>.json` if nothing failed."""
    record: dict[str, Any] = {"machine": machine() | (rates(64, 2**12) if args.smoke else rates())}
    start = time.perf_counter()
    yield record
    record["seconds"] = round(time.perf_counter() - start, 1)
    args.results.mkdir(parents=True, exist_ok=True)
    (args.results / f"{subject}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{subject}: {json.dumps({k: v for k, v in record.items() if k != 'machine'})}")


@contextmanager
def stacked() -> Iterator[None]:
    """A context in which adapters are stacked, as on a GPU, whatever the device."""
    from ciao_peft.adapters import stack

    stack.STACKED_ON.add("cpu")
    try:
        yield
    finally:
        stack.STACKED_ON.discard("cpu")


def vgg16() -> nn.Module:
    """VGG16's convolutions with fresh weights, for 96x96 pixels: speed does not depend on what they say."""
    from torchvision.models import vgg16

    return vgg16(weights=None).features.eval()


def resnet50() -> nn.Module:
    """ResNet-50 with fresh weights, for 224x224 pixels."""
    from torchvision.models import resnet50

    return resnet50(weights=None).eval()


def tiny() -> nn.Module:
    """A chain of three convolutions on 16x16 pixels, to see that a benchmark runs."""
    units = [[nn.Conv2d(a, b, 3, padding=1), nn.ReLU()] for a, b in ((3, 4), (4, 8), (8, 8))]
    return nn.Sequential(*[layer for unit in units for layer in unit]).eval()


def small_face() -> nn.Module:
    """The encoder that comes with the library."""
    from ciao_peft import load_encoder

    return load_encoder("small-face")
