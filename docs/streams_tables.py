"""Tables of learning on the job for docs/make_results.py, from benchmarks/results/streams.jsonl."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from corrections_tables import corrections
from pages import wrapped
from settings_tables import spread

from ciao_peft.markdown import markdown_table as table

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "streams.jsonl"
WHAT = {
    "untouched": "learns nothing",
    "nearest mean": "class means of the encoder's last map",
    "streaming LDA": "class means and one covariance of it",
    "naive": "trains on what arrives",
    "EWC": "holds the weights that mattered",
    "LwF": "answers as it did before",
    "rehearsal, 200 kB": "replays what it kept at random",
    "rehearsal, 20 MB": "the same, with more room",
    "online, 200 kB": "`OnlineTrainer`",
    "online, 20 MB": "`OnlineTrainer`, its memory's default",
    "joint": "everything at once: the upper bound",
}
METHODS = list(WHAT)
PLACES = [
    (faces, stream)
    for stream in ("person-incremental", "class-incremental", "label-shift")
    for faces in ("photographs", "painted")
]
WITHIN = 2.0  # points behind joint training that are allowed
OURS = {"person-incremental": "online, 200 kB", "class-incremental": "online, 20 MB"}

Line = dict[str, Any]


class Measured:
    """What the benchmark wrote, by faces, stream and method.

    Args:
        lines: Of its file.
    """

    def __init__(self, lines: Sequence[Line]):
        self.lines = list(lines)

    def rows(self, faces: str, stream: str, method: str, part: str = "test") -> list[Line]:
        """In order of seeds; of a seed that was tested again, after another choice, the last."""
        place = (faces, stream, method, part)
        found = [one for one in self.lines if (one["faces"], one["stream"], one["method"], one["part"]) == place]
        if part == "test":
            found = list({one["seed"]: one for one in found}.values())
        return sorted(found, key=lambda one: one["seed"])

    def points(self, faces: str, stream: str, method: str, measure: str) -> dict[int, float]:
        """A measure in percent by seed."""
        rows = self.rows(faces, stream, method)
        return {one["seed"]: 100 * one["measures"][measure] for one in rows if measure in one["measures"]}

    def gap(self, faces: str, stream: str, one: str, other: str, measure: str) -> np.ndarray:
        """One method minus another, in points, over the seeds that both have."""
        mine, theirs = (self.points(faces, stream, name, measure) for name in (one, other))
        return np.array([mine[seed] - theirs[seed] for seed in sorted({*mine} & {*theirs})])

    def places(self) -> list[tuple[str, str]]:
        """Faces and streams that were measured."""
        return [place for place in PLACES if self.rows(*place, "joint")]


def measured() -> Measured | None:
    """What there is, or None."""
    return Measured([json.loads(line) for line in RESULTS.read_text().splitlines()]) if RESULTS.is_file() else None


def signed(points: float) -> str:
    return f"{points:+.1f}".replace("-", "−")


def cell(values: dict[int, float]) -> str:
    return spread(np.array(list(values.values()))).replace("-", "−") if values else "–"


def short(found: Measured) -> str:
    """Average accuracy of each method on each stream; where others are never met, on those, too."""
    columns = [
        (faces, stream, measure)
        for faces, stream in found.places()
        for measure in ("average_accuracy", "others")
        if found.points(faces, stream, "joint", measure)
    ]
    people = [column for column in columns if column[1] == "person-incremental"]
    parts = [_short(found, some) for some in (people, [one for one in columns if one not in people]) if some]
    return "\n\n".join(parts)


def _short(found: Measured, columns: Sequence[tuple[str, str, str]]) -> str:
    names = {"average_accuracy": "", "others": ", others"}
    header = ["method", *(f"{stream.removesuffix('-incremental')}{names[m]}: {faces}" for faces, stream, m in columns)]
    rows = [[method, *(cell(found.points(f, s, method, m)) for f, s, m in columns)] for method in METHODS]
    return table(header, [row for row in rows if set(row[1:]) != {"–"}])


def goals(found: Measured) -> list[str]:
    """What was asked for, and whether it was reached: one item for each stream."""
    items = []
    for faces, stream in found.places():
        if stream == "person-incremental":
            gaps = {
                name: found.gap(faces, stream, OURS[stream], "joint", measure)
                for name, measure in (("people who were met", "average_accuracy"), ("others", "others"))
            }
            said = " and ".join(f"{_points(gap)} on {name}" for name, gap in gaps.items())
            reached = all(len(gap) and gap.mean() >= -WITHIN for gap in gaps.values())
            what = f"within {WITHIN:g} points of joint training with 200 kB of memory"
        elif stream == "class-incremental":
            others = ("streaming LDA", "nearest mean")
            apart = {name: found.gap(faces, stream, OURS[stream], name, "average_accuracy") for name in others}
            said = " and ".join(f"{_points(gap)} against {name}" for name, gap in apart.items())
            reached = all(len(gap) and gap.mean() > 0 for gap in apart.values())
            what = f"ahead of streaming LDA and nearest mean, with {OURS[stream].partition(', ')[2]} of memory"
        else:
            continue
        known = bool(found.rows(faces, stream, OURS[stream]))
        verdict = ("**met**" if reached else "**not met**") if known else "not measured"
        seeds = len(found.rows(faces, stream, OURS[stream]))
        said = f"{said}; {seeds} seed{'s' * (seeds != 1)}" if known else said
        items.append(f"{stream}, {faces}: {what}: {verdict} ({said})")
    return items


def _points(gap: np.ndarray) -> str:
    if not len(gap):
        return "no seeds"
    return f"{signed(gap.mean())} ± {gap.std(ddof=1):.1f}" if len(gap) > 1 else signed(gap.mean())


def in_short(found: Measured) -> str:
    """The section of docs/results.md."""
    items = "\n".join(f"- {item}" for item in goals(found))
    return f"""Faces arrive once, ten together, and are tested after each experience; accuracy in percent at the end,
