"""Corrections that cannot be learned: a named error each, and adapter and memory as they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ciao_peft import CIAOError, CIAOModel, OnlineArguments, OnlineTrainer, cache_features
from ciao_peft.errors import (
    ConfigError,
    ContradictionError,
    CorrectionError,
    DataError,
    DivergenceError,
    FeatureCacheError,
    InputError,
    TrainingError,
    UnknownLabelError,
    UntraceableBackboneError,
)
from helpers.corrections import MOODS, assert_same_state, faces, learner, mislabelled, pixels_of, state_of, trained
from helpers.fakes import SIZE, Undecided, tiny_backbone
from helpers.features import SQUARE
from helpers.training import make_model

NAN = torch.full((1, *SIZE), float("nan"))


def with_nan(model):
    features = [tensor.clone() for tensor in model.extract_features(torch.rand(2, *SIZE))]
    features[0][1, 0, 0, 0] = float("nan")
    return features


def of_another_encoder():
    some = [{"pixel_values": face, "labels": 1} for face in torch.rand(3, *SIZE)]
    return cache_features(tiny_backbone(seed=9), some)


TWICE = torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(1)).expand(2, *SIZE)
PIXELS, NAMES = mislabelled(2)

BAD = {
    "unknown label": (lambda m: (PIXELS, ["bored", "bord"]), UnknownLabelError, "Did you mean 'bored'"),
    "unknown label, nothing like it": (lambda m: (PIXELS[0], "xyz"), UnknownLabelError, "`add_class=True` adds it"),
    "unknown id": (lambda m: (PIXELS, [1, 3]), UnknownLabelError, "Ids run from 0 to 2"),
    "negative id": (lambda m: (PIXELS, torch.tensor([-1, 0])), UnknownLabelError, "knows no -1"),
    "unknown share": (lambda m: (PIXELS[0], {"joy": 1.0}), UnknownLabelError, "knows no 'joy'"),
    "shares beyond one": (lambda m: (PIXELS[0], {"calm": 0.9, "bored": 0.9}), InputError, "sum to 1"),
    "two labels for one face": (lambda m: (TWICE, ["bored", "calm"]), ContradictionError, "0 and 1 show the same face"),
    "too few labels": (lambda m: (PIXELS, ["bored"]), InputError, "2 faces and 1 labels"),
    "too many labels": (lambda m: (PIXELS[0], ["bored", "calm"]), InputError, "1 faces and 2 labels"),
    "two classes for a face": (lambda m: (PIXELS, [["bored", "calm"], ["calm"]]), InputError, "one class"),
    "no labels": (lambda m: (PIXELS, None), CorrectionError, "need labels"),
    "labels of another kind": (lambda m: (PIXELS, object()), InputError, "names or numbers"),
    "labels that are halves": (lambda m: (PIXELS, [0.5, 0.5]), InputError, "whole numbers"),
    "nothing": (lambda m: ([], []), CorrectionError, "no corrections"),
    "no rows": (lambda m: (torch.empty(0, *SIZE), []), CorrectionError, "no corrections"),
    "no rows of features": (lambda m: ([t[:0] for t in m.extract_features(PIXELS)], []), InputError, "1 or more"),
    "NaN in pixels": (lambda m: (NAN, ["calm"]), InputError, "NaN"),
    "NaN in features": (lambda m: (with_nan(m), ["calm", "bored"]), InputError, "NaN"),
    "pixels of another size": (lambda m: (torch.rand(2, 3, 8, 8), NAMES), InputError, "features"),
    "a picture of floats": (lambda m: (np.zeros((8, 8, 3)), "calm"), DataError, "uint8"),
    "no picture there": (lambda m: ("no/such/face.png", "calm"), DataError, "no picture"),
    "a folder": (lambda m: (".", "calm"), InputError, "folder"),
    "features of another encoder": (
        lambda m: (of_another_encoder(), None),
        FeatureCacheError,
        "not made by this model",
    ),
    "labels of another name": (lambda m: (named(["joy", "calm"]), None), UnknownLabelError, "knows no 'joy'"),
}


def named(names):
    from helpers.features import pictures

    return pictures(2, names=names, labels=[0, 1])


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_learned_is_refused_by_name_and_changes_nothing(what):
    make, error, message = BAD[what]
    model = trained()
    model.preprocessing = SQUARE
    online = learner(model)
    online.update(*mislabelled(seed=8))
    given, labels = make(model)
    before = state_of(online)
    with pytest.raises(error, match=message) as raised:
        online.update(given, labels)
    assert isinstance(raised.value, CIAOError)
    assert_same_state(state_of(online), before)
    assert online.undo().number == 0


def test_one_class_alone_is_refused_unless_it_is_asked_for():
    model = trained()
    online = OnlineTrainer(model)
    before = state_of(online)
    with pytest.raises(CorrectionError, match=r"no other class.* `model\.online_trainer\(memory="):
        online.update(*mislabelled())
    assert_same_state(state_of(online), before)
    assert OnlineTrainer(model, args=OnlineArguments(allow_one_class=True)).update(*mislabelled()).version == 1


def test_corrections_of_two_classes_need_no_memory():
    online = OnlineTrainer(trained())
    assert online.update(mislabelled(2)[0], ["bored", "angry"]).faces == 2


def test_a_hundred_equal_faces_count_once():
    one, many = learner(), learner()
    face, names = mislabelled(1)
    one.update(face, names)
    update = many.update(face.expand(100, *SIZE), names * 100)
    assert update.faces == 1
    others = pixels_of(faces(30, seed=11))
    with torch.no_grad():
        # The trunk rounds differently for a batch of a hundred.
        torch.testing.assert_close(many.model(others).logits, one.model(others).logits, rtol=0, atol=1e-3)
    assert len(many.memory) == len(one.memory)


def test_the_newest_label_of_a_face_counts():
    online = learner()
    face, _ = mislabelled(1)
    online.update(face, "bored")
    count = len(online.memory)
    assert online.update(face, "angry").right_after == 1
    place = online.memory.find(online.model.extract_features(face))[0]
    assert online.memory.state().rows[place].label.tolist() == [1, 0, 0]
    assert len(online.memory) == count
    online.undo()
    place = online.memory.find(online.model.extract_features(face))[0]
    assert online.memory.state().rows[place].label.tolist() == [0, 1, 0]


def test_a_face_is_never_rehearsed_with_the_label_that_is_corrected(monkeypatch):
    online = learner()
    face, _ = mislabelled(1)
    online.update(face, "bored")
    drawn, draw = [], online.memory.draw
    monkeypatch.setattr(online.memory, "draw", lambda *args: drawn.append(draw(*args)) or drawn[-1])
    online.update(face, "angry")
    features = online.model.extract_features(face)[0].half()[0]
    assert not any(torch.allclose(row.float(), features.float(), atol=1e-3) for row in drawn[-1].tensors[0])


def test_an_update_that_diverges_is_no_update():
    online = learner(args=OnlineArguments(max_forgetting=100, learning_rate=1e38))
    before = state_of(online)
    with pytest.raises(DivergenceError, match="Lower `learning_rate`"):
        online.update(*mislabelled())
    assert_same_state(state_of(online), before)


def test_a_backbone_that_cannot_be_cut_has_no_features_to_learn_from():
    with pytest.raises(UntraceableBackboneError):
        OnlineTrainer(make_model(Undecided()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"args": {"max_steps": 1}}, "OnlineArguments"), ({"memory": []}, "FeatureMemory")],
)
def test_arguments_of_another_kind_are_refused(changes, message):
    with pytest.raises(TrainingError, match=message):
        OnlineTrainer(trained(), **changes)


def test_a_model_of_another_kind_is_refused():
    with pytest.raises(TrainingError, match="must be a CIAOModel"):
        OnlineTrainer(tiny_backbone())


def test_settings_out_of_range_are_refused():
    for name, value in (("max_steps", 0), ("learning_rate", 0), ("max_forgetting", 101), ("allow_one_class", 1)):
        with pytest.raises(ConfigError, match=name):
            OnlineArguments(**{name: value})
    with pytest.raises(ConfigError, match="did you mean 'max_steps'"):
        OnlineArguments.from_dict({"max_step": 3})


def test_pictures_without_a_preprocessing_are_refused():
    online = learner(trained())
    assert isinstance(online.model, CIAOModel)
    with pytest.raises(InputError, match="preprocessing"):
        online.update(np.zeros((16, 16, 3), dtype=np.uint8), MOODS[0])


def test_names_in_a_set_have_no_order_and_those_in_an_array_do():
    online = learner()
    with pytest.raises(InputError, match="one for each"):
        online.update(PIXELS, {"calm", "bored"})
    assert online.update(PIXELS, np.array(["calm", "bored"])).faces == 2
