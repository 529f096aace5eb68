"""Pictures of noise, as arrays and as files; painted faces in folders."""

from __future__ import annotations

import csv

import numpy as np
from PIL import Image

from ciao_peft import Preprocessing
from ciao_peft.data import Expression, paint_face

PLAIN = Preprocessing(size=(4, 6), mean=(0.0,) * 3, std=(1.0,) * 3)
GRAY = Preprocessing(size=(4, 6), mode="L", mean=(0.0,), std=(1.0,))


def noise(height=50, width=40, channels=3, seed=0):
    """A random picture, smooth enough to be photographed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (7, 6, channels), dtype=np.uint8)
    image = Image.fromarray(coarse if channels > 1 else coarse[:, :, 0])
    return image.resize((width, height), Image.Resampling.BICUBIC)


def draw(folder, *places, **options):
    """Painted faces at places below a folder, each another one."""
    for seed, place in enumerate(places):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        paint_face(seed=seed, size=24).save(folder / place, **options)
    return folder


def write_two_moods(folder, people=12, faces=4, size=48):
    """A folder of people who look glad or sad, with a table that says who and how."""
    folder.mkdir(parents=True)
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "expression", "identity"])
        for person in range(people):
            for number in range(faces):
                curve = 1.0 if number % 2 else -1.0
                face = paint_face(expression=Expression(mouth_curve=curve), size=size, seed=100 * person + number)
                name = f"{person}-{number}.png"
                face.save(folder / name)
                table.writerow([name, "happiness" if number % 2 else "sadness", f"p{person}"])
