"""Rows of a store that is not in memory: no more is read from the disk than was asked for."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest
import torch

from ciao_peft.features import FeatureDataset
from ciao_peft.features.layout import FeatureLayout, MappedRows
from ciao_peft.features.store import FeatureFiles

ROWS, BATCHES, BATCH = 2000, 12, 16
LAYOUT = FeatureLayout(((64, 8, 8),), "float32", ROWS)
KEY = {"num_samples": ROWS, "views": 1, "excitation": False, "dtype": "float32"}


def read_from_disk() -> int:
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("read_bytes:"):
            return int(line.split()[1])
    raise AssertionError


def forget(folder):
    """Takes the files out of memory, as they are long after they were written."""
    for path in folder.iterdir():
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


@pytest.fixture
def stored(tmp_path):
    files = FeatureFiles(tmp_path / "stored", KEY)
    files.create(LAYOUT)
    torch.manual_seed(0)
    with files.writer() as writer:
        for first in range(0, ROWS, 200):
            writer.put(first, (torch.rand(200, 64, 8, 8),))
    files.mark_complete()
    return FeatureDataset(KEY, LAYOUT, None, folder=files.folder, checks=files.checks)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/io")
def test_rows_here_and_there_cost_no_more_than_themselves(stored):
    path, drawn = stored.folder / "features.0.bin", random.Random(0)
    try:
        forget(stored.folder)
        before = read_from_disk()
        with path.open("rb") as file:
            file.read(2**20)
    except OSError:
        pytest.skip("the system does not tell what is read")
    if read_from_disk() - before < 2**20:
        pytest.skip("this file system does not tell what is read, or keeps it in memory")
    expected = torch.from_file(str(path), size=ROWS * 64 * 8 * 8).view(ROWS, 64, 8, 8)
    forget(stored.folder)
    batches = [drawn.sample(range(ROWS), BATCH) for _ in range(BATCHES)]
    before = read_from_disk()
    read = [stored.features(rows)[0] for rows in batches]
    cost = read_from_disk() - before
    assert cost < 2 * BATCHES * BATCH * LAYOUT.row_bytes()
    for rows, tensors in zip(batches, read, strict=True):
        assert torch.equal(tensors, expected[rows])


def test_the_disk_is_asked_for_rows_at_once_while_they_come_from_it_and_never_when_they_are_in_memory(
    stored, monkeypatch
):
    blocks, asked = iter([0, 8, 16, 16, 16]), []
    monkeypatch.setattr(sys.modules[MappedRows.__module__], "_blocks_read", lambda: (1, next(blocks)))
    monkeypatch.setattr(MappedRows, "_fetch", lambda self, index, rows: asked.append(rows))
    for row in range(4):
        stored.features([row, row + 10])
    assert asked == [[1, 11], [2, 12]]


def test_rows_are_copies_and_writing_to_the_map_changes_no_file(stored):
    mapped = MappedRows(stored.folder, LAYOUT)
    content = (stored.folder / "features.0.bin").read_bytes()
    mapped._fetch(0, [0, 1, 2, 7, 7, ROWS - 1])
    row = mapped.read(torch.tensor([5]), [0])[0]
    mapped.tensors[0][5] = 0
    assert bool(row.any())
    assert (stored.folder / "features.0.bin").read_bytes() == content
    assert MappedRows(stored.folder, FeatureLayout(((0,),), "float32", 3)).read(torch.tensor([1]), [0])[0].shape == (
        1,
        0,
    )
