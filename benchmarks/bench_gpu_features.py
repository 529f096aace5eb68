"""Storing features on a GPU: pictures a second beside those of the bare trunk, and the share of time it computes.

    python benchmarks/bench_gpu_features.py

Takes about three minutes on one GPU, and says so and ends where there is none; `--smoke` runs it tiny on the CPU.
"Decoded" pictures are tensors in the memory of the host, and the bare trunk finds its batches on the device already.
"Busy" is the time in the trunk's kernels, by torch's profiler, as a share of the time that a user waits. JPEG files of
224 x 224 pixels are opened by threads (0 workers) or by worker processes. Each figure is printed at once.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measuring import arguments, recorded, small_face, tiny, vgg16

from ciao_peft import CIAOConfig, Preprocessing, cache_features, get_ciao_model
from ciao_peft.data import paint_face
from ciao_peft.features import Samples
from ciao_peft.features.passing import read_ahead

CONFIG = CIAOConfig(problem_type="single_label_classification", num_labels=7)
CASES = {  # backbone, side of its pixels, pictures, batch, dtype
    "VGG16, 96x96, float32": (vgg16, 96, 8192, 64, torch.float32),
    "VGG16, 96x96, bfloat16": (vgg16, 96, 8192, 256, torch.bfloat16),
    "small-face, float32": (small_face, 64, 16384, 256, torch.float32),
}
JPEGS, WORKERS = 4096, (0, 4, 12)
TURNS = 3


def waited(run: Callable[[], Any], turns: int) -> float:
    """The median of the seconds that a user waits, after one run to warm up."""
    seconds = []
    for _ in range(turns + 1):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:])


def kernel_seconds(run: Callable[[], Any]) -> float | None:
    """Seconds in kernels of one run; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    entries = profiler.key_averages()
    return sum(e.self_device_time_total for e in entries if not e.key.startswith(("Memcpy", "Memset"))) / 1e6


def model_of(make, side: int, dtype: torch.dtype, device: torch.device):
    preprocessing = Preprocessing(size=(side, side))
    backbone = make().to(device, dtype)
    return get_ciao_model(backbone, CONFIG, input_size=(3, side, side), preprocessing=preprocessing).eval()


def decoded(make, side: int, count: int, batch: int, dtype: torch.dtype, device: torch.device, turns: int) -> dict:
    model = model_of(make, side, dtype, device)
    pixels = torch.rand(count, 3, side, side)
    faces = [{"pixel_values": face, "labels": 0} for face in pixels]
    opened, on_device = model.opened, [part.to(device, dtype) for part in pixels[: 8 * batch].split(batch)]
    rounds = count / sum(map(len, on_device))

    def trunk() -> None:
        with torch.no_grad():
            for part in on_device:
                opened.features(opened.rooted, part, False)

    def folder() -> None:
        with tempfile.TemporaryDirectory() as place:
            cache_features(model, faces, Path(place) / "features", batch_size=batch)

    seconds = {"trunk": rounds * waited(trunk, turns)}
    seconds["memory"] = waited(lambda: cache_features(model, faces, batch_size=batch), turns)
    seconds["folder"] = waited(folder, turns)
    kernels = kernel_seconds(trunk)
    busy = None if kernels is None else {name: rounds * kernels / value for name, value in seconds.items()}
    return {
        "pictures": count,
        "batch_size": batch,
        "pictures_per_second": {name: count / value for name, value in seconds.items()},
        "ratio": {name: seconds["trunk"] / seconds[name] for name in ("memory", "folder")},
        "busy": busy,
    }


def jpegs(make, side: int, count: int, device: torch.device, workers: tuple[int, ...], turns: int) -> dict:
    from datasets import Dataset, Features, Image

    contents = []
    for n in range(min(count, 50)):
        file = io.BytesIO()
        paint_face(seed=n, size=224).save(file, "JPEG", quality=90)
        contents.append({"bytes": file.getvalue(), "path": None})
    rows = {"image": [contents[n % len(contents)] for n in range(count)]}
    table = Dataset.from_dict(rows, features=Features({"image": Image()}))
    model = model_of(make, side, torch.float32, device)
    samples, batches = (
        Samples(table, model.preprocessing),
        [list(range(n, min(n + 64, count))) for n in range(0, count, 64)],
    )

    def drain(number: int) -> None:
        for _ in read_ahead(samples, batches, number, device):
            pass

    found: dict[str, Any] = {"pictures": count, "decoding": {}, "memory": {}}
    for number in workers:
        found["decoding"][str(number)] = count / waited(lambda n=number: drain(n), turns)
        store = lambda n=number: cache_features(model, table, batch_size=64, dataloader_num_workers=n)  # noqa: E731
        found["memory"][str(number)] = count / waited(store, turns)
    return found


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    if not args.smoke and not torch.cuda.is_available():
        print("bench_gpu_features: skipped, as torch finds no GPU of CUDA here; --smoke runs it tiny on the CPU.")
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cases, turns = (CASES, TURNS) if not args.smoke else ({"tiny": (tiny, 16, 16, 2, torch.float32)}, 1)
    with recorded("gpu_features", args) as record:
        record["device"] = torch.cuda.get_device_name() if device.type == "cuda" else "none"
        record["cases"] = {}
        for name, case in cases.items():
            record["cases"][name] = decoded(*case, device, turns)
            print(name, record["cases"][name], flush=True)
        name, (make, side, *_) = next(iter(cases.items()))
        record["jpegs"] = {
            name: jpegs(make, side, *((8, device, (0, 1), 1) if args.smoke else (JPEGS, device, WORKERS, turns)))
        }
        print(record["jpegs"], flush=True)


if __name__ == "__main__":
    main()
