import logging

import numpy as np
import pytest
from PIL import Image

from ciao_peft.data import drop_duplicate_pictures, load_faces, shared_between_splits
from ciao_peft.data.fer2013 import png_of_pixels
from ciao_peft.errors import DataError, DataNotFoundError
from helpers.layouts import FER_USAGES, fer2013_rows, grey_face, pixel_text, write_fer2013

NAMES = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]


def write_folders(folder, official=True):
    """Kaggle's class folders; file number i holds face i."""
    for i in range(12):
        usage, label = FER_USAGES[i % 3], NAMES[i % 7]
        name = f"{usage}_{1000 + i}.png" if official else f"{i}.png"
        part = folder / ("train" if usage == "Training" else "test" if official else "validation") / label
        part.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey_face(i)).save(part / name)
    return folder


@pytest.fixture
def load(tmp_path):
    return lambda folder, **settings: load_faces("fer2013", folder, cache_dir=tmp_path / "cache", **settings)


def assert_rows_are_the_written_ones(faces, numbers):
    assert {split: len(part) for split, part in faces.items()} == {"train": 4, "validation": 4, "test": 4}
    for usage, split in zip(FER_USAGES, ("train", "validation", "test"), strict=True):
        for row in faces[split]:
            number = numbers(row["row"])
            assert FER_USAGES[number % 3] == usage
            assert row["label"] == number % 7
            assert row["image"].mode == "L"
            assert np.array_equal(np.asarray(row["image"]), grey_face(number))


@pytest.mark.parametrize("name", ["fer2013.csv", "icml_face_data.csv"])
def test_tables_are_read_exactly_with_either_order_and_spacing_of_the_columns(name, load, tmp_path):
    faces = load(write_fer2013(tmp_path / "fer", fer2013_rows(), name))
    assert faces["train"].features["label"].names == NAMES
    assert_rows_are_the_written_ones(faces, lambda row: row)


def test_class_folders_give_the_official_split_from_the_file_names(load, tmp_path):
    assert_rows_are_the_written_ones(load(write_folders(tmp_path / "fer")), lambda row: row - 1000)


def test_class_folders_without_those_names_keep_their_own_split_and_say_so(load, tmp_path, caplog):
    faces = load(write_folders(tmp_path / "fer" / "images", official=False).parent)
    assert faces.num_rows == {"train": 4, "validation": 8}
    assert "do not tell FER2013's official split" in caplog.text


def test_class_folders_may_bear_other_grammatical_forms(load, tmp_path):
    for name in ("angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised"):
        folder = tmp_path / "fer" / "train" / name
        folder.mkdir(parents=True)
        Image.fromarray(grey_face(1)).save(folder / "im0.png")
    faces = load(tmp_path / "fer", drop_duplicates=False)["train"]
    assert sorted(faces.features["label"].int2str(faces["label"])) == sorted(NAMES)


def test_the_unlabelled_test_table_is_left_out_and_counted(load, tmp_path, caplog):
    folder = write_fer2013(tmp_path / "fer", fer2013_rows(5), "train.csv")
    (folder / "test.csv").write_text("pixels\n" + f"{pixel_text(0)}\n" * 3)
    assert load(folder).num_rows == {"train": 5}
    assert "3 x row of test.csv, which has no labels" in caplog.text


def test_the_whole_table_wins_over_a_part_of_it(load, tmp_path):
    write_fer2013(tmp_path / "fer", fer2013_rows(3), "train.csv")
    assert load(write_fer2013(tmp_path / "fer", fer2013_rows())).num_rows["test"] == 4


def test_malformed_rows_are_counted_by_reason_and_the_rest_is_read(load, tmp_path, caplog):
    entries = fer2013_rows()
    bad = [
        (7, "Training", pixel_text(0)),
        ("happy", "Training", pixel_text(0)),
        (0, "Training", "1 2 3"),
        (0, "Training", pixel_text(0).replace(" ", " 256 ", 1).rsplit(" ", 1)[0]),
        (0, "Training", "x" + pixel_text(0)),
        (0, "Sometimes", pixel_text(0)),
        (0, "Training", pixel_text(0) + ",1"),
    ]
    faces = load(write_fer2013(tmp_path / "fer", entries + bad))
    assert faces.num_rows == {"train": 4, "validation": 4, "test": 4}
    for reason in (
        "2 x row with an unknown emotion: row 12: '7', row 13: 'happy'",
        "3 x row without 2304 pixels from 0 to 255: row 14, row 15, row 16",
        "1 x row with an unknown usage: row 17: 'Sometimes'",
        "1 x malformed row: row 18: 4 fields instead of 3",
    ):
        assert reason in caplog.text


