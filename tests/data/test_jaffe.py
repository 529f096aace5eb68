import logging

import numpy as np
import pytest
from PIL import Image

from ciao_peft.data import load_faces, paint_face, protocol_folds
from ciao_peft.data.jaffe import Jaffe
from ciao_peft.errors import DataError, DataNotFoundError
from helpers.layouts import JAFFE_CODES, JAFFE_SUBJECTS, jaffe_names, write_jaffe


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = write_jaffe(tmp_path_factory.mktemp("jaffe") / "jaffedbase")
    (folder / ".DS_Store").write_bytes(b"junk")
    (folder / "README_FIRST.txt").write_text("semantic ratings")
    return folder


@pytest.fixture
def load(tmp_path):
    return lambda folder, **settings: load_faces(
        "jaffe", folder, cache_dir=tmp_path / "cache", protocol=None, **settings
    )


def test_all_213_images_are_read_with_the_counts_of_the_released_set(whole, load, caplog):
    with caplog.at_level(logging.WARNING):
        faces = load(whole)["train"]
    assert len(faces) == 213
    assert faces.features["label"].names == [
        *("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
    ]
    assert np.bincount(faces["label"]).tolist() == [30, 29, 32, 31, 30, 31, 30]
    people, counts = np.unique(faces["identity"], return_counts=True)
    assert dict(zip(people.tolist(), counts.tolist(), strict=True)) == {
        "KA": 23,
        "KL": 22,
        "KM": 22,
        "KR": 20,
        "MK": 21,
        "NA": 21,
        "NM": 20,
        "TM": 21,
        "UY": 21,
        "YM": 22,
    }
    assert not caplog.records


def test_grey_and_palette_files_both_come_back_as_the_grey_values_they_hold(whole, load):
    faces = load(whole)["train"]
    names = list(jaffe_names())
    modes = []
    for name in names:
        with Image.open(whole / name) as image:
            modes.append(image.mode)
    assert modes.count("P") == 23
    for row in faces:
        assert row["image"].mode == "L"
        index = next(i for i, name in enumerate(names) if name.endswith(f".{row['number']}.tiff"))
        assert np.array_equal(np.asarray(row["image"]), np.asarray(paint_face(seed=index, size=32).convert("L")))


def test_subject_expression_repetition_and_number_come_from_the_name(whole, load):
    faces = load(whole)["train"]
    told = {
        f"{row['identity']}.{JAFFE_CODES[row['label']]}{row['repetition']}.{row['number']}.tiff"
        for row in faces.remove_columns("image")
    }
    assert told == set(jaffe_names())


def test_the_folder_may_lie_deeper(whole, load):
    assert len(load(whole.parent)["train"]) == 213


def test_the_builder_class_works_without_load_faces(whole, tmp_path):
    builder = Jaffe(data_dir=whole, cache_dir=str(tmp_path))
    builder.download_and_prepare()
    assert builder.as_dataset(split="train").num_rows == 213


def test_fewer_images_than_released_are_said(tmp_path, load, caplog):
    folder = write_jaffe(tmp_path / "some", ["KA.AN1.39.tiff", "KA.HA1.29.tiff"])
    assert len(load(folder)["train"]) == 2
    assert "Jaffe differs from the released files in train: 2 instead of 213" in caplog.text


def test_foreign_damaged_and_doubled_files_are_counted(tmp_path, load, caplog):
    folder = write_jaffe(tmp_path / "some", ["KA.AN1.39.tiff", "KA.HA1.29.tiff", "KA.XX1.40.tiff", "face.tiff"])
    (folder / "KA.HA1.29.tiff").write_bytes(b"")
    write_jaffe(folder / "copy", ["KA.AN1.39.tiff"])
    assert len(load(folder)["train"]) == 1
    for reason in (
        "1 x empty file",
        "1 x image not named like KA.AN1.39.tiff: face.tiff",
        "1 x image with an unknown expression code: KA.XX1.40.tiff",
        "1 x second copy of an image",
    ):
        assert reason in caplog.text


def test_a_folder_without_jaffe_says_what_was_looked_for_and_how_to_get_it(tmp_path, load):
    write_jaffe(tmp_path / "other", ["face.tiff"])
    with pytest.raises(
        DataNotFoundError, match=r"looked for files like KA\.AN1\.39\.tiff, found 1 other images.*Zenodo"
    ):
        load(tmp_path / "other")


def folds(whole, tmp_path, protocol):
    faces = load_faces("jaffe", whole, cache_dir=tmp_path / "cache", protocol=None)
    return list(protocol_folds("jaffe", faces, protocol))


def numbers_of(fold):
    return fold.splits["test"]["number"]


def test_by_default_one_subject_at_a_time_is_left_out(whole, tmp_path):
    everybody = folds(whole, tmp_path, None)
    assert [fold.name for fold in everybody] == sorted(JAFFE_SUBJECTS)
    for fold in everybody:
        assert set(fold.splits["test"]["identity"]) == {fold.name}
        assert fold.name not in fold.splits["train"]["identity"]
        assert fold.splits["train"].num_rows + fold.splits["test"].num_rows == 213


def test_load_faces_gives_one_fold_by_number_or_name(whole, tmp_path, caplog):
    first = load_faces("jaffe", whole, cache_dir=tmp_path / "cache")
    assert set(first["test"]["identity"]) == {"KA"}
    assert first.num_rows == {"train": 190, "test": 23}
    third = load_faces("jaffe", whole, cache_dir=tmp_path / "cache", fold="KM")
    assert (
        third["test"]["number"] == load_faces("jaffe", whole, cache_dir=tmp_path / "cache", fold="2")["test"]["number"]
    )
    assert "in both" not in caplog.text
    with pytest.raises(DataError, match=r"'leave-one-subject-out' of jaffe has no fold 10. It has: 0 \(KA\), 1 \(KL\)"):
        load_faces("jaffe", whole, cache_dir=tmp_path / "cache", fold=10)


def test_leaving_one_emotion_out_tests_every_picture_once_and_one_of_nearly_every_cell_each_time(whole, tmp_path):
    parts = folds(whole, tmp_path, "leave-one-emotion-out")
    assert len(parts) == 3
    assert sorted(number for fold in parts for number in numbers_of(fold)) == sorted(
        int(name.split(".")[2]) for name in jaffe_names()
    )
    # 70 cells; the six of four pictures give two to the first fold, the three of two give none to the last.
    assert [len(numbers_of(fold)) for fold in parts] == [76, 70, 67]
    for fold in parts:
        test = fold.splits["test"]
        cells = set(zip(test["identity"], test["label"], strict=True))
        assert len(cells) >= 67
        assert cells <= set(zip(fold.splits["train"]["identity"], fold.splits["train"]["label"], strict=True))


def test_stratified_folds_test_every_picture_once_with_classes_in_proportion(whole, tmp_path):
    parts = folds(whole, tmp_path, "k-fold")
    assert sorted(number for fold in parts for number in numbers_of(fold)) == sorted(
        int(name.split(".")[2]) for name in jaffe_names()
    )
    counts = np.array([np.bincount(fold.splits["test"]["label"], minlength=7) for fold in parts])
    assert np.ptp(counts, axis=0).max() <= 1
    assert np.ptp(counts.sum(axis=1)) <= 1


def test_the_authors_code_tests_on_the_first_ten_pictures_of_each_class(whole, tmp_path, caplog):
    faces = load_faces("jaffe", whole, cache_dir=tmp_path / "cache", protocol="authors-code")
    assert faces.num_rows == {"train": 143, "test": 70}
    assert np.bincount(faces["test"]["label"]).tolist() == [10] * 7
    assert set(faces["test"]["identity"]) == {"KA", "KL", "KM", "KR"}
    assert "2 identities are in both train and test" in caplog.text
    assert "Scores on test will be too good" in caplog.text


def test_unknown_protocols_list_the_known_ones(whole, tmp_path):
    with pytest.raises(DataError, match=r"jaffe has no protocol 'loso'. It has: 'leave-one-subject-out', "):
        load_faces("jaffe", whole, cache_dir=tmp_path, protocol="loso")


def test_streaming_gives_the_same_rows_but_no_folds(whole, tmp_path):
    streamed = load_faces("jaffe", whole, cache_dir=tmp_path, streaming=True, protocol=None)["train"]
    assert [row["number"] for row in streamed][:3] == [1, 2, 3]
    with pytest.raises(DataError, match="needs to know all rows of jaffe: load it without `streaming`"):
        load_faces("jaffe", whole, cache_dir=tmp_path, streaming=True)
