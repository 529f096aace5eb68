"""Work that tests of `trainer/` and `features/` kill in the middle.

Usage: python -m helpers.killed train|store <folder>
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from ciao_peft import CIAOTrainer, CIAOTrainingArguments, cache_features, get_ciao_model
from ciao_peft.features import store

from .fakes import SIZE, small_config, tiny_backbone
from .training import BALANCED


def faces(count: int = 22) -> list[dict]:
    """Seeded noise in three classes."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(count, *SIZE, generator=generator)
    return [{"pixel_values": noise[n] + n % 3, "labels": n % 3} for n in range(count)]


def training(output_dir: Path, resume: bool | str | None = None, on_log=None, **changes: object) -> CIAOTrainer:
    """Nine updates with dropout, momentum and evaluation: a checkpoint every two."""
    values = BALANCED | {
        "output_dir": str(output_dir),
        "num_train_epochs": 3,
        "per_device_train_batch_size": 8,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 2,
        "resume_from_checkpoint": resume,
        "load_best_model_at_end": True,
    }
    model = get_ciao_model(tiny_backbone(), small_config(dropout=0.5), input_size=SIZE)
    return CIAOTrainer(model, CIAOTrainingArguments(**(values | changes)), on_log=on_log)


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(what: str, folder: Path) -> None:
    if what == "train":
        data = faces()

        def on_log(entry: dict) -> None:
            if entry["step"] == 7:  # after the checkpoint of update 6, and in the middle of an epoch
                die()

        training(folder, on_log=on_log).train(data, data[:6])
    else:
        store._SECONDS_BETWEEN_SYNCS = 0.0
        put = store.FeatureWriter.put

        def put_some(writer: store.FeatureWriter, first_row: int, tensors: tuple[torch.Tensor, ...]) -> None:
            if first_row >= 12:
                die()
            put(writer, first_row, tensors)

        store.FeatureWriter.put = put_some
        cache_features(tiny_backbone(), faces(), folder, batch_size=4)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
