"""Whether an adapter answers better for a person after it saw other faces of that person without their labels.

    python benchmarks/person_adaptation.py --data_dir ../shared/faces

For each seed, three tenths of the training people are held out and one adapter is trained on the others. Of each
held-out person with eight faces or more, half the faces (or three neutral ones, who are asked for) are what it may look
at, and the rest are scored. The test split is not opened. Each seed appends its lines to
benchmarks/results/person_adaptation.jsonl; `docs/make_unlabelled.py` writes them into docs/results/unlabelled.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from encoder_map import model_on, rows_of, stored
from torch import Tensor

from ciao_peft import CIAOConfig, CIAOModel, CIAOTrainer, CIAOTrainingArguments, __version__, load_faces
from ciao_peft.data import labels_of
from ciao_peft.features import FeatureDataset

RESULTS = Path(__file__).parent / "results" / "person_adaptation.jsonl"
ENCODER = "dlib-face-3-aligned"
FEWEST, NEUTRAL_FACES, MOST_SEEN = 8, 3, 16
TRAINING: dict[str, Any] = {
    "max_steps": 300,
    "per_device_train_batch_size": 64,
    "mask_learning_rate": 1e-2,
    "warmup_ratio": 0.1,
    "class_balanced_batches": False,
    "views": 2,
    "report_to": "none",
    "disable_tqdm": True,
}


class Adapted:
    """An adapter, what it says of training faces, and the ways to adapt its answers."""

    def __init__(self, model: CIAOModel, features: FeatureDataset, trained: list[int], neutral: int):
        self.model, self.features = model, features
        assert features.labels is not None
        self.labels = features.labels
        logits, labels = self.logits(trained), self.labels[trained]
        self.of_neutral, self.of_all = logits[labels == neutral].mean(dim=0), logits.mean(dim=0)
        self.prior = torch.bincount(labels, minlength=logits.shape[1]).float() / len(labels)

    @torch.no_grad()
    def logits(self, rows: list[int]) -> Tensor:
        self.model.eval()
        parts = [self._read(rows[first : first + 128]) for first in range(0, len(rows), 128)]
        return torch.cat(parts)

    def _read(self, rows: list[int]) -> Tensor:
        read = self.features.features(rows)
        return self.model(features=tuple(tensor.float() for tensor in read)).logits

    def centred(self, seen: list[int], scored: list[int], share: float, mean: Tensor) -> Tensor:
        """Logits less a share of what the person's are above the mean."""
        return self.logits(scored) - share * (self.logits(seen).mean(dim=0) - mean)

    def by_frequency(self, seen: list[int], scored: list[int], share: float) -> Tensor:
        """The person's frequencies of classes, by expectation and maximisation from `seen` (Saerens et al. 2002)."""
        p, own = self.logits(seen).softmax(dim=1), self.prior
        for _ in range(20):
            each = p * own / self.prior
            own = ((each / each.sum(dim=1, keepdim=True)).sum(dim=0) + 5 * self.prior) / (len(seen) + 5)
        return self.logits(scored) + share * (own / self.prior).log()

    def by_entropy(self, seen: list[int], scored: list[int], rate: float) -> Tensor:
        """Ten updates of the scale of the mask, `a`, towards surer answers whose mean stays near the frequencies."""
        scale = [p for name, p in self.model.adapters["default"].named_parameters() if name.endswith("raw_decay")]
        before = [p.detach().clone() for p in scale]
        optimizer = torch.optim.Adam(scale, lr=rate)
        for _ in range(10):
            p = self._read(seen[:MOST_SEEN]).softmax(dim=1).clamp(min=1e-9)
            mean = p.mean(dim=0)
            loss = -(p * p.log()).sum(dim=1).mean() + (mean * (mean / self.prior).log()).sum()
            for parameter, gradient in zip(scale, torch.autograd.grad(loss, scale), strict=True):
                parameter.grad = gradient
            optimizer.step()
        found = self.logits(scored)
        with torch.no_grad():
            for parameter, value in zip(scale, before, strict=True):
                parameter.copy_(value)
        return found


