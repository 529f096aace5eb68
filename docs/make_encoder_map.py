"""Writes "Which encoder" in docs/encoders.md, and the table of the adapters in the package in docs/publishing.md.

python benchmarks/encoder_map.py       # first; docs/encoders.md lists the commands
python docs/make_encoder_map.py
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from pages import between, command_block, fill, wrap_page

from ciao_peft import load_encoder
from ciao_peft.hub import bundled_adapters
from ciao_peft.markdown import markdown_table as table

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results"
PAGE, ADAPTERS = HERE / "encoders.md", HERE / "publishing.md"
BEGIN, END = (
    "<!-- measured: written by docs/make_encoder_map.py -->",
    "<!-- end of measured by docs/make_encoder_map.py -->",
)
ENCODERS = [
    *("small-face", "small-face-aligned", "dlib-face-1", "dlib-face-1-aligned"),
    *("dlib-face-2", "dlib-face-2-aligned", "dlib-face-3", "dlib-face-3-aligned"),
]
TRAINED = ["prior_knowledge", "vggface2"]  # their weights are not in the package
NETWORKS = ["decision layer", "decision layer + CIAO", "last convolution", "last convolution + CIAO"]
GOALS = {"decision layer": 83, "last convolution": 85}
# What is compared on a residual encoder: the start of the network with each of them, and the method's name.
STARTS = {
    "decision layer": "-",
    "decision layer + CIAO": "u / (a + max(0, u)): the branch is nearly off",
    "divisive, rate 1e-3": "the same",
    "subtractive": "min(0, u) / a: nearly off",
    "gain": "u",
    "gain, ranks 16": "u",
    "last convolution": "u",
    "last convolution + CIAO": "u / (a + max(0, u)): nearly off",
    "last convolution + gain": "u",
    "compact head": "-",
    "compact: excitation of rank 32": "u",
    "compact: gain, ranks 16": "u",
    "compact: gain, ranks 16, no contrastive": "u",
    "compact: gain, ranks 32": "u",
}
WORLDS = ("eight", "seven", "affect", "signals")
PAINTED = {"decision layer": "head", "compact: gain, ranks 16": "compact: gain, ranks 16"}
Line = dict[str, Any]


def lines() -> list[Line]:
    """What was measured, the newest of each."""
    path = RESULTS / "encoder_map.jsonl"
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    newest = {(line["encoder"], line["method"], line["seed"], line["split"]): line for line in found}
    return [*newest.values()]


def titled(encoder: str) -> str:
    """`dlib-face-2-aligned` as a reader calls it."""
    plain, aligned = encoder.removesuffix("-aligned"), ", aligned" if encoder.endswith("-aligned") else ""
    if plain.startswith("dlib-face-"):
        return f"`dlib-face`, {plain[-1]} level{'s' * (plain[-1] != '1')}{aligned}"
    return f"`{plain}`{aligned}"


def percent(found: list[Line], metric: str = "accuracy") -> str:
    """Mean and deviation over seeds, in percent."""
    values = [100 * line["scores"][metric] for line in found if metric in line["scores"]]
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def both(found: list[Line]) -> str:
    return f"{percent(found)} / {percent(found, 'balanced_accuracy')}" if found else "-"


def facts(found: list[Line]) -> str:
    """Size, time and probes."""
    times = json.loads((RESULTS / "alignment.json").read_text(encoding="utf-8"))
    steps = times["milliseconds"]["96"]
    aligning = steps["landmarks"] + steps["chip"]
    rows = []
    for name in [*ENCODERS, *TRAINED]:
        probe = next((line for line in found if (line["encoder"], line["method"]) == (name, "probe")), None)
        plain = name.removesuffix("-aligned")
        levels = {"levels": int(plain[-1])} if plain.startswith("dlib") else {}
        random = {"pretrained": False} if plain in TRAINED else {}
        encoder = load_encoder("dlib-face" if levels else plain, **levels, **random)
        parameters = sum(tensor.numel() for tensor in encoder.parameters())
        key = f"dlib-face, levels={plain[-1]}" if levels else plain
        milliseconds = times["encoders"].get(key)
        speed = "-" if milliseconds is None else f"{milliseconds + aligning * name.endswith('-aligned'):.1f}"
        cells = [titled(name), f"{parameters:,}", speed]
        if probe is None:
            rows.append([*cells, "-", "-", "-", "-"])
            continue
        expression = f"{100 * statistics.mean(probe['expression_accuracy']):.1f} / "
        expression += f"{100 * statistics.mean(probe['expression_balanced']):.1f}"
        identity = f"{100 * statistics.mean(probe['identity']):.1f}"
        rows.append([*cells, f"{probe['size']:,}", expression, identity, f"{probe['verification']:.3f}"])
    head = ["encoder", "parameters", "ms a face", "numbers of the map"]
    return table([*head, "expression, linear", "identity, linear", "identity, AUC of pairs"], rows)


def networks(found: list[Line]) -> str:
    rows = []
    for name in [*ENCODERS, *TRAINED]:
        parts = [[x for x in found if (x["encoder"], x["method"]) == (name, method)] for method in NETWORKS]
        if any(parts):
            rows.append([titled(name), *map(both, parts), ", ".join(str(len(part)) for part in parts)])
    return table(["encoder", *NETWORKS, "seeds"], rows)


def goals(found: list[Line]) -> str:
    """What was asked of `dlib-face` on aligned faces, and what it reached."""
    reached = []
    for method, least in GOALS.items():
        part = [x for x in found if (x["encoder"], x["method"]) == ("dlib-face-3-aligned", method)]
        if part:
            met = 100 * statistics.mean(x["scores"]["accuracy"] for x in part) >= least
            score = f"{percent(part)} over {len(part)} seeds"
            reached.append(f"at least {least} % with the {method}: {'met' if met else 'not met'}, {score}")
    return f"Asked of `dlib-face` on aligned faces was {'; '.join(reached)}."


def starts(found: list[Line], compact: bool) -> str:
    rows = []
    for method, start in STARTS.items():
        part = [line for line in found if line["method"] == method]
        if part and method.startswith("compact") == compact:
            rows.append([method, start, f"{part[0]['parameters']:,}", both(part), str(len(part))])
    return table(["what trains", "M at the start", "trained", "accuracy / balanced", "seeds"], rows)


def worlds(found: list[Line]) -> str:
    rows = []
    for name in [name for name in ENCODERS if any(line["encoder"] == name for line in found)]:
        for method, title in PAINTED.items():
            cells = []
            for world in WORLDS:
                part = [
                    line
                    for line in found
                    if (line["encoder"], line["method"], line["split"]) == (name, method, f"painted {world}")
                ]
                cells.append(percent(part, next(iter(part[0]["scores"]))) if part else "-")
            rows.append([titled(name), title, *cells])
    return table(["encoder", "what trains", *WORLDS], rows)


def section(found: list[Line]) -> str:
    test = [line for line in found if line["split"] == "test"]
    held = [line for line in found if line["split"] == "held-out people" and line["encoder"] == "dlib-face-3-aligned"]
    painted = [line for line in found if line["split"].startswith("painted")]
    command = "python benchmarks/encoder_map.py --data_dir ../shared/faces"
    methods = " ".join(f'--method "{method}"' for method in STARTS if any(x["method"] == method for x in held))
    faces = next((line["faces"] for line in test if "faces" in line), (0, 0))
    return f"""## Which encoder

