"""Nobody is asked about a face that has a label, or that a test is made of."""

from __future__ import annotations

import csv

import pytest
import torch
from datasets import Dataset, Features, Image, Value

from ciao_peft import CIAOConfig, cache_features, get_ciao_model, load_encoder, suggest
from ciao_peft.cli import main
from ciao_peft.data import paint_face
from ciao_peft.errors import ConfigError, DataError
from ciao_peft.suggestions import labelled_rows
from ciao_peft.suggestions.unlabelled import labels_beside, rows_without_labels, still_to_label


@pytest.fixture(scope="module")
def model():
    config = CIAOConfig(problem_type="single_label_classification", num_labels=3, hidden_sizes=())
    return get_ciao_model(load_encoder("small-face"), config).eval()


def paint(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    paint_face(seed=seed, size=64).save(path)


@pytest.fixture
def folder(tmp_path):
    """Six faces to choose from, two with a label, and four of a test."""
    faces = tmp_path / "faces"
    for number in range(8):
        paint(faces / "train" / f"{number}.png", number)
    for number in range(8, 10):
        paint(faces / "Test" / f"{number}.png", number)
        paint(faces / "val" / "glad" / f"{number}0.png", 10 + number)
    (faces / "train" / "metadata.csv").write_text(
        "file_name,expression,identity\n0.png,glad,ann\n1.png,sad,ben\n2.png,,cleo\n"
    )
    return faces


def names_of(found):
    return {one.file_name for one in found}


def test_of_a_folder_nothing_labelled_and_nothing_of_a_test_is_asked(model, folder):
    found = suggest(model, folder, 20, near=1)
    assert names_of(found) == {f"train/{number}.png" for number in range(2, 8)}
    assert dict(found.passed_over) == {"are in Test": 2, "are in val": 2, "have a label in train/metadata.csv": 2}
    assert "2 have a label in train/metadata.csv" in str(found)


def test_folders_of_classes_of_a_training_split_are_labels(tmp_path):
    pictures = [tmp_path / name for name in ("train/glad/a.png", "train/b.png", "glad/c.png", "d.png", "test.png")]
    left, why = still_to_label(tmp_path, pictures)
    assert [path.name for path in left] == ["b.png", "c.png", "d.png", "test.png"]
    assert why == {"are in folders of classes of train": 1}


def test_the_label_column_decides_where_it_is_named(folder):
    table = folder / "train" / "metadata.csv"
    table.write_text("file_name,camera,label\n0.png,left,\n1.png,left,glad\n")
    pictures = sorted((folder / "train").glob("*.png"))
    assert still_to_label(folder, pictures)[1] == {"have a label in train/metadata.csv": 2}
    assert still_to_label(folder, pictures, ["label"])[1] == {"have a label in train/metadata.csv": 1}
    assert still_to_label(folder, pictures, ["mood"])[1] == {}


def test_where_nothing_is_left_it_says_why(model, folder, tmp_path, capsys):
    for path in (folder / "train").glob("[2-7].png"):
        path.unlink()
    with pytest.raises(DataError, match=r"None of 6 faces is to be labelled: 2 are in Test, 2 are in val, 2 have"):
        suggest(model, folder, 3)
    assert main(["suggest", str(folder), "--output_dir", str(tmp_path / "ask")]) == 1
    assert "`--label_column`" in capsys.readouterr().err


def test_of_a_dataset_faces_with_a_label_are_passed_over_and_numbers_stay(model):
    faces = [paint_face(seed=number, size=64) for number in range(6)]
    marks = [0, None, 2, None, -1, 1]
    table = Dataset.from_dict(
        {"image": faces, "label": marks}, features=Features({"image": Image(), "label": Value("int64")})
    )
    pixels = [
        {"pixel_values": model.preprocessing([face])[0], "labels": mark}
        for face, mark in zip(faces, marks, strict=True)
    ]
    for form in (table, pixels):
        found = suggest(model, form, 6, near=1)
        assert {*found.indices} == {1, 3, 4} and dict(found.passed_over) == {"have a label": 3}
    stored = cache_features(model, [{"pixel_values": one["pixel_values"]} for one in pixels])
    some = stored.with_labels(torch.tensor([0, -1, 2, -1, -1, 1]))
    assert {*suggest(model, some, 6, near=1).indices} == {1, 3, 4}
    # Where every face has a label, strategies are tried out.
    assert len(suggest(model, stored.with_labels(torch.zeros(6, dtype=torch.long)), 6, near=1)) == 6


def test_what_a_missing_label_is():
    assert rows_without_labels([0.5, float("nan")]) == [1]
    assert rows_without_labels(torch.tensor([[0.5, 0.1], [float("nan"), 0.0]])) == [1]
    assert rows_without_labels(["glad", "", None, "NaN"]) == [1, 2, 3]
    assert rows_without_labels([-0.5, 0.5]) is None and labels_beside([1, 2]) is None


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("metadata.csv", "file_name,label,split\na.png,,train\nb.png,glad,train\n"),
        ("metadata.jsonl", '{"file_name": "a.png", "label": NaN}\n{"file_name": "b.png", "label": 0}\n'),
        ("metadata.csv", "file_name,label\na.png,nan\nb.png,glad\n"),
        ("metadata.csv", "file_name,label,Usage\na.png,,Training\nb.png,,PrivateTest\n"),
    ],
)
def test_neither_the_name_of_a_split_nor_nan_is_a_label(table, text, tmp_path):
    (tmp_path / table).write_text(text)
    left, _ = still_to_label(tmp_path, [tmp_path / "a.png", tmp_path / "b.png"])
    assert [path.name for path in left] == ["a.png"]


