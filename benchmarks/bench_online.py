"""What one correction costs: an update of one face from stored features, and from a picture.

    python benchmarks/bench_online.py

Takes about two minutes. Each adapter has a full default memory (20 MB), of which 100 faces are the guard. "Usual" is
the default `OnlineArguments`, which stop when the correction is right; "most" takes all `max_steps` steps. Times are
processor seconds of one thread, medians over corrections, which two cores do not exceed; `wall` is the shortest wall
time with two threads, of the default. Features and pixels are noise: speed does not depend on what they say.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import numpy as np
import torch
from measuring import arguments, processor_seconds, recorded, tiny

from ciao_peft import CIAOConfig, CIAOModel, FeatureMemory, OnlineArguments, OnlineTrainer, get_ciao_model, load_encoder
from ciao_peft.online import Faces
from ciao_peft.online.reading import Reader

CLASSES: dict[str, Any] = {"problem_type": "single_label_classification", "num_labels": 6, "decay_init": 1.0}
ADAPTERS = {"default": CIAOConfig(**CLASSES), "compact": CIAOConfig.preset("compact", **CLASSES)}


def model_on(name: str, config: CIAOConfig) -> CIAOModel:
    if name == "tiny":
        return get_ciao_model(tiny(), config, input_size=(3, 16, 16)).eval()
    encoder: Any = load_encoder(name)
    aligned = {"align": "five-points"} if name == "dlib-face" else {}
    return get_ciao_model(encoder, config, preprocessing=encoder.preprocessing.replace(**aligned)).eval()


def faces_like(model: CIAOModel, count: int, seed: int) -> Faces:
    """Noise in the shape of features, with a class that each face shows by its first channel."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 6
    tensors = []
    for shape in model.opened.feature_shapes:
        values = torch.rand(count, *shape, generator=generator)
        for row, label in enumerate(labels.tolist()):
            values[row, label] += 1
        tensors.append(values)
    return Faces(tuple(tensors), torch.nn.functional.one_hot(labels, 6).float())


def one(encoder: str, adapter: str, corrections: int, max_bytes: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = model_on(encoder, ADAPTERS[adapter])
    memory = FeatureMemory(max_bytes)
    key, seed = Reader(model, None).key(), 0
    while memory.nbytes < 0.98 * max_bytes:
        memory.add(faces_like(model, 48, seed), model.peft_config["default"], key)
        seed += 1
    new, found = faces_like(model, corrections + 1, 10_000), {}
    settings = {"usual": OnlineArguments(max_forgetting=100), "most": OnlineArguments(max_forgetting=100, min_steps=20)}
    for name, args in settings.items():
        online, seconds, steps = OnlineTrainer(model, memory=memory, args=args), [], []
        for row in range(corrections + 1):
            label = (row + 1) % 6  # another class than it shows
            start = processor_seconds()
            update = online.update(tuple(tensor[row : row + 1] for tensor in new.tensors), label)
            seconds.append(processor_seconds() - start)
            steps.append(update.steps)
            online.undo()
        found[name] = {"seconds": median(seconds[1:]), "steps": median(steps[1:]), "guard": update.guard_size}
    torch.set_num_threads(2)
    online, wall = OnlineTrainer(model, memory=memory, args=settings["usual"]), []
    for row in range(corrections + 1):
        start = time.perf_counter()
        online.update(tuple(tensor[row : row + 1] for tensor in new.tensors), (row + 1) % 6)
        wall.append(time.perf_counter() - start)
        online.undo()
    torch.set_num_threads(1)
    found["usual"]["wall"] = min(wall[1:])
    if model.preprocessing is not None:
        face = np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8)
        seconds = []
        for _ in range(4):
            start = processor_seconds()
            Reader(model, None).read(face)
            seconds.append(processor_seconds() - start)
        found["picture"] = {"seconds": median(seconds[1:])}
    found["memory"] = {"faces": len(memory), "bytes": memory.nbytes}
    return found


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    encoders, corrections, max_bytes = ("small-face", "dlib-face"), 5, 20_000_000
    if args.smoke:
        encoders, corrections, max_bytes = ("tiny",), 1, 1_000_000
    with recorded("online", args) as record:
        record["encoders"] = {
            encoder: {adapter: one(encoder, adapter, corrections, max_bytes) for adapter in ADAPTERS}
            for encoder in encoders
        }


if __name__ == "__main__":
    main()