{command_block(f"{command} --seeds {seeds(test)}")}

Photographs in six expressions, {faces[0]:,} to train on and {faces[1]:,} test faces; of the latter, 87 are of people
who are in the training split, too, and take no part in the probes. "Aligned" adds the time of landmarks and chip for a
picture of 96 pixels; times are those of the section on alignment, on one core. "Expression" and "identity" are the
linear probes of `benchmarks/encoder_probe.py`, in percent (expression: accuracy / balanced accuracy). A dash was not
measured. `prior_knowledge` and `vggface2` are trained as said [below](#trained-on-two-cores), where probes of theirs
stand as well; their weights are not in the package. ImageNet networks are not among these: no package was found that
ships their weights, timm downloads them.

{facts(test)}

The four networks with a frozen trunk, 12 epochs in batches of 128, each face and its mirror image, from stored
features. Accuracy / balanced accuracy in percent, mean ± standard deviation over seeds; "seeds" counts the trainings of
each column; the command with a larger `--seeds`, or without `--encoder`, goes on with what is missing.

{networks(test)}

{goals(test)} By the recipe before, with other settings and ten seeds, `prior_knowledge` and `vggface2` are in
[all results](results.md).

### Where the masked unit is added to a shortcut

{command_block(f"{command} --held_out --seeds {seeds(held)} --encoder dlib-face-3-aligned {methods}")}

`dlib-face` with three levels on aligned faces; three tenths of the training people are held out and scored, others for
each seed. The masked convolution is the last of a residual block, without a ReLU behind it.
{read(held)}

{starts(held, compact=False)}

With a head of eight maps of positions and one linear layer (`spatial_maps=8, hidden_sizes=()`), which is what the
[adapters in the package](publishing.md#adapters-in-the-package) have:

{starts(held, compact=True)}

### Drawn faces

{command_block("python benchmarks/encoder_map.py --painted --seeds " + str(seeds(painted)) + " " + told(painted))}

The four painted worlds: 2,400 faces to train on, 10 epochs, 900 test faces of other
people. Accuracy, concordance (`affect`) or macro F1 (`signals`) in percent. "Head" is the decision layer of the tables
above, so the two rows of an encoder differ in their heads as well as in the mask; the compact head without and with a
mask is in [results.md](results.md#four-painted-worlds).

{worlds(painted)}

### When to take which

| | take | because |
| --- | --- | --- |
| photographs of whole faces | `dlib-face`, three levels, aligned | ahead of `small-face` above |
| drawn faces | `dlib-face`, three levels, aligned | with a mask, ahead in every world above |
| many faces a second, no GPU | `small-face` | several times as fast (above), and no landmarks to look for |
| faces without clear eyes and noses | try both, aligned and not | not measured here; wrong landmarks turn a face |

On `dlib-face`, low ranks with `inhibition_form="gain"` reach what a full copy of the convolution reaches, with a
fraction of the numbers: `inhibition_rank=16, excitation_rank=16`; where adapters have to be small or rare classes
count, also `spatial_maps=8, hidden_sizes=()`. With few labels the default is ahead of that head
([one recipe for everybody](results/method.md#few-people-with-labels))."""


def read(held: list[Line]) -> str:
    """What the comparison of starts says, in words."""
    means = {
        method: statistics.mean(100 * line["scores"]["accuracy"] for line in held if line["method"] == method)
        for method in STARTS
        if any(line["method"] == method for line in held) and not method.startswith("compact")
    }
    head = means.pop("decision layer", None)
    masks = {method: mean for method, mean in means.items() if not method.startswith("last convolution")}
    if head is None or not masks:
        return ""
    ahead = [f"{method} by {mean - head:.1f}" for method, mean in masks.items() if mean > head]
    behind = [f"{method} by {head - mean:.1f}" for method, mean in masks.items() if mean <= head]
    text = f"Ahead of the decision layer alone are, in points of accuracy: {', '.join(ahead) or 'none'}"
    text += f"; behind it: {', '.join(behind)}." if behind else "; none is behind it."
    few = min(len([line for line in held if line["method"] == method]) for method in masks)
    return text + (" With so few seeds, differences below a point tell nothing." if few < 5 else "")


def seeds(found: list[Line]) -> int:
    return 1 + max((line["seed"] for line in found), default=0)


def told(found: list[Line]) -> str:
    names = dict.fromkeys(f"--encoder {line['encoder']}" for line in found)
    methods = dict.fromkeys(f'--method "{line["method"]}"' for line in found)
    return " ".join([*names, *methods])


def adapters() -> str:
    rows = []
    for adapter in bundled_adapters():
        labels = ", ".join(adapter.labels)
        fed = f"`{adapter.encoder}`{', aligned' if adapter.aligned else ''}"
        score = f"{adapter.metric.replace('_f1', ' F1')} {adapter.score:.3f}"
        rows.append([f"`{adapter.name}`", fed, labels, score, f"{adapter.num_bytes / 1000:.0f}"])
    return table(["name", "encoder", "answers", "score", "kB"], rows)


def main() -> None:
    page = between(PAGE.read_text(encoding="utf-8"), BEGIN, END, f"\n{section(lines())}\n")
    PAGE.write_text(wrap_page(page), encoding="utf-8")
    ADAPTERS.write_text(fill(ADAPTERS.read_text(encoding="utf-8"), "adapters", adapters()), encoding="utf-8")
    print(f"Written: {PAGE}, {ADAPTERS}")


if __name__ == "__main__":
    main()
