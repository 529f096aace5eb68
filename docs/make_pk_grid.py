"""Draws docs/pk_painted.png: what `prior_knowledge` makes of painted faces after a short training.

python docs/make_pk_grid.py

Takes a few minutes on one core. The upper row is what it saw, the next one what it drew again; below, the same faces
calm and sad, calm and pleased, aroused and sad, aroused and pleased.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from pathlib import Path

from PIL import Image

from ciao_peft import load_faces

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "examples"))
import pretrain_pk  # noqa: E402

NUM_FACES, EPOCHS = 800, 16
SETTINGS = (
    "--conditional --batch_size 16 --learning_rate 1e-3 --warmup_steps 50 --identity_weight 1 --channels 16 32 64 128 "
    "--widths 64 48 32 16 8 --mixed_precision bf16 --cpu"
)


def write_faces(folder: Path, number: int) -> None:
    """Painted faces as `--conditional` wants them: pictures, and their arousal and valence in metadata.csv."""
    settings = {"world": "affect", "num_train": number, "num_validation": 0, "num_test": 2, "size": 96}
    rows = load_faces("painted_faces", cache_dir=folder / "cache", **settings)["train"]
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "arousal", "valence"])
        # The first faces are those that are shown: of eight people.
        order = sorted(range(len(rows)), key=lambda place: (place % (number // 8), place))
        for place, row in enumerate(rows.select(order)):  # the world of affect says arousal first
            row["image"].save(folder / f"{place:04}.png")
            table.writerow([f"{place:04}.png", *row["label"]])


def draw(path: Path, number: int = NUM_FACES, epochs: int = EPOCHS, *words: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        faces, run = Path(scratch) / "faces", Path(scratch) / "run"
        faces.mkdir()
        write_faces(faces, number)
        told = f"--data_dir {faces} --output_dir {run} --num_train_epochs {epochs} {SETTINGS}"
        pretrain_pk.main(pretrain_pk.parse_args([*told.split(), *words]))
        with Image.open(run / "reconstructions" / f"epoch-{epochs}.png") as grid:
            small = grid.resize((grid.width // 2, grid.height // 2), Image.Resampling.LANCZOS)
        small.quantize(128).save(path, optimize=True)
    print(f"wrote {path}")


if __name__ == "__main__":
    draw(HERE / "pk_painted.png")
