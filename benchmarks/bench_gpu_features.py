"""Storing features on a GPU: pictures a second beside those of the bare trunk, and the share of time it is busy.

    python benchmarks/bench_gpu_features.py

Takes about three minutes on one GPU, and says so and ends where there is none; `--smoke` runs it tiny on the CPU.
Pictures that are decoded already are tensors in the memory of the host; the bare trunk finds its batches on the device.
"Busy" is the share of the time that a user waits in which kernels and copies run, by torch's profiler. JPEG files of
224 x 224 pixels are opened by threads (0 workers) or by worker processes. Each figure is written at once.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import torch
from gpu import NO_GPU, Figures, device, per_picture
from measuring import arguments, small_face, tiny, vgg16

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
TINY = {"tiny": (tiny, 16, 16, 2, torch.float32)}
JPEGS, WORKERS = 4096, (0, 4, 12)
TURNS = 3


def model_of(make, side: int, dtype: torch.dtype):
    preprocessing = Preprocessing(size=(side, side))
    backbone = make().to(device(), dtype)
    return get_ciao_model(backbone, CONFIG, input_size=(3, side, side), preprocessing=preprocessing).eval()


def decoded(figures: Figures, name: str, case: tuple, turns: int) -> None:
    make, side, count, batch, dtype = case
    model = model_of(make, side, dtype)
    pixels = torch.rand(count, 3, side, side)
    faces = [{"pixel_values": face, "labels": 0} for face in pixels]
    opened, on_device = model.opened, [part.to(device(), dtype) for part in pixels[: 8 * batch].split(batch)]

    def trunk() -> None:
        with torch.no_grad():
            for part in on_device:
                opened.features(opened.rooted, part, False)

    def folder() -> None:
        with tempfile.TemporaryDirectory() as place:
            cache_features(model, faces, Path(place) / "features", batch_size=batch)

    names = {run: f"{name}: {run}" for run in ("bare trunk", "stored in memory", "stored in a folder")}
    figures.add(names["bare trunk"], lambda: per_picture(trunk, sum(map(len, on_device)), turns))
    in_memory = lambda: cache_features(model, faces, batch_size=batch)  # noqa: E731
    figures.add(names["stored in memory"], lambda: per_picture(in_memory, count, turns))
    figures.add(names["stored in a folder"], lambda: per_picture(folder, count, turns))
    for run in ("stored in memory", "stored in a folder"):
        figures.ratio(f"bare trunk / {names[run]}", names["bare trunk"], names[run], 0.7, at_least=True)


def jpegs(figures: Figures, make, side: int, count: int, workers: tuple[int, ...], turns: int) -> None:
    from datasets import Dataset, Features, Image

    contents = []
    for n in range(min(count, 50)):
        file = io.BytesIO()
        paint_face(seed=n, size=224).save(file, "JPEG", quality=90)
        contents.append({"bytes": file.getvalue(), "path": None})
    rows = {"image": [contents[n % len(contents)] for n in range(count)]}
    table = Dataset.from_dict(rows, features=Features({"image": Image()}))
    model = model_of(make, side, torch.float32)
    samples = Samples(table, model.preprocessing)
    batches = [list(range(n, min(n + 64, count))) for n in range(0, count, 64)]

    def drain(number: int) -> None:
        for _ in read_ahead(samples, batches, number, device()):
            pass

    def store(number: int) -> None:
        cache_features(model, table, batch_size=64, dataloader_num_workers=number)

    for number in workers:
        for what, run in (("opened alone", drain), ("stored", store)):
            name = f"JPEG files, {number} workers: {what}"
            figures.add(name, lambda run=run, n=number: per_picture(lambda: run(n), count, turns))


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    if not args.smoke and not torch.cuda.is_available():
        print(NO_GPU)
        return
    figures = Figures("gpu_features", args)
    cases, turns = (TINY, 1) if args.smoke else (CASES, TURNS)
    for name, case in cases.items():
        decoded(figures, name, case, turns)
    make, side, *_ = next(iter(cases.values()))
    jpegs(figures, make, side, 8 if args.smoke else JPEGS, (0, 1) if args.smoke else WORKERS, turns)


if __name__ == "__main__":
    main()
