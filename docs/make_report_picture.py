"""Writes docs/report.png: the report of a small study of painted faces, as a browser shows it.

    python docs/make_report_picture.py

Trains the study first, in runs/report_picture (about five minutes on two busy cores; started again, it goes on where it
stopped); `--study FOLDER` takes another one. The picture is taken by a Chromium without a window, where one is on PATH.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from PIL import Image

from ciao_peft.cli import main as ciao
from ciao_peft.study.report import write_report

HERE = Path(__file__).parent
STUDY = HERE.parent / "runs" / "report_picture"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTH, HEIGHT = 1200, 1750
FACES = {"num_train": 400, "num_validation": 2, "num_test": 400}
PLAN = {
    "tasks": {
        "eight": {"dataset": "painted_faces", "options": {"world": "eight", **FACES}, "group_by": "identity"},
        "affect": {"dataset": "painted_faces", "options": {"world": "affect", **FACES}, "group_by": "identity"},
    },
    "encoders": ["small-face"],
    "methods": ["decision layer", "decision layer + CIAO", "last convolution", "LoRA r=16", "scale and shift"],
    "seeds": 5,
    "epochs": 5,
    "search_rates": 2,
}


def train() -> Path:
    STUDY.mkdir(parents=True, exist_ok=True)
    plan = STUDY / "asked.yaml"
    plan.write_text(yaml.safe_dump(PLAN, sort_keys=False), encoding="utf-8")
    if ciao(["reproduce", "--plan", str(plan), "--output_dir", str(STUDY), "--num_processes", "2"]) != 0:
        raise SystemExit("The study could not be trained; the reason is above.")
    return STUDY


def take(page: Path, browser: str, picture: Path) -> None:
    """What the browser shows of a page at first, with a palette for a small file."""
    with tempfile.TemporaryDirectory() as scratch:
        shot = Path(scratch) / "shot.png"
        command = [browser, "--headless", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={scratch}/profile"]
        command += [f"--screenshot={shot}", f"--window-size={WIDTH},{HEIGHT}", page.resolve().as_uri()]
        if hasattr(os, "geteuid") and os.geteuid() == 0:  # Chromium's sandbox does not work for root
            command.insert(1, "--no-sandbox")
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if not shot.is_file():
            raise SystemExit(f"{browser} took no picture:\n{done.stderr}")
        Image.open(shot).convert("RGB").quantize(256).save(picture, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, help="a folder of `ciao reproduce` (default: trains one)")
    parser.add_argument("--output", type=Path, default=HERE / "report.png")
    options = parser.parse_args()
    report = write_report(options.study or train())
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"No picture: none of {', '.join(BROWSERS)} is on PATH. The page is {report.page}.", file=sys.stderr)
        raise SystemExit(1)
    take(report.page, browser, options.output)
    print(f"wrote {options.output}, {options.output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