def test_rows_of_a_test_are_not_asked_about(tmp_path, model, capsys):
    for number, name in enumerate("abcd"):
        paint(tmp_path / "faces" / f"{name}.png", number)
    table = tmp_path / "faces" / "metadata.csv"
    table.write_text("file_name,split,label\na.png,test,\nb.png,Validation,\nc.png,train,\nd.png,test,glad\n")
    found = suggest(model, tmp_path / "faces", 4, near=1)
    assert names_of(found) == {"c.png"} and dict(found.passed_over) == {"are of a test in metadata.csv": 3}
    assert still_to_label(tmp_path / "faces", [tmp_path / "faces" / "a.png"], ["split"])[0] == []  # has its label
    table.rename(tmp_path / "labels.csv")
    words = ["--labelled", str(tmp_path / "labels.csv"), "--output_dir", str(tmp_path / "ask"), "--near", "1"]
    assert main(["suggest", str(tmp_path / "faces"), *words]) == 0
    assert f"2 are of a test in {tmp_path / 'labels.csv'}" in capsys.readouterr().out
    with open(tmp_path / "ask" / "to_label.csv", newline="") as file:
        rows = [(row["file_name"], row["label"], row["split"]) for row in csv.DictReader(file)]
    assert rows == [("c.png", "", ""), ("d.png", "glad", "test")]


def test_a_text_that_says_nan_is_no_label(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("file_name,label\na.png,nan\nb.png,#N/A\nc.png,glad\n")
    assert labelled_rows(table).files == ["c.png"]


def test_the_command_asks_about_none_of_them_and_takes_no_path_that_leaves(folder, tmp_path, capsys):
    out = tmp_path / "ask"
    assert main(["suggest", str(folder), "--num", "20", "--near", "1", "--output_dir", str(out)]) == 0
    with open(out / "to_label.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["file_name"] for row in rows} == {f"train/{number}.png" for number in range(2, 8)}
    assert "2 are in Test" in capsys.readouterr().out
    paint(tmp_path / "elsewhere.png", 40)
    for name in ("../elsewhere.png", str(tmp_path / "elsewhere.png"), "train/../../elsewhere.png"):
        (tmp_path / "labels.csv").write_text(f"file_name,label\n{name},glad\n")
        words = ["--labelled", str(tmp_path / "labels.csv"), "--output_dir", str(tmp_path / "other")]
        assert main(["suggest", str(folder), *words]) == 1
        assert "names 1 files outside of" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("seed", [2**64, -1, 1.5])
def test_a_seed_is_one_that_a_generator_takes(model, seed):
    with pytest.raises(ConfigError, match="`seed`"):
        suggest(model, [paint_face()], 1, seed=seed)
