"""What depths beside a compact head are worth on real faces: training people who are held out, one trunk pass for all.

    python benchmarks/depths.py --data_dir ../shared/faces    # `dlib-face`, three levels, aligned faces; two seeds
    python docs/make_depths.py                                # then: the table in docs/howto/depths.md

The frozen encoder reads every training face once, as it is, and its features are stored with all depths that one of the
methods reads. Three tenths of the training people are held out and scored, others for each seed; the test split is not
opened. Every training appends a line to benchmarks/results/depths.jsonl, so that an interrupted run goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from encoder_map import RECIPE, model_on, rows_of

from ciao_peft import CIAOConfig, CIAOTrainer, CIAOTrainingArguments, __version__, cache_features, load_faces
from ciao_peft.data import labels_of

RESULTS = Path(__file__).parent / "results" / "depths.jsonl"
COMPACT: dict[str, Any] = {"inhibition": False, "contrastive_weight": 0.0, "spatial_maps": 8, "hidden_sizes": ()}
METHODS: dict[str, dict[str, Any]] = {
    "compact head": {},
    "three units": {"depths": 3},
    "six units": {"depths": 6},
}


def train(name: str, changes: Mapping[str, Any], seed: int, labels: Any, stored: Any, rows: Any) -> dict[str, Any]:
    """One compact head, and its scores on people who are held out."""
    model = model_on(name, CIAOConfig(**labels, init_seed=seed, **COMPACT, **changes))
    arguments = {**RECIPE, "learning_rate": 3e-3, "seed": seed, "report_to": "none", "disable_tqdm": True}
    trainer = CIAOTrainer(model, CIAOTrainingArguments.recipe("paper", **arguments))
    parts = [stored.select(own) for own in rows]
    trainer.train(parts[0])
    scores = trainer.evaluate(parts[1])
    return {
        "scores": {score: scores[f"eval_{score}"] for score in ("accuracy", "balanced_accuracy")},
        "parameters": model.get_nb_trainable_parameters()[0],
        "depths": list(model.peft_config["default"].depths or ()),
        "faces": list(map(len, parts)),
    }


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.num_threads)
    lines = [json.loads(line) for line in args.results.read_text().splitlines()] if args.results.exists() else []
    done = {(line["encoder"], line["method"], line["seed"]) for line in lines}
    wanted = [(method, seed) for seed in range(args.seeds) for method in METHODS]
    wanted = [each for each in wanted if (args.encoder, *each) not in done]
    if not wanted:
        return
    faces = load_faces("imagefolder", args.data_dir, label_column="expression")["train"]
    labels = labels_of(faces).as_config()
    read = [model_on(args.encoder, CIAOConfig(**labels, **COMPACT, **own)).depths for own in METHODS.values()]
    every = tuple(dict.fromkeys(depth.path for depths in read for depth in depths))
    model = model_on(args.encoder, CIAOConfig(**labels, **COMPACT, depths=every))
    folder = Path(args.features_dir) / args.encoder
    stored = cache_features(model, faces, folder, dtype="float16", include_excitation=True)
    for method, seed in wanted:
        found = train(args.encoder, METHODS[method], seed, labels, stored, rows_of(faces, seed))
        line = {"encoder": args.encoder, "method": method, "seed": seed, **found, "ciao": __version__}
        with args.results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(args.encoder, method, seed, found["scores"], flush=True)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="../shared/faces", help="train/, with metadata.csv")
    parser.add_argument("--encoder", default="dlib-face-3-aligned", help="as encoder_map.py names them")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each method (default: %(default)s)")
    parser.add_argument("--features_dir", default="runs/depths", help="(default: %(default)s)")
    parser.add_argument("--num_threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: %(default)s")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse_args())
