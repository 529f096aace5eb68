"""Which faces to label next: what an adapter learns from faces that a strategy chose, and from as many at random.

    python benchmarks/suggest.py --data_dir ../shared/faces           # training people who are held out
    python benchmarks/suggest.py --data_dir ../shared/faces --test    # then, once: the test split
    python docs/make_suggest.py                                       # the figure and tables of docs/howto/suggest.md

The frozen encoder reads every face once. In each seed, other three tenths of the training people are held out; of the
others, 40 faces drawn at random get their labels, the same for all strategies, and an adapter is trained on them. A
strategy then chooses as many faces as there are labels, these get theirs, an adapter is trained anew, and so on, up to
320. Without an adapter (`cold`), strategies choose the first 40. With `--test` people of the training split are asked
for, and the test split is scored. Every training appends a line to benchmarks/results/suggest.jsonl; an interrupted run
goes on with the next seed and strategy.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from encoder_map import model_on, rows_of

from ciao_peft import (
    CIAOConfig,
    CIAOModel,
    CIAOTrainer,
    CIAOTrainingArguments,
    __version__,
    cache_features,
    load_faces,
    suggest,
)
from ciao_peft.data import labels_of
from ciao_peft.features import FeatureDataset
from ciao_peft.suggestions import STRATEGIES

RESULTS = Path(__file__).parent / "results" / "suggest.jsonl"
START, ROUNDS = 40, (80, 160, 320)
COLD = ("random", "k-center", "typiclust")
ENCODER = "dlib-face-3-aligned"
RECIPE: dict[str, Any] = {
    "num_train_epochs": 20,
    "per_device_train_batch_size": 32,
    "learning_rate": 3e-3,
    "mask_learning_rate": 3e-3,
    "warmup_ratio": 0.1,
    "class_balanced_batches": False,
    "views": 1,
    "report_to": "none",
    "disable_tqdm": True,
}


def trained(stored: FeatureDataset, labels: Any, seed: int) -> tuple[CIAOModel, CIAOTrainer]:
    """A compact adapter that learned from these faces."""
    model = model_on(ENCODER, CIAOConfig.preset("compact", **labels, init_seed=seed))
    trainer = CIAOTrainer(model, CIAOTrainingArguments.recipe("paper", **RECIPE, seed=seed))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="A single training sample")  # so it is with few labels
        trainer.train(stored)
    return model.eval(), trainer


def scored(trainer: CIAOTrainer, stored: FeatureDataset, asked: list[int], faces: FeatureDataset) -> dict[str, Any]:
    scores = trainer.evaluate(faces)
    found = torch.as_tensor(stored.select(asked).labels).bincount(minlength=len(stored.label_names or ()))
    return {
        "labels": len(asked),
        "scores": {name: round(scores[f"eval_{name}"], 5) for name in ("accuracy", "balanced_accuracy")},
        "asked": dict(zip(stored.label_names or (), found.tolist(), strict=True)),
    }


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.num_threads)
    lines = [json.loads(line) for line in args.results.read_text().splitlines()] if args.results.exists() else []
    split = "test" if args.test else "held-out people"
    done = {(line["split"], line["seed"], line["strategy"], line["start"], line["labels"]) for line in lines}
    photographs = load_faces("imagefolder", args.data_dir, label_column="expression")
    labels = labels_of(photographs["train"]).as_config()
    model = model_on(ENCODER, CIAOConfig.preset("compact", **labels))
    stored = {
        part: cache_features(
            model, photographs[part], f"{args.features_dir}/{part}", dtype="float16", include_excitation=True
        )
        for part in (("train", "test") if args.test else ("train",))
    }
    began = time.perf_counter()

    def note(seed: int, strategy: str, start_by: str, found: dict[str, Any]) -> None:
        line = {"split": split, "seed": seed, "strategy": strategy, "start": start_by, **found, "ciao": __version__}
        with args.results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{time.perf_counter() - began:.0f} s", seed, strategy, found["labels"], found["scores"], flush=True)

    for seed in range(args.seeds):
        fit, held = rows_of(photographs["train"], seed)
        if args.test:
            fit, held = [*range(len(stored["train"]))], []
        pool = stored["train"].select(fit)
        faces = stored["test"] if args.test else stored["train"].select(held)
        start = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[:START].tolist()

        first = None
        for strategy in args.strategy or STRATEGIES:
            if (split, seed, strategy, "random", ROUNDS[-1]) in done:
                continue
            asked = [*start]
            first = trained(pool.select(asked), labels, seed) if first is None else first
            model, trainer = first
            if strategy == "random":
                note(seed, strategy, "random", scored(trainer, pool, asked, faces))
            for total in ROUNDS:
                left = sorted(set(range(len(pool))) - set(asked))
                known = pool.select(asked)
                found = suggest(
                    model, pool.select(left), total - len(asked), strategy=strategy, labelled=known, seed=seed
                )
                asked += [left[index] for index in found.indices]
                model, trainer = trained(pool.select(asked), labels, seed)
                note(seed, strategy, "random", scored(trainer, pool, asked, faces))
        for strategy in () if args.test else COLD[1:]:
            if (split, seed, strategy, "cold", START) in done:
                continue
            asked = suggest(
                model_on(ENCODER, CIAOConfig.preset("compact", **labels)).eval(),
                pool,
                START,
                strategy=strategy,
                seed=seed,
            ).indices
            note(seed, strategy, "cold", scored(trained(pool.select(asked), labels, seed)[1], pool, asked, faces))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="../shared/faces", help="train/ and test/, with metadata.csv")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each strategy (default: %(default)s)")
    parser.add_argument("--strategy", action="append", choices=STRATEGIES, help="all when left out")
    parser.add_argument("--test", action="store_true", help="score the test split")
    parser.add_argument("--features_dir", default="runs/suggest", help="(default: %(default)s)")
    parser.add_argument("--num_threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: %(default)s")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse_args())
