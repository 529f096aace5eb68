"""Tensors, labels and paths that no array, no world and no disk has: named errors, and everything as it was."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch

from ciao_peft import CIAOModel, FeatureMemory, OnlineArguments, OnlineTrainer
from ciao_peft.errors import AdapterFileError, CIAOError, InputError, MemoryMismatchError
from ciao_peft.online import Faces
from ciao_peft.online.memory_file import read_memory, write_memory
from ciao_peft.online.saving import STATE_FILE
from ciao_peft.saving.digest import with_digest
from helpers.corrections import assert_same_state, filled, learner, mislabelled, pixels_of, state_of, trained
from helpers.corrections import faces as some_faces
from helpers.fakes import SIZE, tiny_backbone
from helpers.training import make_model

PIXELS = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(3))
PLAIN = torch.zeros(2, 2)
WORLDS = {
    "regression": {"problem_type": "regression", "num_labels": 2, "id2label": {0: "arousal", 1: "valence"}},
    "sets": {"problem_type": "multi_label_classification", "num_labels": 2, "id2label": {0: "a", 1: "b"}},
    "classes": {"num_labels": 2, "id2label": {0: "a", 1: "b"}},
}
NOT_PLAIN = {
    "sparse": lambda values: values.to_sparse(),
    "meta": lambda values: values.to("meta"),
    "complex": lambda values: values.to(torch.complex64),
    "nested": lambda values: torch.nested.nested_tensor(list(values)),
    "quantized": lambda values: torch.quantize_per_tensor(values, 0.1, 0, torch.quint8),
}


@pytest.mark.parametrize("kind", WORLDS)
@pytest.mark.parametrize("form", NOT_PLAIN)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_labels_are_plain_tensors_of_real_numbers(kind, form):
    online = OnlineTrainer(make_model(**WORLDS[kind]).eval())
    before = state_of(online)
    with pytest.raises(InputError):
        online.update(PIXELS, NOT_PLAIN[form](PLAIN))
    assert_same_state(state_of(online), before)


@pytest.mark.parametrize("form", NOT_PLAIN)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_faces_are_plain_tensors_of_real_numbers(form):
    online = learner()
    before, features = state_of(online), online.model.extract_features(PIXELS)
    change = NOT_PLAIN[form]
    ways = [change(PIXELS), {"pixel_values": change(PIXELS)}, [change(part) for part in features]]
    for given in [*ways, {"features": ways[-1]}]:
        with pytest.raises(InputError):
            online.update(given, ["calm", "bored"])
    with pytest.raises(InputError, match="`features` are tensors"):
        online.update({"features": None}, ["calm", "bored"])
    assert_same_state(state_of(online), before)


@pytest.mark.parametrize("form", ["sparse", "nested", "quantized"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_forward_pass_refuses_them_as_well(form):
    model = trained()
    features = [NOT_PLAIN[form](part) for part in model.extract_features(PIXELS)]
    for given in ({"pixel_values": NOT_PLAIN[form](PIXELS)}, {"features": features}):
        with pytest.raises(InputError):
            model(**given)
    with pytest.raises(InputError):
        model(PIXELS, labels=NOT_PLAIN[form](torch.eye(3)[:2]))


BEYOND = {
    "1e38": torch.full((2, 2), 1e38),
    "lists of 1e38": [[1e38, 0], [0, 0]],
    "just outside": torch.tensor([[0.0, 0.0], [0.0, -1.01]]),
    "1e39 by name": [{"arousal": 1e39, "valence": 0}] * 2,
    "a whole number of 400 digits by name": [{"arousal": 10**400, "valence": 0}] * 2,
    "a whole number of 400 digits": [[10**400, 0], [0, 0]],
    "infinite": torch.full((2, 2), float("inf")),
    "dates": np.array(["2020-01-01", "2020-01-02"], dtype="M8"),
    "too long": torch.zeros(2, 7),
}


@pytest.mark.parametrize("what", BEYOND)
def test_values_lie_in_the_range_of_the_world(what):
    online = OnlineTrainer(make_model(**WORLDS["regression"]).eval())
    before = state_of(online)
    with pytest.raises(InputError) as raised:
        online.update(PIXELS, BEYOND[what])
    assert len(str(raised.value)) < 400
    assert_same_state(state_of(online), before)
    assert online.update(PIXELS, torch.tensor([[1.0, -1.0], [0.0, 0.5]])).faces == 2


def test_what_the_training_data_reach_is_in_range():
    model = make_model(**WORLDS["regression"]).eval()
    wide = [{"pixel_values": face["pixel_values"], "labels": [3.0, -2.0]} for face in some_faces(6)]
    online = OnlineTrainer(model, memory=FeatureMemory.from_dataset(model, wide, max_bytes=100_000))
    assert online.update(PIXELS, torch.full((2, 2), 2.5)).faces == 2
    with pytest.raises(InputError, match=r"'arousal' of correction 0 is 3\.5; values here run from -2 to 3"):
        online.update(PIXELS, torch.full((2, 2), 3.5))


ODD = {
    "nothing": None,
    "empty": "",
    "a number": 5,
    "bytes": b"runs/online",
    "a list": ["runs"],
    "a null character": "a\0b",
    "a home with a null character": "~\0",
    "a URL": "s3://bucket/online",
    "a name of 300": "a" * 300,
    "below a file": "file/below",
    "links to each other": "loop",
}


@pytest.mark.parametrize("what", ODD)
def test_odd_paths_are_refused_by_name(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    os.symlink("loop", "loop")
    online, path = learner(), ODD[what]
    before, there = state_of(online), sorted(os.listdir())
    empty = CIAOModel(tiny_backbone())
    calls = (
        online.save,
        online.memory.save,
        FeatureMemory.load,
        lambda path: OnlineTrainer.from_pretrained(empty, path),
    )
    for call in calls:
        with pytest.raises(AdapterFileError) as raised:
            call(path)
        assert len(str(raised.value)) < 500
    assert sorted(os.listdir()) == there and not empty.adapters
    assert_same_state(state_of(online), before)


def test_a_file_in_place_of_a_folder_and_a_folder_in_place_of_a_file_are_told(tmp_path):
    online, file = learner(), tmp_path / "file"
    file.write_text("x")
    with pytest.raises(AdapterFileError, match="a file"):
        online.save(file)
    with pytest.raises(AdapterFileError, match="Not a directory"):
        OnlineTrainer.from_pretrained(CIAOModel(tiny_backbone()), file)
    for call in (online.memory.save, FeatureMemory.load):
        with pytest.raises(AdapterFileError):
            call(tmp_path)
    assert file.read_text() == "x"


def test_a_name_that_is_no_text_of_unicode_can_be_saved_to(tmp_path):
    folder = learner().save(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    assert OnlineTrainer.from_pretrained(CIAOModel(tiny_backbone()), folder).version == 0


HUGE = {
    "updates": 10**30,
    "next_version": 10**300,
    "lost": 10**400,
    "drift": {"threshold": 10.0, "tolerance": 0.1, "count": 10**400, "mean": 0.0, "total": 0.0, "lowest": 0.0},
    "versions": [[10**30, "as it was given"]],
}


@pytest.mark.parametrize("what", [*HUGE, "below zero", "out of order"])
def test_numbers_that_no_training_reaches_are_refused_though_they_are_signed(what, tmp_path):
    folder = learner().save(tmp_path / "online")
    state = json.loads((folder / STATE_FILE).read_text())
    changes = {"below zero": {"lost": -1.0}, "out of order": {"next_version": 0}}
    state |= {what: HUGE[what]} if what in HUGE else changes[what]
    model = CIAOModel(tiny_backbone())
    (folder / STATE_FILE).write_bytes(with_digest(_unsigned(state), _files(folder)))
    with pytest.raises(AdapterFileError, match=r"that are none|no version of this library wrote"):
        OnlineTrainer.from_pretrained(model, folder)
    assert not model.adapters


def _unsigned(state):
    return {name: value for name, value in state.items() if name != "digest"}


def _files(folder):
    from ciao_peft.saving.digest import sha256_of

    names = {"memory.safetensors": "memory.safetensors", "adapter": "adapter/adapter_config.json"}
    return {name: sha256_of((folder / path).read_bytes()) for name, path in names.items()}


def test_a_folder_that_is_signed_anew_without_a_change_still_loads(tmp_path):
    folder = learner().save(tmp_path / "online")
    state = json.loads((folder / STATE_FILE).read_text())
    (folder / STATE_FILE).write_bytes(with_digest(_unsigned(state), _files(folder)))
    assert OnlineTrainer.from_pretrained(CIAOModel(tiny_backbone()), folder).version == 0


DAMAGE = {
    "seen": lambda tensors, record: record["seen"].update({"0": 10**400}),
    "class": lambda tensors, record: record["seen"].update({"9" * 4400: 1}),
    "NaN": lambda tensors, record: tensors["features.0"].fill_(float("nan")),
    "labels": lambda tensors, record: tensors["labels"].fill_(float("inf")),
    "sums": lambda tensors, record: tensors.update({"sums.0": torch.zeros(3, dtype=torch.float64)}),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_memory_holds_what_a_memory_can_hold(what, tmp_path):
    memory = filled(trained(), policy="herding")
    tensors, record = read_memory(memory.save(tmp_path / "memory.safetensors"))
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    DAMAGE[what](tensors, record)
    write_memory(tmp_path / "other.safetensors", tensors, record)
    with pytest.raises(AdapterFileError):
        FeatureMemory.load(tmp_path / "other.safetensors")


def test_a_memory_of_another_world_is_refused(tmp_path):
    model = trained()
    memory = filled(model)
    tensors, record = read_memory(memory.save(tmp_path / "memory.safetensors"))
    wider = tensors | {"labels": torch.nn.functional.pad(tensors["labels"], (0, 2))}
    lower = tensors | {"features.0": tensors["features.0"][:, :1].contiguous()}
    for changed, said in ((wider, "5 labels, and the adapter 'default' has 3"), (lower, "Stored features of a face")):
        path = write_memory(tmp_path / "other.safetensors", changed, record)
        with pytest.raises(MemoryMismatchError, match=said):
            OnlineTrainer(model, memory=FeatureMemory.load(path))
        with pytest.raises(MemoryMismatchError, match=said):
            FeatureMemory.load(path, model)
    guard = Faces(model.extract_features(PIXELS), torch.eye(5)[:2])
    with pytest.raises(MemoryMismatchError, match="5 labels"):
        OnlineTrainer(model, guard=guard)


def test_both_say_what_they_are():
    online = learner(args=OnlineArguments(max_forgetting=100))
    online.update(*mislabelled())
    said = repr(online)
    assert "'default': 3 labels, version 1, 1 update" in said and repr(online.memory) in said
    assert "51 faces of 3 classes" in said and "of 400 kB" in said
    assert repr(FeatureMemory(1000)) == "FeatureMemory('class_balanced': 0 faces of 0 classes, 0 B of 1 kB)"


def test_none_of_these_tests_passes_by_chance():
    online = learner()
    assert online.update(pixels_of(some_faces(2)), ["angry", "bored"]).faces == 2
    assert issubclass(MemoryMismatchError, CIAOError)


def test_complex_class_ids_are_refused_whatever_holds_them():
    online = OnlineTrainer(make_model(**WORLDS["classes"]).eval())
    before = state_of(online)
    for labels in ([1j, 0], np.array([1j, 0]), torch.tensor([1j, 0])):
        with pytest.raises(InputError):
            online.update(PIXELS, labels)
    assert_same_state(state_of(online), before)


@pytest.mark.parametrize("values", [["b", "a"], [1, 0]])
def test_a_column_of_a_dataset_gives_labels(values):
    datasets = pytest.importorskip("datasets")
    online = OnlineTrainer(make_model(**WORLDS["classes"]).eval())
    online.update(PIXELS, datasets.Dataset.from_dict({"label": values})["label"])
    assert online.memory.labels.tolist() == [[0, 1], [1, 0]]
