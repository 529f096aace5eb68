"""Stores features and stops half way, until it is told to go on; `features/test_processes.py` starts it.

Usage: python -m helpers.storing <folder of the features> <folder to be told in>
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from ciao_peft import cache_features
from ciao_peft.features import store

from .fakes import tiny_backbone
from .killed import faces


def main(folder: Path, told: Path) -> None:
    store._SECONDS_BETWEEN_SYNCS = 0.0
    put = store.FeatureWriter.put

    def put_and_wait(writer: store.FeatureWriter, first_row: int, tensors: tuple[torch.Tensor, ...]) -> None:
        put(writer, first_row, tensors)
        if first_row == 8:
            (told / "half way").touch()
            while not (told / "go on").exists():
                time.sleep(0.01)

    store.FeatureWriter.put = put_and_wait
    cache_features(tiny_backbone(), faces(), folder, batch_size=4)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
