"""Tars whose samples are not as WebDataset has them, and Parquet files that unpack to more than memory, are told."""

from __future__ import annotations

import io
import json
import tarfile

import pytest

from ciao_peft.data import open_shards, shards
from ciao_peft.errors import DataError


def tar_of(folder, *members):
    """A tar of files, each a name and its content; or a name, a kind of tar's and what it leads to."""
    with tarfile.open(folder / "a.tar", "w") as tar:
        for name, *content in members:
            member = tarfile.TarInfo(name)
            if len(content) == 2:
                member.type, member.linkname = content
                tar.addfile(member)
            else:
                member.size = len(content[0])
                tar.addfile(member, io.BytesIO(content[0]))
    return folder / "a.tar"


def label(value):
    return json.dumps({"label": value}).encode()


LARGE = b" " * 2**20 + b"1"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.png", b"p"), ("a.jpg", b"p")], r"'a.jpg' in '.*a.tar' is a second picture of one sample, beside 'a.png'"),
        ([("a.png", b"p"), ("a.png", b"p")], r"'a.png' in .* is a second picture of one sample"),
        ([("a.png", b"p"), ("b.png", b"p"), ("a.cls", b"1")], r"files of the sample 'a' in two places"),
        ([("a.png", b"p"), ("b.png", b"p"), ("a.png", b"p")], r"files of the sample 'a' in two places"),
        ([("a.cls", b"1"), ("b.png", b"p")], r"'a.cls' in .* is the label of no picture"),
        ([("a.png", b"p"), ("b.json", label(1))], r"'b.json' in .* is the label of no picture"),
        ([("a.left.png", b"p"), ("a.cls", b"1")], r"'a.cls' in .* is the label of no picture"),
        ([("a.png", b"p"), ("a.cls", LARGE)], r"'a.cls' in .* has 1,048,577 bytes, which no label needs"),
        ([("a.png", b"p"), ("a.json", LARGE)], r"'a.json' in .* has 1,048,577 bytes, which no label needs"),
        ([("a.png", b"p"), ("a.cls", tarfile.SYMTYPE, "b.cls")], r"'a.cls' in .* is a link or the like"),
        ([("a.png", b"p"), ("a.json", tarfile.LNKTYPE, "b.json")], r"'a.json' in .* is a link or the like"),
        ([("b.png", b"p"), ("a.png", tarfile.LNKTYPE, "b.png")], r"'a.png' in .* is a link .*`tar --dereference`"),
        ([("a.png", b"p"), ("a.cls", tarfile.FIFOTYPE, "")], r"'a.cls' in .* is a link or the like"),
        (
            [("a.png", b"p"), ("a.cls", b"1"), ("a.json", label(2))],
            r"'a.json' in .* says 2, and 'a.cls' of the same .* 1",
        ),
        ([("a.png", b"p"), ("a.cls", b"1"), ("a.cls", b"2")], r"'a.cls' in .* says 2"),
    ],
)
def test_a_sample_that_is_odd_is_told_by_the_name_of_its_file(members, message, tmp_path):
    with pytest.raises(DataError, match=message):
        open_shards(tar_of(tmp_path, *members))


def test_what_is_no_part_of_a_sample_is_left_alone(tmp_path):
    members = [
        ("faces", tarfile.DIRTYPE, ""),
        ("README", b"of the whole"),
        ("link.txt", tarfile.SYMTYPE, "README"),
        ("faces/._a.png", b"notes of another program"),
        ("faces/a.png", b"first"),
        ("faces/._a.cls", b"notes of another program"),
        ("faces/a.cls", b"1"),
        ("faces/a.json", label(1)),
        ("faces/a.txt", b"a face"),
        ("faces/b.json", json.dumps({"status": "not found"}).encode()),
        ("more/a.JPG", b"second"),
        ("more/a.json", label(2)),
    ]
    rows = open_shards(tar_of(tmp_path, *members))
    assert [(row["image"]["bytes"], row["label"]) for row in rows.__getitems__([0, 1])] == [
        (b"first", 1),
        (b"second", 2),
    ]
    assert len(rows) == 2


