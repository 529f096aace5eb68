"""Writes docs/scaling.md and the first part of docs/performance.md from what the benchmarks measured.

python docs/make_performance.py
"""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results"
BEGIN, END = "<!-- speed: written by docs/make_performance.py -->", "<!-- end of speed -->"
FACES = {"AffectNet": 287_651, "a billion faces": 1_000_000_000}
BFLOAT16 = 2  # bytes


def result(subject: str) -> dict:
    return json.loads((RESULTS / f"{subject}.json").read_text(encoding="utf-8"))


def table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *rows])


def ms(seconds: float) -> str:
    return f"{1000 * seconds:,.1f}" if seconds < 0.1 else f"{1000 * seconds:,.0f}"


def size(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            return f"{number:,.1f} {unit}"
        number /= 1000
    raise AssertionError


def judged(found: float, target: float, at_least: bool = False) -> str:
    return "met" if (found >= target if at_least else found <= target) else "**not met**"


def with_update(case: dict) -> float:
    """The bound on live over cached: operations at the trunk's own speed, and the update that both need."""
    per_flop = case["batch_size"] / case["flops_per_second"]
    live, cached = (case["flop_per_sample"][name] * per_flop for name in ("live", "cached"))
    return (live + case["seconds"]["update"]) / (cached + case["seconds"]["update"])


def verdicts() -> str:
    vgg = result("training")["cases"]["VGG16, 96x96"]
    worlds = result("worlds")["cases"]["VGG16, 96x96"]
    loading, losses, imports = result("loading"), result("losses"), result("imports")
    flop = worlds["flop_per_sample"]
    rows = [
        [
            "training step from stored features, VGG16 at 96x96, against the live trunk",
            f"{vgg['ratio']:.1f}x",
            "at least 11x",
            judged(vgg["ratio"], 11, at_least=True),
            f"{vgg['limit']:.1f}x by operations, {with_update(vgg):.1f}x with the update",
        ]
    ]
    for count, target in ((4, 1.15), (16, 1.5)):
        found = worlds["ratio"][f"read {count}"]
        bound = f"{flop[f'read {count}'] / flop['read 1']:.2f}x by operations"
        rows.append(
            [
                f"reading {worlds['batch_size']} faces in {count} worlds against one",
                f"{found:.2f}x",
                f"{target}x",
                judged(found, target),
                bound,
            ]
        )
    found = worlds["ratio"]["one adapter"]
    bound = f"{flop['read 1'] / flop['encoder']:.2f}x by operations"
    rows.append(["one adapter against the bare encoder", f"{found:.2f}x", "1.06x", judged(found, 1.06), bound])
    for name, case in loading["cases"].items():
        growth, own = case["last"] / case["first"], case["median"]
        what = f"loading adapter {case['loads']} against the first, {name}"
        rows.append([what, f"{growth:.2f}x", "flat (1.2x)", judged(growth, 1.2), ""])
        what, bound = (
            f"loading one adapter of {size(case['bytes'])}, {name}",
            f"{ms(case['checksum'])} ms for its SHA-256",
        )
        rows.append([what, f"{ms(own)} ms", "5 ms", judged(own, 0.005), bound])
    at = losses["sizes"]["4096"]
    found = at["ratio"]["ciao_peft"]
    rows.append(["contrastive loss at B = 4096 against SupContrast", f"{found:.2f}x", "0.5x", judged(found, 0.5), ""])
    found = at["memory"]["ciao_peft"]
    rows.append(["its memory there, in numbers of float32", f"{found:.3f} B²", "0.2 B²", judged(found, 0.2), ""])
    found = max(max(pair) for pair in losses["errors"]["ciao_peft"].values())
    what = "its error against float64, down to τ = 0.005, value and gradient"
    rows.append([what, f"{found:.0e}", "1e-05", judged(found, 1e-5), ""])
    found = imports["ratio"]["ciao_peft, its model"]
    rows.append(["import of the model's classes against torch", f"{found:.2f}x", "1.2x", judged(found, 1.2), ""])
    rows.append(["training step with u stored too", "", "at least 15x", "**not met**: u is not stored", ""])
    return table(["", "measured", "target", "", "bound"], rows)


def training() -> str:
    rows = []
    for name, case in result("training")["cases"].items():
        times = [ms(case["seconds"][run]) for run in ("live", "cached", "trunk", "update")]
        half = size(BFLOAT16 * case["feature_numbers"])
        ratios = [f"{number:.1f}x" for number in (case["ratio"], case["limit"], with_update(case))]
        rows.append([name, str(case["batch_size"]), *times, *ratios, half, size(case["pixel_bytes"])])
    header = ["encoder", "batch", "live, ms", "stored, ms", "trunk, ms", "update, ms", "live / stored"]
    return table([*header, "operations", "with update", "features, bfloat16", "pixels"], rows)


def worlds() -> str:
    parts = []
    for name, case in result("worlds")["cases"].items():
        rows = [[run, ms(seconds), f"{case['ratio'].get(run, 1):.2f}x"] for run, seconds in case["seconds"].items()]
        parts.append(f"{name}, {case['batch_size']} faces:\n\n{table(['', 'ms', 'ratio'], rows)}")
    return "\n\n".join(parts)


def loading() -> str:
    record = result("loading")
    cases = dict(record["cases"])
    if record["peft"]:
        cases["PEFT, LoRA r = 16 on VGG16's last convolution"] = record["peft"]
    rows = []
    for name, case in cases.items():
        weights = size(case["bytes"]) if "bytes" in case else ""
        checksum = ms(case["checksum"]) if "checksum" in case else "none"
        rows.append([name, weights, str(case["loads"]), *(ms(case[k]) for k in ("first", "last", "median")), checksum])
    return table(["", "weights", "loads", "first eighth, ms", "last eighth, ms", "all, ms", "checksum, ms"], rows)


def losses() -> str:
    record = result("losses")
    rows = [
        [f"{int(batch):,}", name, ms(seconds), f"{case['ratio'][name]:.2f}x", f"{case['memory'][name]:.2f}"]
        for batch, case in record["sizes"].items()
        for name, seconds in case["seconds"].items()
    ]
    text = table(["B", "", "ms", "against SupContrast", "peak memory, B² float32"], rows)
    temperatures = list(record["errors"]["ciao_peft"])

    def shown(value: float | None) -> str:
        return "NaN" if value is None else f"{value:.0e}"

    rows = [
        [name, *(f"{shown(errors[t][0])}, {shown(errors[t][1])}" for t in temperatures)]
        for name, errors in record["errors"].items()
    ]
    return text + "\n\n" + table(["value, gradient", *(f"τ = {t}" for t in temperatures)], rows)


def imports() -> str:
    record = result("imports")
    rows = [[f"`{n}`", f"{s:.2f}", f"{record['ratio'][n]:.2f}x"] for n, s in record["import_seconds"].items()]
    return table(["import", "s", "against torch"], rows)


def where() -> str:
    known = [result(subject)["machine"] for subject in ("training", "worlds", "loading", "losses", "imports")]
    here, loads = known[0], [entry["load"] for entry in known]
    return (
        f"{here['cpu']}, {here['cores']} cores of which each benchmark uses {here['threads']}, torch {here['torch']}, "
        f"Python {here['python']}. Others used the machine meanwhile (load average "
        f"{min(loads)} to {max(loads)}): seconds are of the processor, cases take turns, and a ratio is "
        "the median of the ratios within a turn."
    )


def performance() -> str:
    return f"""## Speed

    make bench

{where()}

{verdicts()}

What is not met, and why: a bound is what `t = max(bytes / BW, FLOP / F) + t_opt` leaves, with F the rate at which the
trunk itself ran and t_opt the optimiser's update. Beyond its operations, each world reads weights of its own from
memory, which counts where a batch is small. Loading reads every byte, hashes it, looks for NaN and gives each tensor
memory of its own; no check is skipped to be quicker.

What more faces cost is in [scaling.md](scaling.md).

### A training step

One adapter with the library's defaults; forward, both losses, backward, update. "Stored" starts from the features that
`cache_features` keeps, in memory; "operations" is the ratio of their numbers of multiplications and additions.

{training()}

### Reading in several worlds

`read` runs the trunk once. PEFT's loop is `set_adapter` and a pass for each, with a conv LoRA of rank 16 on the same
convolution and no heads of its own. Ratios are to one world of the same library; that of "one adapter" is to the bare
encoder.

{worlds()}

### Loading adapters, one after another

{loading()}

### The contrastive loss

Value and gradient, D = {result("losses")["dim"]}. Peak memory is that of tensors made meanwhile, in units of a float32
matrix of all pairs. Errors are relative, against the formula in float64, for 256 samples of which half have a near
neighbour.

{losses()}

### Imports

{imports()}"""


def scaling() -> str:
    record = result("training")
    rows, cases = [], []
    for name, case in record["cases"].items():
        per_sample = {run: seconds / case["batch_size"] for run, seconds in case["seconds"].items()}
        stored = BFLOAT16 * case["feature_numbers"]
        cases.append(
            [
                name,
                size(stored),
                f"{case['flop_per_sample']['trunk'] / 1e9:.2f}",
                f"{case['flop_per_sample']['cached'] / 1e9:.2f}",
                ms(per_sample["trunk"]),
                ms(per_sample["cached"]),
                size(stored / per_sample["cached"]) + "/s",
            ]
        )
        for faces, number in FACES.items():
            hours = {run: number * seconds / 3600 for run, seconds in per_sample.items()}
            rows.append(
                [
                    f"{faces} ({number:,})",
                    name,
                    size(number * stored),
                    size(number * case["pixel_bytes"]),
                    *(f"{hours[run]:,.1f}" for run in ("trunk", "cached", "live")),
                    f"{max(1, -(-hours['trunk'] // 24)):,.0f}",
                ]
            )
    machine = record["machine"]
    per_face = ["encoder", "bytes", "GFLOP, trunk", "GFLOP, step", "trunk, ms", "step, ms", "disk read while training"]
    header = ["faces", "encoder", "features", "pixels", "trunk once", "epoch, stored", "epoch, live", "cores for a day"]
    return f"""# What more faces cost

Written by `python docs/make_performance.py` from what `benchmarks/bench_training.py` measured on one core of
{machine["cpu"]} (torch {machine["torch"]}).

For N faces, V stored views, n numbers that cross the cut for each, b bytes a number (2 in bfloat16), and t seconds of
one core for each face:

    disk     = N * V * n * b
    trunk    = N * V * t_trunk / cores           once
    epoch    = N * t_step / cores                t = max(bytes / BW, FLOP / F) + t_opt / batch
    BW       = n * b / t_step                    what the disk must give each core while training

Measured for each face:

{table(per_face, cases)}

The trunk's work divides over processes without a word between them (`cache_features` under `accelerate launch`), and
so does training of different adapters, one for each process. Training one adapter on many processes exchanges its
gradients, 4 bytes for each trained number and step, which is not in the table. V = 1; core-hours:

{table(header, rows)}

"Cores for a day" run the trunk over everything once in 24 hours. Where features need more disk than there is, live
training costs an epoch what the trunk costs once: storing pays from the second epoch on.
"""


def put_into(page: Path, text: str) -> None:
    """Replaces this script's part of the page, or puts it first below the title."""
    before = page.read_text(encoding="utf-8") if page.is_file() else "# Performance\n"
    if BEGIN in before:
        head, _, rest = before.partition(BEGIN)
        tail = rest.partition(END)[2]
    else:
        head, _, tail = before.partition("\n")
        head, tail = f"{head}\n\n", f"\n{tail}"
    page.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}", encoding="utf-8")


def main() -> None:
    put_into(HERE / "performance.md", performance())
    (HERE / "scaling.md").write_text(scaling(), encoding="utf-8")
    print(f"wrote {HERE / 'performance.md'} and {HERE / 'scaling.md'}")


if __name__ == "__main__":
    main()
