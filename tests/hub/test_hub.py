"""Publishing and loading through the real client, against the local Hub of `helpers/hub_server.py`."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load, save

from ciao_peft import CIAOConfig, CIAOModel, get_ciao_model
from ciao_peft.errors import (
    AdapterConfigError,
    AdapterFileError,
    AdapterNameError,
    BackboneMismatchError,
    HubConflictError,
    HubError,
    HubFileError,
    HubGatedError,
    HubNotFoundError,
    HubOfflineError,
    HubRevisionError,
    HubServerError,
    HubTokenError,
)
from ciao_peft.hub import RepoFile, download, publish, read_pretrained
from ciao_peft.hub.adapters import publish_adapter
from helpers.fakes import SIZE, tiny_backbone

# The client's own way of sending a body; what it sends is checked by the server.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
CLASSES = CIAOConfig(
    problem_type="single_label_classification", num_labels=3, id2label={0: "sad", 1: "happy", 2: "odd"}
)
PROBLEMS = {
    "classes": CLASSES,
    "values": CIAOConfig(problem_type="regression", num_labels=2, id2label={0: "arousal", 1: "valence"}),
    "labels": CIAOConfig(problem_type="multi_label_classification", num_labels=4),
}


def trained_model(config=CLASSES, name="faces"):
    """A model whose adapter is none that a fresh one could be."""
    model = get_ciao_model(tiny_backbone(), config, name, input_size=SIZE)
    with torch.no_grad():
        for parameter in model.adapters[name].parameters():
            parameter += torch.rand_like(parameter) / 4
    return model.eval()


def fresh_model():
    """Another copy of the backbone, with an adapter of its own."""
    return get_ciao_model(tiny_backbone(), CLASSES, "own", input_size=SIZE).eval()


def state_of(model):
    tensors = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    return tensors, list(model.adapters), model.active_adapter, model.preprocessing, model.training


def assert_unchanged(model, before):
    tensors, *rest = state_of(model)
    assert rest == list(before[1:])
    assert tensors.keys() == before[0].keys()
    assert all(torch.equal(tensor, before[0][key]) for key, tensor in tensors.items())


PIXELS = torch.rand((4, *SIZE), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def no_waiting(monkeypatch):
    """The client waits between its tries; what it waits for does not come here."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


@pytest.fixture
def published(hub):
    """`ann/faces` on the Hub, and the model it came from."""
    model = trained_model()
    model.push_to_hub("ann/faces", token="hf_ann")
    hub.requests.clear()
    return model


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
    assert set(hub.files("ann/faces")) == {CONFIG, WEIGHTS, CARD}
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
    assert set(hub.files("ann/faces")) == {CONFIG, WEIGHTS, CARD, "notes.txt"}


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
        *(f"{name}/{file}" for name in PROBLEMS for file in (CONFIG, WEIGHTS, CARD)),
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


# -- refusals: each its own error, and the model as it was -------------------------------------------------------------


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
        *("info-reset", "info-cut", "info-slow", "info-500", "info-429", "info-html", "info-other-json"),
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


# -- damage ------------------------------------------------------------------------------------------------------------


def cached(name):
    (path,) = Path(constants.HF_HUB_CACHE).glob(f"models--ann--faces/snapshots/*/{name}")
    return path


def flip(content):
    return content[:-1] + bytes([content[-1] ^ 1])


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


# -- publishing goes wrong ---------------------------------------------------------------------------------------------


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
    assert set(hub.files("ann/faces")) == {CONFIG, WEIGHTS, CARD}
    fresh_model().load_adapter("ann/faces")


# -- files of any kind -------------------------------------------------------------------------------------------------


def test_publish_and_read_know_nothing_of_adapters(hub):
    commit = publish("ann/notes", lambda head: {"note.txt": b"hello"}, token="hf_ann")
    text, snapshot = read_pretrained("ann/notes", lambda f: (f / "note.txt").read_text(), [RepoFile("note.txt", 10)])
    assert (text, snapshot.revision, str(snapshot)) == ("hello", commit.oid, f"ann/notes@{commit.oid[:8]}")
