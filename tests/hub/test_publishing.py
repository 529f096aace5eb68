"""Publishing that fails, and publishers who get in each other's way."""

from __future__ import annotations

import hashlib
import json
import threading

import pytest
import torch
from huggingface_hub import constants

from ciao_peft import CIAOModel
from ciao_peft.errors import (
    AdapterFileError,
    HubConflictError,
    HubNotFoundError,
    HubOfflineError,
    HubServerError,
    HubTokenError,
)
from ciao_peft.hub.adapters import publish_adapter
from helpers.fakes import tiny_backbone
from helpers.published import CARD, CONFIG, PIXELS, PROBLEMS, WEIGHTS, flip, fresh_model, trained_model

# The client's own way of sending a body; what it sends is checked by the server.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


@pytest.mark.parametrize(
    ("repo_id", "token", "error", "message"),
    [
        (
            "ann/faces",
            "hf_bob",
            HubTokenError,
            r"refused \(403\): the token lacks the right \(You don't have the rights",
        ),
        ("ann/faces", "hf_ann_reads", HubTokenError, r"refused \(403\): the token lacks the right"),
        ("ann/new", "hf_bob", HubTokenError, r"refused \(403\): the token lacks the right"),
        ("ann/faces", "hf_nobody", HubTokenError, r"refused \(401\): the token is not valid"),
        ("faces", "hf_ann", HubNotFoundError, "'faces' is no name of a repository; give `user/name`"),
    ],
    ids=["others", "read-only", "others-new", "wrong", "no-user"],
)
def test_who_may_not_publish_is_told_why(hub, published, repo_id, token, error, message):
    before = hub.files("ann/faces")
    with pytest.raises(error, match=message):
        trained_model(PROBLEMS["values"]).push_to_hub(repo_id, token=token)
    assert hub.files("ann/faces") == before
    assert set(hub.repos) == {"ann/faces"}


@pytest.mark.parametrize(
    ("pattern", "fault", "error"),
    [
        ("POST .*/preupload/", {"status": 500}, HubServerError),
        ("PUT /objects/", {"status": 500}, HubServerError),
        ("PUT /objects/", {"cut_after": 0}, HubOfflineError),
        ("POST .*/commit/", {"status": 500}, HubServerError),
        ("POST .*/commit/", {"cut_after": 0, "before": None}, HubOfflineError),
    ],
    ids=["preupload-500", "upload-500", "upload-reset", "commit-500", "commit-reset"],
)
def test_a_failed_push_says_so(hub, published, pattern, fault, error, no_waiting):
    with hub.failing(pattern, **fault), pytest.raises(error, match="'ann/faces'"):
        trained_model(PROBLEMS["values"]).push_to_hub("ann/faces", token="hf_ann")
    files = hub.files("ann/faces")
    assert json.loads(files[CONFIG])["weights_sha256"] == hashlib.sha256(files[WEIGHTS]).hexdigest()


def test_a_damaged_folder_is_not_published(hub, tmp_path):
    folder = trained_model().save_pretrained(tmp_path / "adapter")
    (folder / WEIGHTS).write_bytes(flip((folder / WEIGHTS).read_bytes()))
    with pytest.raises(AdapterFileError, match="checksum"):
        publish_adapter(folder, "ann/faces", token="hf_ann")
    assert not hub.requests


def test_two_publishers_at_once_never_mix_their_files(hub, published):
    one, other = trained_model(PROBLEMS["values"]), trained_model(PROBLEMS["labels"])

    def overtake():
        other.push_to_hub("ann/faces", token="hf_ann", commit_message="theirs")

    with hub.failing("POST .*/commit/", before=overtake, times=1):
        one.push_to_hub("ann/faces", token="hf_ann", commit_message="mine")
    titles = [commit.title for commit in hub.repos["ann/faces"].commits.values()]
    assert titles[2:] == ["theirs", "mine"]
    loaded = CIAOModel.from_pretrained(tiny_backbone(), "ann/faces").eval()
    assert torch.equal(loaded(PIXELS).logits, one(PIXELS).logits)


def test_who_is_always_overtaken_gives_up(hub, published):
    numbers = iter(range(100))

    def overtake():
        hub.repos["ann/faces"].commit({"n.txt": str(next(numbers)).encode()})

    with hub.failing("POST .*/commit/", before=overtake), pytest.raises(HubConflictError, match="in between, 4 times"):
        trained_model(PROBLEMS["values"]).push_to_hub("ann/faces", token="hf_ann")
    assert not any(
        commit.title == "Upload with ciao_peft" for commit in list(hub.repos["ann/faces"].commits.values())[2:]
    )


def test_threads_that_publish_at_once_leave_one_whole_adapter(hub, published):
    models = [trained_model(config) for config in PROBLEMS.values()]
    failed = []

    def push(model):
        try:
            model.push_to_hub("ann/faces", token="hf_ann")
        except HubConflictError as error:
            failed.append(error)

    threads = [threading.Thread(target=push, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failed) < len(models)
    loaded = CIAOModel.from_pretrained(tiny_backbone(), "ann/faces").eval()(PIXELS).logits
    assert any(loaded.shape == m(PIXELS).logits.shape and torch.equal(loaded, m(PIXELS).logits) for m in models)


def test_through_xet_it_is_one_whole_commit_too(hub, tmp_path, monkeypatch):
    pytest.importorskip("hf_xet")
    folder = trained_model().save_pretrained(tmp_path / "faces")
    weights = (folder / WEIGHTS).read_bytes()
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.xet_folder = tmp_path / "xet"
    hub.xet_folder.mkdir()
    hub.objects[hashlib.sha256(weights).hexdigest()] = weights  # with Xet the bytes do not pass through the Hub
    publish_adapter(folder, "ann/faces", token="hf_ann")
    assert any(path.is_file() for path in hub.xet_folder.rglob("*"))
    assert not hub.asked("^PUT|/lfs/")
    assert len(hub.asked("POST .*/commit/")) == 1
    assert set(hub.files("ann/faces")) == {CONFIG, WEIGHTS, CARD, "config.json"}
    fresh_model().load_adapter("ann/faces")
