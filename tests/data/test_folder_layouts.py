"""Folders of pictures as people have them: what is not understood is refused, what is not read is said."""

from __future__ import annotations

import logging

import pytest

from ciao_peft.data import labels_of, load_faces, paint_face
from ciao_peft.data.folder_layout import looks_like_a_split
from ciao_peft.errors import DataError
from helpers.pictures import draw


def written(folder, text, count=2, name="metadata.csv"):
    draw(folder, *(f"{index}.png" for index in range(count)))
    (folder / name).write_text(text)
    return folder


@pytest.fixture
def load(tmp_path):
    def read(folder, **settings):
        return load_faces("imagefolder", folder, **{"min_images_per_class": 0, "cache_dir": tmp_path / "c"} | settings)

    return read


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "faces"


@pytest.mark.parametrize(
    "names",
    [
        ("train_set", "val_set"),
        ("trainset", "testset"),
        ("train2017", "val2017"),
        ("PublicTest", "PrivateTest"),
        ("TrainingData", "TestingData"),
        ("faces-train", "faces-dev"),
    ],
)
def test_folders_that_look_like_splits_are_no_classes(load, folder, names):
    draw(folder, *(f"{name}/{mood}/a.png" for name in names for mood in ("happy", "sad")))
    with pytest.raises(DataError, match=r"looks like a split. Rename such folders to `train`.*one folder per class"):
        load(folder)


def test_splits_inside_classes_are_not_mixed(load, folder):
    draw(folder, *(f"{mood}/{part}/a.png" for mood in ("happy", "sad") for part in ("train", "test")))
    with pytest.raises(DataError, match=r"'happy/test', 'happy/train', .*looks like a split"):
        load(folder)


def test_folders_that_all_hold_the_same_folders_are_no_classes(load, folder):
    draw(folder, *(f"{part}/{mood}/a.png" for part in ("first", "second") for mood in ("happy", "sad")))
    with pytest.raises(DataError, match=r"'first', 'second' all hold the same folders \('happy', 'sad'\)"):
        load(folder)


def test_a_folder_of_pictures_in_each_class_and_people_of_their_own_are_fine(load, folder, tmp_path):
    faces = load(draw(folder, "happy/images/a.png", "sad/images/a.png"))["train"]
    assert faces.features["label"].names == ["happy", "sad"]
    faces = load(draw(tmp_path / "people", "happy/ann/a.png", "happy/bob/a.png", "sad/cem/a.png"))["train"]
    assert faces.features["label"].names == ["happy", "sad"]


def test_classes_whose_names_only_begin_like_a_split_are_classes(load, folder):
    names = ["devious", "happy", "tested", "trained", "valiant"]
    assert not any(map(looks_like_a_split, names))
    assert load(draw(folder, *(f"{name}/a.png" for name in names)))["train"].features["label"].names == names


def test_what_lies_beside_the_splits_is_said(load, folder, caplog):
    draw(folder, "Training/happy/a.png", "Training/sad/a.png", "PublicTest/happy/a.png", "PrivateTest/sad/a.png")
    draw(folder, "stray.png")
    with caplog.at_level(logging.WARNING):
        assert load(folder).num_rows == {"train": 2}
    beside = "3 x image beside the folders of the splits ('Training'): PrivateTest, PublicTest, stray.png"
    assert beside in caplog.text


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "webp", "tif", "dib", "pbm"])
def test_pictures_with_seldom_suffixes_are_read(load, folder, suffix):
    (folder / "happy").mkdir(parents=True)
    format = {"jfif": "JPEG", "jpe": "JPEG", "tif": "TIFF", "dib": "DIB", "pbm": "PPM", "webp": "WEBP"}[suffix]
    picture = paint_face(size=24).convert("1" if suffix == "pbm" else "RGB")
    picture.save(folder / "happy" / f"a.{suffix}", format=format)
    assert load(folder)["train"][0]["image"].size == (24, 24)


def test_files_that_are_not_read_are_counted_by_suffix(load, folder, caplog):
    draw(folder, "train/happy/a.png", "train/sad/a.png")
    for name in ("train/happy/b.heic", "train/sad/c.heic", "train/happy/d", "notes.txt", "train/.hidden", "Thumbs.db"):
        (folder / name).write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        assert load(folder)["train"].num_rows == 2
    assert "2 x file with the suffix '.heic', which is not read: b.heic, c.heic" in caplog.text
    assert "1 x file without a suffix, which is not read: d" in caplog.text
    assert "1 x file with the suffix '.txt', which is not read: notes.txt" in caplog.text
    assert "hidden" not in caplog.text
    assert "Thumbs" not in caplog.text


def test_not_a_number_is_no_class(load, folder, caplog):
    written(folder, "file_name,label\n0.png,1\n1.png,nan\n2.png,NaN\n3.png,0\n", count=4)
    with caplog.at_level(logging.WARNING):
        faces = load(folder)["train"]
    assert faces.features["label"].names == ["0", "1"]
    assert faces.num_rows == 2
    assert "1 x row without a label (nan): 1.png" in caplog.text


def test_a_missing_number_among_decimals_is_refused_and_makes_no_classes(load, folder):
    written(folder, "file_name,label\n0.png,0.5\n1.png,nan\n")
    with pytest.raises(DataError, match=r"'nan' .* no finite number"):
        load(folder)


def test_a_table_without_any_label_is_refused(load, folder):
    written(folder, "file_name,label\n0.png,nan\n1.png,nan\n")
    with pytest.raises(DataError, match=r"has a label. Left out: 2 x row without a label"):
        load(folder)


def test_equal_numbers_are_one_class(load, folder):
    written(folder, "file_name,label\n0.png,1\n1.png,1.0\n2.png,2.0\n3.png,02\n", count=4)
    faces = load(folder)["train"]
    assert faces.features["label"].names == ["02", "1"]
    assert faces["label"] == [1, 1, 0, 0]


def test_names_that_only_look_like_numbers_stay(load, folder):
    written(folder, "file_name,label\n0.png,1.0\n1.png,v1\n")
    assert load(folder)["train"].features["label"].names == ["1.0", "v1"]


@pytest.mark.parametrize("separator", [";", "\t", ",", "|"])
def test_the_separator_is_seen_in_the_header(load, folder, separator):
    rows = [["file_name", "label"], ["0.png", "happy"], ["1.png", "sad"]]
    written(folder, "\n".join(map(separator.join, rows)))
    assert load(folder)["train"].features["label"].names == ["happy", "sad"]


def test_decimal_commas_between_semicolons_are_numbers(load, folder):
    written(folder, "file_name;label\n0.png;0,5\n1.png;-1\n")
    faces = load(folder)["train"]
    assert labels_of(faces).problem_type == "regression"
    assert faces["label"] == [[0.5], [-1.0]]


@pytest.mark.parametrize("separator", ["|", ";"])
def test_a_header_without_the_files_names_the_separator(load, folder, separator):
    written(folder, f"path{separator}label\n0.png{separator}happy\n")
    with pytest.raises(DataError, match=r"no column 'file_name'.*looks as if '[|;]' separated its columns.*csv="):
        load(folder)
