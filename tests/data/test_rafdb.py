"""RAF-DB as it is released and as it is passed on, with painted faces."""

from __future__ import annotations

import logging

import pytest

from ciao_peft.data import load_faces, paint_face
from ciao_peft.data.expressions import RAFDB
from ciao_peft.errors import ConfigError, DataError, DataNotFoundError


def paint(path, seed, size=24):
    path.parent.mkdir(parents=True, exist_ok=True)
    paint_face(seed=seed, size=size).save(path)


@pytest.fixture
def released(tmp_path):
    """`basic/` as released: seven training and three test faces, each aligned and as found."""
    folder, lines = tmp_path / "basic", []
    for split, count in (("train", 7), ("test", 3)):
        for number in range(1, count + 1):
            name = f"{split}_{number:05d}"
            paint(folder / "Image" / "aligned" / f"{name}_aligned.jpg", seed=number)
            paint(folder / "Image" / "original" / f"{name}.jpg", seed=number, size=40)
            lines.append(f"{name}.jpg {(number - 1) % 7 + 1}")
    (folder / "EmoLabel").mkdir()
    (folder / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def load(tmp_path):
    def read(folder, **settings):
        return load_faces("rafdb", folder, cache_dir=tmp_path / "cache", **settings)

    return read


def names(split):
    return [split.features["label"].names[label] for label in split["label"]]


def test_the_list_gives_every_picture_its_label(released, load):
    faces = load(released.parent)  # the folder above will do
    assert (
        names(faces["train"])
        == list(RAFDB)
        == ["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"]
    )
    assert names(faces["test"]) == ["surprise", "fear", "disgust"]
    assert {face["image"].size for face in faces["train"]} == {(24, 24)}


def test_the_pictures_as_found_are_taken_on_request(released, load):
    faces = load(released, aligned=False)
    assert {face["image"].size for face in faces["test"]} == {(40, 40)}


def test_the_list_of_compound_expressions_is_another_one(released, load):
    compound = released.parent / "compound" / "EmoLabel"
    compound.mkdir(parents=True)
    (compound / "list_patition_label.txt").write_text("train_00001.jpg 7\n")
    assert names(load(released.parent)["train"])[0] == "surprise"


@pytest.mark.parametrize("folders", [("train", "test"), ("train_set", "val_set"), ("DATASET/train", "DATASET/test")])
def test_class_folders_made_of_it_are_numbered_from_one(load, tmp_path, folders):
    for split, folder in zip(("train", "test"), folders, strict=True):
        for number in range(1, 8):
            paint(tmp_path / "faces" / folder / str(number) / f"{split}_{number:05d}_aligned.jpg", seed=number)
    (tmp_path / "faces" / "train_labels.csv").write_text("image,label\n")
    faces = load(tmp_path / "faces")
    assert names(faces["train"]) == names(faces["test"]) == list(RAFDB)


def test_what_does_not_fit_is_counted(released, load, caplog):
    table = released / "EmoLabel" / "list_patition_label.txt"
    more = "train_00001.jpg 2\ntrain_99999.jpg 1\ntrain_00002.jpg 8\nnonsense\n\ntest_00001.jpg\n"
    table.write_text(table.read_text() + more)
    with caplog.at_level(logging.WARNING, "ciao_peft.data"):
        faces = load(released)
    assert names(faces["train"])[:2] == ["surprise", "fear"]
    assert "3 x malformed row" in caplog.text
    assert "1 x repeated row of list_patition_label.txt with another label" in caplog.text
    assert "1 x row of list_patition_label.txt without its picture" in caplog.text
    assert "train: 7 instead of 12271, test: 3 instead of 3068" in caplog.text


def test_what_is_missing_is_said(released, load, tmp_path):
    with pytest.raises(DataNotFoundError, match=r"No RAF-DB in .*list_patition_label\.txt.*whdeng"):
        load(released / "Image")
    for path in (released / "Image" / "aligned").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"has its aligned picture.*`aligned=False`"):
        load(released)
    with pytest.raises(ConfigError, match="`aligned` must be true or false"):
        load(released, aligned="yes")
