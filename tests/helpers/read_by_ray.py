"""Samples that Ray's workers read: each reading is noted in a file, and a few are no good.

Usage: python -m helpers.read_by_ray <folder of the features> <file of notes> <results after which to die>
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import torch

from ciao_peft import cache_features
from ciao_peft.engine import RayEngine
from ciao_peft.errors import DataError
from ciao_peft.features import ray_pass

from .fakes import SIZE, tiny_backbone

ENGINE = RayEngine(workers=2, rows_per_task=8, retries=1)


class Noted(torch.utils.data.Dataset):
    """Seeded noise that takes a moment to read.

    Args:
        notes: Gets a line for each reading in another process than this one.
        broken: Number of a sample that cannot be read there.
        deadly: Number of a sample that kills who reads it there.
    """

    def __init__(self, notes: Path, count: int = 60, broken: int = -1, deadly: int = -1, seconds: float = 0.0):
        self.notes, self.count, self.broken, self.deadly, self.seconds = notes, count, broken, deadly, seconds
        self.here = os.getpid()
        self.labels = [number % 3 for number in range(count)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        if os.getpid() != self.here:
            if index == self.broken:
                raise DataError(f"The picture in row {index} is broken.")
            if index == self.deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(self.seconds)
            with self.notes.open("a") as file:
                file.write(f"{index}\n")
        noise = torch.randn(SIZE, generator=torch.Generator().manual_seed(index))
        return {"pixel_values": noise, "labels": self.labels[index]}

    def read(self) -> Counter[int]:
        """How often each sample was read elsewhere."""
        return Counter(map(int, self.notes.read_text().split()))


def main(folder: Path, notes: Path, fatal: int) -> None:
    results, seen = ray_pass._results, []

    def dying(*given, **named):
        for result in results(*given, **named):
            yield result
            seen.append(result)
            if len(seen) == fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    ray_pass._results = dying
    cache_features(tiny_backbone(), Noted(notes), folder, batch_size=4, engine=ENGINE)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
