"""Draws docs/scene.png: painted faces of a scene, read in two worlds by adapters of the package.

python docs/make_scene_picture.py
python docs/make_scene_picture.py --plain faces.png  # the scene alone, to read it yourself
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from ciao_peft import CIAOModel, FaceReader, load_encoder
from ciao_peft.data import Expression, paint_face

PICTURE = Path(__file__).with_name("scene.png")
WORLDS = ("ciao/painted-eight", "ciao/painted-affect")
PLACES = (
    (50, 60, 180, 22, Expression(mouth_curve=1.0, mouth_open=0.4)),
    (340, 30, 220, 31, Expression(mouth_curve=-0.9, brow_frown=0.9, brow_raise=-0.5)),
    (660, 70, 160, 46, Expression(mouth_open=1.0, brow_raise=1.0, eye_open=1.0)),
)
"""Left, top and side of each face in pixels, its seed, and what it does."""


def scene() -> Image.Image:
    """Three painted faces on their grey."""
    picture = np.full((320, 900, 3), 128, np.uint8)
    for left, top, side, seed, expression in PLACES:
        picture[top : top + side, left : left + side] = paint_face(expression=expression, seed=seed, size=side)
    return Image.fromarray(picture)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plain", metavar="FILE", help="write the scene alone, unread, to this file")
    plain = parser.parse_args().plain
    if plain:
        scene().save(plain)
        return
    model = CIAOModel.from_pretrained(load_encoder("dlib-face"), WORLDS[0])
    for world in WORLDS[1:]:
        model.load_adapter(world)
    print(f"{FaceReader(model.eval()).read(scene()).annotate(PICTURE)} picture: {PICTURE}")


if __name__ == "__main__":
    main()
