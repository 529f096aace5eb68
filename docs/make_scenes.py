"""Writes the table of docs/howto/scenes.md and a part of docs/performance.md from what `bench_reader.py` measured.

python docs/make_scenes.py
"""

from __future__ import annotations

from pathlib import Path

from pages import wrapped
from speed_tables import ms, result, table

HERE = Path(__file__).parent
END = "<!-- end of scenes -->"
BEGIN = "<!-- scenes: written by docs/make_scenes.py -->"


def percent(share: float) -> str:
    return f"{100 * share:.0f}"


def recall() -> str:
    record = result("reader")
    found, names = record["recall"], list(record["recall"])
    shown = {"side": "{} pixels", "degrees": "turned by {}°", "covered": "covered: {}"}
    rows = [
        [label.format(variant), *(percent(found[name][kind][variant]) for name in names)]
        for kind, label in shown.items()
        for variant in found[names[0]][kind]
    ]
    false = (100 * case["false"] / case["scenes"] for case in found.values())
    rows.append(["hits that are no face, in 100 scenes", *(f"{count:.1f}" for count in false)])
    rows.append(["ms a scene of 640x480, one thread", *(ms(record["detector_seconds"][name]) for name in names)])
    intro = f"""Shares in percent of {record["count"]} faces ({record["faces"]}) that were found in composed scenes of
640x480 pixels: by side of the photograph; at 96 pixels, by turn and by what a grey bar covers. A face counts as found
where a square and its photograph share at least 35 % (intersection over union)."""
    return f"{wrapped(intro)}\n\n{table(['', *names], rows, 'l' + 'r' * len(names))}"


def live() -> str:
    record = result("reader")
    machine, rows = record["machine"], []
    for encoder, stages in record["stages"].items():
        for count, rate in record["frames_per_second"][encoder].items():
            worlds = max(0.0, stages[f"encode and {count} worlds"] - stages["encode"])
            shares = [stages["detect"], stages["align"], stages["encode"], worlds]
            told = [f"{ms(seconds)} ({percent(seconds / sum(shares))} %)" for seconds in shares]
            rows.append([encoder, count, f"{rate['wall']:.1f}", ms(rate["processor_seconds"]), *told])
    head = ["encoder", "worlds", "frames/s", "processor, ms", "detect", "align, fit", "encode", "worlds"]
    text = f"""`FaceReader` on frames of 640x480 with {record["faces_per_frame"]} faces
(`python benchmarks/bench_reader.py`; {machine["cpu"]}, two threads, torch {machine["torch"]}): YuNet, `dlib-face` on
aligned faces, `small-face` on squares, adapters of the form of the bundled ones. Frames a second are wall time, on two
cores that others used as well (load average {machine["load"]} when it began): the processor's milliseconds a frame say
what two free cores could do. The stages are milliseconds of the processor a frame, each by itself on one thread, and
shares of their sum. Of all figures the best of several turns."""
    others = """DeepFace and EmotiEffLib cannot be timed next to it without a network: neither package brings weights,
and both download them when they are first used (deepface 0.0.103, emotiefflib 1.1.1)."""
    tables = table(head, rows, "lrrrrrrr")
    return f"## Faces in scenes and videos\n\n{wrapped(text)}\n\n{tables}\n\n{wrapped(others)}"


def put_into(page: Path, text: str) -> None:
    """Replaces this script's part of a page, or puts it at the end."""
    before = page.read_text(encoding="utf-8")
    head, begun, rest = before.partition(BEGIN)
    tail = rest.partition(END)[2] if begun else "\n"
    head = head if begun else f"{head.rstrip()}\n\n"
    page.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{tail}", encoding="utf-8")


def main() -> None:
    put_into(HERE / "howto" / "scenes.md", recall())
    put_into(HERE / "performance.md", live())
    print(f"wrote {HERE / 'howto' / 'scenes.md'} and {HERE / 'performance.md'}")


if __name__ == "__main__":
    main()
