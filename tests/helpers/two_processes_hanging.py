"""Two processes of which one no longer answers; a test of `trainer/` starts it with torchrun.

Usage: torchrun --nproc_per_node 2 -m helpers.two_processes_hanging <folder> train|store
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch

from ciao_peft import CIAOModel, CIAOTrainer, cache_features

from .two_processes import arguments, faces, model_of


def until(said: Path) -> None:
    while not said.exists():
        time.sleep(0.1)
    os._exit(0)


class Hanging(torch.utils.data.Dataset):
    """Faces that the second process does not get after so many."""

    def __init__(self, said: Path, most: int):
        self.faces, self.said, self.most, self.reads = faces(16), said, most, 0

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, index: int) -> dict:
        self.reads += 1
        while os.environ["RANK"] == "1" and self.reads > self.most and not self.said.exists():
            time.sleep(0.1)
        return self.faces[index]


def main(folder: Path, what: str) -> None:
    said = folder / "said.txt"
    settings = {"per_device_train_batch_size": 4, "num_train_epochs": 20, "ddp_timeout": 4, "report_to": "none"}
    try:
        if what == "train":
            CIAOTrainer(model_of(), arguments(**settings)).train(Hanging(said, most=30))
        else:
            if os.environ["RANK"] == "1":
                CIAOModel.extract_features = lambda *_: until(said)
            cache_features(model_of(), faces(16), folder / "stored", batch_size=2)
        text = "nothing"
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
    if os.environ["RANK"] == "0":
        said.write_text(text)
    os._exit(0)  # a group that is broken aborts at the exit


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
