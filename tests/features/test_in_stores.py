"""Stored features in an object store: made once, fetched whole, with the index put last."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from ciao_peft import CIAOModel, cache_features
from ciao_peft.data import LabelSet, clips
from ciao_peft.errors import FeatureCacheError, RemoteError, RemoteNotFoundError, RemoteServerError, RemoteURLError
from ciao_peft.features import load_features
from helpers.fakes import SIZE, tiny_backbone
from helpers.features import counting, faces
from helpers.local_stores import Fault, LocalWeb

URL = "memory://stored/faces"


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    """fsspec's store in memory, empty, and an empty cache."""
    import fsspec

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = fsspec.filesystem("memory")
    store.store.clear()
    return store


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Makes this the cache of another machine."""

    def move(name="other"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))

    return move


def test_features_are_made_once_and_fetched_bit_for_bit(memory, elsewhere, monkeypatch):
    rows = counting(monkeypatch)
    stored = cache_features(tiny_backbone(), faces(), URL)
    assert sum(rows) == 10
    expected = cache_features(tiny_backbone(), faces()).features(range(10))
    rows.clear()
    elsewhere()
    again = cache_features(tiny_backbone(), faces(), URL)
    alone = load_features(URL, stored.labels)
    assert rows == []
    for found in (stored, again, alone):
        assert all(torch.equal(*pair) for pair in zip(found.features(range(10)), expected, strict=True))
    assert torch.equal(alone.labels, again.labels)
    assert alone.key == again.key


def test_the_index_is_put_last_and_nothing_but_features(memory):
    cache_features(tiny_backbone(), faces(), URL)
    put = sorted(memory.find("/stored"), key=lambda path: memory.info(path)["created"])
    assert put[-1] == "/stored/faces/index.json"
    assert {path.rpartition("/")[2] for path in put} == {"features.0.bin", "checksums.bin", "index.json"}


def test_splits_and_clips_have_places_of_their_own(memory, elsewhere):
    frames = [face | {"clip": n // 2, "labels": n // 2 % 3} for n, face in enumerate(faces(8))]
    splits = {"train": faces(6), "film": clips(frames, frames=2)}
    model = CIAOModel(tiny_backbone(), input_size=SIZE)
    stored = cache_features(model, splits, URL)
    elsewhere()
    again = cache_features(model, splits, URL)
    for split in splits:
        assert len(stored[split]) == len(again[split]) == len(splits[split])
        assert torch.equal(stored[split].features([1])[0], again[split].features([1])[0])
        assert torch.equal(stored[split].labels, again[split].labels)
    assert stored["film"].frames == 2


def test_features_of_something_else_are_refused_and_stay(memory):
    cache_features(tiny_backbone(), faces(), URL)
    before = {path: memory.cat_file(path) for path in memory.find("/stored")}
    with pytest.raises(FeatureCacheError, match="belong to other pictures"):
        cache_features(tiny_backbone(), faces(seed=2), URL)
    assert {path: memory.cat_file(path) for path in memory.find("/stored")} == before


def test_without_an_index_nothing_is_there(memory, elsewhere, monkeypatch):
    cache_features(tiny_backbone(), faces(), URL)
    memory.rm_file("/stored/faces/index.json")
    elsewhere()
    with pytest.raises(RemoteNotFoundError, match=r"has no 'index.json'"):
        load_features(URL)
    rows = counting(monkeypatch)
    cache_features(tiny_backbone(), faces(), URL)
    assert sum(rows) == 10
    assert len(load_features(URL)) == 10


def test_a_file_of_another_size_than_the_index_says_is_refused(memory, elsewhere):
    cache_features(tiny_backbone(), faces(), URL)
    whole = memory.cat_file("/stored/faces/features.0.bin")
    for content, why in ((whole + b"\0", "are fetched"), (whole[:-1], "bytes where")):
        memory.pipe_file("/stored/faces/features.0.bin", content)
        elsewhere(why)
        with pytest.raises((RemoteError, FeatureCacheError), match=why):
            load_features(URL)


def test_a_row_that_was_altered_in_the_store_is_noticed_when_it_is_read(memory, elsewhere):
    cache_features(tiny_backbone(), faces(), URL)
    content = bytearray(memory.cat_file("/stored/faces/features.0.bin"))
    row = len(content) // 10
    content[4 * row + 5] ^= 1  # no row at which the index looks when it is opened, of so few
    memory.pipe_file("/stored/faces/features.0.bin", bytes(content))
    elsewhere()
    with pytest.raises(FeatureCacheError, match="damaged"):
        load_features(URL).features(range(10))


@pytest.mark.parametrize("index", [b"{}", b"[]", b'{"key": {"views": 1, "num_samples": -1}}', b"no json"])
def test_an_index_that_is_none_is_refused(memory, index):
    memory.pipe_file("/stored/faces/index.json", index)
    with pytest.raises(FeatureCacheError, match=r"index\.json"):
        load_features(URL)


def test_labels_must_be_as_many_as_the_samples(memory):
    cache_features(tiny_backbone(), faces(), URL)
    with pytest.raises(FeatureCacheError, match=r"10 stored samples in .* and 3 labels"):
        load_features(URL, torch.zeros(3))


def test_labels_are_numbers_and_names_have_an_argument_of_their_own(memory):
    cache_features(tiny_backbone(), faces(), URL)
    names = LabelSet("single_label_classification", ("calm", "glad"))
    for labels in (names, ["calm"] * 10, object()):
        with pytest.raises(FeatureCacheError, match=r"`labels` must be numbers.*`label_names`"):
            load_features(URL, labels)
    for names in (
        "calm",
        {"calm": 0},
        2,
        {"calm", "glad"},
        np.array("a"),
        ["a", "a"],
        [],
        [None, None],
        bytearray(b"ab"),
    ):
        with pytest.raises(FeatureCacheError, match=r"`label_names` must be the names, each once, in the order"):
            load_features(URL, [0, 1] * 5, label_names=names)
    with pytest.raises(FeatureCacheError, match="`label_names` has 1 names, and `labels` go up to 1"):
        load_features(URL, [0, 1] * 5, label_names=["calm"])
    assert load_features(URL, [0, 1] * 5, label_names=("calm", "glad")).label_names == ["calm", "glad"]
    table = pd.DataFrame({"label": [0, 1] * 10}).iloc[10:]
    learned = torch.tensor([0.0, 1.0] * 5, requires_grad=True)
    for labels in ([0, 1] * 5, table["label"], np.array([0, 1] * 5, dtype=object), learned):
        label = load_features(URL, labels)[3]["labels"]
        assert label == 1 and not label.requires_grad


def test_features_come_from_a_web_server_and_a_fetch_goes_on_after_a_fault(memory, elsewhere):
    cache_features(tiny_backbone(), faces(), URL)
    with LocalWeb() as web:
        web.files = {path: memory.cat_file(path) for path in memory.find("/stored")}
        elsewhere()
        web.faulty.faults.append(Fault("GET", "features.0.bin", status=500))
        with pytest.raises(RemoteServerError):
            load_features(f"{web.url}/stored/faces")
        web.faulty.clear()
        assert len(load_features(f"{web.url}/stored/faces")) == 10
        with pytest.raises(RemoteURLError, match="Nothing is written"):
            cache_features(tiny_backbone(), faces(), f"{web.url}/stored/others")
