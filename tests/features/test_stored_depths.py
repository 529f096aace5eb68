"""Depths stored beside the features: one trunk pass, keys that tell stores apart, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch

from ciao_peft import cache_features, get_ciao_model
from ciao_peft.backbone import Depth
from ciao_peft.errors import FeatureCacheError
from ciao_peft.features import FeatureDataset, model_key
from ciao_peft.features.store import FeatureFiles, key_hash
from ciao_peft.saving.digest import with_digest
from helpers.fakes import pixels, residual_backbone, small_config, wrap
from helpers.features import SQUARE, counting, faces, pictures

BOTH = ("stem", "conv1")


def deep(depths=BOTH, **changes):
    return wrap(residual_backbone(), depths=depths, **changes).eval()


@pytest.mark.parametrize("on_disk", [True, False], ids=["disk", "memory"])
@pytest.mark.parametrize("with_u", [True, False], ids=["u", "no-u"])
def test_depths_are_stored_in_the_pass_of_the_features_and_give_the_logits_of_the_pixels(
    on_disk, with_u, tmp_path, monkeypatch
):
    model, rows = deep(depth_grid=2), counting(monkeypatch)
    folder = tmp_path / "stored" if on_disk else None
    stored = cache_features(model, faces(), folder, include_excitation=with_u, batch_size=10)
    assert rows == [10]
    assert stored.depths == model.depths == (Depth("stem", 2), Depth("conv1", 2))
    shapes = [(8, 8, 8), (8, 8, 8), (32,), (32,), *[(8, 8, 8)] * with_u]
    assert list(stored.layout.shapes) == shapes
    assert torch.equal(model(features=stored.features(range(10))).logits, model(pixels(10)).logits)
    fewer = stored.features([3, 1], depths=[Depth("conv1", 2)])
    every = stored.features([3, 1])
    for one, other in zip(fewer, [*every[:2], *every[3:]], strict=True):
        assert torch.equal(one, other)
    bare = stored.features([3, 1], include_excitation=False, depths=())
    assert all(map(torch.equal, bare, every[:2]))
    with pytest.raises(FeatureCacheError, match="are without the depths 'stem', which the adapter reads"):
        stored.features([0], depths=[Depth("stem", 1)])


def test_a_sample_has_its_depths_and_clips_those_of_each_frame():
    stored = cache_features(deep(), faces())
    assert [tuple(t.shape) for t in stored[2]["features"]] == [(8, 8, 8), (8, 8, 8), (8,), (8,)]
    clips = stored.clips([[0, 2], [1, 1]])
    assert [tuple(t.shape[:2]) for t in clips.features([0, 1])] == [(2, 2)] * 4
    assert torch.equal(clips.features([0])[2][0, 1], stored[2]["features"][2])


def test_half_precision_is_that_of_the_features():
    stored = cache_features(deep(), faces(), dtype="float16")
    assert {tensor.dtype for tensor in stored.features([0])} == {torch.float16}
    exact = cache_features(deep(), faces())
    torch.testing.assert_close(stored.features([4])[-1].float(), exact.features([4])[-1], rtol=1e-3, atol=1e-4)


def test_keys_without_depths_are_what_they_were_and_those_with_depths_are_others():
    bare, keys = model_key(wrap(residual_backbone())), [model_key(deep()), model_key(deep(depth_grid=2))]
    assert "depths" not in bare
    assert keys[0] == bare | {"depths": [["stem", 1], ["conv1", 1]]}
    assert len({key_hash(key) for key in (bare, *keys)}) == 3
    json.dumps(keys)


def test_a_folder_serves_whoever_reads_fewer_depths(tmp_path, monkeypatch):
    folder = tmp_path / "stored"
    cache_features(deep(), faces(), folder)
    rows = counting(monkeypatch)
    for depths in (("conv1",), ("conv1", "stem"), None):
        model = deep(depths)
        served = cache_features(model, faces(), folder)
        assert [depth.path for depth in served.depths] == ["stem", "conv1"]
        features = served.features(range(10), depths=model.depths)
        torch.testing.assert_close(model(features=features).logits, model(pixels(10)).logits)
        served.check_belongs_to(model_key(model))
    assert rows == []


def test_a_folder_without_the_depths_is_refused(tmp_path):
    cache_features(deep(None), faces(), tmp_path / "bare")
    cache_features(deep(("stem",)), faces(), tmp_path / "stem")
    with pytest.raises(
        FeatureCacheError, match="are without the depths 'conv1', 'stem', which the active adapter reads"
    ):
        cache_features(deep(), faces(), tmp_path / "bare")
    with pytest.raises(FeatureCacheError, match="are without the depths 'conv1', which the active adapter reads"):
        cache_features(deep(), faces(), tmp_path / "stem")
    with pytest.raises(FeatureCacheError, match="are without the depths 'stem'"):  # averaged over other cells
        cache_features(deep(("stem",), depth_grid=2), faces(), tmp_path / "stem")
    with pytest.raises(FeatureCacheError, match=r"are without the depths 'conv1', which the adapter reads. Make them"):
        cache_features(deep(("stem",)), faces()).check_belongs_to(model_key(deep()))
    with pytest.raises(FeatureCacheError, match="without u"):
        cache_features(deep(("stem",)), faces(), tmp_path / "stem", include_excitation=True)
    with pytest.raises(FeatureCacheError, match="other pictures"):
        cache_features(deep(("stem",)), faces(seed=3), tmp_path / "stem")


@pytest.mark.parametrize("depths", [BOTH, ("stem",), None], ids=["same", "fewer", "none"])
def test_an_interrupted_pass_goes_on_with_the_depths_that_it_began_with(depths, tmp_path):
    whole = cache_features(deep(), faces(), batch_size=1)
    files = FeatureFiles(tmp_path / "stored", whole.key)
    files.create(whole.layout)
    with files.writer() as writer:
        writer.put(0, tuple(tensor[:4] for tensor in whole.tensors))
    stored = cache_features(deep(depths), faces(), tmp_path / "stored", batch_size=1)
    assert stored.depths == whole.depths
    for one, other in zip(stored.features(range(10)), whole.features(range(10)), strict=True):
        assert torch.equal(one, other)


def test_a_damaged_depth_is_found(tmp_path):
    stored = cache_features(deep(), faces(), tmp_path / "stored")
    path = tmp_path / "stored" / "features.3.bin"
    content = bytearray(path.read_bytes())
    content[40] ^= 1  # of row 1
    path.write_bytes(bytes(content))
    again = FeatureDataset(stored.key, stored.layout, None, folder=stored.folder, checks=stored.checks)
    again.features([0, 2])
    again.features([1], depths=[Depth("stem")])
    again.features([3], depths=[Depth("conv1")])
    with pytest.raises(FeatureCacheError, match=r"Row 1 .* is damaged: in 'features.3.bin'"):
        again.features([1])


@pytest.mark.parametrize(
    "depths",
    ["stem", {"stem": 1}, [["stem"]], [["stem", 1.5]], [[1, "stem"]], [None], [["stem", True]], [["stem", 1]] * 9, 7],
    ids=repr,
)
def test_an_index_with_depths_that_are_none_is_refused(depths, tmp_path):
    cache_features(deep(("stem",)), faces(), tmp_path / "stored")
    index = json.loads((tmp_path / "stored" / "index.json").read_text())
    index["key"]["depths"] = depths
    (tmp_path / "stored" / "index.json").write_bytes(with_digest(index, {}))
    for model in (deep(("stem",)), deep(None)):
        with pytest.raises(FeatureCacheError, match=r"cannot be read|are damaged|belong to|are without"):
            cache_features(model, faces(), tmp_path / "stored")


def test_streams_have_the_depths_of_the_table():
    config = small_config(depths=BOTH)
    table = pictures()
    expected = cache_features(get_ciao_model(residual_backbone(), config, preprocessing=SQUARE), table)
    model = get_ciao_model(residual_backbone(), config, preprocessing=SQUARE)
    stored = cache_features(model, table.to_iterable_dataset(num_shards=2))
    assert stored.depths == expected.depths and stored.key_hash == expected.key_hash
    assert all(map(torch.equal, stored.tensors, expected.tensors))
