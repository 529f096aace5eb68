"""Training on a GPU: what a user waits for, what kernels take, and how busy the GPU is.

    python benchmarks/bench_gpu_training.py

Takes a few minutes on an NVIDIA GPU, and measures nothing without one. Each figure is written as soon as it is known.
A step is forward, both losses, backward and an update by fused AdamW. The trainings of `CIAOTrainer` run in processes
of their own: operation by operation, from CUDA graphs, and compiled. The contrastive loss is compared with the formula
of SupContrast, value and gradient. `--smoke --results FOLDER` runs all but compiling, tiny, on the CPU.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from bench_losses import CLASSES, DIM, formula
from gpu import NO_GPU, Figures, activities, apart, device, kernel_seconds, measured, synchronise
from measuring import arguments, resnet50, small_face, tiny, vgg16
from torch.profiler import profile

from ciao_peft import (
    CIAOConfig,
    CIAOTrainer,
    CIAOTrainingArguments,
    cache_features,
    get_ciao_model,
    supervised_contrastive_loss,
)

CONFIG = CIAOConfig(problem_type="single_label_classification", num_labels=7, decay_init=1.0)
STEPS = {  # backbone, size, batch, bf16, target of live over stored, wall
    "VGG16 at 96x96, B=32": (vgg16, (3, 96, 96), 32, False),
    "VGG16 at 96x96, B=256, bf16": (vgg16, (3, 96, 96), 256, True),
    "ResNet-50 at 224x224, B=32": (resnet50, (3, 224, 224), 32, False),
}
TRAININGS = {  # backbone, size, batch, bf16, faces, least share busy
    "small-face, B=64": (small_face, None, 64, False, 2048, 0.5),
    "small-face, B=1024, bf16": (small_face, None, 1024, True, 8192, 0.7),
    "VGG16 at 96x96, B=256, bf16": (vgg16, (3, 96, 96), 256, True, 2048, None),
}
HOW = {"as it is": False, "cuda-graphs": "cuda-graphs", "compiled": True}
LOSSES = (256, 1024, 4096, 16384)
TINY = (tiny, (3, 16, 16), 4, False)


def steps(figures: Figures, name: str, make: Any, size: Any, batch: int, bf16: bool, repeats: int) -> None:
    """Live, from features and from features with u, and whether wall times follow kernel times."""
    model = get_ciao_model(make(), CONFIG, input_size=size).to(device()).train()
    pixels = torch.rand((batch, *model.input_size), generator=torch.Generator().manual_seed(0)).to(device())
    labels = (torch.arange(batch) % 7).to(device())
    half = torch.autocast(device().type, torch.bfloat16) if bf16 else nullcontext()
    with half:
        with_u = model.extract_features(pixels, include_excitation=True)
    features = with_u[: len(model.opened.feature_shapes)]
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)

    def step(**given: Any) -> None:
        optimiser.zero_grad()
        with half:
            loss = model(**given, labels=labels).loss
        loss.backward()
        optimiser.step()

    runs = {"live": {"pixel_values": pixels}, "stored": {"features": features}, "with u": {"features": with_u}}
    for run, given in runs.items():
        figures.add(f"step, {name}, {run}", lambda given=given: measured(lambda: step(**given), repeats))
    live = figures.figures[f"step, {name}, live"]
    for run in ("stored", "with u"):
        found = figures.figures[f"step, {name}, {run}"]
        if "kernel" in found and "kernel" in live:
            could = live["kernel"] / found["kernel"]
            over = f"live / {run} in wall time, {name}"
            figures.ratio(over, f"step, {name}, live", f"step, {name}, {run}", 0.8 * could, at_least=True)


def training(name: str, how: str, smoke: bool) -> dict[str, float]:
    """Samples a second of `CIAOTrainer` from stored features, after its first updates, and how busy the GPU is."""
    make, size, batch, bf16, count, _ = (*TINY, 16, None) if smoke else TRAININGS[name]
    model = get_ciao_model(make(), CONFIG, input_size=size)
    generator = torch.Generator().manual_seed(0)
    faces = [{"pixel_values": torch.rand(model.input_size, generator=generator), "labels": n % 7} for n in range(count)]
    stored = cache_features(model.to(device()), faces, dtype="bfloat16" if bf16 else None, disable_tqdm=True)
    first, timed, profiled = (2, 2, 2) if smoke else (50, 200, 50)
    marks: dict[int, float] = {}
    profiler = profile(activities=activities())

    def on_log(entry: dict[str, Any]) -> None:
        if "loss" not in entry:
            return
        synchronise()
        marks[entry["step"]] = time.perf_counter()
        if entry["step"] == first + timed:
            profiler.start()
        if entry["step"] == first + timed + profiled:
            profiler.stop()

    args = CIAOTrainingArguments.recipe(
        "paper",
        max_steps=first + timed + profiled,
        per_device_train_batch_size=batch,
        bf16=bf16,
        eval_strategy="no",
        report_to="none",
        logging_steps=2 if smoke else 50,
        compile=HOW[how],
    )
    CIAOTrainer(model, args, on_log=on_log).train(stored)
    wall, kernel = (marks[first + timed] - marks[first]) / timed, kernel_seconds(profiler) / profiled
    return {"wall": wall, "kernel": kernel, "busy": kernel / wall, "samples/s": batch / wall, "could": batch / kernel}


def loss(function: Any, size: int, repeats: int) -> dict[str, float]:
    z = torch.randn(size, DIM, device=device(), requires_grad=True)
    labels = torch.randint(0, CLASSES, (size,), device=device())

    def run() -> None:
        torch.autograd.grad(function(z, labels), z)

    found = measured(run, repeats, at_a_time=3)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        found["memory"] = (torch.cuda.max_memory_allocated() - before) / (4 * size**2)
    return found


def losses(figures: Figures, sizes: tuple[int, ...], repeats: int) -> None:
    for size in sizes:
        plain = partial(formula, temperature=0.1)
        figures.add(f"loss, B={size}, ciao_peft", partial(loss, supervised_contrastive_loss, size, repeats))
        figures.add(f"loss, B={size}, formula", partial(loss, plain, size, repeats))
        sides = f"loss, B={size}, ciao_peft", f"loss, B={size}, formula"
        figures.ratio(f"loss / formula, B={size}", *sides, 1.0)
        if size >= 4096:
            figures.ratio(f"memory of loss / formula, B={size}", *sides, 0.25, key="memory")


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__, argv, part="")
    if not torch.cuda.is_available() and not args.smoke:
        print(NO_GPU)
        return
    if args.part:
        name, _, how = args.part.rpartition(": ")
        print(json.dumps(training(name, how, args.smoke)))
        return
    figures, repeats = Figures("gpu_training", args), 1 if args.smoke else 5
    losses(figures, (8, 16) if args.smoke else LOSSES, repeats)
    for name, case in ({"tiny": TINY} if args.smoke else STEPS).items():
        steps(figures, name, *case, repeats)
    for name, case in ({"tiny": (None,)} if args.smoke else TRAININGS).items():
        for how in ["as it is"] if args.smoke else HOW:
            figures.add(f"training, {name}: {how}", partial(apart, __file__, f"{name}: {how}", args))
            if case[-1] is not None and how != "compiled":
                figures.share(f"training, {name}: {how}", case[-1])


if __name__ == "__main__":
    main(sys.argv[1:])
