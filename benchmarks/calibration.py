"""What a temperature is worth: the calibration error before and after `CIAOTrainer.calibrate`.

    python benchmarks/calibration.py --data_dir ../shared/faces --seeds 5

A fifth of the training people, others for each seed, is held out: the adapter learns from the rest, and its temperature
is fitted to them. Or it learns from all, and its temperature is fitted to answers of five others, each trained without
a fifth of the people: another fifth has its turn each time. The calibration error is that of test faces whose people
are not in the training split. Every training appends a line to benchmarks/results/calibration.jsonl, so that an
interrupted run goes on where it stopped; `docs/make_results.py` writes the table of docs/results/method.md from it.
Features are those of `encoder_map.py`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from encoder_map import RECIPE, model_on, rows_of, rows_of_others, stored

from ciao_peft import CIAOConfig, CIAOTrainer, CIAOTrainingArguments, __version__, load_faces
from ciao_peft.data import labels_of, subject_folds
from ciao_peft.features import FeatureDataset
from ciao_peft.presets import PRESETS

RESULTS = Path(__file__).parent / "results" / "calibration.jsonl"
ENCODERS = ("small-face", "dlib-face-3-aligned")
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # settings of the adapter, and of its training
    "decision layer": ({"inhibition": False, "contrastive_weight": 0.0}, {}),
    "decision layer + CIAO": ({"inhibition_form": "divisive"}, {"mask_learning_rate": 1e-2}),
    "rescaled CIAO": ({"inhibition_form": "rescaled"}, {"mask_learning_rate": 1e-2}),
    "shunting CIAO": (
        {"inhibition_form": "rescaled", "excitation_rank": 32, "contrastive_weight": 0.1},
        {"mask_learning_rate": 1e-2},
    ),
    "compact CIAO": (dict(PRESETS["compact"]), {"learning_rate": 3e-3, "mask_learning_rate": 1e-2}),
}
HELD_OUT = 0.2  # of the training people
BY_FOLDS = "shunting CIAO"  # which learns from all training people as well
FOLDS = 5
SCORES = ("accuracy", "balanced_accuracy", "calibration_error")


def measure(
    name: str, method: str, seed: int, labels: dict[str, Any], fit: FeatureDataset, held_out: Any, test: FeatureDataset
) -> dict[str, Any]:
    """One adapter, its temperature, and its scores: on test faces before and after, and where it was fitted.

    `held_out` is stored features, or folds of `fit`.
    """
    settings, rates = METHODS[method]
    model = model_on(name, CIAOConfig.preset("paper", **labels, init_seed=seed, **settings))
    arguments = CIAOTrainingArguments.recipe("paper", **RECIPE | rates, seed=seed, report_to="none", disable_tqdm=True)
    trainer = CIAOTrainer(model, arguments)
    trainer.train(fit)
    before, apart = trainer.evaluate(test), isinstance(held_out, FeatureDataset)
    temperature = trainer.calibrate(held_out) if apart else trainer.calibrate(fit, held_out)
    after = trainer.evaluate(test)
    there = trainer.evaluate(held_out) if apart else {}
    return {
        "temperature": temperature,
        "held_out": {score: there[f"eval_{score}"] for score in SCORES} if apart else None,
        "before": {score: before[f"eval_{score}"] for score in SCORES},
        "after": {score: after[f"eval_{score}"] for score in SCORES},
        "faces": [len(fit), len(held_out) if apart else 0, len(test)],
    }


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.num_threads)
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    done = {(line["encoder"], line["method"], line["seed"], line.get("folds", 0)) for line in lines}
    faces: Any = load_faces("imagefolder", args.data_dir, label_column="expression")
    labels = labels_of(faces["train"]).as_config()
    for name in ENCODERS:
        folder = Path(args.features_dir) / name
        training = stored(name, faces["train"], folder / "train", 2, CIAOConfig(**labels, inhibition=False))
        test = stored(name, faces["test"], folder / "test", 1, CIAOConfig(**labels, inhibition=False))
        test = test.select(rows_of_others(faces))
        for seed in range(args.seeds):
            fit, held_out = (training.select(rows) for rows in rows_of(faces["train"], seed, HELD_OUT))
            folds = [*subject_folds(faces["train"], FOLDS)]
            wanted = [(method, 0, fit, held_out) for method in METHODS] + [(BY_FOLDS, FOLDS, training, folds)]
            for method, by_folds, samples, apart in wanted:
                if (name, method, seed, by_folds) in done:
                    continue
                found = measure(name, method, seed, labels, samples, apart, test)
                line = {"encoder": name, "method": method, "seed": seed, "folds": by_folds, **found}
                line |= {"torch": torch.__version__, "ciao": __version__}
                with RESULTS.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(name, method, seed, found, flush=True)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="../shared/faces", help="train/ and test/, with metadata.csv")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each method (default: %(default)s)")
    parser.add_argument("--features_dir", default="runs/encoder_map", help="(default: %(default)s)")
    parser.add_argument("--num_threads", type=int, default=1)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse_args())
