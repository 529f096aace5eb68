"""Which encoder, at which depth, aligned or not: probes, and what adapters reach on it.

    python benchmarks/encoder_map.py --data_dir ../shared/faces                   # the four frozen networks, test split
    python benchmarks/encoder_map.py --data_dir ../shared/faces --held_out --seeds 2 --encoder dlib-face-3-aligned \\
        --method "decision layer" --method "gain, ranks 16"                       # training people who are held out

`dlib-face-2-aligned` is `dlib-face` with `levels=2` on faces aligned by five landmarks. Each encoder reads every face
once, and its mirror image; trainings read what was stored. With `--held_out`, three tenths of the training people are
held out, others for each seed, and the test split is not opened. With `--painted`, the four painted worlds take the
place of the photographs, as in examples/quickstart.py. `--encoder prior_knowledge` and `--encoder vggface2` read the
folders that the commands of docs/encoders.md write. Every training and probe appends a line to
benchmarks/results/encoder_map.jsonl as soon as it is there, so an interrupted run goes on where it stopped;
`docs/make_encoder_map.py` writes docs/encoders.md from that file.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from encoder_probe import FACES_OF_A_PERSON, numbered, probe_expression, probe_identity
from torch import Tensor
from torch.nn import functional as F

from ciao_peft import (
    CIAOConfig,
    CIAOModel,
    CIAOTrainer,
    CIAOTrainingArguments,
    Preprocessing,
    __version__,
    cache_features,
    get_ciao_model,
    load_encoder,
    load_faces,
)
from ciao_peft.data import hold_out, labels_of
from ciao_peft.encoders.pretraining.verification import verification_auc
from ciao_peft.features import FeatureDataset
from ciao_peft.metrics import main_metric

RESULTS = Path(__file__).parent / "results" / "encoder_map.jsonl"
ENCODERS = (
    *("dlib-face-3-aligned", "dlib-face-3", "small-face-aligned", "small-face"),
    *("dlib-face-2-aligned", "dlib-face-2", "dlib-face-1-aligned", "dlib-face-1"),
)
TRAINED = {"prior_knowledge": "runs/pk/encoder", "vggface2": "runs/vggface2/encoder"}  # as docs/encoders.md trains them
RECIPE: dict[str, Any] = {
    "num_train_epochs": 12,
    "per_device_train_batch_size": 128,
    "learning_rate": 1e-3,
    "warmup_ratio": 0.1,
    "class_balanced_batches": False,
    "views": None,  # those that are stored
    "bf16": "auto",
}
_HEAD: dict[str, Any] = {"inhibition": False, "contrastive_weight": 0.0}
_PAPER: dict[str, Any] = {"inhibition_form": "divisive"}
_RANKS: dict[str, Any] = {"inhibition_rank": 16, "excitation_rank": 16}
_COMPACT: dict[str, Any] = {"spatial_maps": 8, "hidden_sizes": ()}
PAINTED = ("decision layer", "decision layer + CIAO", "compact: gain, ranks 16")
NETWORKS = ("decision layer", "decision layer + CIAO", "last convolution", "last convolution + CIAO")
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # settings of the adapter, and of its training
    "decision layer": (_HEAD, {}),
    "decision layer + CIAO": (_PAPER, {"mask_learning_rate": 1e-2}),
    "last convolution": ({**_HEAD, "tuning": "last_conv"}, {"encoder_learning_rate": 3e-3}),
    "last convolution + CIAO": (
        {**_PAPER, "tuning": "last_conv"},
        {"mask_learning_rate": 1e-2, "encoder_learning_rate": 3e-3},
    ),
    "divisive, rate 1e-3": (_PAPER, {"mask_learning_rate": 1e-3}),
    "subtractive": ({"inhibition_form": "subtractive"}, {"mask_learning_rate": 1e-3}),
    "gain": ({"inhibition_form": "gain"}, {"mask_learning_rate": 3e-3}),
    "gain, ranks 16": ({"inhibition_form": "gain", **_RANKS}, {"mask_learning_rate": 3e-3}),
    "last convolution + gain": (
        {"inhibition_form": "gain", "tuning": "last_conv"},
        {"mask_learning_rate": 3e-3, "encoder_learning_rate": 3e-3},
    ),
    # A head of some ten thousand numbers: for adapters that go into the package.
    "compact head": ({**_HEAD, **_COMPACT}, {"learning_rate": 3e-3}),
    "compact: gain, ranks 16": (
        {"inhibition_form": "gain", **_RANKS, **_COMPACT},
        {"learning_rate": 3e-3, "mask_learning_rate": 3e-3},
    ),
    "compact: gain, ranks 16, no contrastive": (
        {"inhibition_form": "gain", **_RANKS, **_COMPACT, "contrastive_weight": 0.0},
        {"learning_rate": 3e-3, "mask_learning_rate": 3e-3},
    ),
    "compact: gain, ranks 32": (
        {"inhibition_form": "gain", **_COMPACT, "inhibition_rank": 32, "excitation_rank": 32},
        {"learning_rate": 3e-3, "mask_learning_rate": 3e-3},
    ),
    "compact: excitation of rank 32": (
        {**_COMPACT, "inhibition": False, "excitation_rank": 32},
        {"learning_rate": 3e-3, "mask_learning_rate": 3e-3},
    ),
}


def load_by_name(name: str) -> tuple[torch.nn.Module, Preprocessing]:
    """The encoder and what it is fed, by a name such as `dlib-face-2-aligned`."""
    plain = name.removesuffix("-aligned")
    if plain.startswith("dlib-face-"):
        encoder: Any = load_encoder("dlib-face", levels=int(plain[-1]))
    elif plain in TRAINED:
        encoder = load_encoder(plain, weights=TRAINED[plain])
    else:
        encoder = load_encoder(plain)
    aligned = {"align": "five-points"} if name.endswith("-aligned") else {}
    return encoder, encoder.preprocessing.replace(**aligned)


def model_on(name: str, config: CIAOConfig) -> CIAOModel:
    encoder, fed = load_by_name(name)
    return get_ciao_model(encoder, config, preprocessing=fed)


def stored(name: str, faces: Dataset, folder: Path, views: int, config: CIAOConfig) -> FeatureDataset:
    """What the frozen part answers, of each face and of its mirror image."""
    return cache_features(
        model_on(name, config),
        faces,
        folder,
        views=views,
        augment=CIAOTrainingArguments(views=views).augmentation,
        dtype="float16",
        include_excitation=True,
    )


def rows_of(faces: Dataset, seed: int, share: float = 0.3) -> tuple[list[int], list[int]]:
    """Rows of people to train on, and of a share of the people, who are held out."""
    numbers = faces.select_columns(["identity"]).add_column("row", range(len(faces)))  # pyright: ignore
    trained, held = hold_out(numbers, share, group_by="identity", seed=seed)
    return list(trained["row"]), list(held["row"])


def rows_of_others(faces: Mapping[str, Dataset]) -> list[int]:
    """Rows of test faces whose people are not among the training people."""
    known = {*faces["train"]["identity"]}
    return [row for row, who in enumerate(faces["test"]["identity"]) if who not in known]


def train(
    name: str,
    settings: dict[str, Any],
    seed: int,
    labels: Any,
    train: Any,
    test: Any,
    arguments: dict[str, Any],
) -> dict[str, Any]:
    """One adapter, and its scores."""
    model = model_on(name, CIAOConfig.preset("paper", **labels, init_seed=seed, **settings))
    began = time.perf_counter()
    trainer = CIAOTrainer(
        model, CIAOTrainingArguments.recipe("paper", **arguments, seed=seed, report_to="none", disable_tqdm=True)
    )
    trainer.train(train)
    scores = trainer.evaluate(test)
    kept = (f"eval_{main_metric(labels['problem_type'])}", "eval_balanced_accuracy", "eval_macro_f1")
    return {
        "scores": {key.removeprefix("eval_"): scores[key] for key in kept if key in scores},
        "parameters": model.get_nb_trainable_parameters()[0],
        "seconds": round(time.perf_counter() - began, 1),
        "faces": [len(train), len(test)],
    }


@torch.no_grad()
def maps_of(name: str, features: FeatureDataset, config: CIAOConfig) -> Tensor:
    """`(N, D)`: what a decision head is fed, without a mask."""
    model = model_on(name, config).eval()
    found = []
    for first in range(0, len(features), 256):
        rows = range(first, min(first + 256, len(features)))
        tensors = features.features(rows, include_excitation=False)
        found.append(model(features=[tensor.float() for tensor in tensors]).embeddings)
    return torch.cat(found)


def probe(training: Tensor, test: Tensor, faces: Mapping[str, Dataset], splits: int) -> dict[str, Any]:
    """The probes of `encoder_probe.py`, on test people who are not among the training people."""
    rows = rows_of_others(faces)
    who = [faces["test"]["identity"][row] for row in rows]
    seen = test[rows]
    people = numbered(who)
    several = torch.bincount(people)[people] >= FACES_OF_A_PERSON
    result: dict[str, Any] = {
        "size": seen.shape[1],
        "verification": verification_auc(F.normalize(seen - seen.mean(dim=0), dim=1), who),
        "identity": probe_identity(seen[several], people[several].unique(return_inverse=True)[1], splits),
    }
    labels = torch.tensor([*faces["train"]["label"], *(faces["test"]["label"][row] for row in rows)])
    found = probe_expression(torch.cat([training, seen]), labels, list(faces["train"]["identity"]), splits)
    return result | {f"expression_{score}": values for score, values in found.items()}


def painted(args: argparse.Namespace, done: set[tuple], note: Callable[..., None]) -> None:
    """Each method in each painted world, with the trainer's own settings and the epochs of examples/quickstart.py."""
    worlds = {
        world: load_faces("painted_faces", world=world, num_train=2400, num_validation=0, num_test=900)
        for world in ("eight", "seven", "affect", "signals")
    }
    for name in args.encoder or ENCODERS:
        for world, faces in worlds.items():
            split = f"painted {world}"
            labels = labels_of(faces["train"]).as_config()
            wanted = [
                (method, seed)
                for method, seed in itertools.product(args.method or PAINTED, range(args.seeds))
                if (name, method, seed, split) not in done
            ]
            if not wanted:
                continue
            folder = Path(args.features_dir) / f"{name}-painted"
            head = CIAOConfig(**labels, **_HEAD)
            parts = [stored(name, faces[part], folder / part, 1, head) for part in ("train", "test")]
            for method, seed in wanted:
                note(
                    name,
                    method,
                    seed,
                    split,
                    train(name, METHODS[method][0], seed, labels, *parts, {"num_train_epochs": 10}),
                )


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.num_threads)
    lines = [json.loads(line) for line in args.results.read_text().splitlines()] if args.results.exists() else []
    done = {(line["encoder"], line["method"], line["seed"], line["split"]) for line in lines}

    def note(name: str, method: str, seed: int, split: str, found: dict[str, Any]) -> None:
        line = {"encoder": name, "method": method, "seed": seed, "split": split, **found}
        line |= {"torch": torch.__version__, "ciao": __version__}
        with args.results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(name, method, seed, {k: v for k, v in found.items() if k in ("scores", "seconds")}, flush=True)

    (painted if args.painted else photographs)(args, done, note)


