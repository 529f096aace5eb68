"""One frozen encoder, the same painted faces, four worlds: an adapter for each, next to the same head without CIAO.

    python examples/quickstart.py

Needs no data and no network. Prints what is reached in each world, how much is trained for it and how long that takes;
saves the adapters, loads them back, and reads one face in all worlds with one pass through the trunk.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from datasets import DatasetDict

from ciao_peft import (
    CIAOConfig,
    CIAOModel,
    CIAOTrainer,
    CIAOTrainingArguments,
    cache_features,
    get_ciao_model,
    load_encoder,
    load_faces,
)
from ciao_peft.data import labels_of
from ciao_peft.metrics import main_metric

WORLDS = ("eight", "seven", "affect", "signals")


def train_one(
    world: str, faces: DatasetDict, inhibition: bool, args: argparse.Namespace
) -> tuple[Path, dict[str, Any]]:
    """Trains and saves one adapter, and returns its folder and scores."""
    small: dict[str, Any] = {"spatial_maps": 8, "hidden_sizes": ()}  # a head of some ten thousand numbers
    # The masked unit of `dlib-face` is added to a shortcut: the gain form leaves the network as it was at the start.
    mask = {"inhibition_form": "gain", "inhibition_rank": 16, "excitation_rank": 16} if inhibition else {}
    labels = labels_of(faces["train"]).as_config()
    config = CIAOConfig(**labels, **small, **mask, inhibition=inhibition, init_seed=args.seed)
    encoder: Any = load_encoder("dlib-face")
    aligned = encoder.preprocessing.replace(align="five-points")  # eyes and noses in the same places
    model = get_ciao_model(encoder, config, adapter_name=world, preprocessing=aligned)
    # The trunk never changes: each face goes through it once, and every epoch reads the stored features.
    # All worlds label the same faces, so what the first one stored serves the others.
    features = cache_features(
        model, faces, Path(args.output_dir) / f"features-{args.num_train}-{args.num_test}-{args.seed}"
    )
    trainer = CIAOTrainer(
        model, CIAOTrainingArguments(num_train_epochs=args.num_train_epochs, seed=args.seed, report_to="none")
    )
    start = time.perf_counter()
    trainer.train(features["train"])
    seconds = time.perf_counter() - start
    scores = trainer.evaluate(features["test"])
    folder = Path(args.output_dir) / ("ciao" if inhibition else "head-only") / world
    trainer.save_adapter(folder)
    return folder, {
        "score": scores[f"eval_{main_metric(config.problem_type)}"],
        "metric": main_metric(config.problem_type),
        "parameters": model.get_nb_trainable_parameters()[0],
        "bytes": (folder / "adapter_model.safetensors").stat().st_size,
        "seconds": seconds,
    }


def main(args: argparse.Namespace) -> None:
    sizes: dict[str, Any] = {"num_train": args.num_train, "num_validation": 0, "num_test": args.num_test}
    folders: dict[str, Path] = {}
    lines = [f"{'world':8} {'trained':10} {'metric':12} {'score':>6} {'params':>11} {'MB':>5} {'s':>5}"]
    faces_of = {
        world: load_faces("painted_faces", world=world, seed=args.seed, streaming=False, **sizes) for world in WORLDS
    }
    for world, faces in faces_of.items():
        for name, inhibition in (("head only", False), ("with CIAO", True)):
            folders[world], row = train_one(world, faces, inhibition, args)
            lines.append(
                f"{world:8} {name:10} {row['metric']:12} {row['score']:6.3f} {row['parameters']:11,} "
                f"{row['bytes'] / 1e6:5.2f} {row['seconds']:5.0f}"
            )
    print("\nThe same faces, the same encoder, on people never seen in training:\n")
    print("\n".join(lines))
    if args.table:
        Path(args.table).write_text("\n".join(lines) + "\n")

    model = CIAOModel.from_pretrained(load_encoder("dlib-face"), folders[WORLDS[0]])
    for world in WORLDS[1:]:
        model.load_adapter(folders[world])
    face = faces_of[WORLDS[0]]["test"][0]["image"]
    print(f"\nOne face, read in every world with one trunk pass (adapters in {Path(args.output_dir) / 'ciao'}):\n")
    with torch.inference_mode():
        reading = model.eval().predict(face, adapter_names=list(WORLDS))
    for world, answer in reading.items():
        print(f"{world:8} " + ", ".join(f"{label} {value:.2f}" for label, value in list(answer.items())[:3]))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", default="runs/quickstart", help="for features and adapters (%(default)s)")
    parser.add_argument("--num_train", type=int, default=2400, help="painted faces to learn from (%(default)s)")
    parser.add_argument("--num_test", type=int, default=900, help="painted faces to be tested on (%(default)s)")
    parser.add_argument("--num_train_epochs", type=int, help="passes over them (as many as the recipe has)")
    parser.add_argument("--seed", type=int, default=0, help="of the faces and of each training (%(default)s)")
    parser.add_argument("--table", help="a file to write the table to as well")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse_args())
