"""What `ciao tune` finds on real faces, and how long it takes.

    python benchmarks/tune.py --data_dir ../shared/faces               # the recipe's 12 epochs in the last round
    python benchmarks/tune.py --data_dir ../shared/faces --epochs 3    # as published
    python benchmarks/tune.py --page_only                              # the page again, from the results

`dlib-face` on aligned faces of the training split, with the defaults of `ciao tune` and features in float16. Thirds of
the training people are held out; the test split is not opened. Writes benchmarks/results/tune.json and the table in
docs/howto/tune.md. Interrupted, the same command goes on, and the seconds of both are added up.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import textwrap
import time
from pathlib import Path
from typing import Any

import torch

from ciao_peft import CIAOTrainingArguments, __version__, cache_features, load_encoder, load_faces
from ciao_peft.encoders import with_preprocessing
from ciao_peft.study import TASKS, Encoder, TuneResult, tune
from ciao_peft.study.tuning.candidates import make_candidates
from ciao_peft.study.tuning.choice import Tried, table_of
from ciao_peft.study.tuning.halving import epochs_of_rungs, going_on

RESULTS = Path(__file__).parent / "results" / "tune.json"
PAGE = Path(__file__).parents[1] / "docs" / "howto" / "tune.md"
BEGIN, END = "<!-- tuned: written by benchmarks/tune.py -->", "<!-- end of tuned -->"
TIMES = "<!-- times: written by benchmarks/tune.py -->", "<!-- end of times -->"


def main(args: argparse.Namespace) -> None:
    if args.page_only:
        write_page(json.loads(args.results.read_text()))
        return
    torch.set_num_threads(1)
    spent_file = Path(args.output_dir) / "seconds.json"
    stores = not (Path(args.output_dir) / "trials").exists()
    before = json.loads(spent_file.read_text()) if spent_file.exists() else {"wall": 0.0, "processor": 0.0}
    began, processor = time.perf_counter(), time.process_time()
    try:
        result = tune(
            dataclasses.replace(TASKS["faces"], data_dir=args.data_dir),
            Encoder(name=args.encoder, preprocessing={"align": "five-points"}),
            args.output_dir,
            metric=args.metric,
            feature_dtype="float16",
            num_threads=1,
            epochs=args.epochs,
        )
    finally:
        spent = {"wall": time.perf_counter() - began, "processor": time.process_time() - processor}
        spent_file.parent.mkdir(parents=True, exist_ok=True)
        total = {name: before[name] + seconds for name, seconds in spent.items()}
        spent_file.write_text(json.dumps(total))
    found = results_of(result, args, total) | {"milliseconds_of_the_pass": pass_of(args)}
    if stores:  # the pass is told by itself
        found["seconds"]["processor"] = round(without_the_pass(found), 1)
    args.results.write_text(json.dumps(found, indent=1) + "\n")
    if args.results == RESULTS:
        write_page(found)
    print(result.verdict)


def pass_of(args: argparse.Namespace, count: int = 64) -> float:
    """Milliseconds of one core for a face and its mirror image in the trunk's pass: read, aligned and encoded."""
    encoder: Any = load_encoder(args.encoder)
    with_preprocessing(encoder, encoder.preprocessing.replace(align="five-points"))
    faces = load_faces("imagefolder", args.data_dir, label_column="expression")["train"].select(range(count))
    augment, began = CIAOTrainingArguments(views=2).augmentation, time.process_time()
    cache_features(encoder, faces, views=2, augment=augment, include_excitation=True, disable_tqdm=True)
    return round(1000 * (time.process_time() - began) / count, 1)


def without_the_pass(found: dict[str, Any]) -> float:
    """Seconds of the processor, less those of the trunk's pass over all pictures."""
    return found["seconds"]["processor"] - found["milliseconds_of_the_pass"] * found["pictures"] / 1000


def results_of(result: TuneResult, args: argparse.Namespace, seconds: dict[str, float]) -> dict[str, Any]:
    about = json.loads((result.folder / "best.json").read_text())["search"]
    return {
        "encoder": args.encoder,
        "aligned": True,
        "metric": result.metric,
        "pictures": about["pictures"],
        "held_out": about["held_out"],
        "recipe": about["recipe"],
        "epochs": result.chosen.epochs,
        "chosen": result.chosen.name,
        "verdict": result.verdict,
        "candidates": [dataclasses.asdict(tried) for tried in result.tried],
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "load": os.getloadavg()[2],  # of the last quarter of an hour: others may have computed, too
        "versions": {"ciao_peft": __version__, "torch": torch.__version__},
    }


