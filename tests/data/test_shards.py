"""Pictures in Parquet files, tars and folders, here or behind a URL, are those of the table they were written from."""

from __future__ import annotations

import io
import json
import pickle
import random
import tarfile
from pathlib import Path

import fsspec
import pytest

from ciao_peft import CIAOModel, cache_features
from ciao_peft.data import open_shards
from ciao_peft.errors import DataError, DataNotFoundError
from helpers.fakes import tiny_backbone
from helpers.features import SQUARE, pictures


def table():
    """Ten pictures of two classes, kept as PNG."""
    from datasets import Dataset, Image

    rows = pictures(10).cast_column("image", Image(decode=False))
    return Dataset.from_list(list(rows), features=rows.features).cast_column("image", Image())


def content_of(rows) -> list[tuple[bytes, int]]:
    from datasets import Image

    return [(row["image"]["bytes"], row["label"]) for row in rows.cast_column("image", Image(decode=False))]


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def write(kind: str, folder: Path) -> str:
    """The table in three files of this kind; returns what `open_shards` takes."""
    rows = table()
    folder.mkdir()
    content = content_of(rows)
    if kind == "parquet":
        for number, (first, last) in enumerate(((0, 4), (4, 9), (9, 10))):
            rows.select(range(first, last)).to_parquet(folder / f"part-{number}.parquet", batch_size=2)
        return str(folder / "*.parquet")
    if kind == "tar":
        for number, (first, last) in enumerate(((0, 4), (4, 9), (9, 10))):
            with tarfile.open(folder / f"part-{number}.tar", "w") as tar:
                for row in range(first, last):
                    picture, label = content[row]
                    add(tar, f"{row:03}.png", picture)
                    if row % 2:
                        add(tar, f"{row:03}.cls", str(label).encode())
                    else:
                        add(tar, f"{row:03}.json", json.dumps({"label": label}).encode())
        return str(folder)
    for row, (picture, label) in enumerate(content):
        (folder / "ab"[label]).mkdir(exist_ok=True)
        (folder / "ab"[label] / f"{row:03}.png").write_bytes(picture)
    return str(folder)


def in_order(kind: str) -> list[int]:
    """Rows of the table in the order of the files: folders have the classes one after the other."""
    return [0, 2, 4, 6, 8, 1, 3, 5, 7, 9] if kind == "folder" else [*range(10)]


KINDS = pytest.mark.parametrize("kind", ["parquet", "tar", "folder"])


@KINDS
def test_rows_are_those_of_the_table(kind, tmp_path):
    shards = open_shards(write(kind, tmp_path / "shards"))
    expected = [content_of(table())[row] for row in in_order(kind)]
    assert [(row["image"]["bytes"], row["label"]) for row in shards.__getitems__(range(10))] == expected
    assert shards[7]["image"]["bytes"] == shards[-3]["image"]["bytes"] == expected[7][0]
    assert shards.labels == [label for _, label in expected]
    assert shards.label_names == (None if kind == "tar" else ["a", "b"])
    again = pickle.loads(pickle.dumps(shards))
    assert again[3] == shards[3]
    with pytest.raises(IndexError):
        shards[10]


@KINDS
def test_features_of_files_have_the_key_and_the_bits_of_the_table(kind, tmp_path):
    model = CIAOModel(tiny_backbone(), preprocessing=SQUARE)
    expected = cache_features(model, table().select(in_order(kind)), tmp_path / "table", batch_size=4)
    stored = cache_features(model, write(kind, tmp_path / "shards"), tmp_path / "stored", batch_size=4)
    assert stored.key == expected.key
    assert (tmp_path / "stored/features.0.bin").read_bytes() == (tmp_path / "table/features.0.bin").read_bytes()
    assert stored.labels.tolist() == expected.labels.tolist()


@KINDS
def test_a_url_of_fsspec_is_read_as_a_path_is(kind, tmp_path):
    path = write(kind, tmp_path / "shards")
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "shards"), f"/{tmp_path.name}", recursive=True)
    url = f"memory://{tmp_path.name}" + ("/*.parquet" if kind == "parquet" else "")
    try:
        assert open_shards(url).__getitems__([0, 9])[1]["image"]["bytes"] == open_shards(path)[9]["image"]["bytes"]
    finally:
        memory.rm(f"/{tmp_path.name}", recursive=True)


