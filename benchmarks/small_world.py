"""How forms of the mask and recipes learn a world of 190 pictures, the size that the paper is for.

    python benchmarks/small_world.py

Ten painted people show seven expressions; 400 other pictures of them are the test. Each row is the mean over the seeds.
Writes benchmarks/results/small_world.json and the table in docs/howto/recipes.md; ten minutes on two cores. Rows and
seeds that are in the results already are not trained again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ciao_peft import (
    CIAOConfig,
    CIAOTrainer,
    CIAOTrainingArguments,
    Preprocessing,
    __version__,
    cache_features,
    get_ciao_model,
    load_encoder,
)
from ciao_peft.data import Expression, Person, View, paint_face
from ciao_peft.data.painted_faces import PROTOTYPES

RESULTS = Path(__file__).parent / "results" / "small_world.json"
PAGE = Path(__file__).parents[1] / "docs" / "howto" / "recipes.md"
BEGIN, END = "<!-- small world: written by benchmarks/small_world.py -->", "<!-- end of small world -->"
CLASSES: dict[str, Any] = {"problem_type": "single_label_classification", "num_labels": 7}
PEOPLE, NUM_TRAIN, NUM_TEST = 10, 190, 400
RECIPES = {
    "20 epochs": '"paper", 20 epochs',
    "left out, 20 epochs": "`num_train_epochs=20`, all else left out",
    "small-data": '"small-data"',
}
"""Trainings, as results name them and as the page does."""
QUIET: dict[str, Any] = {"report_to": "none", "disable_tqdm": True, "eval_strategy": "no"}

FORMS: dict[str, dict[str, Any]] = {
    "the head alone": {"inhibition": False, "contrastive_weight": 0.0},
    "last convolution": {"inhibition": False, "contrastive_weight": 0.0, "tuning": "last_conv"},
    "CIAO, divisive (Eq. 1)": {"inhibition_form": "divisive"},
    "CIAO, rescaled": {"inhibition_form": "rescaled"},
    "CIAO, rescaled, with excitation of rank 32 (default)": {
        "inhibition_form": "rescaled",
        "excitation_rank": 32,
        "contrastive_weight": 0.1,
    },
    "CIAO, subtractive": {"inhibition_form": "subtractive"},
    "CIAO, gain": {"inhibition_form": "gain"},
    "CIAO, gain, rank 16 with excitation": {
        "inhibition_form": "gain",
        "inhibition_rank": 16,
        "excitation_rank": 16,
    },
}


def faces(split: str, count: int, preprocessing: Preprocessing) -> list[dict[str, Any]]:
    """Pictures of the ten, each with an expression near a prototype, at its own strength and disturbed."""
    people = [Person.sample(np.random.default_rng((0, number))) for number in range(PEOPLE)]
    names, rows = list(PROTOTYPES)[: CLASSES["num_labels"]], []
    for number in range(count):
        rng = np.random.default_rng((1, split == "test", number))
        label = number % len(names)
        vector = np.array(PROTOTYPES[names[label]]) * rng.uniform(0.5, 1.1) + rng.normal(0, 0.15, 8)
        person = people[number // len(names) % PEOPLE]
        expression, view = Expression.from_vector(vector), View.sample(rng)
        picture = paint_face(person, expression, view, size=96, seed=int(rng.integers(2**31)))
        rows.append({"pixel_values": preprocessing([picture])[0], "labels": label})
    return rows


def arguments_of(recipe: str, config: CIAOConfig, seed: int) -> CIAOTrainingArguments:
    """Those of a row: the settings of the paper over 20 epochs, which are 60 updates; those of a user; or a recipe."""
    if recipe == "20 epochs":
        rate = {"subtractive": 1e-3, "additive": 1e-3}.get(config.inhibition_form)
        changes: dict[str, Any] = {"num_train_epochs": 20, "mask_learning_rate": rate}
        return CIAOTrainingArguments.recipe("paper", seed=seed, **QUIET, **changes)
    if recipe == "left out, 20 epochs":
        return CIAOTrainingArguments(num_train_epochs=20, seed=seed, **QUIET)
    return CIAOTrainingArguments.recipe(recipe, config, seed=seed, **QUIET)


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.num_threads)
    encoder = load_encoder("small-face")
    preprocessing = Preprocessing.for_backbone(encoder)
    assert preprocessing is not None
    train, test = (faces(*part, preprocessing) for part in (("train", args.num_train), ("test", args.num_test)))
    model = get_ciao_model(encoder, CIAOConfig(**CLASSES), preprocessing=preprocessing)
    stored = {
        views: cache_features(
            model,
            train,
            views=views,
            augment=CIAOTrainingArguments(views=views).augmentation,
            include_excitation=True,
            disable_tqdm=True,
        )
        for views in (1, 2)
    }
    held_out = cache_features(model, test, include_excitation=True, disable_tqdm=True)
    model.unload()
    rows = [] if args.smoke or not RESULTS.exists() else json.loads(RESULTS.read_text())["rows"]
    for recipe in args.recipes:
        for form in args.forms:
            row = next((row for row in rows if (row["form"], row["recipe"]) == (form, recipe)), None)
            if row is None:
                row = {"form": form, "recipe": recipe, "accuracy": [], "calibration_error": [], "seconds": []}
                rows.append(row)
            for seed in range(len(row["accuracy"]), args.seeds):
                config = CIAOConfig.preset("paper", **CLASSES, init_seed=seed, **FORMS[form])
                model = get_ciao_model(encoder, config, preprocessing=preprocessing)
                arguments, began = arguments_of(recipe, config, seed), time.perf_counter()
                trainer = CIAOTrainer(model, arguments)
                trainer.train(stored[arguments.views or 2])
                row["seconds"].append(round(time.perf_counter() - began, 1))
                scores = trainer.evaluate(held_out)
                model.unload()
                for name in ("accuracy", "calibration_error"):
                    row[name].append(scores[f"eval_{name}"])
                print(f"{recipe:12} {form:38} {100 * scores['eval_accuracy']:.1f}", flush=True)
                if not args.smoke:
                    write(rows)


def write(rows: list[dict[str, Any]]) -> None:
    """Puts the rows into the results, and those that are complete into the page."""
    versions = {"ciao_peft": __version__, "torch": torch.__version__}
    RESULTS.write_text(json.dumps({"rows": rows, "versions": versions}, indent=1) + "\n")
    seeds = max(len(row["accuracy"]) for row in rows)
    write_page([row for row in rows if len(row["accuracy"]) == seeds], seeds)


def write_page(rows: list[dict[str, Any]], seeds: int) -> None:
    recipes = [name for name in RECIPES if any(row["recipe"] == name for row in rows)]
    lines = ["| | " + " | ".join(RECIPES[name] for name in recipes) + " |", "| --- |" + " --- |" * len(recipes)]
    known = {row["form"] for row in rows}
    for form in (form for form in FORMS if form in known):
        own = {row["recipe"]: 100 * statistics.mean(row["accuracy"]) for row in rows if row["form"] == form}
        lines.append(f"| {form} | " + " | ".join(f"{own[name]:.1f}" if name in own else "" for name in recipes) + " |")
    lines += [
        "",
        f"Accuracy in percent, the mean of {seeds} seeds; `python benchmarks/small_world.py`.",
    ]
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    PAGE.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n" + END + rest.split(END)[1], encoding="utf-8")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=list(FORMS))
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--num_train", type=int, default=NUM_TRAIN)
    parser.add_argument("--num_test", type=int, default=NUM_TEST)
    parser.add_argument("--num_threads", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="write nothing")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse_args())
