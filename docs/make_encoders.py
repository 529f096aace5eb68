"""Writes the measured part of docs/encoders.md, and docs/encoders.png, from benchmarks/results/encoders.json.

python docs/make_encoders.py
"""

from __future__ import annotations

import importlib.util
import json
import statistics
from pathlib import Path
from types import ModuleType

from pages import between, command_block, wrap_page

from ciao_peft.encoders import small_face
from ciao_peft.markdown import markdown_table as table

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results" / "encoders.json"
PAGE, PICTURE = HERE / "encoders.md", HERE / "encoders.png"
BEGIN, END = "<!-- measured: written by docs/make_encoders.py -->", "<!-- end of measured -->"
# Encoder -> the script that trains it, and the folders it was given.
TRAINED_BY = {
    "prior_knowledge": ("pretrain_pk.py", "--data_dir ../shared/faces/train --output_dir runs/pk"),
    "vggface2": ("pretrain_encoder.py", "--data_dir ../shared/faces --output_dir runs/vggface2"),
    "small-face": ("pretrain_encoder.py", "--data_dir ../shared/faces --output_dir runs/small-face"),
}
PROBES = {
    "verification": "identity: AUC of all pairs",
    "identity": "identity: linear, top 1",
    "expression_accuracy": "expression: accuracy",
    "expression_balanced": "expression: balanced accuracy",
}
SCALED = {f"{probe}_scaled": title for probe, title in PROBES.items() if probe != "verification"}


def results() -> dict[str, dict]:
    """What the probe wrote, by encoder, in the order of `TRAINED_BY`; the bundled encoder's training from its card."""
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    for name, entry in found.items():
        entry["training"] = entry["training"] or (small_face.training_card() if name == "small-face" else {})
    return {name: found[name] for name in TRAINED_BY if name in found}


def script(name: str) -> ModuleType:
    path = HERE.parent / "examples" / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parts(training: dict) -> list[dict]:
    """A training after the one with whose weights it began, if it did."""
    earlier = training.get("started_from")
    return [*(parts(earlier) if earlier else []), training]


def history(training: dict) -> list[dict]:
    """All epochs of all parts, counted through."""
    epochs = [epoch for part in parts(training) for epoch in part.get("history") or []]
    return [{**epoch, "epoch": number} for number, epoch in enumerate(epochs, 1)]


def commands(name: str, training: dict) -> list[str]:
    """What was typed, of each part; all but the last one have a folder of their own."""
    typed, start = [], ""
    path, folders = TRAINED_BY[name]
    trained = parts(training)
    for number, part in enumerate(trained, 1):
        here = folders if number == len(trained) else f"{folders}-start"
        typed.append(command(path, f"{here}{start}", part["settings"]))
        start = f" --start_dir {here.split()[-1]}"
    return typed


def command(path: str, folders: str, settings: dict) -> str:
    """What was typed: the settings that are not the script's own."""
    own, words = vars(script(path).parse_args(folders.split())), [f"python examples/{path} {folders}"]
    for key, value in settings.items():
        if key.endswith("_dir") or value == own.get(key) or value is None:
            continue
        values = value if isinstance(value, list) else [] if value is True else [value]
        words.append(" ".join([f"--{key}", *map(str, values)]))
    return " ".join(words)


def minutes(training: dict) -> str:
    seconds = training.get("training_seconds") or sum(epoch["seconds"] for epoch in history(training))
    return f"{seconds / 60:.0f}"


def trainings(found: dict[str, dict]) -> str:
    typed, rows = [], []
    for name, entry in found.items():
        training = entry["training"]
        typed += [command_block(line) for line in commands(name, training)]
        faces = training.get("faces") or training["people"]["training_faces"]
        last = training.get("history", [{}])[-1]
        if "verification_auc" in training:
            people, random = training["people"], training["verification_auc_of_random_weights"]
            reached = (
                f"verification AUC {training['verification_auc']:.3f} on {people['verification_people']} unseen people "
                f"({random:.3f} with random weights)"
            )
        else:
            reached = f"mean absolute difference {last['reconstruction']:.3f} of pixels in [-1, 1]"
            reached += f", {last['identity']:.3f} of the face network's features"
        epochs = " + ".join(str(part["settings"]["num_train_epochs"]) for part in parts(training))
        rows.append([f"`{name}`", f"{faces:,}", epochs, minutes(training), reached])
    head = ["", "faces", "epochs", "minutes", "reached"]
    return "\n".join(typed) + "\n\n" + table(head, rows)


