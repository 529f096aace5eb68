"""Makes the adapters that are in this package: one of photographs of faces, and one of each painted world.

    python benchmarks/bundle_adapters.py --data_dir ../shared/faces
    python benchmarks/bundle_adapters.py --only painted-affect        # needs no data

Writes `ciao_peft/hub/bundled_adapters/NAME/`. Nothing here was chosen by the test faces: settings were, by
`benchmarks/encoder_map.py --held_out`, on training people who were held out. A tenth of the training people takes no
part in a training, and fits the temperature of its probabilities. The folder is written in float16 and loaded again,
and what was loaded is scored once on test faces of people who are not among the training people. No picture is kept.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from encoder_map import METHODS, RECIPE, load_by_name, rows_of, rows_of_others, stored

from ciao_peft import (
    CIAOConfig,
    CIAOModel,
    CIAOTrainer,
    CIAOTrainingArguments,
    get_ciao_model,
    load_faces,
)
from ciao_peft.data import labels_of
from ciao_peft.hub import save_with_card
from ciao_peft.hub.bundled import FOLDER, PREFIX
from ciao_peft.metrics import main_metric

ENCODER = "dlib-face-3-aligned"
METHOD = "compact: gain, ranks 16"
PAINTED = {"num_train": 6000, "num_validation": 600, "num_test": 1800}
WORLDS = {
    "everyday-six": "photographs in six expressions, most of them neutral or happy; anger, disgust, sadness and "
    "surprise were rare, and are missed more often",
    "painted-eight": "drawings of eight expressions; photographs are not what it is for",
    "painted-seven": "drawings, read by people who mean other things by seven of those eight words",
    "painted-affect": "arousal and valence of drawings, from -1 to 1",
    "painted-signals": "which of eight signals a drawing gives: several, one or none",
}


def data_of(name: str, args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Features to train on, to fit the temperature to and to score; their labels; and what the card says of them."""
    folder = Path(args.features_dir) / ENCODER
    if name == "everyday-six":
        faces = load_faces("imagefolder", args.data_dir, label_column="expression")
        labels = labels_of(faces["train"]).as_config()
        head = CIAOConfig(**labels, inhibition=False)
        train = stored(ENCODER, faces["train"], folder / "train", 2, head)
        test = stored(ENCODER, faces["test"], folder / "test", 1, head)
        kept, held = rows_of(faces["train"], seed=0, share=0.1)
        unseen = rows_of_others(faces)
        parts = {"train": train.select(kept), "held": train.select(held), "test": test.select(unseen)}
        return parts, labels, {"name": "photographs of faces in six expressions", "license": "apache-2.0"}
    world = name.removeprefix("painted-")
    faces = load_faces("painted_faces", world=world, **PAINTED)
    labels = labels_of(faces["train"]).as_config()
    head = CIAOConfig(**labels, inhibition=False)
    parts = {}
    for part, split in (("train", "train"), ("held", "validation"), ("test", "test")):
        parts[part] = stored(ENCODER, faces[split], folder.with_name(f"{ENCODER}-bundled") / split, 1, head)
    return parts, labels, {"name": f"painted faces, world {world}"}


def make(name: str, args: argparse.Namespace) -> None:
    """Trains, calibrates, writes, loads again, scores, and writes with the scores."""
    parts, labels, dataset = data_of(name, args)
    encoder, fed = load_by_name(ENCODER)
    settings, arguments = METHODS[METHOD]
    if name.startswith("painted"):
        arguments = {**arguments, "class_balanced_batches": True}
    model = get_ciao_model(encoder, CIAOConfig.preset("paper", **labels, **settings), name, preprocessing=fed)
    settings = {**RECIPE, **arguments, "num_train_epochs": args.num_train_epochs}
    trainer = CIAOTrainer(model, CIAOTrainingArguments.recipe("paper", **settings, report_to="none"))
    trainer.train(parts["train"])
    if labels["problem_type"] != "regression":
        trainer.calibrate(parts["held"])
    record = trainer.training_record()
    with tempfile.TemporaryDirectory() as aside:
        folder = model.save_pretrained(Path(aside) / name, dtype="float16")
        model.unload()
        loaded = CIAOModel.from_pretrained(encoder, folder, name, preprocessing=fed)
    found = CIAOTrainer(loaded, trainer.args, name).evaluate(parts["test"])
    metric = main_metric(labels["problem_type"])
    split = f"{len(parts['test']):,} test faces of people not in training"
    names = [key for key in (metric, "balanced_accuracy") if f"eval_{key}" in found]
    training = {
        **{key: record[key] for key in ("seed", "arguments", "global_step")},
        "dataset": dataset,
        "license": "apache-2.0",
        "world": WORLDS[name],
        "aligned": loaded.preprocessing.align is not None,
        "faces": {part: len(rows) for part, rows in parts.items()},
        "command": f"python benchmarks/bundle_adapters.py --only {name}",
        "metrics": {key: {"value": round(found[f"eval_{key}"], 4), "split": split} for key in names},
    }
    saved = loaded.saved_adapter(name, training=training, dtype="float16")
    folder = save_with_card(FOLDER / name, saved, name=PREFIX + name)
    loaded.unload()
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{PREFIX}{name}: {training['metrics']}, {size:,} bytes", flush=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="../shared/faces", help="train/ and test/, with metadata.csv")
    parser.add_argument("--only", action="append", choices=list(WORLDS), help="may be given several times")
    parser.add_argument("--num_train_epochs", type=float, default=RECIPE["num_train_epochs"])
    parser.add_argument("--features_dir", default="runs/encoder_map", help="(default: %(default)s)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    for name in args.only or WORLDS:
        make(name, args)


if __name__ == "__main__":
    main()