mean ± standard deviation over seeds. “Others” are people who are never met. Goals:

{items}

{short(found)}

[All measures, and what each row is](results/streams.md)."""


def page(found: Measured) -> str:
    """docs/results/streams.md."""
    parts = [_of_stream(found, *place) for place in found.places()]
    kinds = table(["method", "what it does"], [[name, what] for name, what in WHAT.items()])
    items = "\n".join(f"- {item}" for item in goals(found))
    encoder = found.lines[0]["encoder"]
    return f"""# Learning on the job

    python benchmarks/streams.py --data_dir ../shared/faces

Streams of stored features of `{encoder}`. Each face arrives once, ten together. Rates, strengths and shrinkage were
chosen for each stream on training people alone ([below](#what-was-chosen)); then everything was tested on faces of
people who are in no training split.

- **person-incremental**: an adapter that was trained on other people meets ten new people, one after the other. Half of
  each one's faces arrive, the other half tests; “others” are people who are never met.
- **class-incremental**: a new adapter learns two classes at a time, and is asked for all of them.
- **label-shift**: an adapter that was trained on other people meets classes whose frequencies drift to their reverse.

{kinds}

EWC and LwF are told when an experience ends, and joint training sees everything at once; no other row knows more than
the faces as they come.

## Goals

{items}

{chr(10).join(parts)}
{corrections()}
## What the measures are

R(i, j) is the accuracy on the test of experience j after experience i (`ciao_peft.metrics.average_accuracy` and its
neighbours have the equations): “accuracy” is the mean of the last row, “forgotten” the mean loss since the best,
“backward” what later experiences did to earlier ones, and “forward” what earlier ones did for later ones. All in
percent or points, mean ± standard deviation over seeds. “ms” is the median time of the processor for one update with
ten faces, on one thread; “kept” is what a method keeps besides its adapter.

## What was chosen

{_choices(found)}

[All results](../results.md)
"""


def _of_stream(found: Measured, faces: str, stream: str) -> str:
    measures = ("average_accuracy", "others", "forgetting", "backward_transfer", "forward_transfer")
    measures = tuple(one for one in measures if one != "others" or found.points(faces, stream, "joint", "others"))
    names = dict(zip(measures, measures, strict=True)) | {
        "average_accuracy": "accuracy",
        "forgetting": "forgotten",
        "backward_transfer": "backward",
        "forward_transfer": "forward",
    }
    rows = []
    for method in METHODS:
        lines = found.rows(faces, stream, method)
        if not lines:
            continue
        learns = method not in ("joint", "untouched")
        cost = f"{np.median([one['cpu_ms']['median'] for one in lines]):.0f}" if learns else "–"
        kept = _size(int(np.median([one["memory_bytes"] for one in lines]))) if learns else "–"
        cells = [cell(found.points(faces, stream, method, measure)) for measure in measures]
        rows.append([method, *cells, kept, cost, str(len(lines))])
    header = ["method", *(names[measure] for measure in measures), "kept", "ms", "seeds"]
    return f"## {stream[0].upper()}{stream[1:]}, {faces}\n\n{table(header, rows)}\n"


def _size(count: int) -> str:
    if count == 0:
        return "–"
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def _choices(found: Measured) -> str:
    rows = []
    for faces, stream in found.places():
        for method in METHODS:
            tried = found.rows(faces, stream, method, "choice")
            if not tried:
                continue
            scores = [one["measures"].get("both", one["measures"]["average_accuracy"]) for one in tried]
            best = tried[int(np.argmax(scores))]
            named = sorted({name for one in tried for name in one["settings"]})
            own = [name for name in named if len({str(one["settings"].get(name)) for one in tried}) > 1]
            chosen = ", ".join(f"{name} {best['settings'].get(name, 'default')}" for name in own)
            if method.startswith("online"):
                evenly = best["settings"].get("distillation_weight") == 0
                chosen = "evenly" if evenly else "defaults" if best is tried[0] else "unguarded"
            rows.append([stream, faces, method, chosen or "–", " / ".join(f"{100 * score:.1f}" for score in scores)])
    note = wrapped(
        "Accuracy in percent of everything that was tried; where others are never met, its mean with that on others. "
        "“Unguarded” keeps every update of `OnlineTrainer`; “evenly” rehearses longer as well, all classes alike, and "
        "without distillation (`benchmarks/streams.py` has the settings)."
    )
    return f"{table(['stream', 'faces', 'method', 'chosen', 'accuracy'], rows)}\n\n{note}"
