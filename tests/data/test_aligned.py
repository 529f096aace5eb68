"""`align_folder` and `ciao align`: marked copies with the same names, all or none; landmarks in a localizer's box."""

from __future__ import annotations

import csv
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from ciao_peft import Preprocessing
from ciao_peft.cli import main
from ciao_peft.data import FaceLocalizer, align_folder, load_faces, located_landmarks
from ciao_peft.errors import ConfigError, DataError, DataNotFoundError
from ciao_peft.preprocessing import Alignment, five_points
from helpers.drawn import drawn_face

NAMES = ("train/a.png", "train/b.jpg", "test/deep/c.webp")


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "faces"
    for seed, name in enumerate(NAMES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn_face(96, seed)).save(root / name)
    (root / "train" / "metadata.csv").write_text("file_name,mood\na.png,glad\nb.jpg,sad\n")
    (root / "test" / "metadata.jsonl").write_text(json.dumps({"file_name": "deep/c.webp", "mood": "sad"}) + "\n")
    (root / "notes.txt").write_text("mine")
    return root


def first_only(pixels):
    """Landmarks of every face but the one that was drawn with seed 1."""
    whole = (0, 0, pixels.shape[1], pixels.shape[0])
    return None if abs(pixels.astype(int) - drawn_face(96, 1)).mean() < 6 else five_points(pixels, whole)


def look(path):
    with Image.open(path) as picture:
        return picture.format, picture.size


def test_copies_have_the_names_and_the_rest_stays(folder, tmp_path):
    done = align_folder(folder, tmp_path / "out")
    assert done == (3, [], 3)
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {*NAMES, "train/metadata.csv", "test/metadata.jsonl", "notes.txt"}
    assert (tmp_path / "out" / "train" / "metadata.csv").read_text() == "file_name,mood\na.png,glad\nb.jpg,sad\n"
    assert look(tmp_path / "out" / "train" / "b.jpg") == ("JPEG", (150, 150))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_copies_give_the_pixels_of_the_pictures_they_were_made_from(folder, tmp_path):
    align_folder(folder, tmp_path / "out")
    preprocessing = Preprocessing(size=(64, 64), align="five-points")
    for name in NAMES:
        copy, original = preprocessing(tmp_path / "out" / name), preprocessing(folder / name)
        if name.endswith("jpg"):
            assert (copy - original).abs().mean() < 0.01
        else:
            assert torch.equal(copy, original)


def test_the_marks_survive_the_datasets_library(folder, tmp_path):
    align_folder(folder, tmp_path / "out")
    rows = load_faces("imagefolder", tmp_path / "out", label_column="mood", min_images_per_class=1)["train"]
    aligned = Preprocessing(size=(150, 150), align="five-points")
    for row in rows:
        assert torch.equal(aligned(row["image"]), Preprocessing(size=(150, 150))(np.asarray(row["image"])))
    with pytest.raises(DataError, match="aligned in another way"):
        Preprocessing(align=Alignment(size=64))(rows[0]["image"])


@pytest.mark.parametrize("missing", ["whole", "skip", "error"])
def test_pictures_without_landmarks_get_the_policy(folder, tmp_path, missing):
    alignment, out = Alignment(landmarks=first_only), tmp_path / "out"
    if missing == "error":
        with pytest.raises(DataError, match=r"b\.jpg' has no landmarks"):
            align_folder(folder, out, alignment, missing=missing)
        assert not out.exists() and len(list(tmp_path.iterdir())) == 1
        return
    done = align_folder(folder, out, alignment, missing=missing)
    assert done.missing == ["train/b.jpg"] and done.pictures == (3 if missing == "whole" else 2)
    rows = list(csv.DictReader((out / "train" / "metadata.csv").read_text().splitlines()))
    if missing == "skip":
        assert not (out / "train" / "b.jpg").exists() and rows == [{"file_name": "a.png", "mood": "glad"}]
    else:
        assert look(out / "train" / "b.jpg")[1] == (96, 96) and len(rows) == 2
        Preprocessing(align=alignment)(out / "train" / "b.jpg")  # a copy, and not looked at again


def test_rows_of_pictures_left_out_go_from_json_lines_too(folder, tmp_path):
    def nobody(pixels):
        return None

    align_folder(folder, tmp_path / "out", Alignment(landmarks=nobody), missing="skip")
    assert (tmp_path / "out" / "test" / "metadata.jsonl").read_text() == ""


