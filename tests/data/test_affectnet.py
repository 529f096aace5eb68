import numpy as np
import pytest
from PIL import Image

from ciao_peft.data import labels_of, load_faces, paint_face
from ciao_peft.data.affectnet import COLUMNS
from ciao_peft.errors import DataError, DataNotFoundError
from helpers.layouts import affectnet_entries, affectnet_picture, write_affectnet

NAMES = ["neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt"]


def write_2021(folder, rows, part="train_set", as_text=False):
    for kind in ("images", "annotations"):
        (folder / part / kind).mkdir(parents=True, exist_ok=True)
    for index, (_, expression, valence, arousal) in enumerate(rows):
        affectnet_picture(index).save(folder / part / "images" / f"{index}.jpg", quality=95)
        for name, value in (("exp", expression), ("val", valence), ("aro", arousal)):
            stored = np.array(str(value)) if as_text else np.array(value)
            np.save(folder / part / "annotations" / f"{index}_{name}.npy", stored)
        np.save(folder / part / "annotations" / f"{index}_lnd.npy", np.arange(136.0))
    return folder


@pytest.fixture
def load(tmp_path):
    return lambda folder, **settings: load_faces("affectnet", folder, cache_dir=tmp_path / "cache", **settings)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "affectnet"


def assert_rows_are_the_written_ones(faces, rows, numbers):
    assert [row["expression"] for row in faces] == [rows[i][1] for i in numbers]
    for row, i in zip(faces, numbers, strict=True):
        assert row["valence"] == pytest.approx(rows[i][2])
        assert row["arousal"] == pytest.approx(rows[i][3])
        assert row["image"].mode == "RGB"
        assert np.array_equal(np.asarray(row["image"]), np.asarray(affectnet_picture(i)))


@pytest.mark.parametrize("header", [True, False], ids=["header", "no header"])
@pytest.mark.parametrize(
    ("images", "lists"),
    [
        ("Manually_Annotated_Images", ""),
        ("Manually_Annotated/Manually_Annotated_Images", "Manually_Annotated_file_lists"),
        ("Manually_Annotated_compressed/Manually_Annotated_Images", "lists"),
        ("", ""),
    ],
)
def test_the_lists_of_2017_are_read_with_and_without_a_header_wherever_the_pictures_are(
    load, folder, header, images, lists
):
    rows = affectnet_entries()
    write_affectnet(folder, rows, "training", header=True, images=images, lists=lists)
    write_affectnet(folder, rows[:11], "validation", header=header, images=images, lists=lists)
    faces = load(folder, protocol=None)
    assert set(faces) == {"train", "validation"}
    assert faces["train"].features["label"].names == NAMES
    kept = [i for i, row in enumerate(rows) if row[1] < 8]
    assert_rows_are_the_written_ones(faces["train"], rows, kept)
    assert_rows_are_the_written_ones(faces["validation"], rows, [i for i in kept if i < 11])
    assert faces["train"]["label"] == faces["train"]["expression"]
    assert faces["train"][0]["box"] == [12, 4, 20, 20]


def test_columns_in_another_order_are_found_by_their_names(load, folder):
    rows = affectnet_entries(8)
    write_affectnet(folder, rows, columns=[*COLUMNS[5:], *COLUMNS[:5]])
    assert_rows_are_the_written_ones(load(folder, protocol=None)["train"], rows, range(8))


def test_the_validation_faces_are_the_test_set(load, folder):
    write_affectnet(folder, affectnet_entries(8))
    write_affectnet(folder, affectnet_entries(4), "validation")
    assert load(folder).num_rows == {"train": 8, "test": 4}
    streamed = load(folder, streaming=True)
    assert [row["label"] for row in streamed["test"]] == [0, 1, 2, 3]


@pytest.mark.parametrize("as_text", [False, True], ids=["numbers", "text"])
@pytest.mark.parametrize("part", ["train_set", "train_set/train_set"])
def test_the_folders_of_2021_are_read(load, folder, part, as_text):
    rows = affectnet_entries(8)
    faces = load(write_2021(folder, rows, part, as_text), protocol=None)["train"]
    by_number = {row["image"].filename.rsplit("/")[-1]: row for row in faces}
    for i, (_, expression, valence, arousal) in enumerate(rows):
        row = by_number[f"{i}.jpg"]
        assert row["label"] == expression
        assert (row["valence"], row["arousal"]) == (pytest.approx(valence), pytest.approx(arousal))
        with Image.open(folder / part / "images" / f"{i}.jpg") as image:
            assert np.array_equal(np.asarray(row["image"]), np.asarray(image))
    assert faces[0]["box"] == []


