"""What a dataset 1, 4 and 16 times as large costs: stored features against the live trunk.

    python benchmarks/bench_growth.py

Takes about two minutes and up to 0.2 GB below a temporary folder. Each case is a process of its own, so that its memory
can be told from the others'. Memory is that beyond what the process held before it saw the dataset: "own" must be
there, "mapped" are pages of the files of features, which the system takes back when it needs them (and keeps, as here,
when it does not).
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import torch
from measuring import arguments, processor_seconds, recorded, small_face, tiny, vgg16

from ciao_peft import CIAOConfig, CIAOTrainer, CIAOTrainingArguments, cache_features, get_ciao_model

ENCODERS = {
    "small-face": (small_face, (3, 64, 64), 512, 64),
    "VGG16, 96x96": (vgg16, (3, 96, 96), 24, 24),
    "tiny": (tiny, (3, 16, 16), 8, 4),
}
TIMES = (1, 4, 16)
CONFIG = CIAOConfig(problem_type="single_label_classification", num_labels=7)


class Drawn(torch.utils.data.Dataset):
    """Pictures of noise that take no memory: each is made when asked for, the same one every time."""

    def __init__(self, count: int, size: tuple[int, int, int]):
        self.labels = [index % 7 for index in range(count)]
        self.first = torch.rand(size, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self.first.flatten().roll(index).view_as(self.first), "labels": self.labels[index]}


class Memory(threading.Thread):
    """Most bytes that this process held meanwhile, beyond what it held before: its own, and mapped from files."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.first = held()
        self.most = dict.fromkeys(self.first, 0)
        self._over = threading.Event()

    def run(self) -> None:
        while True:
            over = self._over.wait(0.01)
            now = held()
            self.most = {name: max(most, now[name] - self.first[name]) for name, most in self.most.items()}
            if over:
                return

    def __enter__(self) -> Memory:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self.join()


def held() -> dict[str, int]:
    """Bytes of memory that this process has now."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    found = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.startswith("Rss")}
    return {"own": found.get("RssAnon", 0), "mapped": found.get("RssFile", 0)}


def one(encoder: str, count: int, stored: bool, folder: Path) -> dict[str, Any]:
    """Caches and trains an epoch, or trains it live, in this process."""
    make, size, _, batch_size = ENCODERS[encoder]
    model = get_ciao_model(make(), CONFIG, input_size=size)
    settings = {"num_train_epochs": 1, "per_device_train_batch_size": batch_size, "report_to": "none"}
    trainer = CIAOTrainer(model, CIAOTrainingArguments.recipe("paper", **settings, feature_cache="never"))

    def run(name: str, count: int) -> dict[str, float]:
        dataset, start = Drawn(count, size), processor_seconds()
        if stored:
            dataset = cache_features(
                model, dataset, folder / name, dtype="bfloat16", batch_size=batch_size, disable_tqdm=True
            )
        caching, start = processor_seconds() - start, processor_seconds()
        trainer.train(dataset)
        return {"caching": caching, "epoch": processor_seconds() - start}

    run("first", 2 * batch_size)  # whatever is loaded or allocated once
    with Memory() as memory:
        seconds = run("features", count)
    files = folder.glob("features/*.bin")
    return {"seconds": seconds, "memory": memory.most, "disk": sum(file.stat().st_size for file in files)}


def apart(encoder: str, count: int, stored: bool) -> dict[str, Any]:
    """The same in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        what = json.dumps({"encoder": encoder, "count": count, "stored": stored, "folder": folder})
        command = [sys.executable, str(Path(__file__)), "--one", what]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__, argv, one="")
    logging.disable(logging.WARNING)
    if args.one:
        what = json.loads(args.one)
        print(json.dumps(one(what["encoder"], what["count"], what["stored"], Path(what["folder"]))))
        return
    with recorded("growth", args) as record:
        record["cases"] = {}
        for encoder, (_, _, count, _) in ENCODERS.items():
            if (encoder == "tiny") != args.smoke:
                continue
            record["cases"][encoder] = [
                {"samples": times * count}
                | {name: apart(encoder, times * count, name == "stored") for name in ("stored", "live")}
                for times in (TIMES[:1] if args.smoke else TIMES)
            ]


if __name__ == "__main__":
    main()
