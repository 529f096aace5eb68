"""An interrupted pass: a row counts as done only where it lies there as its own checksum says."""

from __future__ import annotations

import json
import os
import random
import shutil

import pytest
import torch

from ciao_peft import cache_features
from ciao_peft.errors import FeatureCacheError
from ciao_peft.features import FeatureDataset, store
from ciao_peft.features.store import FeatureFiles
from ciao_peft.saving.digest import with_digest
from helpers.fakes import tiny_backbone
from helpers.features import counting, faces

DONE = (0, 1, 2, 5, 8)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return cache_features(tiny_backbone(), faces(), tmp_path_factory.mktemp("whole") / "stored", batch_size=1)


@pytest.fixture
def half(whole, tmp_path):
    """A pass over ten faces that stopped when five were stored."""
    files = FeatureFiles(tmp_path / "stored", whole.key)
    files.create(whole.layout)
    with files.writer() as writer:
        for row in DONE:
            writer.put(row, tuple(tensor[row : row + 1] for tensor in whole.tensors))
    return tmp_path / "stored"


def go_on(folder):
    return cache_features(tiny_backbone(), faces(), folder, batch_size=1)


def assert_whole(stored: FeatureDataset, whole):
    assert torch.equal(stored.features(range(10))[0], whole.features(range(10))[0])
    assert sorted(path.name for path in stored.folder.iterdir()) == ["checksums.bin", "features.0.bin", "index.json"]


def edit_index(folder, **changes):
    record = json.loads((folder / "index.json").read_text())
    record["layout"] |= changes.pop("layout", {})
    (folder / "index.json").write_bytes(with_digest(record | changes, {}))


def test_no_flipped_bit_of_an_interrupted_pass_gives_another_row(half, whole, tmp_path):
    """Every bit of the marks and the checksums, and some of the rows."""
    chosen, aside = random.Random(0), tmp_path / "aside"
    for name, count in (("done.bin", 80), ("checksums.bin", 60), ("features.0.bin", 30)):
        content = (half / name).read_bytes()
        for bit in chosen.sample(range(8 * len(content)), count):
            shutil.copytree(half, aside)
            changed = bytearray(content)
            changed[bit // 8] ^= 1 << bit % 8
            (aside / name).write_bytes(changed)
            files = FeatureFiles(aside, whole.key)
            files.resume()
            left = files.rows_left().tolist()
            assert set(left) >= set(range(10)) - set(DONE), (name, bit)
            assert len(left) <= 6
            for row in set(range(10)) - set(left):
                assert torch.equal(files.tensors()[0][row], whole.tensors[0][row]), (name, bit)
            shutil.rmtree(aside)
    (half / "done.bin").write_bytes(b"\1" * 10)  # all marked, five of them never written
    assert_whole(go_on(half), whole)


def test_damaged_rows_and_checksums_are_made_anew_together(half, whole, monkeypatch):
    (half / "features.0.bin").write_bytes(bytes((half / "features.0.bin").stat().st_size))
    (half / "checksums.bin").write_bytes(b"abc")
    rows = counting(monkeypatch)
    assert_whole(go_on(half), whole)
    assert sum(rows) == 10


def test_rows_that_are_whole_are_not_made_again(half, whole, monkeypatch):
    rows = counting(monkeypatch)
    assert_whole(go_on(half), whole)
    assert sum(rows) == 5


def test_an_earlier_version_s_pass_counts_no_row_that_is_empty(half, whole, monkeypatch):
    index = json.loads((half / "index.json").read_text())
    del index["digest"]
    (half / "index.json").write_text(json.dumps(index | {"format_version": 1}))
    (half / "checksums.bin").unlink()
    (half / "done.bin").write_bytes(b"\1" * 10)
    rows = counting(monkeypatch)
    assert_whole(go_on(half), whole)
    assert sum(rows) == 5
    assert json.loads((half / "index.json").read_text())["format_version"] == store.FORMAT_VERSION


def put_pipe(path):
    os.mkfifo(path)


ODD = {
    "a pipe": put_pipe,
    "a folder": lambda path: path.mkdir(),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("complete", [True, False], ids=["complete", "interrupted"])
@pytest.mark.parametrize("name", ["index.json", "features.0.bin", "checksums.bin", "done.bin"])
@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_file_is_refused_or_made_anew(odd, name, complete, half, whole):
    if complete:
        go_on(half)
    (half / name).unlink(missing_ok=True)
    ODD[odd](half / name)
    try:
        stored = go_on(half)
    except FeatureCacheError as error:
        assert name in str(error) or "has an index" in str(error)
        assert len(str(error)) < 600
    else:
        assert torch.equal(stored.features(range(10))[0], whole.features(range(10))[0])


def test_no_row_is_written_through_a_link(half, tmp_path):
    others = tmp_path / "others.bin"
    shutil.move(half / "features.0.bin", others)
    content = others.read_bytes()
    (half / "features.0.bin").symlink_to(others)
    with pytest.raises(FeatureCacheError, match=r"'.*features\.0\.bin' cannot be filled: it is a link"):
        go_on(half)
    (half / "index.json").unlink()
    go_on(half)
    assert others.read_bytes() == content


@pytest.mark.parametrize(
    "layout",
    [
        {"shapes": [["8", 14, 14]]},
        {"shapes": [8, 14]},
        {"shapes": None},
        {"shapes": [[2**40, 2**40]]},
        {"shapes": [[-1, 2]]},
        {"shapes": [[8, 14, 14], [4]]},
        {"shapes": []},
        {"dtype": 3.5},
        {"dtype": ["float32"]},
        {"dtype": "float16"},
        {"num_rows": "10"},
        {"num_rows": True},
        {"num_rows": 10**30},
        {"num_rows": 0},
        {"dtype": "a" * 100_000},
    ],
)
def test_an_index_with_values_of_another_kind_is_refused_shortly(layout, half, tmp_path):
    shutil.copytree(half, tmp_path / "complete")
    go_on(tmp_path / "complete")
    for folder in (half, tmp_path / "complete"):
        edit_index(folder, layout=layout)
        with pytest.raises(FeatureCacheError) as caught:
            go_on(folder)
        assert len(str(caught.value)) < 600


def test_what_a_kill_left_beside_complete_features_goes_when_they_are_next_used(half, whole):
    marks = (half / "done.bin").read_bytes()
    go_on(half)
    (half / "done.bin").write_bytes(marks)
    (half / ".checksums.bin.0f.tmp").write_bytes(b"")
    assert_whole(go_on(half), whole)


def test_where_only_the_folder_can_be_written_the_lock_is_in_it(tmp_path, whole, monkeypatch):
    volume = tmp_path / "volume"
    volume.mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: os.fspath(path) != str(tmp_path) and access(path, mode))
    assert torch.equal(go_on(volume).features(range(10))[0], whole.features(range(10))[0])
    assert {path.name for path in tmp_path.iterdir()} == {"volume"}


@pytest.mark.parametrize("call", ["fsync", "posix_fallocate"])
def test_a_full_disk_is_told_and_the_pass_goes_on_when_there_is_room(call, half, whole, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    folder = half if call == "fsync" else tmp_path / "new"
    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(
            FeatureCacheError, match=r"cannot be written: No space left on device\. Make room there, or"
        ):
            go_on(folder)
    assert call == "fsync" or not list(folder.iterdir())
    assert torch.equal(go_on(folder).features(range(10))[0], whole.features(range(10))[0])