@pytest.mark.parametrize("streaming", [False, True])
def test_training_faces_alone_are_read(load, folder, streaming):
    faces = load(write_2021(folder, affectnet_entries()), streaming=streaming)
    assert list(faces) == ["train"]
    known = [row[1] for row in affectnet_entries() if row[1] < 8]
    assert sorted(row["expression"] for row in faces["train"]) == sorted(known)


def test_seven_classes_have_no_contempt(load, folder, caplog):
    faces = load(write_affectnet(folder, affectnet_entries()), num_classes=7)["train"]
    assert faces.features["label"].names == NAMES[:7]
    assert max(faces["label"]) == 6
    assert "2 x face of class 'contempt', which is none of the 7 expressions" in caplog.text
    assert "2 x face of class 'no-face'" in caplog.text


def test_arousal_and_valence_are_read_of_every_face_that_has_them(load, folder, caplog):
    rows = affectnet_entries()
    rows[3] = (*rows[3][:2], -2.0, -2.0)
    faces = load(write_affectnet(folder, rows), task="dimensional")["train"]
    kept = [i for i, row in enumerate(rows) if row[1] < 9 and i != 3]  # class none has them, uncertain and no-face not
    assert np.array(faces["label"]) == pytest.approx(np.array([[rows[i][3], rows[i][2]] for i in kept]))
    assert labels_of(faces).names == ("arousal", "valence")
    assert labels_of(faces).problem_type == "regression"
    assert "1 x face without arousal and valence (-2)" in caplog.text


def test_both_keeps_faces_that_have_an_expression_and_numbers(load, folder):
    rows = affectnet_entries(11)
    rows[3] = (*rows[3][:2], -2.0, -2.0)
    faces = load(write_affectnet(folder, rows), task="both")["train"]
    assert list(faces["label"]) == [0, 1, 2, 4, 5, 6, 7]


def test_the_authors_code_takes_the_eight_expressions_with_arousal(load, folder):
    rows = affectnet_entries()
    rows[3] = (*rows[3][:2], -2.0, -2.0)
    faces = load(write_affectnet(folder, rows), task="dimensional", protocol="authors-code")["train"]
    assert sorted(set(faces["expression"])) == list(range(8))
    categorical = load(folder, protocol="authors-code")["train"]
    assert len(categorical) == 15  # 16 faces of the eight classes; one has an arousal of -2


def test_the_box_is_x_then_y(load, folder):
    faces = load(write_affectnet(folder, affectnet_entries(8)), crop=True)["train"]
    for i, image in enumerate(faces["image"]):
        assert np.array_equal(np.asarray(image), np.asarray(paint_face(seed=i, size=20)))


def test_crops_are_limited_in_size_and_to_the_picture(load, folder, caplog):
    rows = affectnet_entries(3)
    write_affectnet(folder, rows)
    path = folder / "training.csv"
    lines = path.read_text().splitlines()
    lines[1] = lines[1].replace(",12,4,20,20,", ",30,20,20,20,")
    lines[2] = lines[2].replace(",12,4,20,20,", ",50,50,20,20,")
    lines[3] = lines[3].replace(",12,4,20,20,", ",12,4,-1,-1,")
    path.write_text("\n".join(lines))
    assert load(folder, crop=True)["train"]["image"][0].size == (10, 10)
    assert "1 x face whose box lies outside its picture" in caplog.text
    assert "1 x face without a box to crop" in caplog.text
    assert load(folder, crop=True, crop_size=8)["train"]["image"][0].size == (8, 8)


