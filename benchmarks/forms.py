"""Which form of the mask is the default: each with the paper's head and losses, on people who are held out.

    python benchmarks/forms.py --data_dir ../shared/faces

Photographs with all training people and with faces of a twentieth of them, and three painted worlds; `small-face`, and
`dlib-face` on aligned faces. Three tenths of the training people are held out, others for each seed, and no test split
is opened. Every training appends a line to benchmarks/results/forms.jsonl, so an interrupted run goes on where it
stopped; `docs/make_results.py` writes the table of docs/results/defaults.md.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from encoder_map import RECIPE, rows_of, stored, train

from ciao_peft import CIAOConfig, __version__, load_faces
from ciao_peft.data import labels_of
from ciao_peft.metrics import main_metric

RESULTS = Path(__file__).parent / "results" / "forms.jsonl"
ENCODERS = ("small-face", "dlib-face-3-aligned")
WORLDS = {  # and their seeds
    "faces": 1,
    "faces, 5 % of the people": 2,
    **dict.fromkeys(("painted eight", "painted signals", "painted affect"), 1),
}
FIRST_SEED = 10  # apart from the people that benchmarks/encoder_map.py holds out
FEW: dict[str, Any] = {"num_train_epochs": 60, "per_device_train_batch_size": 32}
_HEAD: dict[str, Any] = {"inhibition": False, "contrastive_weight": 0.0}
_MASK = {"mask_learning_rate": 1e-2}
FORMS: dict[str, tuple[dict[str, Any], dict[str, float]]] = {  # settings of the adapter, and of its training
    "head alone": (_HEAD, {}),
    "last convolution": ({**_HEAD, "tuning": "last_conv"}, {"encoder_learning_rate": 3e-3}),
    "divisive": ({"inhibition_form": "divisive"}, _MASK),
    "rescaled": ({"inhibition_form": "rescaled"}, _MASK),
    "gain": ({"inhibition_form": "gain"}, _MASK),
    "rescaled, λ 0.1": ({"inhibition_form": "rescaled", "contrastive_weight": 0.1}, _MASK),
    "rescaled, E": ({"inhibition_form": "rescaled", "excitation_rank": 32}, _MASK),
    "rescaled, E, λ 0.1": ({"inhibition_form": "rescaled", "excitation_rank": 32, "contrastive_weight": 0.1}, _MASK),
    "E alone": ({**_HEAD, "excitation_rank": 32}, _MASK),
}


def some_people(faces: Dataset, rows: Sequence[int], share: float, seed: int) -> list[int]:
    """The rows of a share of the people among these rows."""
    who = list(faces["identity"])
    people = sorted({who[row] for row in rows})
    random.Random(seed).shuffle(people)
    kept = set(people[: max(1, round(share * len(people)))])
    return [row for row in rows if who[row] in kept]


def training_faces(world: str, data_dir: str) -> Dataset:
    if world.startswith("painted "):
        sizes = {"num_train": 2400, "num_validation": 0, "num_test": 900}
        return load_faces("painted_faces", world=world.removeprefix("painted "), **sizes)["train"]
    return load_faces("imagefolder", data_dir, label_column="expression")["train"]


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.num_threads)
    lines = [json.loads(line) for line in args.results.read_text().splitlines()] if args.results.exists() else []
    done = {(line["world"], line["encoder"], line["form"], line["seed"]) for line in lines}
    for world, seeds in WORLDS.items():
        faces = training_faces(world, args.data_dir)
        labels = labels_of(faces).as_config()
        metric = main_metric(labels["problem_type"])
        for name in ENCODERS:
            wanted = [
                (seed, form)
                for seed in range(FIRST_SEED, FIRST_SEED + seeds * args.times)
                for form in FORMS
                if (world, name, form, seed) not in done
            ]
            if not wanted:
                continue
            folder = Path(args.features_dir) / name / ("train" if world.startswith("faces") else world)
            features = stored(name, faces, folder, 2, CIAOConfig(**labels, **_HEAD))
            for seed, form in wanted:
                fit, score = rows_of(faces, seed)
                few = world == "faces, 5 % of the people"  # a twentieth of all is seven hundredths of seven tenths
                fit = some_people(faces, fit, 0.07, seed) if few else fit
                settings, rates = FORMS[form]
                recipe = RECIPE | rates | (FEW if few else {}) | {"bf16": False}
                parts = features.select(fit), features.select(score)
                line = {"world": world, "encoder": name, "form": form, "seed": seed, "metric": metric}
                line |= train(name, settings, seed, labels, *parts, recipe)
                with args.results.open("a") as file:
                    file.write(json.dumps(line | {"torch": torch.__version__, "ciao": __version__}) + "\n")
                print(world, name, seed, form, line["scores"], flush=True)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="../shared/faces", help="train/ and test/, with metadata.csv")
    parser.add_argument("--times", type=int, default=1, help="seeds for each planned one (default: %(default)s)")
    parser.add_argument("--features_dir", default="runs/encoder_map", help="(default: %(default)s)")
    parser.add_argument("--num_threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: %(default)s")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse_args())
