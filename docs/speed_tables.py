"""Tables of what the benchmarks measured, for docs/make_performance.py."""

from __future__ import annotations

import json
from pathlib import Path

from ciao_peft.markdown import markdown_table as table

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
SUBJECTS = (
    *("training", "worlds", "features", "loading", "losses", "imports", "growth", "equal_accuracy"),
    "many_trainings",
)
BFLOAT16 = 2  # bytes


def result(subject: str) -> dict:
    return json.loads((RESULTS / f"{subject}.json").read_text(encoding="utf-8"))


def gpu() -> str:
    """Tables of the GPU benchmarks that were run, each with the GPU and commit it is of; nothing where none was."""
    parts = []
    for subject in ("gpu_training", "gpu_reading"):
        if not (RESULTS / f"{subject}.json").exists():
            continue
        record = result(subject)
        times, targets = [], []
        for name, figure in record["figures"].items():
            if "ratio" in figure:
                sign, verdict = (
                    ("at least" if figure["at_least"] else "at most"),
                    "met" if figure["met"] else "**not met**",
                )
                targets.append([name, f"{figure['ratio']:.2f}", f"{sign} {figure['target']:.2f}", verdict])
            elif "error" in figure:
                times.append([name, figure["error"], "", ""])
            else:
                both = [f"{1000 * figure[key]:,.3f}" for key in ("wall", "kernel")]
                times.append([name, *both, f"{100 * figure['busy']:.0f}%"])
        parts.append(
            f"`benchmarks/bench_{subject}.py` on {record['gpu']}, torch {record['machine']['torch']}, at commit "
            f"{record['commit']}:\n\n{table(['', 'wall, ms', 'kernel, ms', 'busy'], times)}\n\n"
            f"{table(['ratio', 'measured', 'target', ''], targets)}"
        )
    return "\n\n### On a GPU\n\n" + "\n\n".join(parts) if parts else ""


def ms(seconds: float) -> str:
    return f"{1000 * seconds:,.1f}" if seconds < 0.1 else f"{1000 * seconds:,.0f}"


