"""Loading one saved adapter after another onto the same backbone, here and in PEFT.

    python benchmarks/bench_loading.py

Takes less than a minute. Eight folders are loaded in turn: every load reads one, checks checksum, backbone and every
value, and holds the adapter under a name of its own; the files are in the page cache. PEFT, where it is installed,
loads conv LoRA (r = 16) on the last convolution of the same backbone, without a head, and checks none of this.
"""

from __future__ import annotations

import gc
import hashlib
import logging
import shutil
import tempfile
import warnings
from pathlib import Path
from statistics import median

from measuring import arguments, processor_seconds, recorded, small_face, tiny, vgg16
from torch import nn

from ciao_peft import CIAOConfig, get_ciao_model

CONFIG = CIAOConfig(problem_type="single_label_classification", num_labels=7)
CASES = {"VGG16, 96x96": (vgg16, (3, 96, 96)), "small-face": (small_face, None)}
COUNT = 64
FOLDERS = 8  # more than the caches of a processor hold


def times(load, folder: Path, count: int) -> list[float]:
    """Processor seconds of each load, from the folders in turn."""
    folders = [folder / "0", *(shutil.copytree(folder / "0", folder / str(n)) for n in range(1, FOLDERS))]
    seconds = []
    for number in range(count + 1):
        gc.collect()
        start = processor_seconds()
        load(str(folders[number % FOLDERS]), f"loaded-{number}")
        seconds.append(processor_seconds() - start)
    return seconds[1:]  # the first one imports and warms up


def ours(make, size, count: int, folder: Path) -> dict:
    model = get_ciao_model(make(), CONFIG, "first", input_size=size).eval()
    model.save_pretrained(folder / "0")
    seconds = times(lambda source, name: model.load_adapter(source, name), folder, count)
    weights = (folder / "0" / "adapter_model.safetensors").read_bytes()
    hashing = []
    for _ in range(9):
        start = processor_seconds()
        hashlib.sha256(weights).hexdigest()
        hashing.append(processor_seconds() - start)
    return {"bytes": len(weights), "checksum": median(hashing)} | summary(seconds)


def theirs(make, count: int, folder: Path) -> dict | None:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        return None
    backbone = make()
    last = [name for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d)][-1]
    model = get_peft_model(backbone, LoraConfig(r=16, target_modules=[last]))
    model.save_pretrained(folder / "0")
    weights = (folder / "0" / "adapter_model.safetensors").stat().st_size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seconds = times(lambda source, name: model.load_adapter(source, adapter_name=name), folder, count)
    return {"bytes": weights} | summary(seconds)


def summary(seconds: list[float]) -> dict:
    eighth = max(1, len(seconds) // 8)
    return {
        "loads": len(seconds),
        "first": median(seconds[:eighth]),
        "last": median(seconds[-eighth:]),
        "median": median(seconds),
        "seconds_each": [round(s, 5) for s in seconds],
    }


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    logging.disable(logging.WARNING)
    cases, count = ({"tiny": (tiny, (3, 16, 16))}, 2) if args.smoke else (CASES, COUNT)
    with recorded("loading", args) as record, tempfile.TemporaryDirectory() as folder:
        record["cases"], record["peft"] = {}, {}
        for name, (make, size) in cases.items():
            record["cases"][name] = ours(make, size, count, Path(folder) / name)
            record["peft"][name] = theirs(make, count, Path(folder) / f"{name}, peft")


if __name__ == "__main__":
    main()