def test_pictures_without_folders_have_no_labels(tmp_path):
    (tmp_path / "one.png").write_bytes(content_of(table())[0][0])
    assert open_shards(tmp_path).labels is None and list(open_shards(tmp_path)[0]) == ["image"]


def damaged(name: str, content: bytes):
    def write(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return write


def tar_with(*members: tuple[str, bytes]):
    def write(folder: Path) -> None:
        with tarfile.open(folder / "a.tar", "w") as tar:
            for name, content in members:
                add(tar, name, content)

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (damaged("a.parquet", b"nonsense"), r"'.*a.parquet' is no Parquet file that can be read"),
        (damaged("a.tar", b"nonsense" * 200), r"'.*a.tar' is no tar that can be read"),
        (tar_with(("a.png", b"p"), ("a.cls", b"joy")), r"A '.cls' in '.*' is no whole number: 'joy'"),
        (tar_with(("a.png", b"p"), ("b.png", b"p"), ("b.cls", b"1")), r"1 of the 2 pictures in .* have no label"),
        (tar_with(("a.txt", b"p")), "holds no pictures"),
    ],
)
def test_what_is_damaged_is_told(write, message, tmp_path):
    write(tmp_path)
    with pytest.raises(DataError, match=message):
        open_shards(tmp_path)


def test_files_of_two_kinds_are_refused(tmp_path):
    write("tar", tmp_path / "tars")
    write("parquet", tmp_path / "parquets")
    with pytest.raises(DataError, match="holds files of several kinds: 'Parquet', 'tar'"):
        open_shards(tmp_path)


@pytest.mark.parametrize("source", ["nowhere", "nowhere/*.parquet", [], "", " ", [""]])
def test_where_nothing_is_that_is_told(source, tmp_path, monkeypatch):
    write("tar", tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(DataNotFoundError):
        open_shards(source)


@pytest.mark.parametrize(
    "source",
    [
        "simplecache::file:///etc/hostname",
        "zip://a.png::file:///tmp/b.zip",
        "github://user:repo@main/",
        "a::b",
        "nothing://b",
    ],
)
def test_chains_of_urls_and_other_schemes_are_refused(source):
    with pytest.raises(DataError, match="no URL that is read"):
        open_shards(source)


@pytest.mark.parametrize("source", [5, None, [None], ["faces", 5], b"faces", {"faces": 1}, 0.5])
def test_what_is_no_path_is_refused(source):
    with pytest.raises(DataError, match=r"`source` says where pictures lie; got .* Give a file, a folder"):
        open_shards(source)


def tar_of(path, *members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            add(tar, name, content)
    return path


@pytest.mark.parametrize("size", [512, 1024, 1100])
def test_a_tar_that_is_cut_off_is_told(size, tmp_path):
    whole = tar_of(tmp_path / "a.tar", ("0.png", b"one"), ("1.png", b"two"))
    assert len(open_shards(whole)) == 2
    whole.write_bytes(whole.read_bytes()[:size])
    with pytest.raises(DataError, match=r"cut off or damaged|no tar that can be read"):
        open_shards(whole)


def test_a_class_that_is_no_number_is_told(tmp_path):
    with pytest.raises(DataError, match="is no whole number"):
        open_shards(tar_of(tmp_path / "a.tar", ("0.png", b"one"), ("0.cls", b"--5")))


def test_parquets_with_classes_of_different_names_are_refused(tmp_path):
    from datasets import ClassLabel

    for name, classes in (("a", ["joy", "sad"]), ("b", ["sad", "joy"])):
        table().cast_column("label", ClassLabel(names=classes)).to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match="has other classes than"):
        open_shards(tmp_path)


def test_whatever_is_damaged_in_a_parquet_is_told(tmp_path):
    path = tmp_path / "a.parquet"
    table().to_parquet(path)
    whole = path.read_bytes()
    rng, told = random.Random(0), 0
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            shards = open_shards(path)
            shards.__getitems__(range(len(shards)))
        except DataError:
            told += 1
    assert told > 0


def test_a_picture_that_would_fill_memory_is_told_by_its_row(tmp_path):
    import struct
    import zlib

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    tar_of(
        tmp_path / "a.tar", ("0.png", bomb + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))
    )
    model = CIAOModel(tiny_backbone(), preprocessing=SQUARE)
    with pytest.raises(DataError, match="The picture in row 0"):
        cache_features(model, open_shards(tmp_path / "a.tar"))
