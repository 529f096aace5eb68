"""What is fetched, what the cache serves, and what is fetched anew because it was damaged."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load, save

from ciao_peft import CIAOModel
from ciao_peft.errors import (
    AdapterConfigError,
    AdapterFileError,
    BackboneMismatchError,
    HubFileError,
    HubOfflineError,
)
from ciao_peft.hub import RepoFile, download
from ciao_peft.saving.digest import digest_of_folder, sha256_of
from helpers.fakes import tiny_backbone
from helpers.published import CONFIG, PIXELS, WEIGHTS, assert_unchanged, flip, fresh_model, state_of

# The client's own way of sending a body; what it sends is checked by the server.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


# -- requests ----------------------------------------------------------------------------------------------------------


def test_a_cached_commit_costs_no_request(hub, published):
    fresh_model().load_adapter("ann/faces")
    hub.requests.clear()
    fresh_model().load_adapter("ann/faces", revision=hub.repos["ann/faces"].branches["main"])
    assert not hub.requests


def test_a_cached_branch_costs_one_request(hub, published):
    fresh_model().load_adapter("ann/faces")
    hub.requests.clear()
    fresh_model().load_adapter("ann/faces")
    assert hub.asked() == ["GET /api/models/ann/faces"]


def test_each_file_is_fetched_once_and_nothing_else(hub, published):
    hub.repos["ann/faces"].commit({"pytorch_model.bin": b"\x80", "big.safetensors": b"x"})
    fresh_model().load_adapter("ann/faces")
    fetched = [line.rpartition("/")[2] for line in hub.asked("^GET .*/resolve/|^GET /objects/")]
    assert fetched == [CONFIG, hashlib.sha256(hub.files("ann/faces")[WEIGHTS]).hexdigest()]


def test_no_weights_are_fetched_that_are_too_large(hub, published):
    files = [RepoFile(CONFIG, 10**6), RepoFile(WEIGHTS, 100)]
    with pytest.raises(HubFileError, match=rf"'{WEIGHTS}' in 'ann/faces' has \d+ bytes; at most 100 are fetched"):
        download("ann/faces", files)
    assert hub.asked() == ["GET /api/models/ann/faces"]


def test_force_download_fetches_again(hub, published):
    fresh_model().load_adapter("ann/faces")
    hub.requests.clear()
    fresh_model().load_adapter("ann/faces", force_download=True)
    assert len(hub.asked("^GET .*/resolve/|^GET /objects/")) == 2


def test_the_cache_can_lie_elsewhere(hub, published, tmp_path):
    fresh_model().load_adapter("ann/faces", cache_dir=tmp_path / "elsewhere")
    assert list((tmp_path / "elsewhere").glob("models--ann--faces/snapshots/*/adapter_config.json"))
    assert not Path(constants.HF_HUB_CACHE).exists()


# -- without network ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", [None, "main", "v1", "commit"])
def test_offline_what_was_loaded_once_loads_again(hub, published, monkeypatch, revision):
    hub.repos["ann/faces"].tags["v1"] = hub.repos["ann/faces"].branches["main"]
    revision = hub.repos["ann/faces"].branches["main"] if revision == "commit" else revision
    fresh_model().load_adapter("ann/faces", revision=revision)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model = CIAOModel.from_pretrained(tiny_backbone(), "ann/faces", revision=revision).eval()
    assert torch.equal(model(PIXELS).logits, published(PIXELS).logits)
    assert not hub.requests


def test_offline_what_was_never_loaded_is_an_error_that_says_so(hub, published, monkeypatch):
    model = fresh_model()
    before = state_of(model)
    with pytest.raises(HubOfflineError, match="'ann/faces' is not in the cache, and `local_files_only` was given"):
        model.load_adapter("ann/faces", local_files_only=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubOfflineError, match="'ann/faces' at 'v2' is not in the cache, and HF_HUB_OFFLINE is set"):
        model.load_adapter("ann/faces", revision="v2")
    with pytest.raises(HubOfflineError, match="Nothing was published to 'ann/faces': HF_HUB_OFFLINE is set"):
        model.push_to_hub("ann/faces")
    assert_unchanged(model, before)
    assert not hub.requests


@pytest.mark.parametrize(
    "fault",
    [{"cut_after": 0}, {"status": 500}, {"status": 503}, {"status": 429}, {"delay": 0.5}],
    ids=["reset", "500", "503", "429", "slow"],
)
def test_while_the_hub_is_away_the_cache_serves(hub, published, fault, monkeypatch, caplog):
    fresh_model().load_adapter("ann/faces")
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    with hub.failing("^(GET|HEAD) ", **fault):
        model = CIAOModel.from_pretrained(tiny_backbone(), "ann/faces").eval()
    assert torch.equal(model(PIXELS).logits, published(PIXELS).logits)
    assert "from the cache" in caplog.text


# -- damage ------------------------------------------------------------------------------------------------------------


def cached(name):
    (path,) = Path(constants.HF_HUB_CACHE).glob(f"models--ann--faces/snapshots/*/{name}")
    return path


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize(
    "damage", [flip, lambda content: content[:100], lambda content: b""], ids=["bit", "cut", "empty"]
)
def test_a_cache_that_was_damaged_is_fetched_anew(hub, published, name, damage):
    fresh_model().load_adapter("ann/faces")
    blob = cached(name).resolve()
    blob.chmod(0o644)
    blob.write_bytes(damage(blob.read_bytes()) if name == WEIGHTS else damage(blob.read_bytes()).replace(b"}", b"", 1))
    hub.requests.clear()
    model = CIAOModel.from_pretrained(tiny_backbone(), "ann/faces", revision=hub.repos["ann/faces"].branches["main"])
    assert torch.equal(model.eval()(PIXELS).logits, published(PIXELS).logits)
    assert hub.asked(f"GET .*{CONFIG}")


def test_bytes_swapped_on_the_way_are_fetched_once_more(hub, published):
    with hub.failing("GET /objects", replace=flip, times=1):
        model = CIAOModel.from_pretrained(tiny_backbone(), "ann/faces").eval()
    assert torch.equal(model(PIXELS).logits, published(PIXELS).logits)
    assert len(hub.asked("GET /objects")) == 2


def test_bytes_swapped_always_are_an_error_after_two_tries(hub, published):
    model = fresh_model()
    before = state_of(model)
    with hub.failing("GET /objects", replace=flip), pytest.raises(AdapterFileError, match="does not have the checksum"):
        model.load_adapter("ann/faces")
    assert len(hub.asked("GET /objects")) == 2
    assert_unchanged(model, before)


def test_a_damaged_cache_without_network_is_an_error(hub, published):
    fresh_model().load_adapter("ann/faces")
    blob = cached(WEIGHTS).resolve()
    blob.chmod(0o644)
    blob.write_bytes(flip(blob.read_bytes()))
    model = fresh_model()
    before = state_of(model)
    with pytest.raises(AdapterFileError, match="does not have the checksum its config promises"):
        model.load_adapter("ann/faces", local_files_only=True)
    with hub.failing("", cut_after=0), pytest.raises(HubOfflineError):
        model.load_adapter("ann/faces")
    assert_unchanged(model, before)


def hostile(files, change):
    """The adapter's files after `change(record, tensors)`, with a checksum that is right."""
    record, tensors = json.loads(files[CONFIG]), load(files[WEIGHTS])
    change(record, tensors)
    weights = save(tensors, metadata={"format": "pt"})
    record |= {"weights_sha256": hashlib.sha256(weights).hexdigest(), "weights_bytes": len(weights)}
    covered = {WEIGHTS: sha256_of(weights)}
    covered |= {name: sha256_of(files[name]) for name in files if name == "preprocessor_config.json"}
    record |= {"digest": digest_of_folder(record, covered)}
    return {CONFIG: json.dumps(record).encode(), WEIGHTS: weights}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda r, t: r.update(format_version=99), AdapterConfigError, "format_version 99.*Upgrade"),
        (lambda r, t: r.update(auto_map="evil.py"), AdapterConfigError, "unknown entries 'auto_map'"),
        (lambda r, t: r["config"].update(hidden_sizes=[10**6] * 16), AdapterFileError, "lacks numbers for a head"),
        (lambda r, t: r["config"].update(num_labels=10**9), AdapterConfigError, "`num_labels` must be"),
        (lambda r, t: r["config"].update(target_modules=["../0"]), (AdapterConfigError, ValueError), "../0"),
        (lambda r, t: r["backbone_signature"].update(architecture="0" * 16), BackboneMismatchError, "another architec"),
        (lambda r, t: t.update({"backbone.0.weight": torch.zeros(8, 3, 3, 3)}), AdapterFileError, "backbone.0.weight"),
        (lambda r, t: t.pop("inhibition.0.raw_decay"), AdapterFileError, "lacks 'inhibition.0.raw_decay'"),
        (lambda r, t: t["inhibition.0.raw_decay"].fill_(float("nan")), AdapterFileError, "NaN or infinite"),
    ],
    ids=[
        *("newer-format", "unknown-key", "memory-bomb", "too-many-labels", "no-such-module", "other-backbone"),
        *("backbone-tensor", "missing-tensor", "nan"),
    ],
)
def test_a_hostile_adapter_is_refused_and_changes_nothing(hub, published, change, error, message):
    hub.repos["ann/faces"].commit(hostile(hub.files("ann/faces"), change))
    model = fresh_model()
    before = state_of(model)
    with pytest.raises(error, match=message):
        model.load_adapter("ann/faces")
    assert_unchanged(model, before)
