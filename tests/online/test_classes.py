"""Classes that come during use: every old answer stays until faces of the new one are learned."""

from __future__ import annotations

import copy

import pytest
import torch

from ciao_peft import OnlineArguments, OnlineTrainer
from ciao_peft.errors import ConfigError, UnknownLabelError
from helpers.corrections import KEEP_ALL, assert_same_state, faces, learner, mislabelled, pixels_of, state_of, trained
from helpers.fakes import bits, same_bits
from helpers.training import make_model

OTHERS = pixels_of(faces(60, seed=11))


@pytest.mark.parametrize("changes", [{}, {"hidden_sizes": ()}, {"logit_adjustment": 0.5}])
def test_an_added_class_changes_no_answer(changes):
    model = trained(**changes)
    with torch.no_grad():
        before = model(OTHERS).logits
    online = learner(model)
    assert online.add_class("confused").what == "'confused' added"
    with torch.no_grad():
        after = model(OTHERS).logits
    assert after.shape == (60, 4)
    torch.testing.assert_close(after[:, :3], before, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(after[:, 3], before.mean(dim=1) - 1, rtol=1e-5, atol=1e-5)
    assert model.config.id2label == {0: "angry", 1: "bored", 2: "calm", 3: "confused"}
    assert model.config.label2id["confused"] == 3
    config = model.peft_config["default"]
    assert config.class_prior is None or (len(config.class_prior) == 4 and abs(sum(config.class_prior) - 1) < 1e-9)


def test_a_new_class_is_learned_and_the_old_ones_stay():
    online = learner()
    pixels, _ = mislabelled(4)
    update = online.update(pixels, ["confused"] * 4, add_class=True)
    assert (update.right_after, update.added, update.kept) == (4, ("confused",), True)
    with torch.no_grad():
        new, old = (online.model(some).logits.argmax(dim=1) for some in (mislabelled(20, seed=40)[0], OTHERS))
    assert (new == 3).float().mean() > 0.8
    assert (old == torch.arange(3).repeat(20)).float().mean() > 0.9
    assert online.memory.labels.shape[1] == 4
    assert sum(online.memory.counts.get(3, 0) for _ in (1,)) == 4


def test_undo_takes_the_class_away_again():
    online = learner()
    before = state_of(online)
    online.update(mislabelled(2)[0], ["confused", "amazed"], add_class=True)
    assert online.model.config.num_labels == 5
    online.undo()
    assert_same_state(state_of(online), before)
    assert online.model.config.num_labels == 3


def test_an_update_that_is_not_kept_adds_no_class():
    args = OnlineArguments(
        max_forgetting=0, learning_rate=0.3, mask_learning_rate=0.3, rehearsal=1, distillation_weight=0
    )
    online = learner(args=args, guard=faces(60, seed=11))
    before = state_of(online)
    update = online.update(pixels_of(faces(6, seed=5)), ["confused"] * 6, add_class=True)
    assert (update.kept, update.added) == (False, ())
    assert_same_state(state_of(online), before)


def test_without_asking_no_class_is_added():
    online = learner()
    with pytest.raises(UnknownLabelError, match="`add_class=True` adds it"):
        online.update(mislabelled(1)[0], "confused")


def test_names_that_cannot_be_added_are_refused():
    online = learner()
    before = state_of(online)
    for name, message in (("calm", "already"), ("", "by its name"), (" ", "by its name"), (3, "by its name")):
        with pytest.raises(ConfigError, match=message):
            online.add_class(name)
    assert_same_state(state_of(online), before)


def test_values_of_a_regression_are_fixed():
    model = make_model(problem_type="regression", num_labels=2)
    with pytest.raises(ConfigError, match="number is fixed"):
        OnlineTrainer(model).add_class("dominance")


def test_a_label_that_is_on_or_off_is_added():
    changes = {"problem_type": "multi_label_classification", "num_labels": 2, "id2label": {0: "smile", 1: "gaze"}}
    model = make_model(**changes).eval()
    args = OnlineArguments(max_forgetting=100, max_steps=200, learning_rate=0.01)
    online = OnlineTrainer(model, args=args)
    online.update(mislabelled(2)[0], [["smile"], ["gaze"]])
    with torch.no_grad():
        before = model(OTHERS).logits
    online.add_class("yawn")
    with torch.no_grad():
        after = model(OTHERS).logits
    torch.testing.assert_close(after[:, :2], before)
    assert (after[:, 2] == -4).all()
    update = online.update(mislabelled(1, seed=9)[0], [["yawn", "smile"]])
    assert update.right_after == 1
    assert online.memory.labels.shape == (3, 3)


def test_learned_prototypes_grow_with_the_head():
    model = make_model(contrastive_prototypes="learned").eval()
    online = OnlineTrainer(model, args=KEEP_ALL)
    shape = model.adapters["default"].head.prototypes.shape
    online.add_class("confused")
    assert model.adapters["default"].head.prototypes.shape == (4, shape[1])
    output = model(OTHERS[:4], labels=torch.tensor([0, 1, 2, 3]))
    assert output.loss.isfinite()
    online.undo()
    assert model.adapters["default"].head.prototypes.shape == shape


def test_other_adapters_and_copies_do_not_grow():
    model = trained()
    model.add_adapter("other", model.peft_config["default"])
    twin, other = copy.deepcopy(model), bits(model.adapters["other"])
    learner(model).add_class("confused")
    assert twin.config.num_labels == 3
    assert same_bits(bits(model.adapters["other"]), other)


def test_a_grown_adapter_is_saved_and_loaded(tmp_path):
    from ciao_peft import CIAOModel
    from helpers.fakes import tiny_backbone

    online = learner()
    online.update(mislabelled(4)[0], ["confused"] * 4, add_class=True)
    folder = online.model.save_pretrained(tmp_path / "grown")
    loaded = CIAOModel.from_pretrained(tiny_backbone(), folder)
    with torch.no_grad():
        assert torch.equal(loaded(OTHERS).logits, online.model(OTHERS).logits)
    assert loaded.config.id2label[3] == "confused"
