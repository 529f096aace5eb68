"""A small study with made-up numbers: to try a report without training, and for the examples in docstrings."""

from __future__ import annotations

import math
from typing import Any

from .analysis.study import CIAO, Study
from .records import Record

ENCODER = "small-face"
"""The encoder of the example."""

TASK = "faces"
"""The task of the example: two classes, ten test faces."""

_METHODS: dict[str, dict[str, Any]] = {
    "decision layer": {"kind": "network", "right": (6, 7, 6, 7), "trained": 1_000, "config": {"inhibition": False}},
    CIAO: {"kind": "network", "right": (8, 8, 9, 9), "trained": 4_000, "config": {}},
    "MLP head": {"kind": "rival", "right": (7, 8, 8, 7), "trained": 4_000, "config": {"inhibition": False}},
}
_RATES = (0.001, 0.01)


def example_records(seeds: int = 4) -> list[Record]:
    """Records of three methods on one task: a search over two learning rates each, and the scored trainings.

    Args:
        seeds: Scored trainings of each method.

    Example:
        >>> records = example_records(seeds=2)
        >>> [(record.method, record.seed, record.score) for record in records if record.split == "test"][:2]
        [('decision layer', 0, 0.6), ('decision layer', 1, 0.7)]
    """
    records: list[Record] = []
    for method, facts in _METHODS.items():
        shared: dict[str, Any] = {
            "task": TASK,
            "dataset": "imagefolder",
            "encoder": ENCODER,
            "encoder_revision": "made-up",
            "method": method,
            "kind": facts["kind"],
            "metric": "accuracy",
            "config": facts["config"],
            "labels": ["calm", "happy"],
            "parameters": {"trained": facts["trained"], "adapter_total": facts["trained"]},
            "samples": {"train": 40, "test": 10, "scored": 10},
            "seconds": 2.0,
            "epochs": 6.0,
            "time": "2022-01-01T00:00:00Z",
        }
        for rate in _RATES:
            score = facts["right"][0] / 10 - abs(math.log10(rate) + 2) / 10
            searched = {"split": "validation", "arguments": {"learning_rate": rate}, "scores": {"accuracy": score}}
            records.append(Record(key=f"{method}, {rate}", seed=0, **shared, **searched))
        for seed in range(seeds):
            right = facts["right"][seed % 4]
            history = [{"epoch": epoch, "loss": 1 / epoch, "task_loss": 1 / epoch} for epoch in (1.0, 2.0, 3.0)]
            scored: dict[str, Any] = {
                "split": "test",
                "arguments": {"learning_rate": _RATES[-1]},
                "scores": {"accuracy": right / 10, "macro_f1": right / 10},
                "confusion": [[right - 5, 10 - right], [0, 5]],
                "history": history,
            }
            records.append(Record(key=f"{method}, seed {seed}", seed=seed, **shared, **scored))
    return records


def example_study(seeds: int = 4) -> Study:
    """The study of `example_records`.

    Args:
        seeds: Scored trainings of each method.

    Example:
        >>> {name: round(result.mean(), 3) for name, result in example_study().results(TASK, ENCODER).items()}
        {'decision layer': 0.65, 'decision layer + CIAO': 0.85, 'MLP head': 0.75}
    """
    return Study(example_records(seeds))
