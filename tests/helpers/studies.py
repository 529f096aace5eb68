"""Plans of short trainings, and records of studies that nobody trained, whose scores a test can reckon with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ciao_peft import load_encoder
from ciao_peft.encoders import save_encoder
from ciao_peft.study import METHODS, Encoder, Method, Plan, Record, Task, key_of
from ciao_peft.study.analysis.study import CIAO

HEAD = "decision layer"
EMOTIONS = ["neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt"]
SIZES = {
    "decision layer": 788_744,
    CIAO: 1_010_504,
    "last convolution": 1_010_312,
    "last convolution + CIAO": 1_232_072,
    "full": 1_288_880,
    "full + CIAO": 1_510_640,
    "linear probe (pooled)": 2056,
    "linear probe (flattened)": 36_872,
    "MLP head": 1_010_400,
    "LoRA r=4": 792_000,
    "LoRA r=16": 804_000,
    "LoRA r=64": 850_000,
    "scale and shift": 789_100,
    "residual adapters": 830_000,
    "Head2Toe": 900_000,
}


def record(method: str, seed: int, score: float | None, **more: Any) -> Record:
    """One training, a preset's with its own settings; `score` is the main score, `scores` in `more` those beside it."""
    metric = more.get("metric", "accuracy")
    preset = METHODS.get(method)
    scores = {} if score is None else {metric: score}
    shared = {
        "key": key_of({"method": method, "seed": seed, "score": score, "more": repr(more)}),
        "task": "faces",
        "dataset": "imagefolder",
        "encoder": "small-face",
        "encoder_revision": "1",
        "kind": preset.kind if preset else "rival",
        "config": preset.config if preset else {},
        "settings": preset.settings if preset else {},
        "arguments": {preset.rate: preset.rates[2]} if preset else {},
        "split": "test",
        "metric": metric,
        "parameters": {"trained": SIZES[method]} if method in SIZES else {},
        "samples": {"train": 100, "test": 400},
        "epochs": 3.0,
        "seconds": 10.0,
    }
    scores |= more.pop("scores", {})
    return Record(method=method, seed=seed, scores=scores, **(shared | more))


def records(scores: dict[str, list[float]], /, **more: Any) -> list[Record]:
    """By method the main score of seeds 0, 1, ..."""
    return [record(name, seed, score, **more) for name, values in scores.items() for seed, score in enumerate(values)]


def searched(method: str, rates: dict[float, float | None], **more: Any) -> list[Record]:
    """A learning-rate search: the score of each rate on held-out people, `None` where training diverged."""
    return [
        record(
            method,
            0,
            score,
            split="validation",
            arguments={METHODS[method].rate: rate},
            error="diverged" if score is None else None,
            **more,
        )
        for rate, score in rates.items()
    ]


def painted_study(seeds: int = 5, *, ablations: bool = True) -> list[Record]:
    """A study with all that a report shows: six networks, baselines, ablations, histories, confusions and searches."""
    generator = np.random.default_rng(0)
    names = [*SIZES, *(name for name in METHODS if METHODS[name].kind == "ablation" and ablations)]
    found: list[Record] = []
    for index, name in enumerate(names):
        method = METHODS[name]
        size = SIZES.get(name, SIZES[CIAO])
        level = 0.78 + 0.03 * generator.random() + (0.01 if "CIAO" in name else 0)
        with_contrast = "CIAO" in name
        for seed in range(seeds):
            score = float(np.round(level + generator.normal(0, 0.004), 4))
            counts = np.diag(np.full(8, 50 - index % 7)) + generator.integers(0, 4, (8, 8))
            history = [
                {
                    "epoch": float(epoch),
                    "loss": 2 / epoch + 5 * with_contrast,
                    "task_loss": 2 / epoch + 0.02 * index + float(generator.normal(0, 0.02)),
                    "contrastive_loss": with_contrast * (4 + 1 / epoch + float(generator.normal(0, 0.03))),
                }
                for epoch in range(1, 9)
            ]
            found.append(
                record(
                    name,
                    seed,
                    score,
                    scores={"balanced_accuracy": score - 0.3, "macro_f1": score - 0.31},
                    labels=EMOTIONS,
                    confusion=counts.tolist(),
                    history=history,
                    parameters={"trained": size, "adapter_total": size + 300},
                    arguments={method.rate: method.rates[2]},
                    seconds=20.0 + index,
                    versions={"torch": "2.14.1", "python": "3.11.7"},
                    time=f"2026-01-0{seed % 9 + 1}T10:00:00Z",
                )
            )
        found += searched(name, dict(zip(method.rates, (0.6, 0.65, 0.7, 0.68), strict=True)))
    return found


def tiny_encoder(folder: str | Path) -> Encoder:
    """An encoder of 8 and 12 channels, saved once."""
    folder = Path(folder)
    if not folder.exists():
        encoder = load_encoder("small-face", pretrained=False, channels=(8, "pool", "pool", 12), embedding_size=4)
        generator = torch.Generator().manual_seed(0)
        for parameter in encoder.parameters():
            parameter.data.normal_(0.1, 0.3, generator=generator)
        save_encoder(encoder, folder)
    return Encoder(name="tiny", source=str(folder))


SMALL = {"num_train": 40, "num_validation": 2, "num_test": 16, "size": 32}
SETTINGS = {"hidden_sizes": [8]}


def painted(name: str, **changes: object) -> Task:
    world = {"world": name} if name != "moods" else {}
    task = Task(name=name, dataset="painted_faces", options=SMALL | world, group_by="identity", config=SETTINGS)
    return replace(task, **changes)


def plan_of(folder: Path, **changes: object) -> Plan:
    """Two tasks, two networks, two seeds, two rates each: sixteen short trainings."""
    values = {
        "tasks": (painted("affect"), painted("signals")),
        "encoders": (tiny_encoder(folder / "encoder"),),
        "methods": (
            Method(name="decision layer", config={"inhibition": False, "contrastive_weight": 0.0}, rates=(1e-3, 1e-2)),
            Method(name="decision layer + CIAO", rate="mask_learning_rate", rates=(1e-3, 1e-2)),
        ),
        "seeds": (0, 1),
        "epochs": 1.0,
        "search_rates": 2,
        "arguments": {"per_device_train_batch_size": 16},
    }
    return Plan(**(values | changes))
