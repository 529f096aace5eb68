"""What corrections win, and what they cost on the others: real faces, people whom the adapter has never seen.

    python benchmarks/online_corrections.py --data_dir ../shared/faces --features runs/online

The adapter is `ciao/everyday-six` on aligned faces. Of each class with enough mistakes, twelve faces that it reads
wrongly are drawn from test people who are not among the training people, for several seeds, and corrected. Faces of
other people are measured before and after; of those, a tenth of the people are the guard and are not measured. The
memory holds training faces, 20 MB of them. Every row goes into benchmarks/results/online_corrections.json as soon as it
is there, so an interrupted run goes on where it stopped.

- `by hand`: ten steps of Adam on the twelve, nothing else;
- `at once`: one update with all twelve;
- `one by one`: twelve updates; `one by one, guarded` may lose 2 points on the guard in all, and `one by one, apart`
  starts each update where the one before has ended (`together=0`).
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from measuring import machine, processor_seconds

from ciao_peft import CIAOModel, FeatureMemory, OnlineArguments, OnlineTrainer, cache_features, load_encoder, load_faces
from ciao_peft.online import Faces
from ciao_peft.online.reading import Reader, as_rows

RESULTS = Path(__file__).parent / "results" / "online_corrections.json"
MANY = 12
KEEP: dict[str, Any] = {"max_forgetting": 100}
BY_HAND = {"rehearsal": 0, "margin": 1e9, "max_steps": 10, "mask_steps": 10, "proximal_weight": 0}
METHODS: dict[str, tuple[OnlineArguments, bool, bool]] = {  # settings, one by one, with a guard
    "by hand": (OnlineArguments(**KEEP, **BY_HAND, allow_one_class=True), False, False),
    "at once": (OnlineArguments(**KEEP), False, False),
    "one by one": (OnlineArguments(**KEEP), True, False),
    "one by one, apart": (OnlineArguments(**KEEP, together=0), True, False),
    "one by one, guarded": (OnlineArguments(max_forgetting=2), True, True),
}


class Study:
    """The adapter, its memory, and the test faces of unseen people as features with u."""

    def __init__(self, data_dir: Path, features: Path, most: int):
        self.model = CIAOModel.from_pretrained(load_encoder("dlib-face"), "ciao/everyday-six").eval()
        faces = load_faces("imagefolder", data_dir, label_column="expression")
        known = {*faces["train"]["identity"]}
        test = faces["test"].filter(lambda who: who not in known, input_columns="identity")
        training = faces["train"].shuffle(seed=0).select(range(min(2400, len(faces["train"]))))
        stored = cache_features(self.model, {"train": training, "test": test}, features, dtype="float16")
        some = random.Random(0).sample(range(len(test)), min(most, len(test)))
        self.memory = FeatureMemory.from_dataset(self.model, stored["train"], max_bytes=20_000_000)
        self.people, self.reader = test.select(some)["identity"][:], Reader(self.model, None)
        parts = [*self.reader.read_dataset(stored["test"].select(some), "test", 128)]
        self.tensors = tuple(torch.cat(own) for own in zip(*(part.tensors for part in parts), strict=True))
        self.with_u = self.reader.with_excitation(self.tensors)
        self.labels = torch.cat([part.labels for part in parts]).argmax(dim=1)
        self.names = list(self.model.config.id2label.values())
        self.before = self.answers(range(len(self.labels)))

    @torch.no_grad()
    def answers(self, rows: Any) -> torch.Tensor:
        rows, adapter = torch.tensor(list(rows)), self.model.adapters[self.reader.name]
        parts = [self.reader.logits(adapter, tuple(t[own] for t in self.with_u)) for own in rows.split(128)]
        return torch.cat(parts).argmax(dim=1)

    def case(self, name: str, seed: int) -> tuple[list[int], list[int], list[int]] | None:
        """Rows to correct, of the guard, and to measure; None where there are not enough mistakes."""
        rng, kind = random.Random(seed), self.names.index(name)
        wrong = ((self.labels == kind) & (self.before != kind)).nonzero().flatten().tolist()
        if len(wrong) < MANY:
            return None
        corrected = rng.sample(wrong, MANY)
        others = sorted({*self.people} - {self.people[row] for row in corrected})
        guards = {*rng.sample(others, len(others) // 10)}
        rows = {True: [], False: []}
        for row, who in enumerate(self.people):
            if who in guards or who in others:
                rows[who in guards].append(row)
        return corrected, rows[True], rows[False]

    def run(self, method: str, name: str, seed: int) -> dict[str, Any] | None:
        case = self.case(name, seed)
        if case is None:
            return None
        corrected, guarded, measured = case
        args, one_by_one, has_guard = METHODS[method]
        guard = None
        if has_guard:
            labels = as_rows(self.labels[guarded], self.model.peft_config[self.reader.name])
            guard = Faces(tuple(tensor[guarded] for tensor in self.tensors), labels)
        kept, adapter = self.memory.state(), self.model.adapters[self.reader.name]
        weights = {key: tensor.clone() for key, tensor in adapter.state_dict().items()}
        online = OnlineTrainer(self.model, memory=self.memory, guard=guard, args=args)
        start, updates = processor_seconds(), []
        for rows in [[row] for row in corrected] if one_by_one else [corrected]:
            updates.append(online.update(tuple(t[rows] for t in self.tensors), [name] * len(rows)))
        seconds = processor_seconds() - start
        right = int((self.answers(corrected) == self.labels[corrected]).sum())
        now, truth = self.answers(measured), self.labels[measured]
        before, after = ((given == truth).double().mean().item() for given in (self.before[measured], now))
        adapter.load_state_dict(weights)
        self.memory.restore(kept)
        return {
            "method": method,
            "class": name,
            "seed": seed,
            "right": right,
            "before": round(100 * before, 2),
            "lost": round(100 * (before - after), 2),
            "measured": len(measured),
            "guard": len(guarded) if has_guard else 0,
            "kept": sum(update.kept for update in updates),
            "seconds": round(seconds, 3),
        }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and standard deviations of each method over classes and seeds, and how often the goal was met."""
    found = {}
    for method in METHODS:
        own = [row for row in rows if row["method"] == method]
        if len(own) > 1:
            spread = {name: [row[name] for row in own] for name in ("right", "lost")}
            found[method] = {name: [round(mean(v), 2), round(stdev(v), 2)] for name, v in spread.items()}
            found[method] |= {
                "runs": len(own),
                "goal met": sum(row["right"] >= 10 and row["lost"] <= 2 for row in own),
                "seconds a correction": round(mean(row["seconds"] for row in own) / MANY, 3),
            }
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--features", type=Path, required=True, help="a folder that keeps the features")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--faces", type=int, default=2000, help="test faces, at most")
    args = parser.parse_args(argv)
    record = {"machine": machine(), "rows": []}
    if args.results.is_file():
        record = json.loads(args.results.read_text("utf-8"))
    done = {(row["method"], row["class"], row["seed"]) for row in record["rows"]}
    study = Study(args.data_dir, args.features, args.faces)
    for seed in range(args.seeds):
        for name in study.names:
            for method in METHODS:
                if (method, name, seed) not in done and (row := study.run(method, name, seed)) is not None:
                    record["rows"].append(row)
                    record["summary"] = summary(record["rows"])
                    args.results.parent.mkdir(parents=True, exist_ok=True)
                    args.results.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
                    print(json.dumps(row), flush=True)
    print(json.dumps(summary(record["rows"]), indent=1))


if __name__ == "__main__":
    main()
