"""`model.correct`: the trainer that a model keeps for each adapter."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from ciao_peft import OnlineArguments, OnlineTrainer
from ciao_peft.errors import CorrectionError, NoActiveAdapterError
from helpers.corrections import filled, mislabelled, trained
from helpers.fakes import bits, same_bits


def test_correct_is_an_update_of_the_trainer_that_is_kept():
    model = trained()
    online = model.online_trainer(memory=filled(model), args=OnlineArguments(learning_rate=3e-3))
    assert isinstance(online, OnlineTrainer)
    update = model.correct(*mislabelled())
    assert (update.version, online.version) == (1, 1)
    assert model.online_trainer() is online
    assert model.correct(*mislabelled(seed=6)).version == 2
    online.undo()
    assert online.version == 1


def test_each_adapter_has_its_own():
    model = trained()
    model.add_adapter("other", model.peft_config["default"])
    assert model.online_trainer("other") is not model.online_trainer("default")
    before = bits(model.adapters["default"])
    model.correct(mislabelled(2)[0], ["bored", "calm"], "other")
    assert same_bits(bits(model.adapters["default"]), before)


def test_an_adapter_that_is_deleted_takes_it_along():
    model = trained()
    model.correct(mislabelled(2)[0], ["bored", "calm"])
    config = model.peft_config["default"]
    model.delete_adapter("default")
    with pytest.raises(NoActiveAdapterError):
        model.online_trainer()
    model.add_adapter("default", config)
    model.set_adapter("default")
    assert model.online_trainer().version == 0


def test_without_a_memory_one_class_alone_is_refused():
    with pytest.raises(CorrectionError, match="memory"):
        trained().correct(*mislabelled())


def test_copies_and_pickles_start_without():
    model = trained()
    model.correct(mislabelled(2)[0], ["bored", "calm"])
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.online_trainer().version == 0
        assert same_bits(bits(other.adapters["default"]), bits(model.adapters["default"]))
        other.correct(mislabelled(2, seed=8)[0], ["bored", "calm"])
    assert model.online_trainer().version == 1


def test_nothing_of_it_is_in_the_state_of_the_model():
    model, untouched = trained(), trained()
    model.correct(mislabelled(2)[0], ["bored", "calm"])
    assert model.state_dict().keys() == untouched.state_dict().keys()
    assert all(
        torch.equal(a, b) for a, b in zip(model.backbone.parameters(), untouched.backbone.parameters(), strict=True)
    )
