"""Tables of strangers: neither pipes nor devices, nor lines without an end, nor bytes that are no text."""

from __future__ import annotations

import csv
import json
import os

import pytest

from ciao_peft.data import load_faces
from ciao_peft.data.builder import fingerprint, image_problem
from ciao_peft.data.duplicates import picture_hashes
from ciao_peft.data.fer2013 import index_table
from ciao_peft.data.frames import READERS, sample_frames
from ciao_peft.data.tables import table_records, table_rows
from ciao_peft.door import MAX_LINE, MAX_TABLE_BYTES, read_lines
from ciao_peft.errors import DataError, FileReadError
from helpers.pictures import noise


def hole(path, size=10**12):
    with path.open("wb") as file:
        file.truncate(size)


ODD = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "itself": lambda path: path.symlink_to(path.name),
    "nothing": lambda path: path.symlink_to("nowhere"),
    "folder": lambda path: path.mkdir(),
    "hole": hole,
    "smaller-hole": lambda path: hole(path, 2**30),
    "no-text": lambda path: path.write_bytes(b"file_name,label\n\xff\xfe.png,x\n"),
    "long-field": lambda path: path.write_text("file_name,label\n" + "a" * (csv.field_size_limit() + 1) + ",x\n"),
}


@pytest.fixture
def faces(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    for number in range(4):
        noise(12, 12, seed=number).save(folder / f"{number}.png")
    return folder


def load(folder, tmp_path):
    return load_faces("imagefolder", folder, protocol=None, cache_dir=tmp_path / "cache", min_images_per_class=0)


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_a_table_that_is_none_is_refused_and_nothing_hangs(faces, tmp_path, make, name):
    make(faces / name)
    with pytest.raises(DataError) as caught:
        load(faces, tmp_path)
    assert len(str(caught.value)) < 1000
    assert name in str(caught.value) or "no picture" in str(caught.value).lower()


@pytest.mark.parametrize("name", ["notes.txt", "0.png"])
@pytest.mark.parametrize("make", ["pipe", "device", "itself", "nothing"])
def test_other_files_that_are_none_do_no_harm(faces, tmp_path, make, name):
    (faces / "metadata.csv").write_text("file_name,label\n" + "".join(f"{n}.png,ab{n % 2}\n" for n in range(4)))
    (faces / name).unlink(missing_ok=True)
    ODD[make](faces / name)
    assert fingerprint(faces) == fingerprint(faces)
    assert len(load(faces, tmp_path)["train"]) == (3 if name == "0.png" else 4)


def test_a_number_of_thousands_of_digits_makes_one_malformed_row(faces, tmp_path, caplog):
    lines = [json.dumps({"file_name": f"{n}.png", "label": 0.5}) for n in range(4)]
    lines[2] = lines[2].replace("0.5", "1" + "0" * 5000)
    (faces / "metadata.jsonl").write_text("\n".join(lines))
    assert len(load(faces, tmp_path)["train"]) == 3
    assert "1 x malformed row of metadata.jsonl: line 3" in caplog.text


@pytest.mark.parametrize("make", ["pipe", "device", "itself"])
def test_a_picture_that_is_no_file_is_said_to_be_none(tmp_path, make):
    ODD[make](tmp_path / "face.png")
    assert image_problem(tmp_path / "face.png") in ("no file", "damaged image")


def test_a_picture_that_became_a_pipe_is_not_waited_for(tmp_path):
    from datasets import Dataset, Features, Image

    path = tmp_path / "face.png"
    os.mkfifo(path)
    rows = {"image": [{"bytes": None, "path": str(path)}]}
    with pytest.raises(DataError, match="is a pipe"):
        picture_hashes(Dataset.from_dict(rows, features=Features({"image": Image(decode=False)})))


@pytest.mark.parametrize("reader", READERS)
def test_a_video_that_is_a_pipe_is_not_waited_for(tmp_path, reader):
    pytest.importorskip(reader)
    os.mkfifo(tmp_path / "clip.mp4")
    with pytest.raises(DataError, match="There is no video"):
        sample_frames(tmp_path / "clip.mp4", 2, reader=reader)


@pytest.mark.parametrize("make", [os.mkfifo, hole, lambda path: hole(path, 2**30)])
def test_a_table_of_pixels_without_an_end_is_refused(tmp_path, make):
    from ciao_peft.data.builder import LeftOut

    make(tmp_path / "fer2013.csv")
    with pytest.raises(DataError, match=r"fer2013\.csv"):
        index_table(tmp_path / "fer2013.csv", LeftOut())


# -- line by line ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_the_rows_are_those_that_csv_reads_itself(tmp_path, ends):
    path = tmp_path / "labels.csv"
    rows = [["name", "said"], ["a.png", 'a "b"\nc'], ["ü.png", ""], [""], ["é" * 1000, "x,y"]]
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, lineterminator=ends).writerows(rows)
    assert list(table_rows(path)) == rows
    names, delimiter, records = table_records(path)
    assert (names, delimiter) == (rows[0], ",")
    assert [(record["name"], record["said"]) for _, record in records] == [
        ("a.png", 'a "b"\nc'),
        ("ü.png", ""),
        ("", None),
        ("é" * 1000, "x,y"),
    ]


def test_a_line_may_be_as_long_as_the_bound_and_no_longer(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("a" * (MAX_LINE - 1) + "\n" + "b" * MAX_LINE)
    assert [len(line) for line in read_lines(path)] == [MAX_LINE, MAX_LINE]
    path.write_text("a\n" + "b" * (MAX_LINE + 1))
    lines = read_lines(path)
    assert next(lines) == "a\n"
    with pytest.raises(FileReadError, match="line 2"):
        next(lines)


def test_a_table_of_the_size_of_the_released_ones_is_let_in():
    assert MAX_TABLE_BYTES > 301_072_766  # fer2013.csv


def test_a_header_with_a_field_beyond_what_csv_takes_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"whatever")
    (tmp_path / "metadata.csv").write_text("file_name," + "x" * 200_000 + "\na.png,happy\n")
    with pytest.raises(DataError):
        load_faces("imagefolder", str(tmp_path))
