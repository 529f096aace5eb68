"""What 1, 4, 16 and 64 times as many faces cost, beside what `plan_capacity` says from one; and an index of many rows.

    python benchmarks/bench_capacity.py

Takes about three minutes, and up to 5 GB below a temporary folder (`--most_rows` times 5 bytes). Faces are noise, and
seconds are of the processor. The files of features of the index's rows are empty (they take no disk), all of their
checksums are written; each number of rows is opened by a process of its own.
"""

from __future__ import annotations

import json
import logging
import math
import random
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import torch
from bench_growth import Memory, held
from measuring import arguments, processor_seconds, recorded

from ciao_peft import CIAOConfig, CIAOTrainer, CIAOTrainingArguments, cache_features, get_ciao_model, load_encoder
from ciao_peft.capacity import PaintedNoise, measure_rates, plan_capacity
from ciao_peft.features import FeatureLayout, load_features
from ciao_peft.features.store import FeatureFiles

TIMES = (1, 4, 16, 64)
WORLDS = (1, 2, 4)
ROWS = (10**6, 10**7, 10**8, 10**9)
WIDTH = 1024  # numbers of a row, in bfloat16
LOOKUPS, BATCH = 200, 64


def exponent(numbers: list[float], seconds: list[float]) -> float:
    """The slope of log seconds over log numbers: 1 where twice as many take twice as long."""
    x, y = ([math.log(value) for value in values] for values in (numbers, seconds))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


def measured(encoder: Any, faces: int, worlds: int, batch_size: int) -> dict[str, Any]:
    """Stores faces once, and trains an epoch of each world on them."""
    config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
    model = get_ciao_model(encoder, config, "world-0")
    settings: dict[str, Any] = {"num_train_epochs": 1, "per_device_train_batch_size": batch_size, "report_to": "none"}
    with tempfile.TemporaryDirectory() as folder:
        start = processor_seconds()
        stored = cache_features(
            model, PaintedNoise(faces, model.input_size), folder + "/features", dtype="bfloat16", disable_tqdm=True
        )
        storing, start = processor_seconds() - start, processor_seconds()
        for number in range(worlds):
            if number:
                model.add_adapter(f"world-{number}", config)
            model.train_adapter(f"world-{number}")
            CIAOTrainer(model, CIAOTrainingArguments.recipe("paper", **settings, disable_tqdm=True)).train(stored)
        training = processor_seconds() - start
        disk = sum(path.stat().st_size for path in Path(folder, "features").iterdir())
    model.unload()
    return {"faces": faces, "worlds": worlds, "storing": storing, "training": training, "disk": disk}


def growth(smoke: bool) -> dict[str, Any]:
    """Rates of one face, and how far plans made from them are from what was measured."""
    encoder, faces, batch_size = load_encoder("small-face"), 16 if smoke else 32, 8 if smoke else 32
    measured(encoder, faces, 1, batch_size)  # whatever is loaded once
    rates = measure_rates(encoder, faces=4 * faces, dtype="bfloat16", batch_size=batch_size)
    rows = [measured(encoder, times * faces, 1, batch_size) for times in (TIMES[:2] if smoke else TIMES)]
    rows += [measured(encoder, faces, worlds, batch_size) for worlds in WORLDS[1:]]
    for row in rows:
        plan = plan_capacity(rates, int(row["faces"]), worlds=int(row["worlds"]), views=1, epochs=1)
        decoding = row["faces"] * rates.decode_seconds  # these are no files
        row["planned"] = {
            "storing": plan.store_hours * 3600 - decoding,
            "training": plan.train_hours * 3600,
            "disk": plan.disk_bytes,
        }
    one = [row for row in rows if row["worlds"] == 1]
    numbers = [row["faces"] for row in one]
    exponents = {name: exponent(numbers, [row[name] for row in one]) for name in ("storing", "training", "disk")}
    print("exponents:", {name: round(value, 3) for name, value in exponents.items()})
    return {"rates": rates.to_dict(), "rows": rows, "exponents": exponents}


def make_index(folder: Path, rows: int) -> None:
    """A store with all the checksums of its rows, whose features are zeros that take no disk."""
    folder.mkdir()
    layout = FeatureLayout(((WIDTH,),), "bfloat16", rows)
    with (folder / "features.0.bin").open("wb") as file:
        file.truncate(layout.file_bytes(0))
    block = zlib.crc32(bytes(2 * WIDTH)).to_bytes(4, "little") * 2**20
    with (folder / "checksums.bin").open("wb") as file:
        for first in range(0, rows, 2**20):
            file.write(block[: 4 * min(2**20, rows - first)])
    files = FeatureFiles(folder, {"views": 1, "num_samples": rows, "dtype": "bfloat16", "excitation": False})
    files.layout = layout
    files.mark_complete()


def look_up(folder: Path, rows: int) -> dict[str, Any]:
    """Opens a store and reads rows from all over it; with the memory that this process then holds of its own."""
    rng = random.Random(0)
    with Memory() as memory:
        start = time.process_time()
        stored = load_features(folder)
        opening = time.process_time() - start
        stored.features([0])
        seconds = []
        for _ in range(LOOKUPS):
            numbers = [rng.randrange(rows) for _ in range(BATCH)]
            start = time.process_time()
            read = stored.features(numbers)[0]
            seconds.append((time.process_time() - start) / BATCH)
            assert not read.any()
    index = [folder / "checksums.bin", folder / "index.json"]
    return {
        "rows": rows,
        "disk": sum(512 * path.stat().st_blocks for path in index),
        "opening": opening,
        "lookup": sorted(seconds)[LOOKUPS // 2],
        "memory": memory.most["own"],
        "held": held()["own"],
    }


def index(most_rows: int) -> list[dict[str, Any]]:
    """The same for ever more rows, each in a process of its own."""
    found = []
    for rows in [rows for rows in ROWS if rows <= most_rows] or [most_rows]:
        with tempfile.TemporaryDirectory() as folder:
            make_index(Path(folder, "index"), rows)
            what = json.dumps({"folder": f"{folder}/index", "rows": rows})
            command = [sys.executable, str(Path(__file__)), "--one", what]
            found.append(
                json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
            )
        print("index:", found[-1])
    return found


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__, argv, one="", most_rows=ROWS[-1])
    logging.disable(logging.WARNING)
    if args.one:
        what = json.loads(args.one)
        print(json.dumps(look_up(Path(what["folder"]), what["rows"])))
        return
    torch.manual_seed(0)
    with recorded("capacity", args) as record:
        if record["machine"]["load"] > record["machine"]["cores"]:
            record["note"] = "The machine did other work all the while: rates are low; counts and exponents matter."
        record["growth"] = growth(args.smoke)
        record["index"] = index(10_000 if args.smoke else args.most_rows)


if __name__ == "__main__":
    main()
