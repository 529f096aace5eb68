"""Adapters on the Hub, there and back through the real client, against the server of `helpers/hub_server.py`."""

from __future__ import annotations

import pytest
import torch

from ciao_peft import CIAOModel
from ciao_peft.errors import (
    HubFileError,
    HubNotFoundError,
)
from ciao_peft.hub import RepoFile, publish, read_pretrained
from helpers.fakes import tiny_backbone
from helpers.published import CARD, CONFIG, PIXELS, PROBLEMS, WEIGHTS, fresh_model, trained_model

# The client's own way of sending a body; what it sends is checked by the server.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


# -- there and back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", PROBLEMS)
def test_what_was_published_is_loaded_bit_for_bit(hub, problem):
    model = trained_model(PROBLEMS[problem])
    commit = model.push_to_hub("ann/faces", token="hf_ann")
    assert commit.commit_url == f"{hub.url}/ann/faces/commit/{hub.repos['ann/faces'].branches['main']}"
    loaded = CIAOModel.from_pretrained(tiny_backbone(), "ann/faces").eval()
    assert loaded.active_adapter == "faces"
    assert loaded.peft_config["faces"] == model.peft_config["faces"]
    assert torch.equal(loaded(PIXELS).logits, model(PIXELS).logits)
    other = fresh_model()
    assert other.load_adapter("ann/faces", "read") == "read"
    assert torch.equal(other.read(PIXELS)["read"], model(PIXELS).logits)
    assert other.active_adapter == "own"


def test_publishing_is_one_commit_of_exactly_the_adapters_files(hub, published):
    assert set(hub.files("ann/faces")) == {CONFIG, WEIGHTS, CARD, "config.json"}
    assert [commit.title for commit in hub.repos["ann/faces"].commits.values()] == [
        "initial commit",
        "Upload with ciao_peft",
    ]


def test_publishing_the_same_again_makes_no_commit(hub, published):
    first = hub.repos["ann/faces"].branches["main"]
    assert published.push_to_hub("ann/faces", token="hf_ann").oid == first
    assert not hub.asked("/commit/")


def test_what_the_new_adapter_lacks_is_taken_away(hub, published):
    hub.repos["ann/faces"].commit({"saliency.png": b"\x89PNG", "notes.txt": b"mine"})
    published.push_to_hub("ann/faces", token="hf_ann")
    assert set(hub.files("ann/faces")) == {CONFIG, WEIGHTS, CARD, "config.json", "notes.txt"}


def test_private_repositories_open_to_their_owner_alone(hub):
    trained_model().push_to_hub("ann/hidden", token="hf_ann", private=True)
    assert hub.repos["ann/hidden"].private
    for token in (None, "hf_bob"):
        with pytest.raises(HubNotFoundError, match="'ann/hidden' is not on the Hub, or private"):
            fresh_model().load_adapter("ann/hidden", token=token or False)
    fresh_model().load_adapter("ann/hidden", token="hf_ann")


def test_a_revision_is_a_branch_of_its_own(hub, published):
    other = trained_model(PROBLEMS["values"])
    other.push_to_hub("ann/faces", token="hf_ann", revision="values", commit_message="two values")
    assert hub.repos["ann/faces"].at("values").title == "two values"
    model = fresh_model()
    model.load_adapter("ann/faces", "values", revision="values")
    model.load_adapter("ann/faces", "main")
    assert torch.equal(model.read(PIXELS)["values"], other(PIXELS).logits)
    assert torch.equal(model.read(PIXELS)["main"], published(PIXELS).logits)


def test_a_tag_and_a_commit_are_revisions_too(hub, published):
    repo = hub.repos["ann/faces"]
    repo.tags["v1"] = first = repo.branches["main"]
    trained_model(PROBLEMS["values"]).push_to_hub("ann/faces", token="hf_ann")
    for revision in ("v1", first):
        model = CIAOModel.from_pretrained(tiny_backbone(), "ann/faces", revision=revision).eval()
        assert torch.equal(model(PIXELS).logits, published(PIXELS).logits)


def test_a_proposal_leaves_the_main_branch_alone_and_can_be_tried(hub, published):
    before = hub.repos["ann/faces"].branches["main"]
    other = trained_model(PROBLEMS["labels"])
    commit = other.push_to_hub("ann/faces", token="hf_bob", create_pr=True)
    assert commit.pr_url == f"{hub.url}/ann/faces/discussions/1"
    assert hub.repos["ann/faces"].branches["main"] == before
    model = CIAOModel.from_pretrained(tiny_backbone(), "ann/faces", revision="refs/pr/1").eval()
    assert torch.equal(model(PIXELS).logits, other(PIXELS).logits)


def test_several_adapters_share_a_repository(hub):
    models = {name: trained_model(config, name) for name, config in PROBLEMS.items()}
    for name, model in models.items():
        model.push_to_hub("ann/worlds", subfolder=name, token="hf_ann")
    assert set(hub.files("ann/worlds")) == {
        CARD,
        *(f"{name}/{file}" for name in PROBLEMS for file in (CONFIG, WEIGHTS, CARD, "config.json")),
    }
    assert all(f"]({name}/{CARD})" in hub.files("ann/worlds")[CARD].decode() for name in PROBLEMS)
    assert (
        'from_pretrained(backbone, "ann/worlds", subfolder="labels")'
        in hub.files("ann/worlds")[f"labels/{CARD}"].decode()
    )
    reader = fresh_model()
    for name in PROBLEMS:
        assert reader.load_adapter("ann/worlds", subfolder=name) == name
    answers = reader.read(PIXELS)
    assert all(torch.equal(answers[name], models[name](PIXELS).logits) for name in PROBLEMS)
    with pytest.raises(
        HubFileError, match=r"Give `subfolder=`: 'adapter_config\.json' lies in 'classes', 'labels', 'val"
    ):
        reader.load_adapter("ann/worlds")


def test_a_folder_goes_before_a_repository_of_that_name(hub, published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained_model(PROBLEMS["values"]).save_pretrained("ann/faces")
    assert CIAOModel.from_pretrained(tiny_backbone(), "ann/faces").peft_config["faces"].num_labels == 2
    assert not hub.requests


def test_the_hub_is_told_which_library_asks(hub, published):
    fresh_model().load_adapter("ann/faces")
    published.push_to_hub("ann/faces", token="hf_ann")
    assert all(request.agent.startswith("ciao_peft/") for request in hub.requests if request.port == "hub")


def test_the_token_goes_to_the_hub_and_not_to_where_it_points(hub):
    trained_model().push_to_hub("ann/hidden", token="hf_ann", private=True)
    fresh_model().load_adapter("ann/hidden", token="hf_ann")
    assert {request.token for request in hub.requests if request.port == "hub"} == {"hf_ann"}
    assert {request.method for request in hub.requests if request.port == "cdn"} == {"PUT", "GET"}
    assert {request.token for request in hub.requests if request.port == "cdn"} == {None}


# -- files of any kind -------------------------------------------------------------------------------------------------


def test_publish_and_read_know_nothing_of_adapters(hub):
    commit = publish("ann/notes", lambda head: {"note.txt": b"hello"}, token="hf_ann")
    text, snapshot = read_pretrained("ann/notes", lambda f: (f / "note.txt").read_text(), [RepoFile("note.txt", 10)])
    assert (text, snapshot.revision, str(snapshot)) == ("hello", commit.oid, f"ann/notes@{commit.oid[:8]}")
