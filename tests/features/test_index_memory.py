"""What is looked at of a store, bit by bit, and where its checksums are too many to be read as a whole."""

from __future__ import annotations

import pytest
import torch

from ciao_peft import cache_features
from ciao_peft.errors import FeatureCacheError
from ciao_peft.features import checks, fingerprint, keys
from ciao_peft.features.layout import FeatureLayout, MappedRows
from ciao_peft.features.processes import Processes
from ciao_peft.features.samples import Samples
from helpers.fakes import tiny_backbone
from helpers.features import faces


def test_a_bit_stands_for_each_row_of_each_tensor():
    rows = torch.randint(0, 1000, (300,), generator=torch.Generator().manual_seed(0))  # some of them twice
    seen = checks._Seen(FeatureLayout(((1,), (1,)), "float32", num_rows=1000))
    seen.add(rows, 1)
    expected = torch.zeros(1000, dtype=torch.bool)
    expected[rows] = True
    assert torch.equal(seen.of(torch.arange(1000), 1), expected)
    assert not seen.of(torch.arange(1000), 0).any()
    assert sum(bits.nbytes for bits in seen._bits) == 2 * 125


@pytest.fixture
def mapped(monkeypatch):
    monkeypatch.setattr(checks, "_MOST_IN_MEMORY", 0)


def test_mapped_checksums_accept_and_refuse_as_read_ones_do(mapped, tmp_path):
    expected = cache_features(tiny_backbone(), faces()).features(range(10))
    stored = cache_features(tiny_backbone(), faces(), tmp_path / "features")
    assert torch.equal(stored.features(range(10))[0], expected[0])
    path = tmp_path / "features" / "features.0.bin"
    content = bytearray(path.read_bytes())
    again = cache_features(tiny_backbone(), faces(), tmp_path / "features")
    content[3 * len(content) // 10 + 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(FeatureCacheError, match="Row 3 of the stored features"):
        again.features(range(10))


def test_mapped_checksums_that_were_cut_are_told(mapped, tmp_path):
    stored = cache_features(tiny_backbone(), faces(), tmp_path / "features")
    (tmp_path / "features" / "checksums.bin").write_bytes(b"short")
    with pytest.raises(FeatureCacheError, match="has 5 bytes where 40 were written"):
        stored.features([0])


def test_a_fingerprint_in_parts_is_that_of_the_whole(monkeypatch):
    samples = Samples(faces(), None)
    whole = fingerprint(samples, Processes())
    monkeypatch.setattr(keys, "_HASHED_AT_ONCE", 3)
    assert fingerprint(samples, Processes()) == whole


def test_a_store_larger_than_memory_is_opened_and_read(tmp_path):
    layout = FeatureLayout(((2**20,),), "float32", num_rows=2**20)  # 4 TiB of zeros, which take no disk
    with (tmp_path / "features.0.bin").open("wb") as file:
        file.truncate(layout.file_bytes(0))
    rows = MappedRows(tmp_path, layout)
    assert not rows.read(torch.tensor([2**20 - 1]), [0])[0].any()


def test_a_row_that_was_looked_at_in_one_tensor_is_looked_at_in_another(tmp_path):
    (tmp_path / checks.CHECKSUM_FILE).write_bytes(checks.as_bytes([checks.row_checksums(torch.zeros(3, 2))] * 2))
    rows = checks.RowChecks(tmp_path, FeatureLayout(((2,), (2,)), "float32", num_rows=3))
    rows.check([1], (torch.zeros(1, 2),), [1])
    with pytest.raises(FeatureCacheError, match=r"Row 1 .* 'features\.0\.bin'"):
        rows.check([1], (torch.ones(1, 2),), [0])
