"""What linear probes read from frozen features, trained against random weights: who it is, and what the face shows.

    python benchmarks/encoder_probe.py --data_dir ../shared/faces \\
        --encoder prior_knowledge=runs/pk/encoder --encoder vggface2=runs/vggface2/encoder --encoder small-face

Each network's scores go into benchmarks/results/encoders.json as soon as they are there, so an interrupted run goes on
where it stopped; the records of the trainings in the folders go there too. `docs/make_encoders.py` writes
docs/encoders.md from that file. The features are what an adapter's decision head sees, flattened.

`--no_probe` only notes how an encoder was trained.

- `verification`: cosines of centred features of all pairs of faces of people of the test split, whom no encoder was
  trained on; the area under the ROC curve. Nothing is fitted.
- `identity`: a ridge classifier of those people of whom there are at least four faces, fitted to half of each one's
  faces and scored on the other half; several halvings.
- `expression`: a ridge classifier of six expressions, fitted to seven tenths of the training people, drawn several
  times, and scored on all test faces of people who are not among the training people. `balanced` is the mean of the
  classes' recalls, of a second fit in which all classes weigh the same.

The ridge is chosen among powers of ten within the faces that are fitted. Features are read as a decision head gets
them. `..._scaled` are the same probes after every number was brought to about the same spread, which undoes how much
the training made of it.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import torch
from datasets import DatasetDict
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ciao_peft import load_encoder, load_faces
from ciao_peft.encoders.pretraining.verification import verification_auc

RESULTS = Path(__file__).parent / "results" / "encoders.json"
EXPRESSIONS = ("neutral", "happiness", "surprise", "anger", "disgust", "sadness")
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
SCALES = {"": False, "_scaled": True}
FACES_OF_A_PERSON = 4


@torch.no_grad()
def features_of(encoder: nn.Module, images, bf16: bool = False) -> Tensor:
    """`(N, D)`: the last map as an adapter's head gets it, without what comes after it."""
    encoder = encoder.to(memory_format=torch.channels_last)  # faster on a CPU
    read = (lambda x: encoder.pool(encoder.chain(x)).flatten(1)) if hasattr(encoder, "embedding") else encoder
    batches = [images[i : i + 128] for i in range(0, len(images), 128)]
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        found = [read(encoder.preprocessing(batch)).flatten(1).float() for batch in tqdm(batches, disable=None)]
    return torch.cat(found)


class Ridge:
    """Kernel ridge regression onto one-hot classes, from the products of all faces' features with one another."""

    def __init__(self, features: Tensor, labels: Tensor, scaled: bool = False):
        features = features - features.mean(dim=0)
        if scaled:
            spread = features.std(dim=0)
            # Numbers that hardly ever move stay small, whatever moves them.
            features = features / (spread + 0.1 * spread.mean())
        self.products, self.labels = features @ features.T, labels
        self.classes = int(labels.max()) + 1

    def predict(self, fit: Tensor, test: Tensor, ridge: float, balanced: bool) -> Tensor:
        """Classes of the faces `test`, after fitting to the faces `fit`; both are row numbers."""
        labels = self.labels[fit]
        weights = torch.ones(len(fit))
        if balanced:
            weights = len(fit) / (self.classes * torch.bincount(labels, minlength=self.classes)[labels])
        kernel = self.products[fit][:, fit]
        targets = F.one_hot(labels, self.classes).float()
        mean = (weights[:, None] * targets).sum(dim=0) / weights.sum()
        kernel = kernel + torch.diag(ridge * kernel.diagonal().mean() / weights)
        answers = torch.cholesky_solve(targets - mean, torch.linalg.cholesky(kernel))
        return (self.products[test][:, fit] @ answers + mean).argmax(dim=1)

    def chosen(self, fit: Tensor, held: Tensor, balanced: bool) -> float:
        """The ridge that does best on `held` when fitted to the rest of `fit`."""
        rest = fit[~torch.isin(fit, held)]

        def score(ridge: float) -> float:
            return scores(self.predict(rest, held, ridge, balanced), self.labels[held])[balanced]

        return max(RIDGES, key=score)


def scores(predicted: Tensor, labels: Tensor) -> tuple[float, float]:
    """Accuracy, and the mean of the recalls of the classes that occur."""
    right = (predicted == labels).double()
    recalls = [right[labels == label].mean() for label in labels.unique()]
    return right.mean().item(), torch.stack(recalls).mean().item()


