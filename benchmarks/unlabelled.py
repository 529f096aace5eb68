"""How far labels of few people reach, alone and with the faces of the others as pictures without labels.

    python benchmarks/unlabelled.py --data_dir ../shared/faces --held_out --seeds 3   # training people held out
    python benchmarks/unlabelled.py --data_dir ../shared/faces                        # the test split, ten seeds

For each seed and share, so many of the training people are drawn at random and keep their labels; the faces of all
others have none. Each training is made twice, with the same seed, labels and number of updates: from the labels alone,
and with `unlabelled`. The encoder is `dlib-face` on aligned faces, read once; the adapter is `CIAOConfig.preset(
"compact")`. With `--held_out`, three tenths of the training people take the place of the test split, which is not
opened. Every training appends a line to benchmarks/results/unlabelled.jsonl as soon as it is there, so an interrupted
run goes on where it stopped; `docs/make_unlabelled.py` writes docs/results/unlabelled.md from that file.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from encoder_map import model_on, rows_of, stored

from ciao_peft import (
    CIAOConfig,
    CIAOTrainer,
    CIAOTrainingArguments,
    __version__,
    load_faces,
)
from ciao_peft.data import labels_of

RESULTS = Path(__file__).parent / "results" / "unlabelled.jsonl"
ENCODER = "dlib-face-3-aligned"
SHARES = (0.01, 0.05, 0.2)
LABELS_ALONE, WITH_UNLABELLED = "labels alone", "with unlabelled"
TRAINING: dict[str, Any] = {
    "max_steps": 160,
    "per_device_train_batch_size": 32,
    "mask_learning_rate": 1e-2,
    "warmup_ratio": 0.1,
    "class_balanced_batches": False,
    "views": 2,
    "report_to": "none",
    "disable_tqdm": True,
}
THRESHOLDS: dict[str, Any] = {
    "pseudo_label_share": 1.0,
    "pseudo_label_confidence": 0.95,
    "adaptive_confidence": True,
}
METHODS: dict[str, dict[str, Any] | None] = {  # settings of what is learned from unlabelled faces
    LABELS_ALONE: None,
    WITH_UNLABELLED: {},
    "thresholds of classes": THRESHOLDS,
    "thresholds of classes, three for one, weight 2": {**THRESHOLDS, "unlabelled_ratio": 3, "unlabelled_weight": 2.0},
    "surest share alone": {"pseudo_label_confidence": 0.0},
    "weight 2": {"unlabelled_weight": 2.0},
    "fixed confidence": {"pseudo_label_share": 1.0, "pseudo_label_confidence": 0.95},
    "views compared": {"contrast_unlabelled": True},
    "classes as often as among labels": {"pseudo_label_alignment": 1.0},
}


def people_with_labels(people: list[str], among: list[int], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Of the rows `among`, those of a share of all people, drawn at random, and those of the others."""
    everybody = sorted({*people})
    there = sorted({people[row] for row in among})
    count = round(share * len(everybody))
    chosen = {there[place] for place in np.random.default_rng([seed, 20]).permutation(len(there))[:count]}
    known = [row for row in among if people[row] in chosen]
    return known, [row for row in among if people[row] not in chosen]


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.num_threads)
    lines = [json.loads(line) for line in args.results.read_text().splitlines()] if args.results.exists() else []
    done = {(line["method"], line["share"], line["seed"], line["split"]) for line in lines}
    faces = load_faces("imagefolder", args.data_dir, label_column="expression")
    labels = labels_of(faces["train"]).as_config()
    head = CIAOConfig(**labels, inhibition=False, contrastive_weight=0.0)
    folder, split = Path(args.features_dir) / ENCODER, "held-out people" if args.held_out else "test"
    training = stored(ENCODER, faces["train"], folder / "train", 2, head)
    test = None if args.held_out else stored(ENCODER, faces["test"], folder / "test", 1, head)
    people = list(faces["train"]["identity"])
    for seed, share in itertools.product(range(args.first_seed, args.seeds), args.share or SHARES):
        rows, held = rows_of(faces["train"], seed) if test is None else ([*range(len(people))], [])
        known, others = people_with_labels(people, rows, share, seed)
        for method in args.method or (LABELS_ALONE, WITH_UNLABELLED):
            if (method, share, seed, split) in done:
                continue
            scored = training.select(held) if test is None else test
            found = train(labels, seed, METHODS[method], training.select(known), training.select(others), scored)
            line = {"method": method, "share": share, "seed": seed, "split": split, **found, "training": TRAINING}
            line |= {"torch": torch.__version__, "ciao": __version__}
            with args.results.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(method, share, seed, {k: v for k, v in found.items() if k != "faces"}, flush=True)


def train(labels: Any, seed: int, settings: dict[str, Any] | None, known: Any, others: Any, scored: Any) -> Any:
    """One adapter, and its scores."""
    model = model_on(ENCODER, CIAOConfig.preset("compact", **labels, init_seed=seed))
    began = time.process_time()
    trainer = CIAOTrainer(model, CIAOTrainingArguments.recipe("paper", **TRAINING, **(settings or {}), seed=seed))
    trainer.train(known, unlabelled=None if settings is None else others)
    seconds = time.process_time() - began
    shares = [entry["pseudo_labels_counted"] for entry in trainer.log_history if "pseudo_labels_counted" in entry]
    scores = trainer.evaluate(scored)
    return {
        "scores": {name: scores[f"eval_{name}"] for name in ("accuracy", "balanced_accuracy", "macro_f1")},
        "seconds": round(seconds, 1),
        "counted": round(shares[-1], 3) if shares else None,
        "faces": [len(known), len(others), len(scored)],
    }


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="../shared/faces", help="train/ and test/, with metadata.csv")
    parser.add_argument("--method", action="append", choices=list(METHODS), help="the first two when left out")
    parser.add_argument("--share", action="append", type=float, help="of the people; 0.01, 0.05 and 0.2 when left out")
    parser.add_argument("--seeds", type=int, default=10, help="trainings of each (default: %(default)s)")
    parser.add_argument("--first_seed", type=int, default=0, help="to go on from (default: %(default)s)")
    parser.add_argument("--held_out", action="store_true", help="score training people who are held out")
    parser.add_argument("--features_dir", default="runs/encoder_map", help="(default: %(default)s)")
    parser.add_argument("--num_threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: %(default)s")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse_args())
