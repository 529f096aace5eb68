"""An online training on disk: it goes on to the bit, and what shows faces is never published."""

from __future__ import annotations

import json

import pytest
import torch

from ciao_peft import CIAOModel, FeatureMemory, OnlineArguments, OnlineTrainer
from ciao_peft.errors import (
    AdapterFileError,
    AdapterNameError,
    BackboneMismatchError,
    MemoryMismatchError,
    UndoError,
)
from ciao_peft.saving import load_adapter
from helpers.corrections import assert_same_state, contrary, faces, filled, learner, mislabelled, state_of, trained
from helpers.fakes import bits, same_bits, tiny_backbone


def started(**changes):
    online = learner(**changes)
    online.update(*mislabelled(seed=5))
    online.update(*mislabelled(seed=6))
    return online


def again(folder, **changes):
    return OnlineTrainer.from_pretrained(CIAOModel(tiny_backbone(), input_size=(3, 16, 16)), folder, **changes)


@pytest.mark.parametrize("policy", ["reservoir", "class_balanced", "herding"])
@pytest.mark.parametrize("guard", [None, "given"])
def test_it_goes_on_to_the_bit(policy, guard, tmp_path):
    model = trained()
    memory = filled(model, policy=policy, max_bytes=60_000)
    online = started(model=model, memory=memory, guard=None if guard is None else faces(40, seed=11))
    resumed = again(online.save(tmp_path / "online"))
    assert_same_state(state_of(resumed), state_of(online))
    for batch in (mislabelled(seed=7), contrary(seed=8), mislabelled(seed=9)):
        one, other = online.update(*batch), resumed.update(*batch)
        assert (one.kept, one.guard_before, one.guard_after, one.drift) == (
            other.kept,
            other.guard_before,
            other.guard_after,
            other.drift,
        )
        assert_same_state(state_of(resumed), state_of(online))
    assert online.args == resumed.args


def test_what_the_guard_lost_before_counts_after_a_restart(tmp_path, monkeypatch):
    args = OnlineArguments(max_forgetting=2, learning_rate=3e-3, together=0)  # one after the other they lose more
    online = started(
        model=trained(inhibition_form="divisive", excitation_rank=0, contrastive_weight=1.0),
        args=args,
        guard=faces(40, seed=11),
    )
    online._lost = 1.9
    resumed = again(online.save(tmp_path / "online"))
    resumed.update(*contrary())
    assert resumed.version == online.version


def test_there_is_nothing_to_undo_after_a_restart(tmp_path):
    resumed = again(started().save(tmp_path / "online"))
    assert [version.number for version in resumed.versions] == [0, 1, 2]
    with pytest.raises(UndoError, match="none of them over a restart"):
        resumed.undo()
    resumed.update(*mislabelled(seed=7))
    assert resumed.undo().number == 2


def test_a_later_save_takes_the_place_of_the_first(tmp_path):
    online = started()
    online.save(tmp_path / "online")
    online.update(*mislabelled(seed=7))
    assert again(online.save(tmp_path / "online")).version == 3


def test_the_adapter_in_it_is_an_adapter_without_any_face(tmp_path):
    online = started(guard=faces(20, seed=11))
    online.save(tmp_path / "online")
    assert sorted(path.name for path in (tmp_path / "online").iterdir()) == [
        "adapter",
        "guard.safetensors",
        "memory.safetensors",
        "online.json",
        "recent.safetensors",
    ]
    saved = load_adapter(tmp_path / "online" / "adapter")
    assert same_bits(saved.tensors, bits(online.model.adapters["default"]))
    assert saved.training == {"online_version": 2}


def test_what_is_published_and_saved_alone_holds_no_face(tmp_path):
    online = started(guard=faces(20, seed=11))
    folder = online.model.save_pretrained(tmp_path / "alone")
    names = {path.name for path in folder.iterdir()}
    assert not {name for name in names if "memory" in name or "guard" in name or "online" in name}
    stored = [tensor for row in online.memory.state().rows for tensor in row.tensors]
    sizes = {tensor.numel() for tensor in stored}
    assert not any(
        tensor.numel() in sizes and tensor.shape == stored[0].shape for tensor in load_adapter(folder).tensors.values()
    )


def test_what_is_pushed_to_the_hub_holds_no_face(tmp_path, monkeypatch):
    from ciao_peft.hub import adapters

    pushed = {}
    monkeypatch.setattr(adapters, "publish", lambda repo, change, **hub: pushed.update(change(Head())))
    online = started(guard=faces(20, seed=11))
    online.model.push_to_hub("user/ciao-online")
    online.save(tmp_path / "online")
    adapters.publish_adapter(tmp_path / "online" / "adapter", "user/ciao-online")
    assert pushed
    assert not {name for name in pushed if "memory" in name or "guard" in name or "online" in name}


