"""Loading that fails: each reason has its own error, and the model is as it was."""

from __future__ import annotations

import pytest
import torch
from huggingface_hub import constants

from ciao_peft import CIAOModel
from ciao_peft.errors import (
    AdapterFileError,
    AdapterNameError,
    HubError,
    HubFileError,
    HubGatedError,
    HubNotFoundError,
    HubOfflineError,
    HubRevisionError,
    HubServerError,
    HubTokenError,
)
from helpers.fakes import tiny_backbone
from helpers.published import CONFIG, PIXELS, PROBLEMS, WEIGHTS, assert_unchanged, fresh_model, state_of, trained_model

# The client's own way of sending a body; what it sends is checked by the server.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


def gate(repo):
    repo.gated = True


@pytest.mark.parametrize(
    ("arguments", "change", "error", "message"),
    [
        ({"source": "ann/no"}, None, HubNotFoundError, "'ann/no' is not on the Hub, or private. There is no folder of"),
        ({"source": "no/folder/here"}, None, AdapterFileError, "No adapter folder at 'no/folder/here'"),
        ({"token": "hf_nobody"}, None, HubTokenError, r"refused \(401\): the token is not valid \(Invalid credentials"),
        (
            {"revision": "v9"},
            None,
            HubRevisionError,
            "'ann/faces' at 'v9' does not exist.* Branches: 'main'. Tags: none",
        ),
        ({"token": False}, gate, HubGatedError, "'ann/faces' is gated: ask for access on http://127.0.0.1"),
        ({"token": "hf_bob"}, gate, HubGatedError, "'ann/faces' is gated: ask for access on http://127.0.0.1"),
        ({"subfolder": "../x"}, None, AdapterNameError, "must be a path inside the repository, such as 'fer'"),
        ({"subfolder": "/x"}, None, AdapterNameError, "must be a path inside the repository, such as 'fer'"),
        ({"adapter_name": "own"}, None, AdapterNameError, "'own' is loaded already"),
        ({}, lambda repo: repo.commit({WEIGHTS: None}), HubFileError, f"has no '{WEIGHTS}'. It has .*'{CONFIG}'"),
        (
            {},
            lambda repo: repo.commit({WEIGHTS: None, "adapter_model.bin": b"\x80"}),
            HubFileError,
            "Pickled weights are never read",
        ),
    ],
    ids=[
        *("missing", "no-folder", "wrong-token", "wrong-revision", "gated-anonymous", "gated-known", "outside"),
        *("absolute", "name-taken", "missing-file", "pickle-only"),
    ],
)
def test_every_refusal_has_its_own_error_and_changes_nothing(hub, published, arguments, change, error, message):
    if change is not None:
        change(hub.repos["ann/faces"])
    model = fresh_model()
    before = state_of(model)
    arguments = {"source": "ann/faces", **arguments}
    with pytest.raises(error, match=message) as raised:
        model.load_adapter(arguments.pop("source"), **arguments)
    assert type(raised.value) is error
    assert_unchanged(model, before)


def test_hub_errors_are_the_builtins_that_callers_expect():
    for error, builtin in [
        (HubNotFoundError, FileNotFoundError),
        (HubFileError, FileNotFoundError),
        (HubGatedError, PermissionError),
        (HubTokenError, PermissionError),
        (HubRevisionError, LookupError),
        (HubOfflineError, ConnectionError),
        (HubServerError, ConnectionError),
    ]:
        assert issubclass(error, HubError)
        assert issubclass(error, builtin)


@pytest.mark.parametrize(
    ("pattern", "fault", "error", "message"),
    [
        (
            "GET /api",
            {"cut_after": 0},
            HubOfflineError,
            r"the connection to http://127\S+ failed \(RemoteProtocolError",
        ),
        ("GET /api", {"cut_after": 40}, HubOfflineError, "the connection to .* failed"),
        ("GET /api", {"delay": 0.5}, HubOfflineError, r"the connection to .* failed \(ReadTimeout"),
        ("GET /api", {"drip": 0.1}, HubOfflineError, "has not finished its answer within 1.2 s.*HF_HUB_ETAG_TIMEOUT"),
        ("GET /api", {"status": 500}, HubServerError, "the Hub answered 500"),
        ("GET /api", {"status": 429}, HubServerError, "the Hub answered 429"),
        ("GET /api", {"replace": lambda body: b"<html>hotel wifi</html>"}, HubServerError, "'ann/faces'"),
        ("GET /api", {"replace": lambda body: b"[]"}, HubServerError, "'ann/faces'"),
        ("HEAD .*/adapter_config", {"cut_after": 0}, HubOfflineError, "the connection to .* failed"),
        ("HEAD .*/adapter_model", {"status": 503}, HubServerError, "the Hub answered 503"),
        ("GET .*/adapter_config", {"status": 500}, HubServerError, "the Hub answered 500"),
        ("GET /objects", {"status": 500}, HubServerError, "the Hub answered 500"),
        ("GET /objects", {"cut_after": 900}, HubOfflineError, "the connection to .* failed"),
    ],
    ids=[
        *("info-reset", "info-cut", "info-slow", "info-drips", "info-500", "info-429", "info-html", "info-other-json"),
        *("head-reset", "head-503", "config-500", "weights-500", "weights-cut"),
    ],
)
def test_every_fault_on_the_way_is_an_error_and_changes_nothing(
    hub, published, pattern, fault, error, message, monkeypatch, no_waiting
):
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    model = fresh_model()
    before = state_of(model)
    with hub.failing(pattern, **fault), pytest.raises(error, match=message) as raised:
        model.load_adapter("ann/faces", "new")
    assert type(raised.value) is error
    assert_unchanged(model, before)
    model.load_adapter("ann/faces", "new")  # nothing half downloaded stays
    assert torch.equal(model.read(PIXELS)["new"], published(PIXELS).logits)


def test_a_connection_cut_once_is_taken_up_again(hub, published, no_waiting):
    with hub.failing("GET /objects", cut_after=900, times=1):
        model = CIAOModel.from_pretrained(tiny_backbone(), "ann/faces").eval()
    assert torch.equal(model(PIXELS).logits, published(PIXELS).logits)


def test_a_commit_in_the_middle_of_loading_is_not_mixed_in(hub, published):
    other = trained_model(PROBLEMS["values"])

    def overtake():
        other.push_to_hub("ann/faces", token="hf_ann")

    with hub.failing("HEAD .*/adapter_model", before=overtake, times=1):
        model = CIAOModel.from_pretrained(tiny_backbone(), "ann/faces").eval()
    assert torch.equal(model(PIXELS).logits, published(PIXELS).logits)
    assert len(hub.asked(f"GET .*/{CONFIG}")) == 1
    newer = CIAOModel.from_pretrained(tiny_backbone(), "ann/faces").eval()
    assert torch.equal(newer(PIXELS).logits, other(PIXELS).logits)


def test_a_file_that_goes_away_in_the_middle_is_an_error(hub, published):
    model = fresh_model()
    before = state_of(model)
    with hub.failing("HEAD .*/adapter_model", before=lambda: hub.repos.clear()), pytest.raises(HubNotFoundError):
        model.load_adapter("ann/faces")
    assert_unchanged(model, before)
