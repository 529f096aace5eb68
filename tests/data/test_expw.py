"""ExpW: boxes in the order of its list, several faces in a picture, and a test split without a shared picture."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import Image

from ciao_peft.data import load_faces
from ciao_peft.data.expressions import EXPW
from ciao_peft.errors import DataError, DataNotFoundError


@pytest.fixture
def expw(tmp_path):
    """Twelve pictures of 60 x 40: face 0 is red, 20 x 30 at (10, 5); face 1 is green, 16 x 16 at (35, 8)."""
    folder, lines = tmp_path / "expw", []
    (folder / "image" / "origin").mkdir(parents=True)
    (folder / "label").mkdir()
    for number in range(12):
        picture = Image.new("RGB", (60, 40), (0, 0, 255))
        picture.paste((255, 0, 0), (10, 5, 30, 35))
        picture.paste((0, 255, 0), (35, 8, 51, 24))
        name = f"angry_actor_{number}.png"
        picture.save(folder / "image" / "origin" / name)
        lines.append(f"{name} 0 5 10 30 35 {10 * number}.5 {number % 7}")  # top, left, right, bottom
        lines.append(f"{name} 1 8 35 51 24 99 6")
    (folder / "label" / "label.lst").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def load(tmp_path):
    def read(folder, **settings):
        return load_faces("expw", folder, cache_dir=tmp_path / "cache", **settings)

    return read


def test_every_face_is_cut_out_by_its_box_and_keeps_its_label(expw, load):
    faces = load(expw)["train"]
    assert len(faces) == 24
    first, second = faces[0], faces[1]
    assert (first["image"].size, second["image"].size) == ((20, 30), (16, 16))
    assert np.asarray(first["image"]).reshape(-1, 3).mean(axis=0).tolist() == [255, 0, 0]
    assert np.asarray(second["image"]).reshape(-1, 3).mean(axis=0).tolist() == [0, 255, 0]
    assert (first["box"], first["picture"], second["face"]) == ([10, 5, 20, 30], "angry_actor_0.png", 1)
    assert [EXPW[label] for label in faces["label"][:4]] == ["angry", "neutral", "disgust", "neutral"]


def test_pictures_stay_whole_on_request_and_unsure_faces_are_left_out(expw, load):
    faces = load(expw, crop=False, min_confidence=95)["train"]
    assert len(faces) == 14  # every second face, and face 0 of the last two pictures
    assert faces[0]["image"].size == (60, 40)


def test_faces_of_one_picture_are_in_one_part(expw, load, caplog):
    with caplog.at_level(logging.WARNING, "ciao_peft.data"):
        faces = load(expw, test_fraction=0.25)
    assert len(faces["test"]) == 6
    assert not set(faces["train"]["picture"]) & set(faces["test"]["picture"])
    assert "pictures are divided one by one" in caplog.text


def test_what_does_not_fit_is_counted(expw, load, caplog):
    table = expw / "label" / "label.lst"
    more = [
        "angry_actor_0.png 0 5 10 30 35 1 2",  # again
        "nowhere.png 0 5 10 30 35 1 2",
        "angry_actor_1.png 2 5 10 30 35 1 9",  # no such label
        "angry_actor_1.png 3 5 30 10 35 1 2",  # left and right changed
        "angry_actor_1.png 4 500 500 510 510 1 2",
        "angry_actor_1.png 5",
        "../../secret.png 0 5 10 30 35 1 2",
    ]
    table.write_text(table.read_text() + "\n".join(more))
    with caplog.at_level(logging.WARNING, "ciao_peft.data"):
        assert len(load(expw)["train"]) == 24
    for told in (
        "3 x malformed row",
        "2 x row of label.lst without its picture",
        "1 x repeated row",
        "outside its picture",
    ):
        assert told in caplog.text


def test_what_is_missing_is_said(expw, load):
    with pytest.raises(DataNotFoundError, match=r"No ExpW in .*label\.lst, found 12 images"):
        load(expw / "image")
    with pytest.raises(DataError, match="has its picture"):
        load(expw / "label")
    with pytest.raises(DataError, match="`crop_size` must be"):
        load(expw, crop_size=2)