def test_what_cannot_be_copied_is_refused_before_anything_is_written(folder, tmp_path):
    with pytest.raises(DataNotFoundError, match="is no folder"):
        align_folder(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(DataError, match="exists"):
        align_folder(folder, tmp_path)
    with pytest.raises(DataError, match="missing"):
        align_folder(folder, tmp_path / "out", missing="nearest")
    align_folder(folder, tmp_path / "out")
    with pytest.raises(DataError, match="is an aligned copy already"):
        align_folder(tmp_path / "out", tmp_path / "again")
    Image.fromarray(drawn_face(96)).save(folder / "d.bmp")
    with pytest.raises(DataError, match=r"end in '\.bmp'.*convert them to PNG"):
        align_folder(folder, tmp_path / "again")
    (folder / "d.bmp").unlink()
    (folder / "e.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"e\.png"):
        align_folder(folder, tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces", "out"]


@pytest.mark.parametrize("alignment", [3, "five points", Alignment, np.ones(2)], ids=repr)
def test_an_alignment_that_is_none_is_refused(folder, tmp_path, alignment):
    with pytest.raises(ConfigError, match="must be None, 'five-points'"):
        align_folder(folder, tmp_path / "out", alignment)
    assert align_folder(folder, tmp_path / "out", "five-points").pictures == 3


def test_a_picture_longer_than_its_format_allows_is_refused_by_name(tmp_path):
    (tmp_path / "faces").mkdir()
    Image.new("RGB", (16_500, 10)).save(tmp_path / "faces" / "long.png")
    os.rename(tmp_path / "faces" / "long.png", tmp_path / "faces" / "long.webp")
    with pytest.raises(DataError, match=r"long\.webp' cannot be copied whole"):
        align_folder(tmp_path / "faces", tmp_path / "out", Alignment(landmarks=no_landmarks))
    with pytest.raises(DataError, match="cannot be written"):
        align_folder(tmp_path / "faces", "a\0b")
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


def no_landmarks(pixels):
    """No landmarks of anything."""
    return


def test_the_box_of_a_localizer_is_where_landmarks_are_looked_for():
    scene = np.zeros((300, 400, 3), np.uint8)
    scene[60:156, 200:296] = drawn_face(96, 3)
    find = located_landmarks(FaceLocalizer(lambda image: [(200, 60, 96, 96)] if image.any() else []), "fixed")
    assert find(scene).tolist() == five_points(scene, (200, 60, 96, 96)).tolist()
    assert find(np.zeros_like(scene)) is None
    chip = Alignment(landmarks=find).chip(Image.fromarray(scene))
    own = Alignment().chip(Image.fromarray(drawn_face(96, 3)))
    middle = np.s_[30:120, 30:120]
    assert np.abs(np.asarray(chip).astype(int) - np.asarray(own))[middle].mean() < 8
    with pytest.raises(DataError, match="No landmarks"):
        Alignment(landmarks=find, missing="error")(Image.fromarray(np.zeros_like(scene)))


def test_the_command_says_how_many_copies_there_are(folder, tmp_path, capsys):
    assert main(["align", str(folder), str(tmp_path / "out"), "--size", "96", "--padding", "0.3"]) == 0
    said = capsys.readouterr().out
    assert "copies        3 of 96 x 96 pixels" in said and "no landmarks  0, used whole" in said
    assert look(tmp_path / "out" / "train" / "a.png") == ("PNG", (96, 96))
    assert main(["align", str(folder), str(tmp_path / "out")]) == 1
    assert "exists" in capsys.readouterr().err


def test_the_converter_knows_dlibs_network(tmp_path, capsys):
    (tmp_path / "x.dat").write_bytes(b"x")
    assert main(["convert-encoder", "--from", "dlib", str(tmp_path / "x.dat"), str(tmp_path / "out")]) == 1
    assert "must with 55533b28" in capsys.readouterr().err
    assert main(["convert-encoder", "--from", "dlib", "--layout", "keras", str(tmp_path / "out")]) == 1
    assert "--layout cannot be chosen" in capsys.readouterr().err
    assert main(["convert-encoder", str(tmp_path / "out"), "--levels", "3"]) == 1
    assert "add --from dlib" in capsys.readouterr().err
    assert main(["convert-encoder", str(tmp_path / "out")]) == 1
    assert "Which file holds the weights?" in capsys.readouterr().err


def nobody(pixels):
    return None


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("metadata.jsonl", lambda path: path.write_text("[" * 5000)),
        ("metadata.jsonl", lambda path: path.write_text('{"file_name": "a.png", "age": ' + "9" * 5001 + "}")),
        ("metadata.csv", lambda path: path.write_bytes(b"file_name,label\n\xff.png,1")),
        ("notes", lambda path: os.mkfifo(path)),
        ("notes", lambda path: path.symlink_to("/dev/zero")),
        ("notes", lambda path: path.symlink_to(path)),
    ],
    ids=["deep", "digits", "no-text", "pipe", "endless", "loop"],
)
def test_tables_and_files_that_are_none_are_refused(name, make, tmp_path):
    source = tmp_path / "faces"
    source.mkdir()
    Image.new("RGB", (64, 64)).save(source / "a.png")
    make(source / name)
    with pytest.raises(DataError):
        align_folder(source, tmp_path / "out", Alignment(landmarks=nobody), missing="skip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces"]


def test_lines_about_no_picture_stay(tmp_path):
    source = tmp_path / "faces"
    source.mkdir()
    Image.new("RGB", (64, 64)).save(source / "a.png")
    (source / "metadata.jsonl").write_text('{"file_name": "a.png"}\n\n{"other": 1}\n[1]\n{"file_name": 3}')
    align_folder(source, tmp_path / "out", Alignment(landmarks=nobody), missing="skip")
    assert (tmp_path / "out" / "metadata.jsonl").read_text() == '\n{"other": 1}\n[1]\n{"file_name": 3}'
