"""Where `a` of Eq. 1 should start, in spreads of the activation it is added to; on held-out training people.

    python benchmarks/start_of_a.py --data_dir ../shared/faces --encoder small-face --epochs 6
    python benchmarks/start_of_a.py --data_dir ../shared/faces --encoder prior_knowledge=runs/pk/encoder --epochs 2

The spread is the standard deviation of u over the first of the training faces. Each start is tried with each learning
rate of the mask; the same head without CIAO and the unfrozen last convolution are tried with theirs, on the same faces,
to compare with. The test split takes no part. Each training appends one line to benchmarks/results/start_of_a.jsonl, so
an interrupted run goes on where it stopped; `docs/make_results.py` writes docs/results.md from that file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ciao_peft import CIAOConfig, __version__, get_ciao_model
from ciao_peft.calibration import ExcitationSpread
from ciao_peft.features import FeatureDataset
from ciao_peft.study import METHODS, Encoder, Method
from ciao_peft.study.analysis.study import CIAO
from ciao_peft.study.presets import task_from
from ciao_peft.study.search.objective import Objective

RESULTS = Path(__file__).parent / "results" / "start_of_a.jsonl"
BASELINES = ("decision layer", "last convolution")
STARTS = (1.0, 3.0, 9.0, 27.0)
RATES = (0.003, 0.01, 0.03)
BASELINE_RATES = (0.001, 0.003, 0.01)
ROWS = 512


@torch.no_grad()
def spread_of(encoder: torch.nn.Module, stored: FeatureDataset) -> float:
    """The standard deviation of u over the first faces."""
    model = get_ciao_model(encoder, CIAOConfig(problem_type="regression", num_labels=1))
    features = torch.stack([stored[row]["features"][0] for row in range(min(ROWS, len(stored)))])
    with ExcitationSpread(model.adapters["default"]) as seen:
        model(features=[features])
    model.unload()
    return seen.spread(seen.moments)


def trials(spread: float, starts: list[float], rates: list[float]) -> Iterator[tuple[float | None, Method]]:
    """What is trained: the start in spreads, where there is a mask, and the method with its rate."""
    for rate in rates:
        for start in starts:
            yield start, _with(METHODS[CIAO], rate, decay_init=float(f"{start * spread:.3g}"))
    for name in BASELINES:
        for rate in BASELINE_RATES:
            yield None, _with(METHODS[name], rate)


def _with(method: Method, rate: float, **config: Any) -> Method:
    arguments = {**method.arguments, method.rate: rate}
    return dataclasses.replace(method, config={**method.config, **config}, arguments=arguments)


def place(line: dict[str, Any]) -> tuple:
    return tuple(line[name] for name in ("revision", "method", "start", "rate", "seed", "epochs"))


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.num_threads)
    name, _, source = args.encoder.partition("=")
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    done = {place(line) for line in lines}
    for seed in range(args.num_splits):
        objective = Objective(
            task_from("faces", args.data_dir),
            Encoder(name=name, source=source or None),
            METHODS[CIAO],
            Path(args.features_dir) / name,
            epochs=args.epochs,
            fraction=0.3,
            splits=1,
            seed=seed,
            arguments={"bf16": True},
        )
        loaded = objective.material.loaded
        trained_on, _ = loaded.held_out(loaded.folds[0], objective.fraction, seed)
        spread = spread_of(objective.backbone, objective.features.select(trained_on))
        for start, method in (bar := tqdm([*trials(spread, args.starts, args.rates)], disable=None)):
            line = {
                "encoder": name,
                "revision": objective.backbone.revision,
                "spread": round(spread, 5),
                "method": method.name,
                "start": start,
                "decay_init": method.config.get("decay_init"),
                "rate": method.arguments[method.rate],
                "seed": seed,
                "epochs": args.epochs,
            }
            if place(line) in done:
                continue
            bar.set_description(f"{name}: {method.name}, {start}, {line['rate']}")
            began = time.perf_counter()
            line["accuracy"] = objective.score(method, lambda epochs, score: None)
            line |= {"seconds": round(time.perf_counter() - began, 1), "torch": torch.__version__, "ciao": __version__}
            with RESULTS.open("a") as file:
                file.write(json.dumps(line) + "\n")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="../shared/faces")
    parser.add_argument("--encoder", default="small-face", help="NAME or NAME=FOLDER")
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--starts", type=float, nargs="+", default=STARTS, help="of a, in spreads of u")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="of the mask")
    parser.add_argument("--num_splits", type=int, default=1)
    parser.add_argument("--features_dir", default="runs/start_of_a")
    parser.add_argument("--num_threads", type=int, default=2)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse_args())
