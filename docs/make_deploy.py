"""Writes what an export costs and saves in docs/howto/deploy.md, and draws docs/deploy.png.

python benchmarks/bench_onnx.py  # first
python docs/make_deploy.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pages import between, wrapped
from speed_tables import ms, result, size, table

from ciao_peft.drawing import as_png, blank_figure

HERE = Path(__file__).parent
PAGE = HERE / "howto" / "deploy.md"
BEGIN, END = "<!-- deploy: written by docs/make_deploy.py -->", "<!-- end of deploy -->"


def times(cases: dict[str, Any]) -> str:
    rows = []
    for name, case in cases.items():
        for batch in dict.fromkeys((1, case["batch_size"])):
            seconds, ratio = case["seconds"], case["ratio"]
            each = [ms(seconds[f"{kind} {batch}"]) for kind in ("torch", "float32", "int8")]
            rows.append([name, str(batch), *each, *[f"{ratio[f'{a} / {b} {batch}']:.1f}x" for a, b in PAIRS]])
    header = ["trunk and one adapter", "faces", "PyTorch, ms", "ONNX, ms", "8 bits, ms"]
    return table([*header, "ONNX gains", "and 8 bits"], rows)


PAIRS = (("torch", "float32"), ("float32", "int8"))


def sizes_and_answers(cases: dict[str, Any]) -> str:
    rows = []
    for name, case in cases.items():
        exact, small = case["bytes"]["float32"], case["bytes"]["int8"]
        right = case["accuracy"]
        rows.append(
            [
                name,
                f"{size(exact['trunk.onnx'])}, {size(small['trunk.onnx'])}",
                size(exact["first.onnx"]),
                f"{case['difference']:.0e}",
                f"{100 * right['torch']:.1f}%, {100 * right['int8']:.1f}%",
                f"{100 * case['same_class']:.1f}%",
                f"{1000 * case['swap']['loaded_ms']:.1f} µs, {case['swap']['from_file_ms']:.1f} ms",
            ]
        )
    header = ["", "trunk, 8 bits", "adapter", "ONNX is off by", "accuracy, 8 bits", "same class", "swap, from file"]
    return table(header, rows)


def verdict(cases: dict[str, Any]) -> str:
    """Which goals are met, in a sentence each."""
    vgg = cases["VGG16, 96x96"]["ratio"]["trunk float32 / int8"]
    swap = max(case["swap"]["loaded_ms"] for case in cases.values())
    late = {name: case["swap"]["from_file_ms"] for name, case in cases.items()}
    above = [f"{value:.1f} ms for {name}" for name, value in late.items() if value > 5]
    off = max(case["difference"] for case in cases.values())
    said = [
        f"VGG16's trunk at 96x96 is {vgg:.1f}x as fast in 8 bits as in float32 (goal: 2x; "
        f"{'met' if vgg >= 2 else '**not met**'}).",
        f"Answers in float32 are off by {off:.0e} at most (goal: 1e-05; {'met' if off <= 1e-5 else '**not met**'}).",
        f"Swapping to a loaded adapter takes {1000 * swap:.1f} µs (goal: 5 ms; "
        f"{'met' if swap <= 5 else '**not met**'}).",
    ]
    if above:
        said.append(
            f"From its file, with the SHA-256 of every byte, it takes {', '.join(above)}, which is above 5 ms: load "
            "adapters before they are wanted."
        )
    return " ".join(said)


def section() -> str:
    record = result("onnx")
    machine, cases = record["machine"], record["cases"]
    first = next(iter(cases.values()))
    where = (
        f"One thread of {machine['cpu']}, processor time; torch {machine['torch']}, onnxruntime "
        f"{record['onnxruntime']}. Others used the machine meanwhile (load average {machine['load']}): cases take "
        "turns, and gains are medians of ratios within a turn, of ONNX over PyTorch and of 8 bits over ONNX in float32."
    )
    faces = (
        f"One adapter of the default settings, trained on {record['faces']}; {first['calibration_faces']} faces of "
        f"people held out calibrate, {first['test_faces']} others are the test. VGG16 has fresh weights: only the "
        "change of its accuracy counts."
    )
    last = f"{verdict(cases)} A whole model gains less by 8 bits than its trunk, as adapters stay in float32."
    command = "    python benchmarks/bench_onnx.py --data_dir ../shared/faces"
    parts = [command, wrapped(where), times(cases), wrapped(faces), sizes_and_answers(cases), wrapped(last)]
    return "\n\n".join(parts)


def page() -> str:
    """The page with the section in its place."""
    return between(PAGE.read_text(encoding="utf-8"), BEGIN, END, section())


def picture(cases: dict[str, Any]) -> bytes:
    """How long one face takes, trunk and one adapter, in each of three ways."""
    figure = blank_figure(7.5, 2.6)
    axes = figure.subplots(1, len(cases))
    for axis, (name, case) in zip(axes, cases.items(), strict=True):
        times = [1000 * case["seconds"][f"{kind} 1"] for kind in ("torch", "float32", "int8")]
        bars = axis.barh(["PyTorch", "ONNX", "ONNX, 8 bits"], times, color=["#9aa5b1", "#5b8fa8", "#1a7f78"])
        axis.bar_label(bars, [f" {time:.1f} ms" for time in times], fontsize=9)
        axis.set_xlim(0, 1.35 * max(times))
        axis.set_title(name, fontsize=10)
        axis.invert_yaxis()
        axis.set_xticks([])
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        if axis is not axes[0]:
            axis.set_yticklabels([])
    return as_png(figure)


if __name__ == "__main__":
    (HERE / "deploy.png").write_bytes(picture(result("onnx")["cases"]))
    PAGE.write_text(page(), encoding="utf-8")
