"""CK+ as it is released, as class folders and as a table; people are kept apart."""

from __future__ import annotations

import logging

import pytest

from ciao_peft.data import load_faces, paint_face
from ciao_peft.data.expressions import CKPLUS
from ciao_peft.errors import DataError, DataNotFoundError
from helpers.layouts import pixel_text


def paint(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    paint_face(seed=seed, size=24).convert("L").save(path)


@pytest.fixture
def released(tmp_path):
    """Twelve people with one sequence of five frames each; the last has no label. Sequence i shows class i % 7 + 1."""
    folder = tmp_path / "ck"
    for person in range(12):
        name = f"S{person:03d}"
        for frame in range(1, 6):
            paint(folder / "cohn-kanade-images" / name / "001" / f"{name}_001_{frame:08d}.png", seed=person)
        labels = folder / "Emotion" / name / "001"
        labels.mkdir(parents=True)
        if person < 11:
            (labels / f"{name}_001_00000005_emotion.txt").write_text(f"   {person % 7 + 1}.0000000e+00\n")
    return folder


@pytest.fixture
def load(tmp_path):
    def read(folder, **settings):
        return load_faces("ckplus", folder, **{"protocol": None, "cache_dir": tmp_path / "cache"} | settings)

    return read


def names(split):
    return [split.features["label"].names[label] for label in split["label"]]


def test_the_last_frames_of_each_labelled_sequence_are_read(released, load, caplog):
    with caplog.at_level(logging.WARNING, "ciao_peft.data"):
        faces = load(released)["train"]
    assert len(faces) == 33
    assert list(zip(faces["identity"], faces["frame"], strict=True))[:4] == [
        ("S000", 3),
        ("S000", 4),
        ("S000", 5),
        ("S001", 3),
    ]
    assert names(faces)[::3] == [CKPLUS[person % 7 + 1] for person in range(11)]
    assert "5 x frame of a sequence without a label: S011_001" in caplog.text
    assert "train: 33 instead of 981" in caplog.text


def test_the_first_frame_is_neutral_on_request(released, load):
    faces = load(released, frames=1, neutral=True)["train"]
    assert faces.features["label"].names == list(CKPLUS)
    assert names(faces)[:4] == ["neutral", "anger", "neutral", "contempt"]
    assert faces["frame"][:2] == [1, 5]


def test_ten_folds_of_people_test_everybody_once(released, load):
    tested = [set(load(released, protocol="default", fold=fold)["test"]["identity"]) for fold in range(10)]
    assert tested[0] == {"S000", "S010"}
    assert sorted(person for fold in tested for person in fold) == [f"S{person:03d}" for person in range(11)]
    faces = load(released, protocol="leave-one-subject-out", fold="S004")
    assert set(faces["test"]["identity"]) == {"S004"} and len(faces["train"]) == 30


def test_class_folders_of_single_frames_are_read(load, tmp_path):
    folder = tmp_path / "CK+48"
    for number, name in enumerate(("anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")):
        paint(folder / name / f"S{10 + number:03d}_004_00000017.png", seed=number)
    paint(folder / "confused" / "S090_001_00000001.png", seed=9)
    faces = load(folder)["train"]
    assert names(faces) == list(CKPLUS[1:])
    assert (faces["identity"][0], faces["sequence"][0]) == ("S010", "S010_004")


def test_the_table_is_read_with_its_own_splits(load, tmp_path):
    folder = tmp_path / "ck"
    folder.mkdir()
    usages = ("Training", "Training", "PublicTest", "PrivateTest")
    lines = [f"{emotion},{pixel_text(emotion)},{usages[emotion % 4]}" for emotion in range(8)]
    (folder / "ckextended.csv").write_text("\n".join(["emotion,pixels,Usage", *lines]))
    faces = load(folder, neutral=True, protocol="official")
    assert names(faces["train"]) == ["anger", "disgust", "sadness", "surprise"]
    assert (names(faces["validation"]), names(faces["test"])) == (["fear", "neutral"], ["happy", "contempt"])
    assert names(load(folder)["validation"]) == ["fear"]
    with pytest.raises(DataError, match=r"no column 'identity'.*choose another `protocol`"):
        load(folder, protocol="default")


def test_what_does_not_fit_is_counted(released, load, caplog):
    (released / "Emotion" / "S000" / "001" / "S000_001_00000005_emotion.txt").write_text("nine")
    (released / "Emotion" / "S001" / "001" / "S001_001_00000005_emotion.txt").write_text("9.0")
    (released / "Emotion" / "S777_001_00000005_emotion.txt").write_text("1.0")
    paint(released / "cohn-kanade-images" / "portrait.png", seed=1)
    with caplog.at_level(logging.WARNING, "ciao_peft.data"):
        assert len(load(released)["train"]) == 27
    for told in ("2 x label that is no number", "1 x label without its frames", "1 x image not named like"):
        assert told in caplog.text


def test_what_is_missing_is_said(released, load):
    with pytest.raises(DataNotFoundError, match=r"No CK\+ in .*_emotion\.txt.*ckextended\.csv; found 60 images"):
        load(released / "cohn-kanade-images")
    with pytest.raises(DataError, match="`frames` must be"):
        load(released, frames=0)
