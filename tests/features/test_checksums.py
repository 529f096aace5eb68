"""Each stored row has a checksum, which is looked at when the row is first read."""

from __future__ import annotations

import json
import pickle
import random
import zlib

import pytest
import torch

from ciao_peft import cache_features
from ciao_peft.errors import FeatureCacheError
from ciao_peft.features import Augmentation, checks
from ciao_peft.features.store import FeatureFiles
from helpers.fakes import residual_backbone, tiny_backbone, wrap
from helpers.features import SQUARE, counting, faces, pictures


def flip(path, byte, bit=0):
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


def row_bytes(stored, tensor=0):
    return stored.layout.file_bytes(tensor) // stored.layout.num_rows


def again(folder, count=200):
    return cache_features(tiny_backbone(), faces(count), folder, batch_size=50)


def test_the_file_holds_the_crc_of_the_bytes_of_each_row(tmp_path):
    stored = cache_features(residual_backbone(), faces(3), tmp_path / "stored")
    content = (tmp_path / "stored" / "checksums.bin").read_bytes()
    files = [(tmp_path / "stored" / f"features.{n}.bin").read_bytes() for n in range(2)]
    expected = []
    for row in range(3):
        for number, file in enumerate(files):
            size = row_bytes(stored, number)
            expected.append(zlib.crc32(file[row * size : (row + 1) * size]))
    assert [int.from_bytes(content[4 * n : 4 * n + 4], "little") for n in range(6)] == expected


def test_a_flipped_bit_in_any_row_is_seen_when_that_row_is_read(tmp_path):
    stored = again(tmp_path / "stored")
    size, path, chosen = row_bytes(stored), tmp_path / "stored" / "features.0.bin", random.Random(0)
    good = [row for row in range(200) if row % 3]
    whole = path.read_bytes()
    content, bad = bytearray(whole), [row for row in range(200) if not row % 3]
    for row in bad:
        content[row * size + chosen.randrange(size)] ^= 1 << chosen.randrange(8)
    opened = FeatureFiles(tmp_path / "stored", stored.key)  # whole still
    path.write_bytes(content)
    assert opened.checks is not None
    assert torch.equal(
        stored.select(good).features(range(len(good)))[0], torch.stack([stored[r]["features"][0] for r in good])
    )
    for row in bad:
        with pytest.raises(
            FeatureCacheError, match=rf"Row {row} of the stored features in .* is damaged: .*Delete that"
        ):
            stored.features([good[0], row])
        with pytest.raises(FeatureCacheError, match=rf"Row {row} "):  # not only once
            stored[row]


def test_damage_to_the_checksums_or_the_index_is_seen(tmp_path):
    stored = again(tmp_path / "stored", 5)
    flip(tmp_path / "stored" / "checksums.bin", 9)
    with pytest.raises(FeatureCacheError, match=r"Row 2 of the stored features"):
        again(tmp_path / "stored", 5).features(range(5))
    flip(tmp_path / "stored" / "checksums.bin", 9)
    path = tmp_path / "stored" / "index.json"
    content = path.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(content)), 1000):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            found = FeatureFiles(tmp_path / "stored", stored.key)
        except FeatureCacheError:
            continue
        assert (found.layout, found.complete, found.key) == (stored.layout, True, stored.key), bit
        assert found.checks is not None
    path.write_bytes(content)
    (tmp_path / "stored" / "checksums.bin").unlink()
    with pytest.raises(FeatureCacheError, match=r"'checksums\.bin' has None bytes where 20 were written"):
        again(tmp_path / "stored", 5)


def test_a_row_is_looked_at_once_by_all_that_share_the_files(tmp_path, monkeypatch):
    looked, checksums = [], checks.row_checksums
    stored = again(tmp_path / "stored", 10)
    monkeypatch.setattr(checks, "row_checksums", lambda rows: looked.append(len(rows)) or checksums(rows))
    stored.features([1, 2, 3])
    stored.select([3, 4]).features([0, 1])
    stored.clips([[1, 2], [4, 5]]).features([0, 1])
    stored.features(range(10))
    stored.with_labels(None).features(range(10))
    assert looked == [3, 1, 1, 5]
    copied = pickle.loads(pickle.dumps(stored))
    assert len(pickle.dumps(stored)) < 10_000
    copied.features(range(10))
    assert looked[4:] == [10]
    assert cache_features(tiny_backbone(), faces()).checks is None


def test_views_clips_and_excitation_are_checked_too(tmp_path):
    class Encoder(torch.nn.Sequential):
        preprocessing = SQUARE
        input_size = (3, 16, 16)

    model = wrap(Encoder(*tiny_backbone()))
    settings = {"views": 2, "augment": Augmentation(seed=3), "include_excitation": True}
    stored = cache_features(model, pictures(), tmp_path / "stored", **settings)
    u, size = tmp_path / "stored" / "features.1.bin", row_bytes(stored, 1)
    flip(u, 7 * size + 5)
    stored.features(range(6), 1, include_excitation=False)
    stored.features(range(6))
    with pytest.raises(FeatureCacheError, match=r"Row 7 .*'features\.1\.bin'"):
        stored.features([0, 1], 1)
    clipped = again(tmp_path / "clips", 8).clips([[0, 1], [2, 3], [6, 7]])
    flip(tmp_path / "clips" / "features.0.bin", 7 * row_bytes(clipped))
    clipped.features([0, 1])
    with pytest.raises(FeatureCacheError, match="Row 7 "):
        clipped.features([2])


def as_before(folder):
    """A folder as it was before rows had checksums."""
    index = json.loads((folder / "index.json").read_text())
    del index["digest"]
    (folder / "index.json").write_text(json.dumps(index | {"format_version": 1}))
    (folder / "checksums.bin").unlink()


def test_what_was_stored_before_rows_had_checksums_is_still_read(tmp_path):
    expected = again(tmp_path / "stored", 10).features(range(10))[0]
    as_before(tmp_path / "stored")
    stored = again(tmp_path / "stored", 10)
    assert stored.checks is None
    assert torch.equal(stored.features(range(10))[0], expected)


def test_a_pass_that_an_earlier_version_began_is_ended_with_checksums(tmp_path, monkeypatch):
    whole = again(tmp_path / "whole", 10)
    files = FeatureFiles(tmp_path / "stored", whole.key)
    files.create(whole.layout)
    with files.writer() as writer:
        writer.put(2, tuple(tensor[2:5] for tensor in whole.tensors))
    as_before(tmp_path / "stored")
    rows = counting(monkeypatch)
    stored = again(tmp_path / "stored", 10)
    assert sum(rows) == 7
    assert torch.equal(stored.features(range(10))[0], whole.features(range(10))[0])
    for name in ("features.0.bin", "checksums.bin"):
        assert (tmp_path / "stored" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
