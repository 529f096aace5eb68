"""Reading on a GPU: many worlds against one, an adapter against the bare encoder, storing features, one frame.

    python benchmarks/bench_gpu_reading.py

Takes a few minutes on an NVIDIA GPU, and measures nothing without one. Each figure is written as soon as it is known:
what a user waits, what kernels take, and how busy the GPU is. What is captured in a CUDA graph or compiled is measured
in a process of its own. `--smoke --results FOLDER` runs all but those, tiny, on the CPU.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from gpu import NO_GPU, Figures, apart, device, measured, per_picture
from measuring import arguments, small_face, tiny, vgg16

from ciao_peft import CIAOConfig, CIAOModel, Preprocessing, cache_features, get_ciao_model

CONFIG = CIAOConfig(problem_type="single_label_classification", num_labels=7)
CASES = {"VGG16 at 96x96, B=32": (vgg16, (3, 96, 96), 32), "small-face, B=64": (small_face, None, 64)}
WORLDS = {1: None, 4: 1.3, 16: 2.0, 64: 5.0}  # and the most that reading so many may take over reading one
TINY = (tiny, (3, 16, 16), 4)


def worlds(make: Any, size: Any, count: int) -> CIAOModel:
    model = get_ciao_model(make(), CONFIG, "0", input_size=size)
    for name in range(1, count):
        model.add_adapter(str(name), CONFIG)
    return model.to(device()).eval()


def pixels_for(model: CIAOModel, batch: int) -> torch.Tensor:
    return torch.rand((batch, *model.input_size), generator=torch.Generator().manual_seed(0)).to(device())


def captured(call: Callable[[], Any]) -> Callable[[], Any]:
    """The replay of a CUDA graph of a call."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=aside):
        call()
    return graph.replay


@torch.no_grad()
def part(name: str, how: str, what: str, repeats: int) -> dict[str, float]:
    """The encoder or one adapter, captured or compiled."""
    make, size, batch = CASES[name]
    model = worlds(make, size, 1)
    pixels = pixels_for(model, batch)
    module = model.backbone if what == "encoder" else model
    if how == "captured":
        return measured(captured(lambda: module(pixels)), repeats)
    compiled = torch.compile(module, dynamic=False)
    return measured(lambda: compiled(pixels), repeats)


@torch.no_grad()
def reading(figures: Figures, name: str, case: Any, counts: dict[int, float | None], repeats: int) -> None:
    make, size, batch = case
    model = worlds(make, size, max(counts))
    pixels = pixels_for(model, batch)
    figures.add(f"encoder, {name}", lambda: measured(lambda: model.backbone(pixels), repeats))
    figures.add(f"adapter, {name}", lambda: measured(lambda: model(pixels), repeats))
    figures.ratio(f"adapter / encoder, {name}", f"adapter, {name}", f"encoder, {name}", 1.3)
    for count, most in counts.items():
        names = [str(n) for n in range(count)]
        run = partial(model.read, pixels, adapter_names=names)
        figures.add(f"read {count}, {name}", lambda run=run: measured(run, repeats))
        if most is not None:
            figures.ratio(f"read {count} / read 1, {name}", f"read {count}, {name}", f"read 1, {name}", most)


def storing(figures: Figures, case: Any, count: int) -> None:
    """`cache_features` in memory against the trunk alone, pictures that are decoded already."""
    make, size, batch = case
    model = worlds(make, size, 1)
    generator = torch.Generator().manual_seed(0)
    faces = [{"pixel_values": torch.rand(model.input_size, generator=generator), "labels": n % 7} for n in range(count)]
    pixels = pixels_for(model, batch)

    def trunk() -> dict[str, float]:
        found = measured(lambda: model.extract_features(pixels), 3)
        return {key: value if key == "busy" else value / batch for key, value in found.items()}

    stored = partial(cache_features, model, faces, batch_size=batch, disable_tqdm=True)
    figures.add("trunk, one picture of a batch", trunk)
    figures.add("cache_features, one picture", lambda: per_picture(stored, count, 1))
    figures.ratio("trunk / cache_features", "trunk, one picture of a batch", "cache_features, one picture", 0.7, True)


def frame(figures: Figures, case: Any, repeats: int) -> None:
    """One picture from an array to named answers in two worlds."""
    make, size, _ = case
    model = worlds(make, size, 2)
    if model.preprocessing is None:
        model.preprocessing = Preprocessing(size=model.input_size[1:], mean=(0.5,) * 3, std=(0.25,) * 3)
    picture = np.random.default_rng(0).integers(0, 255, (*model.input_size[1:], 3)).astype(np.uint8)
    run = partial(model.predict, picture, adapter_names=["0", "1"], disable_tqdm=True)
    figures.add("predict of one array in two worlds", lambda: measured(run, repeats))


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__, argv, part="")
    if not torch.cuda.is_available() and not args.smoke:
        print(NO_GPU)
        return
    repeats = 1 if args.smoke else 5
    if args.part:
        print(json.dumps(part(*args.part.split("; "), repeats)))
        return
    figures = Figures("gpu_reading", args)
    for name, case in ({"tiny": TINY} if args.smoke else CASES).items():
        reading(figures, name, case, {1: None, 2: 1.3} if args.smoke else WORLDS, repeats)
    storing(figures, TINY if args.smoke else CASES["VGG16 at 96x96, B=32"], 8 if args.smoke else 4096)
    frame(figures, TINY if args.smoke else CASES["small-face, B=64"], repeats)
    if args.smoke:
        return
    for name in CASES:
        for how in ("captured", "compiled"):
            for what in ("encoder", "adapter"):
                figures.add(f"{how} {what}, {name}", partial(apart, __file__, f"{name}; {how}; {what}", args))
            sides = f"{how} adapter, {name}", f"{how} encoder, {name}"
            figures.ratio(f"{how} adapter / {how} encoder, {name}", *sides, 1.1)


if __name__ == "__main__":
    main(sys.argv[1:])