def probe_identity(features: Tensor, people: Tensor, splits: int, scaled: bool = False) -> list[float]:
    """Top-1 accuracy among the people, of each halving of their faces."""
    ridge, results = Ridge(features, people, scaled), []
    for seed in range(splits):
        order = torch.randperm(len(people), generator=torch.Generator().manual_seed(seed))
        place = torch.zeros(len(people), dtype=torch.long)  # first, second, ... face of its person, in this order
        seen: Counter = Counter()
        for row in order.tolist():
            place[row] = seen[int(people[row])]
            seen[int(people[row])] += 1
        counts = torch.bincount(people)[people]
        fit, test = (place < counts // 2).nonzero().flatten(), (place >= counts // 2).nonzero().flatten()
        held = (place == 0).nonzero().flatten()  # one face of each: the ridge is chosen by them, then all are fitted
        best = ridge.chosen(fit, held, balanced=False)
        results.append(scores(ridge.predict(fit, test, best, balanced=False), people[test])[0])
    return results


def probe_expression(
    features: Tensor, labels: Tensor, people: list[str], splits: int, scaled: bool = False
) -> dict[str, list[float]]:
    """Accuracy and balanced accuracy on the faces after those of `people`, for each draw of people to fit."""
    ridge, results = Ridge(features, labels, scaled), {"accuracy": [], "balanced": []}
    names, test = sorted({*people}), torch.arange(len(people), len(labels))
    for seed in range(splits):
        order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
        drawn = {names[i] for i in order[: round(0.7 * len(names))]}
        judges = {names[i] for i in order[: round(0.14 * len(names))]}
        fit = torch.tensor([row for row, who in enumerate(people) if who in drawn])
        held = torch.tensor([row for row, who in enumerate(people) if who in judges])
        for place, found in enumerate(results.values()):
            best = ridge.chosen(fit, held, balanced=bool(place))
            found.append(scores(ridge.predict(fit, test, best, balanced=bool(place)), labels[test])[place])
    return results


def probe(encoder: nn.Module, faces: DatasetDict, splits: int, bf16: bool = False) -> dict:
    """All scores of one network; of the test split, `faces` has only people who are not in the training split."""
    training, test = faces["train"], faces["test"]
    counts = Counter(test["identity"])
    several = torch.tensor([row for row, who in enumerate(test["identity"]) if counts[who] >= FACES_OF_A_PERSON])
    people = numbered(test["identity"])
    seen = features_of(encoder, test["image"], bf16)
    result = {
        "size": seen.shape[1],
        "verification": [verification_auc(F.normalize(seen - seen.mean(dim=0), dim=1), test["identity"])],
    }
    for name, scaled in SCALES.items():
        who = people[several].unique(return_inverse=True)[1]
        result[f"identity{name}"] = probe_identity(seen[several], who, splits, scaled)
    names = training.features["label"].names
    wanted = [names.index(name) for name in EXPRESSIONS]
    fit, judged = ([row for row, label in enumerate(part["label"]) if label in wanted] for part in (training, test))
    features = torch.cat([features_of(encoder, training.select(fit)["image"], bf16), seen[judged]])
    labels = [
        wanted.index(part[row]) for part, rows in ((training["label"], fit), (test["label"], judged)) for row in rows
    ]
    del seen
    people = [training["identity"][row] for row in fit]
    for name, scaled in SCALES.items():
        found = probe_expression(features, torch.tensor(labels), people, splits, scaled)
        result |= {f"expression_{score}{name}": values for score, values in found.items()}
    return result


def numbered(names: list) -> Tensor:
    return torch.tensor([*map({name: i for i, name in enumerate(dict.fromkeys(names))}.get, names)])


def load(data_dir: str) -> DatasetDict:
    """The faces; of the test split only those of people who are not in the training split."""
    faces = load_faces("imagefolder", data_dir, label_column="expression", min_images_per_class=0)
    known = {*faces["train"]["identity"]}
    rows = [row for row, who in enumerate(faces["test"]["identity"]) if who not in known]
    return DatasetDict(train=faces["train"], test=faces["test"].select(rows))


def main(args: argparse.Namespace) -> None:
    faces = load(args.data_dir)
    results = json.loads(args.results.read_text()) if args.results.is_file() else {}
    for given in args.encoder:
        name, _, source = given.partition("=")
        encoder = load_encoder(source or name)
        config = Path(source) / "config.json"
        entry = results.setdefault(name, {})
        if entry.get("revision") != encoder.revision:
            record = json.loads(config.read_text())["training"] if source and config.is_file() else {}
            entry.pop("trained", None)
            entry.update(revision=encoder.revision, training=record)
            if not args.no_probe:
                entry["trained"] = probe(encoder, faces, args.splits, args.bf16)
            write(args.results, results)
        if args.no_probe:
            continue
        for seed in range(args.random_seeds):
            if str(seed) not in entry.setdefault("random", {}):
                torch.manual_seed(seed)
                untrained = load_encoder(source or name, pretrained=False)
                entry["random"][str(seed)] = probe(untrained, faces, args.splits, args.bf16)
                write(args.results, results)
        print(name, json.dumps(entry["trained"]), flush=True)


def write(path: Path, results: dict) -> None:
    """Written aside and moved into place."""
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    aside.rename(path)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="../shared/faces", help="train/ and test/, with metadata.csv")
    parser.add_argument(
        "--encoder", action="append", required=True, metavar="NAME[=FOLDER]", help="may be given several times"
    )
    parser.add_argument("--splits", type=int, default=5, help="of the fitted faces (default: %(default)s)")
    parser.add_argument("--random_seeds", type=int, default=3, help="networks of random weights (default: %(default)s)")
    parser.add_argument("--no_probe", action="store_true", help="only note how they were trained")
    parser.add_argument("--bf16", action="store_true", help="run the networks with bfloat16 autocast")
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: %(default)s")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse_args())
