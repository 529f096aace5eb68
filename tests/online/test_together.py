"""The last corrections are learned together: one by one costs what all at once costs, and every state is whole."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from ciao_peft import CIAOModel, OnlineTrainer
from ciao_peft.errors import AdapterFileError, CIAOError, ConfigError
from ciao_peft.online import Faces
from ciao_peft.online.memory_file import unpack
from ciao_peft.online.recent import Recent, together_with
from ciao_peft.online.saving import RECENT_FILE, STATE_FILE
from ciao_peft.saving.digest import DIGEST, sha256_of, with_digest
from helpers.corrections import (
    KEEP_ALL,
    assert_same_state,
    contrary,
    faces,
    filled,
    learner,
    mislabelled,
    pixels_of,
    state_of,
    trained,
)
from helpers.fakes import tiny_backbone

APART = dataclasses.replace(KEEP_ALL, together=0)


def weights_of(online):
    return {key: value.clone() for key, value in online.model.adapters[online.adapter_name].state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def moved(online, before):
    return sum((value - before[key]).square().sum() for key, value in weights_of(online).items()).item() ** 0.5


def one_by_one(online, pixels, names):
    for face, name in zip(pixels, names, strict=True):
        online.update(face, name)


def test_every_update_starts_from_the_adapter_before_the_first():
    online, other = learner(), learner()
    before = weights_of(online)
    pixels, names = contrary(3)
    one_by_one(online, pixels, names)
    assert same(online._recent.tensors, before) and len(online._recent.faces) == 3
    # What the third update learned, from where: the same as by hand.
    one_by_one(other, pixels[:2], names[:2])
    other.model.adapters["default"].load_state_dict(before)
    other._left = other.model.adapters["default"], other._bits()
    other.update(pixels[2], names[2])
    assert same(weights_of(online), weights_of(other))


def test_apart_each_update_starts_where_the_last_one_ended_and_goes_further():
    together, apart = learner(), learner(args=APART)
    before = weights_of(together)
    pixels, names = contrary(8)
    for online in (together, apart):
        one_by_one(online, pixels, names)
    assert apart._recent is None
    assert moved(together, before) < moved(apart, before)


def test_after_so_many_the_next_one_begins_anew():
    online = learner(args=dataclasses.replace(KEEP_ALL, together=3))
    pixels, names = contrary(4)
    one_by_one(online, pixels[:2], names[:2])
    assert len(online._recent.faces) == 2
    online.update(pixels[2], names[2])
    assert online._recent is None
    there = weights_of(online)
    online.update(pixels[3], names[3])
    assert same(online._recent.tensors, there) and len(online._recent.faces) == 1


def test_a_face_that_is_corrected_again_is_learned_with_its_new_label_alone():
    online = learner()
    face, name = mislabelled(1)
    online.update(face, name)
    assert online.update(face, "angry").right_after == 1
    assert online._recent.faces.labels.tolist() == [[1, 0, 0]]


def test_undo_takes_back_what_is_learned_together_as_well():
    online, other = learner(), learner()
    pixels, names = contrary(3)
    one_by_one(online, pixels[:2], names[:2])
    online.undo()
    other.update(pixels[0], names[0])
    for each in (online, other):
        each._updates = 5  # what is drawn goes by it
        each.update(pixels[2], names[2])
    assert same(weights_of(online), weights_of(other))
    while len(online.versions) > 1:
        online.undo()
    assert online._recent is None


def test_a_class_that_comes_and_a_change_elsewhere_begin_anew():
    online = learner()
    online.update(*mislabelled())
    assert online._recent is not None
    online.add_class("confused")
    assert online._recent is None
    online.update(*mislabelled(seed=7))
    online.update(pixels_of(faces(1, seed=9)), ["moved"], add_class=True)
    assert online._recent is None and online.model.config.num_labels == 5
    online.update(*mislabelled(seed=8))
    with torch.no_grad():
        next(iter(online.model.adapters["default"].parameters())).add_(0.01)
    there = weights_of(online)
    online.update(contrary(1)[0], ["bored"])
    assert same(online._recent.tensors, there)


def test_what_the_guard_takes_back_is_not_learned_later():
    online = learner(args=dataclasses.replace(KEEP_ALL, max_forgetting=0, min_guard=5))
    online.update(pixels_of(faces(1, seed=3)), ["angry"])
    before, recent = state_of(online), online._recent
    some, names = contrary(6)
    undone = [face for face, name in zip(some, names, strict=True) if not online.update(face, name).kept]
    if undone:
        assert all(online.memory.find(online.model.extract_features(face[None])) == [-1] for face in undone)
        learned = together_with(online._recent, Faces(online.model.extract_features(undone[0][None]), torch.eye(3)[:1]))
        assert len(learned) == (0 if online._recent is None else len(online._recent.faces)) + 1
    assert recent is not None and len(before[1]) <= len(online.memory)


def test_it_goes_on_to_the_bit_after_a_restart(tmp_path):
    online = learner()
    pixels, names = contrary(4)
    one_by_one(online, pixels[:2], names[:2])
    folder = online.save(tmp_path / "online")
    assert (folder / RECENT_FILE).is_file()
    again = OnlineTrainer.from_pretrained(CIAOModel(tiny_backbone()), folder)
    assert same(again._recent.tensors, online._recent.tensors)
    for each in (online, again):
        one_by_one(each, pixels[2:], names[2:])
    assert_same_state(state_of(online), state_of(again))
    fresh = learner()
    assert not (fresh.save(folder) / RECENT_FILE).exists()


def test_no_published_adapter_holds_it(tmp_path):
    online = learner()
    online.update(*mislabelled())
    folder = online.save(tmp_path / "online")
    assert RECENT_FILE not in {path.name for path in (folder / "adapter").iterdir()}


DAMAGE = {
    "NaN in the adapter": lambda tensors: {
        **tensors,
        _adapter_key(tensors): tensors[_adapter_key(tensors)] * torch.nan,
    },
    "no adapter": lambda tensors: {name: one for name, one in tensors.items() if not name.startswith("adapter.")},
    "less of it": lambda tensors: {name: one for name, one in tensors.items() if name != _adapter_key(tensors)},
    "NaN in a label": lambda tensors: {**tensors, "labels": tensors["labels"] * torch.nan},
    "fewer labels": lambda tensors: {**tensors, "labels": tensors["labels"][:1].contiguous()},
    "more classes": lambda tensors: {**tensors, "labels": torch.nn.functional.pad(tensors["labels"], (0, 2))},
    "other features": lambda tensors: {**tensors, "features.0": tensors["features.0"][:, :1].contiguous()},
    "no faces": lambda tensors: {name: one for name, one in tensors.items() if name.startswith("adapter.")},
}


def _adapter_key(tensors):
    return min(name for name in tensors if name.startswith("adapter."))


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_file_is_refused_though_it_is_signed(what, tmp_path):
    from ciao_peft.online.memory_file import pack

    online = learner()
    online.update(*mislabelled())
    folder = online.save(tmp_path / "online")
    tensors, record = unpack((folder / RECENT_FILE).read_bytes(), RECENT_FILE)
    (folder / RECENT_FILE).write_bytes(pack(DAMAGE[what](tensors), record))
    model = CIAOModel(tiny_backbone())
    with pytest.raises(AdapterFileError, match=r"digest|changed|not as"):
        OnlineTrainer.from_pretrained(model, folder)
    state = json.loads((folder / STATE_FILE).read_text())
    files = {name: sha256_of((folder / name).read_bytes()) for name in ("memory.safetensors", RECENT_FILE)}
    files["adapter"] = sha256_of((folder / "adapter" / "adapter_config.json").read_bytes())
    state = {key: value for key, value in state.items() if key != DIGEST}
    (folder / STATE_FILE).write_bytes(with_digest(state, files))
    with pytest.raises(CIAOError):
        OnlineTrainer.from_pretrained(model, folder)
    assert not model.adapters


def test_a_folder_from_before_still_loads(tmp_path):
    online = learner(args=APART)
    online.update(*mislabelled())
    folder = online.save(tmp_path / "online")
    state = json.loads((folder / STATE_FILE).read_text())
    files = {"memory.safetensors": sha256_of((folder / "memory.safetensors").read_bytes())}
    files["adapter"] = sha256_of((folder / "adapter" / "adapter_config.json").read_bytes())
    del state[DIGEST], state["arguments"]["together"]
    (folder / STATE_FILE).write_bytes(with_digest(state, files))
    again = OnlineTrainer.from_pretrained(CIAOModel(tiny_backbone()), folder)
    assert again.update(*contrary(1)).faces == 1


@pytest.mark.parametrize("value", [-1, 1001, 1.5, True])
def test_how_many_is_a_number(value):
    with pytest.raises(ConfigError, match="`together`"):
        dataclasses.replace(KEEP_ALL, together=value)


def test_values_and_sets_are_learned_together_as_well():
    for changes, label in (
        ({"problem_type": "regression", "num_labels": 1, "id2label": {0: "arousal"}}, torch.tensor([[0.5]])),
        ({"problem_type": "multi_label_classification", "num_labels": 2, "id2label": {0: "a", 1: "b"}}, ["a"]),
    ):
        from helpers.training import make_model

        online = OnlineTrainer(make_model(**changes).eval(), args=KEEP_ALL)
        for face in pixels_of(faces(3, seed=4)):
            online.update(face[None], label)
        assert len(online._recent.faces) == 3


def test_without_earlier_ones_there_are_the_new_ones_alone():
    new = Faces(trained().extract_features(torch.rand(2, 3, 16, 16)), torch.eye(3)[:2])
    assert together_with(None, new) is new
    assert len(together_with(Recent({}, new), new)) == 2
    assert len(filled(trained())) == 48