def size(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            return f"{number:,.1f} {unit}"
        number /= 1000
    raise AssertionError


def with_update(case: dict, run: str = "cached") -> float:
    """The bound on live over stored: operations at the trunk's own speed, and the update that both need."""
    per_flop = case["batch_size"] / case["flops_per_second"]
    live, stored = (case["flop_per_sample"][name] * per_flop for name in ("live", run))
    return (live + case["seconds"]["update"]) / (stored + case["seconds"]["update"])


def training() -> str:
    rows = []
    for name, case in result("training")["cases"].items():
        times = [ms(case["seconds"][run]) for run in ("live", "cached", "with_u", "trunk", "update")]
        ratios = [
            f"{number:.1f}x"
            for run in ("cached", "with_u")
            for number in (case["ratio"][run], case["limit"][run], with_update(case, run))
        ]
        rows.append((name, [str(case["batch_size"]), *times], ratios))
    header = ["encoder", "batch", "live, ms", "stored, ms", "with u, ms", "trunk, ms", "update, ms"]
    text = table(header, [[name, *times] for name, times, _ in rows])
    header = ["encoder", "live / stored", "operations", "with update", "live / with u", "operations", "with update"]
    return text + "\n\n" + table(header, [[name, *ratios] for name, _, ratios in rows])


def on_disk() -> str:
    rows = [
        [name, *(size(BFLOAT16 * case[n]) for n in ("feature_numbers", "numbers_with_u")), size(case["pixel_bytes"])]
        for name, case in result("training")["cases"].items()
    ]
    return table(["encoder", "features, bfloat16", "with u", "pixels"], rows)


def worlds() -> str:
    parts = []
    for name, case in result("worlds")["cases"].items():
        rows = [[run, ms(seconds), f"{case['ratio'].get(run, 1):.2f}x"] for run, seconds in case["seconds"].items()]
        parts.append(f"{name}, {case['batch_size']} faces:\n\n{table(['', 'ms', 'ratio'], rows)}")
        if case["refused"]:
            parts[-1] += f"\n\nPEFT refuses a mixed batch here: {case['refused']}"
    return "\n\n".join(parts)


def many_trainings() -> str:
    rows = []
    for name, case in result("many_trainings")["cases"].items():
        for run, seconds in case["seconds"].items():
            each = seconds / case["trainings"] / case["updates"]
            rows.append([name, run, f"{seconds:.1f}", ms(each), f"{case['ratio'].get(run, 1):.2f}x"])
    return table(["encoder", "", "s", "ms per update of one", "one after the other / this"], rows)


def loading() -> str:
    record = result("loading")
    cases = record["cases"] | {f"PEFT, LoRA r = 16, {name}": case for name, case in record["peft"].items() if case}
    rows = []
    for name, case in cases.items():
        checksum = ms(case["checksum"]) if "checksum" in case else "none"
        times = (ms(case[kind]) for kind in ("first", "last", "median"))
        rows.append([name, size(case["bytes"]), str(case["loads"]), *times, checksum])
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


def faces_of(case: dict) -> str:
    counts = case["samples"]
    named = case["faces"].capitalize()
    return f"{named}, {counts['train']:,} to train on and {counts['scored']:,} of other people to score"


def equal_accuracy() -> str:
    record = result("equal_accuracy")
    rows = []
    for side, runs in record["curves"].items():
        ends = [run[-1] for run in runs]
        rows.append(
            [
                {"PEFT": "PEFT, LoRA r = 16 on every convolution"}.get(side, side),
                f"{record['parameters'][side]:,}",
                str(record["chosen"][side]),
                ", ".join(f"{100 * best:.1f}%" for best in record["best"][side]),
                ", ".join(f"{100 * max(point['balanced'] for point in run):.1f}%" for run in runs),
                f"{sum(end['seconds'] for end in ends) / len(ends):.1f}",
                f"{record['seconds_to_target'][side]:.1f}",
            ]
        )
    header = [
        "",
        "trained numbers",
        "learning rate",
        "best accuracy, by seed",
        "balanced",
        f"{record['epochs']} epochs, s",
    ]
    return table([*header, f"s to {100 * record['target']:.1f}%"], rows)


def growth() -> str:
    rows = []
    for name, sizes in result("growth")["cases"].items():
        for case in sizes:
            stored, live, count = case["stored"], case["live"], case["samples"]
            rows.append(
                [
                    name,
                    f"{count:,}",
                    *(ms(seconds / count) for seconds in stored["seconds"].values()),
                    ms(live["seconds"]["epoch"] / count),
                    size(stored["disk"]),
                    *(size(side["memory"]["own"]) for side in (stored, live)),
                    size(stored["memory"]["mapped"]),
                ]
            )
    names, times = ["encoder", "faces"], ["storing, ms a face", "epoch, stored, ms a face", "epoch, live, ms a face"]
    by_time = table([*names, *times], [row[:5] for row in rows])
    by_size = ["disk", "memory, stored", "memory, live", "mapped"]
    return by_time + "\n\n" + table([*names, *by_size], [[*row[:2], *row[5:]] for row in rows])


def storing() -> str:
    rows = []
    for name, case in result("features")["storing"].items():
        seconds = case["seconds"]
        times = [f"{1000 * seconds[run]:,.2f}" for run in ("trunk", "memory", "folder")]
        ratios = [f"{case['ratio'][run]:.2f}" for run in ("memory", "folder")]
        rows.append([name, f"{case['pictures']:,}", *times, *ratios])
    header = [
        "encoder",
        "pictures",
        "trunk, ms",
        "in memory, ms",
        "in a folder, ms",
        "trunk / memory",
        "trunk / folder",
    ]
    return table(header, rows)


def decoding() -> str:
    rows = [
        [name, *(f"{1 / case['wall'][run]:,.0f}" for run in ("one", "several")), f"{case['threads']}"]
        for name, case in result("features")["decoding"].items()
    ]
    return table(["encoder", "pictures/s, opened by one thread", "by several", "threads"], rows)


def one_frame() -> str:
    rows = []
    for name, case in result("features")["one_frame"].items():
        times = [f"{1000 * case['seconds'][run]:,.2f}" for run in ("encoder", "compiled", "read", "predict")]
        rows.append([name, *times, *(f"{case['ratio'][run]:.2f}x" for run in ("read", "predict"))])
    return table(["encoder", "bare, ms", "compiled, ms", "read, ms", "predict, ms", "read", "predict"], rows)


def storing_on_gpu() -> str:
    """The part that a GPU measured; nothing where none has yet."""
    if not (RESULTS / "gpu_features.json").is_file():
        return ""
    record = result("gpu_features")
    rows = [
        [name, f"{figure['pictures/s']:,.0f}", f"{100 * figure['busy']:.0f} %"]
        for name, figure in record["figures"].items()
        if "pictures/s" in figure
    ]
    ratios = [
        f"{name}: {figure['ratio']:.2f} (at least {figure['target']}: {'met' if figure['met'] else '**not met**'})"
        for name, figure in record["figures"].items()
        if "ratio" in figure
    ]
    return f"""

On {record["gpu"]}, at commit {record["commit"]}; "busy" is the share of the time in which it computes or copies, and
0 workers are threads:

{table(["", "pictures/s", "busy"], rows)}

{chr(10).join(f"- {line}" for line in ratios)}"""
