"""Learning on the job: classes, people and frequencies that come one after the other, against what the field does.

    python benchmarks/streams.py --data_dir ../shared/faces

Three streams of photographs and three of painted faces: two classes at a time (from nothing), ten new people one after
the other, and frequencies of the classes that drift (both from an adapter that knows other people). Each face arrives
once, ten together, as features of the frozen encoder, which are stored in --features_dir when they are first needed.

Learning rates, strengths of penalties and shrinkage are chosen first, on training people alone: some of them learn, and
others of them test. Then everything is measured on the test faces of people who are in no training split. Each run
appends a line to benchmarks/results/streams.jsonl as soon as it is there, so that an interrupted run goes on where it
stopped; `docs/make_results.py` writes docs/results/streams.md from that file. Takes some 45 minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from encoder_map import RECIPE
from stream_faces import ENCODER, Faces, painted_faces, real_faces

from ciao_peft import CIAOModel, CIAOTrainer, CIAOTrainingArguments, __version__
from ciao_peft.online import FeatureMemory, OnlineArguments
from ciao_peft.study import streams
from ciao_peft.study.streams import GradientSettings, Learner, Stream, StreamScores

RESULTS = Path(__file__).parent / "results" / "streams.jsonl"
STREAMS = ("person-incremental", "class-incremental", "label-shift")
FACES = ("photographs", "painted")
KNOWN = 1000  # faces of other people that an adapter knows before a stream, at most
CHOICE = 100  # the seed of the choices
GRID = 2  # squares of the last map, in each direction, that are averaged for what counts
RATES = ({"learning_rate": 1e-3}, {"learning_rate": 3e-3})
EVENLY = {
    "max_forgetting": 100.0,
    "distillation_weight": 0.0,
    "min_steps": 20,
    "rehearsal": 64,
    "rehearsal_balance": 1.0,
}
# As the defaults are, but that whatever arrives is learned, also where it is of one class; and without what guards
# an adapter that is in use: every update is kept, ends as soon as it can, and may move further from what was answered.
# Faces come ten together here, and each update starts where the last one has ended. The third rehearses longer, all
# classes alike, and holds no answer where it was: for an adapter that knows nothing before the stream.
ONLINE = tuple(
    OnlineArguments(allow_one_class=True, together=0, **more).to_dict()
    for more in ({}, {"max_forgetting": 100.0, "distillation_weight": 1.0, "min_steps": 0}, EVENLY)
)
STEPS = {"steps": 3, "replayed": 16}
# What is tried of each method on training people. EWC and LwF take the rate that was chosen for naive training.
GRIDS: dict[str, tuple[dict[str, Any], ...]] = {
    "untouched": ({},),
    "nearest mean": ({},),
    "streaming LDA": ({"shrinkage": 0.1}, {"shrinkage": 0.3}),
    "naive": RATES,
    "EWC": ({"strength": 30.0}, {"strength": 1000.0}),
    "LwF": ({"strength": 0.5}, {"strength": 2.0}),
    "rehearsal, 200 kB": RATES,
    "rehearsal, 20 MB": RATES,
    "online, 200 kB": ONLINE,
    "online, 20 MB": ONLINE,
    "joint": ({},),
}
MEMORY = {"200 kB": 200_000, "20 MB": 20_000_000}


def rows_of(faces: Faces, seed: int) -> tuple[list[int], list[int], list[int], list[int]]:
    """Rows of people who are known before a stream, arrive in choices, test those, and are of the test split."""
    chance = torch.Generator().manual_seed(seed)
    training = (~faces.tests).nonzero().flatten()
    people = faces.people[training].unique()
    people = people[torch.randperm(len(people), generator=chance)]
    first, second = int(0.4 * len(people)), int(0.7 * len(people))
    parts = []
    for some in (people[:first], people[first:second], people[second:]):
        parts.append(training[torch.isin(faces.people[training], some)])
    known = parts[0][torch.randperm(len(parts[0]), generator=chance)[:KNOWN]]
    return known.tolist(), parts[1].tolist(), parts[2].tolist(), faces.tests.nonzero().flatten().tolist()


def stream_of(faces: Faces, kind: str, seed: int, choosing: bool) -> Stream:
    """A stream of training people to choose by, or one that is tested on people who are in no training split."""
    labels = faces.features.labels
    assert labels is not None
    known, arriving, held, test = rows_of(faces, seed)
    learned, tested = (arriving, held) if choosing else ([*arriving, *held], test)
    if kind == "class-incremental":
        return streams.class_incremental(labels, [*known, *learned], tested, seed=seed)
    if kind == "person-incremental":
        met = [*arriving, *held] if choosing else test
        return streams.person_incremental(faces.people, met, known=known, seed=seed)
    return streams.label_shift(labels, learned, tested, known=known, seed=seed)


def trained(args: argparse.Namespace, seed: int, batch_size: int) -> CIAOTrainingArguments:
    settings = {**RECIPE, "learning_rate": 3e-3, "mask_learning_rate": 3e-3, "bf16": False}
    settings |= {"num_train_epochs": args.num_train_epochs, "per_device_train_batch_size": batch_size, "seed": seed}
    return CIAOTrainingArguments.recipe("paper", **settings, report_to="none", disable_tqdm=True)


def model_before(faces: Faces, name: str, stream: Stream, seed: int, args: argparse.Namespace) -> CIAOModel:
    """A model whose adapter knows what is known before the stream; trained once for each seed, and kept."""
    model = faces.model(seed)
    if not stream.known:
        return model
    folder = Path(args.features_dir) / "before" / f"{name}-{seed}"
    if not (folder / "adapter_config.json").is_file():
        CIAOTrainer(model, trained(args, seed, 64)).train(faces.features.select(stream.known))
        model.save_pretrained(folder)
    model.unload()
    model = faces.model(seed)
    model.delete_adapter("default")
    model.load_adapter(folder, adapter_name="default")
    model.set_adapter("default")
    return model.eval()


def learner_of(method: str, settings: dict[str, Any], model: CIAOModel, seed: int) -> Learner:
    """A new learner of the method on the model."""
    config = model.peft_config["default"]
    if method == "untouched":
        return streams.Untouched(model, "default")
    if method in ("nearest mean", "streaming LDA"):
        kind = streams.NearestMean if method == "nearest mean" else streams.StreamingLDA
        size = model.opened.map_shape[0] * GRID**2
        return streams.CountingLearner(model, kind(config.num_labels, size, **settings), GRID)
    name, _, memory = method.partition(", ")
    if name == "online":
        args = OnlineArguments.from_dict({**settings, "seed": seed})
        return streams.Online(model, "default", FeatureMemory(MEMORY[memory], seed=seed), args)
    kinds: dict[str, Callable[..., Learner]] = {
        "naive": streams.Naive,
        "rehearsal": streams.Rehearsal,
        "EWC": streams.ElasticWeights,
        "LwF": streams.LearningWithoutForgetting,
    }
    kept = {"memory_bytes": MEMORY[memory]} if memory else {}
    return kinds[name](model, "default", GradientSettings(**STEPS, **kept, **settings, seed=seed))


def score_of(line: dict[str, Any]) -> float:
    """What a choice goes by: accuracy on what was met, and, where others are never met, as much on those."""
    measures = line["measures"]
    return measures.get("both", measures["average_accuracy"])


class Benchmark:
    """Runs what is missing, and writes a line for each.

    Args:
        args: The command line.
    """

    def __init__(self, args: argparse.Namespace):
        self.args = args
        text = args.results.read_text() if args.results.exists() else ""
        lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
        for line in lines:
            if "online" in line["method"]:
                line["settings"].setdefault("together", 0)  # so it was before it could be chosen
        # `OnlineArguments` may have other defaults by now: what earlier ones reached is measured anew.
        self.lines = [line for line in lines if "online" not in line["method"] or line["settings"] in ONLINE]
        if len(self.lines) < len(lines):
            args.results.write_text("".join(json.dumps(line) + "\n" for line in self.lines))

    @cache  # noqa: B019
    def faces(self, name: str) -> Faces:
        folder = Path(self.args.features_dir) / name
        return real_faces(self.args.data_dir, folder) if name == "photographs" else painted_faces(folder)

    def tried(self, method: str, name: str, kind: str) -> Iterator[dict[str, Any]]:
        """The settings that are tried of a method."""
        base = {}
        if method in ("EWC", "LwF"):
            base = {"learning_rate": self.chosen("naive", name, kind)["learning_rate"]}
        for settings in GRIDS[method]:
            yield {**base, **settings}

    def chosen(self, method: str, name: str, kind: str) -> dict[str, Any]:
        """The settings that did best on training people."""
        if len(GRIDS[method]) == 1:
            return GRIDS[method][0]
        place, tried = (name, kind, method, "choice"), list(self.tried(method, name, kind))
        mine = [
            line
            for line in self.lines
            if (line["faces"], line["stream"], line["method"], line["part"]) == place and line["settings"] in tried
        ]
        return max(mine, key=score_of)["settings"]

    def run(self, name: str, kind: str, method: str, settings: dict[str, Any], seed: int, part: str) -> None:
        key = {"faces": name, "stream": kind, "method": method, "settings": settings, "seed": seed, "part": part}
        if any(all(line[field] == value for field, value in key.items()) for line in self.lines):
            return
        faces = self.faces(name)
        stream = stream_of(faces, kind, seed, choosing=part == "choice")
        began = time.thread_time()
        if method == "joint":
            scores = streams.jointly(faces.model(seed), "default", stream, faces.features, trained(self.args, seed, 64))
        else:
            learner = learner_of(method, settings, model_before(faces, name, stream, seed, self.args), seed)
            scores = streams.run_stream(learner, stream, faces.features)
        self.note({**key, **described(scores), "cpu_seconds": round(time.thread_time() - began, 1)})

    def note(self, line: dict[str, Any]) -> None:
        line |= {"encoder": ENCODER, "torch": torch.__version__, "ciao": __version__}
        self.lines.append(line)
        with self.args.results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        shown = {name: round(100 * value, 1) for name, value in line["measures"].items()}
        print(*(line[field] for field in ("part", "faces", "stream", "method", "settings", "seed")), shown, flush=True)


def described(scores: StreamScores) -> dict[str, Any]:
    """A line's account of what was reached."""
    ordered = sorted(scores.seconds) or [0.0]
    return {
        "measures": {name: round(value, 5) for name, value in scores.measures().items()},
        "before": [round(value, 5) for value in scores.before],
        "accuracies": [[round(value, 5) for value in row] for row in scores.accuracies],
        "others": [round(value, 5) for value in scores.others],
        "memory_bytes": scores.memory_bytes,
        "cpu_ms": {
            "median": round(1000 * ordered[len(ordered) // 2], 2),
            "95 %": round(1000 * ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 2),
        },
    }


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.num_threads)
    benchmark = Benchmark(args)
    methods = args.method or list(GRIDS)
    places = [(name, kind) for name in args.faces or FACES for kind in args.stream or STREAMS]
    for name, kind in places:
        for method in methods:
            if len(GRIDS[method]) > 1:
                for settings in list(benchmark.tried(method, name, kind)):
                    benchmark.run(name, kind, method, settings, CHOICE, "choice")
    for seed in range(args.seeds):
        for name, kind in places:
            for method in methods:
                benchmark.run(name, kind, method, benchmark.chosen(method, name, kind), seed, "test")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="../shared/faces", help="train/ and test/, with metadata.csv")
    parser.add_argument("--stream", action="append", choices=STREAMS, help="may be given several times; default: all")
    parser.add_argument("--faces", action="append", choices=FACES, help="may be given several times; default: both")
    parser.add_argument("--method", action="append", choices=list(GRIDS), help="may be given several times")
    parser.add_argument("--seeds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--num_train_epochs", type=float, default=12, help="where all is there at once")
    parser.add_argument("--features_dir", default="runs/streams", help="(default: %(default)s)")
    parser.add_argument("--num_threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS, help="(default: %(default)s)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse_args())