def test_bad_rows_and_pictures_are_counted(load, folder, caplog):
    rows = affectnet_entries(8)
    write_affectnet(folder, rows)
    with (folder / "training.csv").open("a") as file:
        file.write("1/broken.png,12,4\n")  # the malformed record of the released list
        file.write("1/x.png,1,1,1,1,0,happy,0.1,0.1\n")
        file.write("1/x.png,1,1,1,1,0,11,0.1,0.1\n")
        file.write("1/x.png,1,1,1,1,0,1,nan,0.1\n")
        file.write(f"{rows[0][0]},12,4,20,20,0,1,0.1,0.1\n")
    place = folder / "Manually_Annotated_Images"
    (place / rows[1][0]).unlink()
    (place / rows[2][0]).write_bytes(b"")
    (place / rows[3][0]).write_bytes(b"II*\0" + b"junk" * 9)
    assert len(load(folder)["train"]) == 5
    for reason in (
        "4 x malformed row of training.csv: line 10, line 11, line 12, ...",
        "1 x repeated row of training.csv",
        "1 x missing file",
        "1 x empty file",
        "1 x damaged image",
    ):
        assert reason in caplog.text


def test_pictures_with_endings_in_capitals_and_other_formats_are_read(load, folder):
    rows = [(f"1/{i}.{suffix}", 1, 0.1, 0.1) for i, suffix in enumerate(["JPG", "jpeg", "bmp", "tif", "PNG"])]
    assert len(load(write_affectnet(folder, rows))["train"]) == 5


def test_annotations_that_are_missing_or_no_numbers_are_counted(load, folder, caplog):
    write_2021(folder, affectnet_entries(8))
    notes = folder / "train_set" / "annotations"
    (notes / "0_exp.npy").unlink()
    (notes / "1_aro.npy").write_bytes(b"junk")
    np.save(notes / "2_exp.npy", np.array("happy"))
    np.save(notes / "3_exp.npy", np.array(2.5))
    np.save(notes / "4_val.npy", np.array(["0.1", "0.2"]))
    assert len(load(folder)["train"]) == 3
    assert "1 x picture without its annotation _exp.npy: 0.jpg" in caplog.text
    assert "3 x annotation that is no number" in caplog.text
    assert "1 x annotation out of range: 3.jpg" in caplog.text


def test_the_faces_of_2021_may_lack_arousal_and_valence(load, folder, caplog):
    rows = [(*row[:2], -2.0, -2.0) if i == 0 else row for i, row in enumerate(affectnet_entries(4))]
    assert len(load(write_2021(folder, rows), task="dimensional")["train"]) == 3
    assert "1 x face without arousal and valence (-2): 0.jpg" in caplog.text
    with pytest.raises(DataError, match="The release of 2021 has no face boxes"):
        load(folder, crop=True)


def test_counts_unlike_the_released_lists_are_said(load, folder, caplog):
    write_affectnet(folder, affectnet_entries(8))
    write_affectnet(folder, affectnet_entries(8), "validation")
    load(folder)
    assert "train: 8 instead of 287651, validation: 8 instead of 4000" in caplog.text
    caplog.clear()
    load(folder, num_classes=7)
    assert "train: 7 instead of 283901, validation: 7 instead of 3500" in caplog.text
    caplog.clear()
    load(folder, task="dimensional")
    assert "train: 8 instead of 320739, validation: 8 instead of 4500" in caplog.text


def test_two_processes_read_the_same_rows(load, folder, tmp_path):
    write_affectnet(folder, affectnet_entries(16))
    alone = load(folder)["train"]
    together = load_faces("affectnet", folder, cache_dir=tmp_path / "two", num_proc=2)["train"]
    assert alone["label"] == together["label"]


def test_other_layouts_are_named_with_what_was_found(load, folder):
    (folder / "train" / "0").mkdir(parents=True)
    with pytest.raises(
        DataNotFoundError, match=r"looked for training\.csv and validation\.csv.*train_set/.*; found train\."
    ):
        load(folder)


def test_lists_without_their_pictures_say_where_they_were_looked_for(load, folder):
    write_affectnet(folder, affectnet_entries(4))
    (folder / "Manually_Annotated_Images").rename(folder.parent / "elsewhere")
    with pytest.raises(DataNotFoundError, match=r"None of the first pictures .* Unpack the image archives"):
        load(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "valence"}, "no task 'valence'. Tasks: 'categorical', 'dimensional', 'both'"),
        ({"num_classes": 6}, "8 classes, or 7 without contempt; got 6"),
        ({"crop_size": 0}, "`crop_size` must be 8 pixels or more"),
    ],
)
def test_settings_that_cannot_work_are_named(load, folder, settings, message):
    with pytest.raises(DataError, match=message):
        load(write_affectnet(folder, affectnet_entries(2)), **settings)
