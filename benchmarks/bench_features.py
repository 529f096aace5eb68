"""Storing features against the bare trunk, and one frame read in two worlds against the bare encoder.

    python benchmarks/bench_features.py

Takes about three minutes. Pictures that are decoded already are tensors in memory; the bare trunk runs over the same
batches, made before. Ratios are of processor seconds on one thread, so what several threads do at once gains nothing
here but in "wall", where pictures are decoded from JPEG by so many threads as there are cores. The encoder that one
frame is compared with is compiled by `torch.compile` where there is a compiler; the adapters are not.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from measuring import arguments, in_turns, medians, ratio, recorded, small_face, tiny, vgg16
from torch.utils.flop_counter import FlopCounterMode

from ciao_peft import CIAOConfig, Preprocessing, cache_features, get_ciao_model
from ciao_peft.data import paint_face
from ciao_peft.preprocessing import ahead

CONFIG = CIAOConfig(problem_type="single_label_classification", num_labels=7)
OTHER = CIAOConfig(problem_type="regression", num_labels=2)
CASES = {  # backbone, side of its pixels, pictures, turns, frames that are read one by one
    "VGG16, 96x96": (vgg16, 96, 32, 3, 8),
    "small-face": (small_face, 64, 512, 5, 60),
}
BATCH = 16


def model_of(make, side: int):
    preprocessing = Preprocessing(size=(side, side))
    model = get_ciao_model(make(), CONFIG, "expression", input_size=(3, side, side), preprocessing=preprocessing)
    model.add_adapter("arousal", OTHER)
    return model.eval()


def storing(make, side: int, count: int, turns: int) -> dict[str, Any]:
    """Processor seconds of the bare trunk and of `cache_features` over the same pictures."""
    model = model_of(make, side)
    pixels = torch.rand(count, 3, side, side)
    faces = [{"pixel_values": face, "labels": 0} for face in pixels]
    opened, batches = model.opened, [batch.clone() for batch in pixels.split(BATCH)]

    def trunk() -> None:
        with torch.no_grad():
            for batch in batches:
                opened.features(opened.rooted, batch, False)

    def folder() -> None:
        with tempfile.TemporaryDirectory() as place:
            cache_features(model, faces, Path(place) / "features", batch_size=BATCH)

    runs = {"trunk": trunk, "memory": lambda: cache_features(model, faces, batch_size=BATCH), "folder": folder}
    seconds = in_turns(runs, turns)
    return {
        "pictures": count,
        "seconds": {name: value / count for name, value in medians(seconds).items()},
        "ratio": {name: ratio(seconds, "trunk", name) for name in ("memory", "folder")},
    }


def decoding(make, side: int, count: int, turns: int) -> dict[str, Any]:
    """Wall seconds of `predict` over JPEG files of 224 x 224 pixels, opened by one thread and by several."""
    model, most = model_of(make, side), ahead.MAX_THREADS
    threads = min(ahead.usable_cores(), most)
    seconds: dict[str, list[float]] = {"one": [], "several": []}
    with tempfile.TemporaryDirectory() as folder:
        for n in range(count):
            paint_face(seed=n % 50, size=224).save(Path(folder, f"{n:05}.jpg"), "JPEG", quality=90)
        try:
            for turn in range(-1, turns):
                for name, allowed in (("one", 1), ("several", most)):
                    ahead.MAX_THREADS = allowed
                    start = time.perf_counter()
                    model.predict(folder)
                    if turn >= 0:
                        seconds[name].append((time.perf_counter() - start) / count)
        finally:
            ahead.MAX_THREADS = most
    return {"pictures": count, "threads": threads, "wall": medians(seconds), "ratio": ratio(seconds, "one", "several")}


def compiled(encoder: torch.nn.Module, frame: torch.Tensor) -> tuple[Any, str]:
    try:
        faster = torch.compile(encoder)
        faster(frame)
    except Exception as error:  # no compiler on this machine, most often
        return encoder, f"not compiled: {type(error).__name__}"
    return faster, "compiled"


def one_frame(make, side: int, frames: int, turns: int, compiling: bool) -> dict[str, Any]:
    """Processor seconds of one array through encoder and two worlds, to named answers, and of the encoder alone."""
    model, worlds = model_of(make, side), ["expression", "arousal"]
    array = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    frame = model.preprocessing(array)
    with torch.inference_mode():
        encoder, how = compiled(model.backbone, frame) if compiling else (model.backbone, "not compiled")

        def repeat(run):
            def repeated() -> None:
                with torch.inference_mode():
                    for _ in range(frames):
                        run()

            return repeated

        runs = {
            "encoder": lambda: model.backbone(frame),
            "compiled": lambda: encoder(frame),
            "read": lambda: model.read(frame, adapter_names=worlds),
            "predict": lambda: model.predict(array, adapter_names=worlds),
        }
        operations = {}
        for name in ("encoder", "read"):
            with FlopCounterMode(display=False) as counter:
                runs[name]()
            operations[name] = counter.get_total_flops()
        seconds = in_turns({name: repeat(run) for name, run in runs.items()}, turns)
    numbers = {"encoder": sum(p.numel() for p in model.backbone.parameters())}
    numbers["read"] = numbers["encoder"] + sum(p.numel() for a in model.adapters.values() for p in a.parameters())
    own = [(p - r) / frames for p, r in zip(seconds["predict"], seconds["read"], strict=True)]
    return {
        "how": how,
        "seconds": {name: value / frames for name, value in medians(seconds).items()},
        "ratio": {name: ratio(seconds, name, "compiled") for name in ("encoder", "read", "predict")},
        "predict_alone": median(own),
        "flop": operations,
        "numbers": numbers,
    }


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    cases = {"tiny": (tiny, 16, 4, 1, 1)} if args.smoke else CASES
    with recorded("features", args) as record:
        record["storing"] = {name: storing(*case[:4]) for name, case in cases.items()}
        record["one_frame"] = {
            name: one_frame(make, side, frames, turns, not args.smoke)
            for name, (make, side, _, turns, frames) in cases.items()
        }
        name, case = list(cases.items())[-1]
        record["decoding"] = {name: decoding(*case[:4])}


if __name__ == "__main__":
    main()
