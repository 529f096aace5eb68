"""Writes the tables of docs/howto/scenes.md and the part on scenes of docs/performance.md, as `bench_reader.py` measured.

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
    heads = {"side": "pixels", "degrees": "turned by", "covered": "covered"}
    rows = []
    for kind, what in heads.items():
        for variant in found[names[0]][kind]:
            label = {"side": f"{variant} {what}", "degrees": f"{what} {variant}°", "covered": f"{what}: {variant}"}[kind]
            rows.append([label, *(percent(found[name][kind][variant]) for name in names)])
    rows.append(["hits that are no face, in 100 scenes", *(f"{100 * c['false'] / c['scenes']:.1f}" for c in found.values())])
    rows.append(["ms a scene of 640x480, one thread", *(ms(record["detector_seconds"][name]) for name in names)])
    intro = (
        f"Shares in percent of {record['count']} faces ({record['faces']}) that were found in composed scenes of 640x480 "
        "pixels: by side of the photograph; at 96 pixels, by turn and by what a grey bar covers. A face counts as found "
        "where a square and its photograph share at least 35 % (intersection over union)."
    )
    return f"{wrapped(intro)}\n\n{table(['', *names], rows, 'l' + 'r' * len(names))}"


def live() -> str:
    record = result("reader")
    machine = record["machine"]
    parts = []
    for encoder, stages in record["stages"].items():
        fps = record["frames_per_second"][encoder]
        for count, rate in fps.items():
            read = stages[f"encode and {count} worlds"]
            worlds = max(0.0, read - stages["encode"])
            total = stages["detect"] + stages["align"] + stages["encode"] + worlds
            shares = [stages["detect"], stages["align"], stages["encode"], worlds]
            parts.append(
                [
                    encoder,
                    count,
                    f"{rate['wall']:.1f}",
                    ms(rate["processor_seconds"]),
                    *(f"{ms(seconds)} ({percent(seconds / total)} %)" for seconds in shares),
                ]
            )
    head = ["encoder", "worlds", "frames/s", "processor, ms a frame", "detect", "align, fit", "encode", "worlds"]
    text = (
        f"`FaceReader` on frames of 640x480 with {record['faces_per_frame']} faces (`python benchmarks/bench_reader.py`; "
        f"{machine['cpu']}, two threads, torch {machine['torch']}): YuNet, `dlib-face` on aligned faces, `small-face` on "
        "squares, adapters of the bundled form. Frames a second are wall time on a machine that did other work meanwhile "
        f"(load average {machine['load']} when it began); the stages are milliseconds of the processor a frame, each by "
        "itself on one thread, and its share. "
        "DeepFace and EmotiEffLib cannot be timed next to it without a network: neither package brings weights, and both "
        "download them when they are first used (deepface 0.0.103, emotiefflib 1.1.1)."
    )
    return f"## Faces in scenes and videos\n\n{wrapped(text)}\n\n{table(head, parts, 'lrrrrrrr')}"


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