class Head:
    """An empty repository."""

    files = frozenset()

    @staticmethod
    def read(path):
        return None


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo.txt").write_text("mine")
    online = learner()
    with pytest.raises(AdapterFileError, match="photo"):
        online.save(tmp_path / "holiday")
    folder = online.save(tmp_path / "online")
    (folder / "photo.txt").write_text("mine")
    with pytest.raises(AdapterFileError, match="photo"):
        online.save(folder)
    assert (folder / "photo.txt").read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    with pytest.raises(AdapterFileError):
        online.save(tmp_path / "file")


@pytest.mark.parametrize(
    "name", ["online.json", "memory.safetensors", "guard.safetensors", "adapter/adapter_config.json"]
)
def test_a_damaged_folder_is_refused_and_the_model_stays(name, tmp_path):
    folder = started(guard=faces(20, seed=11)).save(tmp_path / "online")
    path = folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))
    model = CIAOModel(tiny_backbone(), input_size=(3, 16, 16))
    with pytest.raises(AdapterFileError):
        OnlineTrainer.from_pretrained(model, folder)
    assert list(model.adapters) == []
    path.unlink()
    with pytest.raises(AdapterFileError):
        OnlineTrainer.from_pretrained(model, folder)
    assert list(model.adapters) == []


def test_parts_of_two_saves_are_refused(tmp_path):
    online = started()
    one = online.save(tmp_path / "one")
    online.update(*mislabelled(seed=7))
    other = online.save(tmp_path / "other")
    (one / "memory.safetensors").write_bytes((other / "memory.safetensors").read_bytes())
    with pytest.raises(AdapterFileError, match="digest"):
        again(one)


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 2},
        {"more": 1},
        {"versions": []},
        {"versions": [["0", "x"]]},
        {"updates": -1},
        {"arguments": {"max_steps": 0}},
        {"arguments": {"more": 0}},
        {"drift": {"threshold": "x"}},
        {"drift": {}},
    ],
)
def test_a_state_with_a_digest_that_fits_is_still_not_believed(change, tmp_path):
    from ciao_peft.saving.digest import DIGEST, sha256_of, with_digest

    folder = started().save(tmp_path / "online")
    state = json.loads((folder / "online.json").read_text())
    files = {"memory.safetensors": sha256_of((folder / "memory.safetensors").read_bytes())}
    files["adapter"] = sha256_of((folder / "adapter" / "adapter_config.json").read_bytes())
    state = {key: value for key, value in state.items() if key != DIGEST} | change
    (folder / "online.json").write_bytes(with_digest(state, files))
    with pytest.raises(AdapterFileError):
        again(folder)


def test_another_encoder_is_refused_and_the_model_stays(tmp_path):
    folder = started().save(tmp_path / "online")
    model = CIAOModel(tiny_backbone(seed=9), input_size=(3, 16, 16))
    with pytest.raises(BackboneMismatchError):
        OnlineTrainer.from_pretrained(model, folder)
    half = CIAOModel(tiny_backbone().half(), input_size=(3, 16, 16))
    with pytest.raises(MemoryMismatchError):  # the adapter is at home there, the features are not
        OnlineTrainer.from_pretrained(half, folder)
    assert list(model.adapters) == list(half.adapters) == []


def test_a_name_that_is_taken_is_refused(tmp_path):
    online = started()
    folder = online.save(tmp_path / "online")
    with pytest.raises(AdapterNameError, match="loaded already"):
        OnlineTrainer.from_pretrained(online.model, folder)
    assert OnlineTrainer.from_pretrained(online.model, folder, "again").adapter_name == "again"
    assert online.model.active_adapter == "default"


def test_a_grown_adapter_comes_back_grown(tmp_path):
    online = started()
    online.update(mislabelled(1, seed=30)[0], "confused", add_class=True)
    resumed = again(online.save(tmp_path / "online"))
    assert resumed.model.peft_config["default"].id2label[3] == "confused"
    for one in (online, resumed):
        one.update(mislabelled(2, seed=31)[0], ["confused", "calm"])
    assert_same_state(state_of(resumed), state_of(online))


def test_settings_and_guard_can_be_others_after_a_restart(tmp_path):
    folder = started().save(tmp_path / "online")
    args = OnlineArguments(max_steps=3)
    resumed = again(folder, args=args, guard=faces(20, seed=11))
    assert resumed.args == args
    assert resumed.update(*mislabelled(seed=7)).guard_size == 20


def test_a_memory_alone_serves_another_trainer(tmp_path):
    online = started()
    path = online.memory.save(tmp_path / "memory.safetensors")
    other = learner(trained(), memory=FeatureMemory.load(path, online.model))
    assert len(other.memory) == len(online.memory)
    assert torch.equal(other.memory.labels, online.memory.labels)