Way = Callable[[list[int], list[int]], Tensor]


def ways(one: Adapted) -> Iterator[tuple[str, bool, Way]]:
    """Name, whether it asks for neutral faces, and the logits of the faces that are scored."""
    for asks in (False, True):
        yield "as it is", asks, lambda seen, scored: one.logits(scored)
        mean = one.of_neutral if asks else one.of_all
        for share in (0.1, 0.25, 0.5, 1.0):
            name = f"logits centred by {share:g}"
            yield name, asks, lambda seen, scored, s=share, m=mean: one.centred(seen, scored, s, m)
    for share in (0.25, 0.5, 1.0):
        name = f"frequencies of classes, {share:g} of the way"
        yield name, False, lambda seen, scored, s=share: one.by_frequency(seen, scored, s)
    for rate in (0.01, 0.05):
        yield (
            f"entropy, scale of the mask, rate {rate:g}",
            False,
            lambda seen, scored, r=rate: one.by_entropy(seen, scored, r),
        )


def measured(one: Adapted, people: dict[str, list[int]], neutral: int, seed: int) -> Iterator[dict[str, Any]]:
    """Each way with each person."""
    shuffled = torch.Generator().manual_seed(seed)
    halves, asked = [], []
    for rows in people.values():
        rows = [rows[place] for place in torch.randperm(len(rows), generator=shuffled).tolist()]
        halves.append((rows[: len(rows) // 2], rows[len(rows) // 2 :]))
        own = [row for row in rows if one.labels[row] == neutral][:NEUTRAL_FACES]
        rest = [row for row in rows if row not in own]
        if len(own) == NEUTRAL_FACES and len(rest) >= FEWEST - NEUTRAL_FACES:
            asked.append((own, rest))
    for name, asks, way in ways(one):
        scores = []
        for seen, scored in asked if asks else halves:
            right = way(seen, scored).argmax(dim=1) == one.labels[scored]
            scores.append(round(right.float().mean().item(), 4))
        yield {"way": name, "sees": "three neutral faces" if asks else "half the faces", "people": scores}


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    lines = [json.loads(line) for line in args.results.read_text().splitlines()] if args.results.exists() else []
    done = {line["seed"] for line in lines}
    faces = load_faces("imagefolder", args.data_dir, label_column="expression")["train"]
    labels = labels_of(faces).as_config()
    neutral = list(labels["id2label"].values()).index("neutral")
    head = CIAOConfig(**labels, inhibition=False, contrastive_weight=0.0)
    features = stored(ENCODER, faces, Path(args.features_dir) / ENCODER / "train", 2, head)
    who = list(faces["identity"])
    for seed in (seed for seed in range(args.seeds) if seed not in done):
        trained, held = rows_of(faces, seed)
        model = model_on(ENCODER, CIAOConfig.preset("compact", **labels, init_seed=seed))
        CIAOTrainer(model, CIAOTrainingArguments.recipe("paper", **TRAINING, seed=seed)).train(features.select(trained))
        people: dict[str, list[int]] = {}
        for row in held:
            people.setdefault(who[row], []).append(row)
        several = {name: rows for name, rows in people.items() if len(rows) >= FEWEST}
        one = Adapted(model, features, trained[::4], neutral)
        more = {"seed": seed, "torch": torch.__version__, "ciao": __version__}
        found = [json.dumps(line | more) for line in measured(one, several, neutral, seed)]
        with args.results.open("a") as file:
            file.write("\n".join(found) + "\n")
        print(f"seed {seed}: {len(several)} people", flush=True)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="../shared/faces", help="train/ and test/, with metadata.csv")
    parser.add_argument("--seeds", type=int, default=2, help="divisions of the people (default: %(default)s)")
    parser.add_argument("--features_dir", default="runs/encoder_map", help="(default: %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: %(default)s")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse_args())