def test_a_file_with_holes_is_told(tmp_path):
    member = tarfile.TarInfo("a.png")
    member.type = tarfile.GNUTYPE_SPARSE
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(member)
    with pytest.raises(DataError, match="is a link or the like"):
        open_shards(tmp_path / "a.tar")


# -- Parquet -----------------------------------------------------------------------------------------------------------


def parquet_of(folder, pictures, labels=None, **how):
    import pyarrow
    from pyarrow import parquet

    columns = {"image": [{"bytes": picture, "path": None} for picture in pictures]}
    if labels is not None:
        columns["label"] = labels
    parquet.write_table(pyarrow.table(columns), folder / "a.parquet", **how)
    return folder / "a.parquet"


def test_a_row_group_that_would_fill_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = parquet_of(tmp_path, [bytes([n]) * 4000 for n in range(50)], row_group_size=25, compression="zstd")
    assert len(open_shards(path)) == 50
    monkeypatch.setattr(shards, "_LARGEST_GROUP", 99_999)
    with pytest.raises(DataError, match=r"Row group 0 of '.*' has 108,\d{3} bytes .* 'image'; at most 99,999"):
        open_shards(path)


@pytest.mark.parametrize("column", ["image", "label"])
def test_a_value_that_stands_once_and_is_meant_a_thousand_times_fills_no_memory(column, tmp_path, monkeypatch):
    large, small = b"p" * 10_000, [b"p"] * 1000
    pictures, labels = ([large] * 1000, None) if column == "image" else (small, [large.decode()] * 1000)
    path = parquet_of(tmp_path, pictures, labels)
    assert path.stat().st_size < 50_000
    read, values = [], shards._values

    class Counted:
        def __init__(self, file):
            self.metadata, self._file = file.metadata, file

        def iter_batches(self, *args, **named):
            for batch in self._file.iter_batches(*args, **named):
                read.append(batch.nbytes)
                yield batch

    monkeypatch.setattr(shards, "_LARGEST_GROUP", 100_000)
    monkeypatch.setattr(shards, "_values", lambda file, *more: values(Counted(file), *more))
    with pytest.raises(DataError, match=f"Row group 0 of '.*' has more than 100,000 bytes in its column '{column}'"):
        open_shards(path)[0]
    assert max(read) <= 110_000
    assert sum(read) <= 210_000


def test_a_group_of_many_rows_is_that_of_a_table(tmp_path):
    pictures, labels = [bytes([n % 251]) * (n % 7 + 1) for n in range(3000)], [*range(3000)]
    rows = open_shards(parquet_of(tmp_path, pictures, labels, row_group_size=2500))
    assert [row["image"]["bytes"] for row in rows.__getitems__(range(3000))] == pictures
    assert rows.labels == labels


def test_a_file_that_says_it_has_too_many_rows_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_MOST_ROWS", 9)
    with pytest.raises(DataError, match="says that it has 10 rows; at most 9 are read"):
        open_shards(parquet_of(tmp_path, [b"p"] * 10))


def test_a_tar_with_another_one_behind_its_end_is_told(tmp_path):
    path = tar_of(tmp_path, ("a.png", b"p"), ("a.cls", b"1"))
    path.write_bytes(2 * path.read_bytes())
    with pytest.raises(DataError, match=r"goes on behind its end .*tar --concatenate"):
        open_shards(path)


def test_rows_are_counted_from_the_end_one_by_one_and_together(tmp_path):
    rows = open_shards(parquet_of(tmp_path, [b"0", b"1", b"2", b"3", b"4", b"5"], list(range(6)), row_group_size=2))
    for index in (-1, -6, 5):
        assert rows.__getitems__([index]) == [rows[index]]
        assert rows[index]["image"]["bytes"] == str(rows[index]["label"]).encode()
    assert rows.__getitems__([]) == []
    for index in (6, -7):
        with pytest.raises(IndexError):
            rows.__getitems__([index])
    for index in ("a", 1.0, slice(0, 1)):
        with pytest.raises(TypeError):
            rows[index]