def test_a_header_is_needed_and_the_message_shows_what_is_there(load, tmp_path):
    folder = write_fer2013(tmp_path / "fer", fer2013_rows())
    path = folder / "fer2013.csv"
    path.write_text("\n".join(path.read_text().splitlines()[1:]))
    with pytest.raises(DataError, match=r"no column 'emotion': its first line is '0, \d+ .*'emotion,pixels,Usage'"):
        load(folder)


def test_a_folder_without_fer2013_lists_what_was_looked_for(load, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataNotFoundError, match=r"looked for fer2013\.csv, icml_face_data\.csv, train\.csv, and"):
        load(tmp_path / "empty")


def test_counts_unlike_the_contests_are_said(load, tmp_path, caplog):
    load(write_fer2013(tmp_path / "fer", fer2013_rows()))
    assert "train: 4 instead of 28709, validation: 4 instead of 3589, test: 4 instead of 3589" in caplog.text


def test_a_changed_table_is_read_anew(load, tmp_path):
    folder = write_fer2013(tmp_path / "fer", fer2013_rows())
    assert load(folder).num_rows["train"] == 4
    write_fer2013(folder, fer2013_rows(9))
    assert load(folder).num_rows["train"] == 3


def test_streaming_and_two_processes_give_the_same_rows(load, tmp_path):
    folder = write_fer2013(tmp_path / "fer", fer2013_rows())
    alone, streamed = load(folder), load(folder, streaming=True)
    together = load_faces("fer2013", folder, cache_dir=tmp_path / "two", num_proc=2)
    for split in alone:
        assert list(alone[split]["row"]) == list(together[split]["row"]) == [row["row"] for row in streamed[split]]


def duplicated(tmp_path):
    """Face 0 is in all three splits and twice in training, face 1 in validation and test, 2 and 3 only in training."""
    training = [(0, "Training", pixel_text(i)) for i in (0, 0, 2, 3)]
    rest = [(1, usage, pixel_text(i)) for usage in FER_USAGES[1:] for i in (0, 1)]
    return write_fer2013(tmp_path / "fer", training + rest)


def test_pictures_in_two_splits_are_reported(load, tmp_path, caplog):
    faces = load(duplicated(tmp_path))
    assert faces.num_rows == {"train": 4, "validation": 2, "test": 2}
    assert "1 identical pictures are in both train and test (1 of 2 rows of test)" in caplog.text
    found = {(shared.first, shared.second): (shared.count, shared.rows) for shared in shared_between_splits(faces)}
    assert found == {("train", "validation"): (1, 1), ("train", "test"): (1, 1), ("validation", "test"): (2, 2)}


def test_dropping_duplicates_cleans_training_and_leaves_the_test_set(load, tmp_path, caplog):
    faces = load(duplicated(tmp_path), protocol=None)
    cleaned, lost = drop_duplicate_pictures(faces)
    assert lost == {"test": 0, "validation": 2, "train": 2}
    assert cleaned.num_rows == {"train": 2, "validation": 0, "test": 2}
    assert list(cleaned["train"]["row"]) == [2, 3]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert load(duplicated(tmp_path), drop_duplicates=True).num_rows == cleaned.num_rows
    assert "dropped duplicate pictures: 0 of test, 2 of validation, 2 of train" in caplog.text
    assert "in both" not in caplog.text


def test_the_authors_code_drops_fear_and_tests_on_the_public_test(load, tmp_path):
    faces = load(write_fer2013(tmp_path / "fer", fer2013_rows(21)), protocol="authors-code")
    assert set(faces) == {"train", "test"}
    assert faces["train"].features["label"].num_classes == 7  # seven outputs, one of them never used
    assert all(number % 7 != 2 and number % 3 == 0 for number in faces["train"]["row"])
    assert sorted(faces["test"]["row"]) == [number for number in range(21) if number % 3 == 1 and number % 7 != 2]


def test_a_picture_is_48_by_48_whole_numbers():
    assert png_of_pixels(pixel_text(3)) is not None
    negative = "-1" + pixel_text(3)[pixel_text(3).index(" ") :]
    for wrong in ("", "1 2 3", pixel_text(3) + " 4", pixel_text(3).replace(" ", ",", 1), negative, "a b"):
        assert png_of_pixels(wrong) is None