def photographs(args: argparse.Namespace, done: set[tuple], note: Callable[..., None]) -> None:
    """Each method on real faces, and the probes."""
    faces = load_faces("imagefolder", args.data_dir, label_column="expression")
    labels = labels_of(faces["train"]).as_config()
    head = CIAOConfig(**labels, **_HEAD)
    split = "held-out people" if args.held_out else "test"
    for name in args.encoder or ENCODERS:
        wanted = [
            (method, seed)
            for seed in range(args.seeds)
            for method in args.method or NETWORKS
            if (name, method, seed, split) not in done
        ]
        probing = args.probe_splits > 0 and not args.held_out and (name, "probe", 0, split) not in done
        if not wanted and not probing:
            continue
        folder = Path(args.features_dir) / name
        training = stored(name, faces["train"], folder / "train", 2, head)
        test = None if args.held_out else stored(name, faces["test"], folder / "test", 1, head)
        for method, seed in wanted:
            if args.held_out:
                fit, score = rows_of(faces["train"], seed)
                parts = training.select(fit), training.select(score)
            else:
                parts = training, test
            settings, rates = METHODS[method]
            note(name, method, seed, split, train(name, settings, seed, labels, *parts, {**RECIPE, **rates}))
        if probing:
            found = probe(maps_of(name, training, head), maps_of(name, test, head), faces, args.probe_splits)
            note(name, "probe", 0, split, found)
        if args.forget:
            shutil.rmtree(folder)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="../shared/faces", help="train/ and test/, with metadata.csv")
    parser.add_argument("--encoder", action="append", help="may be given several times; all when left out")
    parser.add_argument("--method", action="append", choices=list(METHODS), help="the four networks when left out")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each method (default: %(default)s)")
    parser.add_argument("--held_out", action="store_true", help="score training people who are held out")
    parser.add_argument("--painted", action="store_true", help="the painted worlds in place of photographs")
    parser.add_argument("--probe_splits", type=int, default=2, help="of the fitted faces; 0 for no probes")
    parser.add_argument("--features_dir", default="runs/encoder_map", help="(default: %(default)s)")
    parser.add_argument("--forget", action="store_true", help="delete the features of an encoder that is done")
    parser.add_argument("--num_threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: %(default)s")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse_args())