def curves(found: dict[str, dict]) -> str:
    parts = []
    for name, entry in found.items():
        epochs = history(entry["training"])
        if not epochs:
            continue
        keys = [key for key in epochs[0] if key not in ("epoch", "seconds")]
        rows = [
            [str(epoch["epoch"]), *(shown(epoch[key]) for key in keys), f"{epoch['seconds'] / 60:.1f}"]
            for epoch in epochs
        ]
        head = ["epoch", *(key.replace("_", " ").replace("auc", "AUC") for key in keys), "minutes"]
        parts.append(f"`{name}`, means over each epoch:\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def shown(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def spread(values: list[float]) -> str:
    mean = statistics.mean(values)
    return f"{mean:.3f} ± {statistics.stdev(values):.3f}" if len(values) > 1 else f"{mean:.3f}"


def of_random(entry: dict, probe: str) -> list[float]:
    """One mean per network of random weights: they differ more than the splits of one do."""
    return [statistics.mean(scores[probe]) for scores in entry["random"].values()]


def probed(found: dict[str, dict]) -> dict[str, dict]:
    return {name: entry for name, entry in found.items() if "trained" in entry}


def probes(found: dict[str, dict], titles: dict[str, str] = PROBES) -> str:
    rows = []
    for name, entry in probed(found).items():
        for what in ("trained", "random"):
            values = (entry["trained"][probe] if what == "trained" else of_random(entry, probe) for probe in titles)
            rows.append([f"`{name}`, {what}", f"{entry['trained']['size']:,}", *map(spread, values)])
    return table(["features of", "numbers", *titles.values()], rows)


def verdict(found: dict[str, dict], titles: dict[str, str] = PROBES) -> str:
    """In words: which probes a training moved beyond what random weights reach by chance, and by how much."""
    lines = []
    for name, entry in probed(found).items():
        above, not_above = [], []
        for probe, title in titles.items():
            mine, random = entry["trained"][probe], of_random(entry, probe)
            gap = statistics.mean(mine) - statistics.mean(random)
            # Above the best of the random networks by each single split, or it counts for nothing.
            (above if min(mine) > max(random) else not_above).append(f"{title} ({100 * gap:+.1f} points)")
        text = f"- `{name}`: above every network of random weights, whatever the split, in {'; '.join(above) or 'none'}"
        lines.append(text + (f"; not in {'; '.join(not_above)}." if not_above else "."))
    return "\n".join(lines)


def draw(found: dict[str, dict]) -> None:
    """Losses and AUC per epoch, of the trainings that kept them."""
    from matplotlib import pyplot

    kept = {name: entry["training"] for name, entry in found.items() if history(entry["training"])}
    figure, axes = pyplot.subplots(1, len(kept), figsize=(4.6 * len(kept), 2.6), squeeze=False)
    for axis, (name, training) in zip(axes[0], kept.items(), strict=True):
        epochs = history(training)
        keys = [key for key in epochs[0] if key not in ("epoch", "seconds", "size", "loss")]
        for key in keys:
            label = key.replace("_", " ").replace("auc", "AUC")
            values = [epoch[key] for epoch in epochs]
            axis.plot(range(1, len(epochs) + 1), values, marker="o", markersize=3, label=label)
        axis.set(title=name, xlabel="epoch")
        if "verification_auc" in training:
            random = training["verification_auc_of_random_weights"]
            axis.axhline(random, color="gray", linestyle=":", label="random weights")
            axis.set_ylim(0, None)
        else:
            axis.set_yscale("log")  # the judges' losses are tens of times the others
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=100, metadata={"Software": None})
    pyplot.close(figure)


def measured(found: dict[str, dict]) -> str:
    if not found:
        return "No training has been probed yet: `python benchmarks/encoder_probe.py --help`."
    if not probed(found):
        return wrap_page(trained_on_two_cores(found)).rstrip()
    first = next(iter(probed(found).values()))
    random, splits = len(first["random"]), len(first["trained"]["identity"])
    told = " ".join(f"--encoder {name}{folder}" for name, folder in folders(probed(found)).items())
    line = f"python benchmarks/encoder_probe.py --data_dir ../shared/faces --splits {splits} --random_seeds {random}"
    page = f"""{trained_on_two_cores(found)}

### What linear probes read from the frozen features

{command_block(f"{line} {told}")}

No person that is scored was in a training. Mean ± standard deviation: for trained weights over {splits} splits of the
faces that the probe is fitted to, for random weights over {random} {"networks" if random > 1 else "network"}.
`benchmarks/encoder_probe.py` describes each probe.

{probes(found)}

{verdict(found)}

The same probes after scaling every number to about the same spread, which takes away the weight that training gave it:

{probes(found, SCALED)}

{verdict(found, SCALED)}"""
    return wrap_page(page).rstrip()


def trained_on_two_cores(found: dict[str, dict]) -> str:
    picture = f"\n\n![Losses and verification AUC per epoch]({PICTURE.name})" if curves(found) else ""
    return f"""## Trained on two cores

{trainings(found)}

Other work shared the two cores, so the minutes are upper bounds. No affect label was read. The rate and
the margin of `vggface2` were chosen in one earlier run, by the score on the people who verify it here; before the last
epoch, its AUC is that of faces of half the size. Probes like those below, with fewer faces of the same people, decided
PK's rates, weights and second part: its lead over random weights is a little too large. After each epoch,
`runs/pk/reconstructions` gets a picture of faces with their drawings; those of real people are not shown
here.{picture}

{curves(found)}"""


def folders(found: dict[str, dict]) -> dict[str, str]:
    """The folder that each encoder of the probe's command line lies in, unless it is in the package."""
    return {name: "" if name == "small-face" else f"={TRAINED_BY[name][1].split()[-1]}/encoder" for name in found}


def put_into(page: Path, text: str) -> None:
    """Replaces this script's part of the page."""
    page.write_text(between(page.read_text(encoding="utf-8"), BEGIN, END, text), encoding="utf-8")


def main() -> None:
    found = results()
    put_into(PAGE, measured(found))
    if curves(found):
        draw(found)
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
