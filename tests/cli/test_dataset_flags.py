"""The flags that choose faces: tables in every spelling, and settings without a flag of their own."""

from __future__ import annotations

import argparse

import pytest

from ciao_peft.cli.dataset import add_dataset_flags, dataset_label, faces_from
from ciao_peft.data import paint_face
from ciao_peft.errors import ConfigError


def options_of(*words):
    parser = argparse.ArgumentParser()
    add_dataset_flags(parser)
    return parser.parse_args([str(word) for word in words])


@pytest.fixture
def table(tmp_path):
    lines = ["photo,emotion,subject,fold"]
    for index in range(12):
        paint_face(seed=index, size=20).save(tmp_path / f"{index}.png")
        lines.append(f"{index}.png,{('calm', 'glad')[index % 2]},p{index // 3},{('train', 'test')[index % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return tmp_path / "labels.csv"


def flags(table, *words):
    return options_of(
        "--csv", table, "--image_column", "photo", "--label_column", "emotion", "--min_images_per_class", 0, *words
    )


def test_a_split_column_divides_the_faces(table):
    faces = faces_from(flags(table, "--split_column", "fold"))
    assert {name: len(split) for name, split in faces.items()} == {"train": 6, "test": 6}


@pytest.mark.parametrize("spelling", ["_", "-"])
def test_a_fraction_of_the_people_is_held_out(table, spelling):
    words = [word.replace("_", spelling) for word in ("--test_fraction", "0.2", "--group_by", "subject")]
    faces = faces_from(flags(table, *words))
    assert (len(faces["train"]), len(faces["test"])) == (9, 3)
    assert not set(faces["train"]["identity"]) & set(faces["test"]["identity"])


def test_a_table_for_each_split(table):
    test = table.with_name("b.csv")
    test.write_text("photo,emotion\n0.png,calm\n")
    words = ["--image_column", "photo", "--label_column", "emotion", "--min_images_per_class", 0]
    faces = faces_from(options_of("--csv", f"train={table}", f"test={test}", *words))
    assert {name: len(split) for name, split in faces.items()} == {"train": 12, "test": 1}
    with pytest.raises(ConfigError, match="Several tables are given as train=FILE"):
        faces_from(options_of("--csv", table, test))
    with pytest.raises(ConfigError, match="two tables for one split"):
        faces_from(options_of("--csv", f"train={table}", f"train={test}"))


def test_the_card_names_the_table_or_the_folder(table):
    assert dataset_label(flags(table)) == "labels"
    assert dataset_label(flags(table, "--data_dir", table.parent / "x")) == "x"
    assert dataset_label(options_of()) == "painted_faces"


def test_a_setting_is_said_once():
    with pytest.raises(ConfigError, match=r"--setting world=\.\.\.` is said by a flag of its own"):
        faces_from(options_of("--world", "affect", "--setting", "world=seven"))


def test_classes_are_renamed_and_left_out(table):
    faces = faces_from(flags(table, "--label_map", "glad=happy", "--label_map", "calm="))
    assert faces["train"].features["label"].names == ["happy"] and len(faces["train"]) == 6
    with pytest.raises(ConfigError, match="`--label_map` takes LABEL=LABEL"):
        faces_from(flags(table, "--label_map", "glad"))