def epochs_of_all(recipe: str, epochs: float) -> float:
    """Epochs that all candidates for classes, compared by accuracy, train together for each part that is held out."""
    methods, total = make_candidates("single_label_classification", "accuracy", recipe), 0.0
    for each in epochs_of_rungs(epochs):
        total += len(methods) * each
        methods = going_on(methods, {method.name: 0.0 for method in methods})
    return total


def times_of(found: dict[str, Any]) -> str:
    """How the time grows, by the one that was measured."""
    recipe, count = found["recipe"], len(found["candidates"])
    parts, of = (int(word) for word in found["held_out"].split() if word.isdigit())
    whole = {name: CIAOTrainingArguments.recipe(name).num_train_epochs for name in (recipe, "small-data")}
    sums = {name: epochs_of_all(name, epochs) for name, epochs in whole.items()}
    here = epochs_of_all(recipe, found["epochs"])
    seconds, pictures = found["seconds"]["processor"], found["pictures"]
    each = 1000 * seconds / (here * parts * pictures * (of - 1) / of)
    return (
        f"It grows with pictures, parts, candidates and epochs. The {count} candidates for classes train "
        f"{sums[recipe]:.0f} epochs together for each part with the {whole[recipe]:g} epochs of {recipe!r}, "
        f"{sums['small-data']:.0f} with the {whole['small-data']:g} of 'small-data', and {here:.0f} with "
        f"`--epochs {found['epochs']:g}`; each is a pass over two thirds of the pictures. Measured, on one core: "
        f"{pictures:,} faces, {parts} parts and `--epochs {found['epochs']:g}` took {seconds / 60:.0f} minutes, which "
        f"is {each:.1f} ms per face and epoch, so that all {whole[recipe]:g} epochs take about "
        f"{seconds / 60 * sums[recipe] / here:.0f}. The features are stored once before: "
        f"{found['milliseconds_of_the_pass']:.0f} ms per face with {found['encoder']}. Small batches take "
        "longer, and so does a core that others use, too; `--num_processes` shares the work out, and a GPU trains "
        "several candidates at once."
    )


def write_page(found: dict[str, Any]) -> None:
    """Puts the table and the seconds into the how-to."""
    tried = [Tried(**{**values, "scores": tuple(values["scores"])}) for values in found["candidates"]]
    chosen = next(each for each in tried if each.name == found["chosen"])
    last = [each for each in tried if each.epochs == chosen.epochs]
    others = [each for each in tried if each.epochs != chosen.epochs]
    minutes = round(found["seconds"]["processor"] / 60)
    whole = CIAOTrainingArguments.recipe(found["recipe"]).num_train_epochs
    shortened = found["epochs"] != whole
    cut = f" with {found['epochs']:g} of its {whole:g} epochs in the last round" if shortened else ""
    option = f" --epochs {found['epochs']:g}" if shortened else ""
    lines = [
        table_of(last, chosen, found["metric"]),
        "",
        found["verdict"],
        "",
        f"{found['pictures']:,} training faces, {found['encoder']} on aligned faces, {found['held_out']} of the people "
        f"held out in turn, recipe {found['recipe']!r}{cut}; ± is the standard error over the parts. "
        f"{len(others)} other candidates were left behind in the round before. One core computed for "
        f"{minutes} minutes, and for {found['milliseconds_of_the_pass']:.0f} ms per face in the trunk's "
        f"one pass. `python benchmarks/tune.py{option}`",
    ]
    page = PAGE.read_text(encoding="utf-8")
    for (begin, end), text in (((BEGIN, END), "\n".join(lines)), (TIMES, textwrap.fill(times_of(found), 120))):
        before, rest = page.split(begin)
        page = before + begin + "\n" + text + "\n" + end + rest.split(end)[1]
    PAGE.write_text(page, encoding="utf-8")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="../shared/faces", help="train/, with metadata.csv")
    parser.add_argument("--encoder", default="dlib-face")
    parser.add_argument("--metric", default="accuracy")
    parser.add_argument("--epochs", type=float, help="of the last rung (default: the recipe's)")
    parser.add_argument("--output_dir", default="runs/tune_faces")
    parser.add_argument("--page_only", action="store_true", help="train nothing: the page again, from --results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: %(default)s")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse_args())
