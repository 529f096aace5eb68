"""One class in two spellings, and one file with two labels: neither passes in silence."""

from __future__ import annotations

import logging
import unicodedata

import pytest

from ciao_peft.data import load_faces
from ciao_peft.errors import DataError
from helpers.pictures import draw


@pytest.fixture
def load(tmp_path):
    def read(folder, **settings):
        return load_faces("imagefolder", folder, **{"min_images_per_class": 0, "cache_dir": tmp_path / "c"} | settings)

    return read


@pytest.fixture
def table(tmp_path):
    """Writes a table over painted pictures, and loads it."""

    def read(*lines, header="file_name,label", **settings):
        draw(tmp_path, *(f"{number}.png" for number in range(8)))
        (tmp_path / "labels.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
        given = {"csv": tmp_path / "labels.csv", "min_images_per_class": 0, "cache_dir": tmp_path / "c"}
        return load_faces(**given | settings)

    return read


def labels(split):
    return [split.features["label"].names[label] for label in split["label"]]


DECOMPOSED = unicodedata.normalize("NFD", "fröhlich")


@pytest.mark.parametrize(
    "one, other", [("happy", "HAPPY"), ("at ease", "at  Ease"), ("fröhlich", DECOMPOSED), ("at ease", "at\u00a0ease")]
)
def test_two_spellings_of_one_class_are_refused_with_the_mend(table, one, other):
    lines = [f"0.png,{one}", f"1.png,{one}", f"2.png,{other}", "3.png,sad"]
    with pytest.raises(DataError, match="2 classes that differ only in case or spaces") as refused:
        table(*lines)
    assert f"`label_map={{{other!r}: {one!r}}}`" in str(refused.value)
    faces = table(*lines, label_map={other: one})["train"]
    assert labels(faces) == [one, one, one, "sad"]
    assert labels(table(*lines, label_map={other: other})["train"]) == [one, one, other, "sad"]


def test_two_spellings_are_seen_over_splits_and_before_small_classes_go(load, tmp_path):
    folder = draw(tmp_path / "f", *(f"train/happy/{n}.png" for n in range(3)), "train/sad/x.png", "test/Happy /a.png")
    with pytest.raises(DataError, match=r"'Happy ': 1, 'happy': 3"):
        load(folder, min_images_per_class=1)
    faces = load(folder, label_map={"Happy ": "happy"})
    assert faces["test"].features["label"].names == ["happy", "sad"]
    assert labels(faces["test"]) == ["happy"]


def test_spaces_around_a_label_of_a_table_are_no_class(table):
    assert labels(table("0.png,happy ", "1.png, happy")["train"]) == ["happy", "happy"]


def test_a_map_merges_renames_and_leaves_out(table, caplog):
    lines = ["0.png,joy", "1.png,glad", "2.png,unsure", "3.png,sad"]
    with caplog.at_level(logging.WARNING, "ciao_peft.data"):
        faces = table(*lines, label_map={"joy": "happy", "glad": "happy", "unsure": None})["train"]
    assert labels(faces) == ["happy", "happy", "sad"]
    assert "1 x image of a class that `label_map` leaves out: unsure" in caplog.text


def test_a_map_that_does_not_fit_is_refused(table):
    lines = ["0.png,joy", "1.png,sad"]
    with pytest.raises(DataError, match="Unknown label 'joi' in `label_map`; did you mean 'joy'"):
        table(*lines, label_map={"joi": "happy"})
    with pytest.raises(DataError, match="Left out: 2 x image of a class that `label_map` leaves out: joy, sad"):
        table(*lines, label_map={"joy": None, "sad": None})
    for wrong in ({"joy": 3}, ["joy"], {"joy": " "}):
        with pytest.raises(DataError, match="`label_map` maps names to names"):
            table(*lines, label_map=wrong)
    with pytest.raises(DataError, match=r"`label_map` renames classes; the labels of .* are values"):
        table("0.png,0.5", "1.png,0.25", label_map={"joy": "happy"})


def test_a_file_with_two_labels_is_refused_with_both_rows(table):
    lines = ["0.png,glad", "1.png,sad", "broken", "0.png,sad"]
    with pytest.raises(DataError, match=r"names '0.png' twice: 'label' is 'glad' in line 2 and 'sad' in line 5\. Keep"):
        table(*lines)


def test_a_file_in_two_parts_or_of_two_people_is_refused(table):
    header = "file_name,label,part,identity"
    with pytest.raises(DataError, match=r"'part' is 'train' in line 2 and 'test' in line 3"):
        table("0.png,glad,train,ann", "0.png,glad,test,ann", header=header, split_column="part")
    with pytest.raises(DataError, match=r"'identity' is 'ann' in line 2 and 'bea' in line 3"):
        table("0.png,glad,train,ann", "0.png,glad,train,bea", header=header)


def test_a_file_that_stands_twice_with_the_same_label_is_read_once(table, caplog):
    with caplog.at_level(logging.WARNING, "ciao_peft.data"):
        faces = table("0.png,1", "1.png,2", "0.png,1.0", "1.png,")["train"]
    assert labels(faces) == ["1", "2"]
    assert "2 x repeated row of labels.csv" in caplog.text
