"""Corrections: learned, kept or undone, and the same to the bit."""

from __future__ import annotations

import copy

import pytest
import torch

from ciao_peft import CIAOTrainer, CIAOTrainingArguments, FeatureMemory, OnlineArguments, OnlineTrainer, cache_features
from ciao_peft.errors import TrainingError, UndoError
from ciao_peft.online.guard import GuardScore
from helpers.corrections import (
    KEEP_ALL,
    MOODS,
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
from helpers.fakes import SIZE, bits, same_bits
from helpers.features import SQUARE
from helpers.training import make_model


def answers(model, pixels):
    with torch.no_grad():
        return model(pixels).logits.argmax(dim=1).tolist()


def test_corrections_are_right_afterwards_and_others_stay():
    online = learner()
    model, (pixels, names) = online.model, mislabelled()
    others = faces(60, seed=11)
    assert answers(model, pixels_of(others)) == [0, 1, 2] * 20
    update = online.update(pixels, names)
    assert (update.kept, update.right_before, update.right_after, update.faces) == (True, 0, 3, 3)
    assert answers(model, pixels) == [1, 1, 1]
    assert answers(model, pixels_of(others)) == [0, 1, 2] * 20


def test_without_rehearsal_the_same_corrections_cost_more():
    pixels, names = contrary()
    losses = []
    for rehearsal in (16, 0):
        args = OnlineArguments(max_forgetting=100, rehearsal=rehearsal, allow_one_class=True, learning_rate=3e-3)
        online = learner(args=args, guard=faces(60, seed=11))
        losses.append(online.update(pixels, names).forgotten)
    assert losses[0] < losses[1]


def test_backbone_and_other_adapters_stay_to_the_bit():
    model = trained()
    model.add_adapter("other", model.peft_config["default"])
    backbone, other = bits(model.backbone), bits(model.adapters["other"])
    learner(model).update(*mislabelled())
    assert same_bits(bits(model.backbone), backbone)
    assert same_bits(bits(model.adapters["other"]), other)


def test_mask_and_head_both_learn():
    online = learner()
    before = bits(online.model.adapters["default"])
    online.update(*mislabelled())
    after = bits(online.model.adapters["default"])
    changed = {key.split(".")[0] for key in after if not torch.equal(after[key], before[key])}
    assert changed == {"inhibition", "head"}


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("mode", [True, False])
def test_modes_and_requires_grad_and_the_random_state_stay(trainable, mode):
    model = trained()
    model.adapters["default"].set_trainable(trainable)
    online = learner(model)
    model.train(mode)
    before, state = [p.requires_grad for p in model.parameters()], torch.get_rng_state()
    assert online.update(*mislabelled()).kept
    assert [p.requires_grad for p in model.parameters()] == before
    assert model.adapters["default"].training == mode
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())


def test_the_same_corrections_give_the_same_bits():
    one, other = learner(), learner()
    for _ in range(2):
        one.update(*mislabelled())
        other.update(*mislabelled())
    assert_same_state(state_of(one), state_of(other))


def test_pictures_pixels_and_stored_features_are_learned_alike():
    model = trained()
    model.preprocessing = SQUARE
    pixels, names = mislabelled(2)
    pictures = [(face.permute(1, 2, 0).clamp(0, 1) * 255).byte().numpy() for face in pixels]
    prepared = SQUARE(pictures)
    table = [{"pixel_values": face, "labels": 1} for face in prepared]
    stored = cache_features(model, table)
    results = []
    for given in (pictures, prepared, model.extract_features(prepared), stored, table, stored.features([0, 1])):
        online = learner(copy.deepcopy(model))
        online.update(given, names)
        results.append(bits(online.model.adapters["default"]))
    for other in results[1:]:
        for key, tensor in results[0].items():
            torch.testing.assert_close(other[key], tensor, rtol=1e-4, atol=1e-6)


def test_a_dataset_gives_its_own_labels():
    model = trained()
    some = [face | {"labels": torch.tensor(1)} for face in faces(9, seed=5)[::3]]
    one, other = learner(copy.deepcopy(model)), learner(copy.deepcopy(model))
    one.update(some)
    other.update(cache_features(model, some))
    given = learner(copy.deepcopy(model))
    given.update(pixels_of(some), ["bored"] * 3)
    assert_same_state(state_of(one), state_of(other))
    assert_same_state(state_of(one), state_of(given))


def test_one_face_needs_no_list():
    online = learner()
    pixels, _ = mislabelled(1)
    assert online.update(pixels[0], "bored").faces == 1
    assert online.update(online.model.extract_features(pixels), 2).faces == 1


def test_undo_gives_the_bits_before_back():
    online = learner()
    states = [state_of(online)]
    for seed in (5, 6):
        online.update(*mislabelled(seed=seed))
        states.append(state_of(online))
    assert [version.number for version in online.versions] == [0, 1, 2]
    assert online.undo().number == 1
    assert_same_state(state_of(online), states[1])
    assert online.undo().number == 0
    assert_same_state(state_of(online), states[0])
    with pytest.raises(UndoError, match="nothing to undo"):
        online.undo()
    assert online.update(*mislabelled(seed=7)).version == 3  # no number comes twice


def test_no_more_versions_are_kept_than_asked_for():
    online = learner(args=OnlineArguments(max_forgetting=100, keep_versions=1, learning_rate=3e-3))
    for seed in (5, 6):
        online.update(*mislabelled(seed=seed))
    online.undo()
    with pytest.raises(UndoError, match="1 earlier versions"):
        online.undo()


def test_an_adapter_that_others_changed_is_not_taken_back():
    online = learner()
    online.update(*mislabelled())
    CIAOTrainer(online.model, CIAOTrainingArguments(max_steps=1, report_to="none")).train(faces(12))
    changed = bits(online.model.adapters["default"])
    with pytest.raises(UndoError, match="changed elsewhere"):
        online.undo()
    assert same_bits(bits(online.model.adapters["default"]), changed)
    online.update(*mislabelled(seed=6))
    assert [version.what for version in online.versions][-2:] == ["changed elsewhere", "3 faces corrected"]
    online.undo()
    assert same_bits(bits(online.model.adapters["default"]), changed)


def test_a_guard_undoes_what_costs_too_much():
    args = OnlineArguments(max_forgetting=1, learning_rate=3e-3, rehearsal=0, allow_one_class=True)
    online = learner(args=args, guard=faces(60, seed=11))
    before = state_of(online)
    update = online.update(*contrary())
    assert not update.kept
    assert update.forgotten > 1
    assert update.version == 0
    assert "the guard would have lost" in update.reason
    assert_same_state(state_of(online), before)


def test_a_guard_counts_what_was_lost_in_all(monkeypatch):
    online = learner(args=OnlineArguments(max_forgetting=2), guard=faces(60, seed=11))
    points = iter([90.0, 89.0, 88.5, 87.5, 88.6, 88.0])  # before the first, then after each
    monkeypatch.setattr("ciao_peft.online.trainer.score", lambda *args: GuardScore(next(points), {}))
    done = [online.update(*mislabelled(seed=seed)) for seed in range(20, 25)]
    assert [update.kept for update in done] == [True, True, False, True, True]
    assert [update.forgotten_in_all for update in done] == pytest.approx([1.0, 1.5, 2.5, 1.4, 2.0])
    online.undo()
    points = iter([88.6, 87.9])
    assert not online.update(*mislabelled(seed=26)).kept  # 1.4 by then, and 0.7 more


def test_the_memory_serves_as_a_guard_where_it_holds_enough_apart():
    model = trained()
    memory = filled(model, 120, max_bytes=10**6, held_share=0.5)
    args = OnlineArguments(max_forgetting=100, min_guard=40, max_guard=45)
    update = learner(model, args=args, memory=memory).update(*mislabelled())
    assert memory.num_held >= 45
    assert update.guard_size == 45
    few = learner(model, args=OnlineArguments(min_guard=10**6)).update(*mislabelled(seed=6))
    assert (few.guard_size, few.forgotten) == (0, None)
    assert "no guard" in few.reason


def test_faces_held_apart_are_never_rehearsed():
    model = trained()
    memory = filled(model, 60, max_bytes=10**6, held_share=0.5)
    held = memory.faces(held=True).tensors[0]
    drawn = memory.draw(200, torch.Generator().manual_seed(0)).tensors[0]
    assert not any(torch.equal(one, other) for one in drawn for other in held)


def test_what_was_right_already_changes_no_weight():
    online = learner()
    some = faces(30, seed=12)
    with torch.no_grad():
        logits = online.model(pixels_of(some)).logits
    sure = logits.topk(2).values
    row = int((sure[:, 0] - sure[:, 1]).argmax())
    before = bits(online.model.adapters["default"])
    update = online.update(some[row]["pixel_values"], int(logits[row].argmax()))
    assert (update.steps, update.reason) == (0, "every correction was right before")
    assert same_bits(bits(online.model.adapters["default"]), before)
    assert online.memory.find(online.model.extract_features(some[row]["pixel_values"][None])) != [-1]


def test_an_interrupt_leaves_everything_as_it_was(monkeypatch):
    online = learner()
    before = state_of(online)
    for target in ("ciao_peft.online.learning.distillation_loss", "ciao_peft.online.memory.sketches_of"):
        with monkeypatch.context() as patch:
            patch.setattr(target, lambda *args, **named: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                online.update(*mislabelled())
        assert_same_state(state_of(online), before)
    assert online.update(*mislabelled()).kept
    undisturbed = learner()
    undisturbed.update(*mislabelled())
    assert_same_state(state_of(online), state_of(undisturbed))


def test_an_adapter_in_training_elsewhere_is_refused():
    online = learner()
    with online.model.adapters["default"].hold.for_training("default"):
        with pytest.raises(TrainingError, match="being trained already"):
            online.update(*mislabelled())
        with pytest.raises(TrainingError, match="being trained already"):
            online.undo()


def test_a_drifting_stream_is_said():
    online = learner(args=OnlineArguments(max_forgetting=100, drift_threshold=1.0, learning_rate=1e-6))
    said = [online.update(face["pixel_values"], int(face["labels"])).drift for face in faces(6, seed=30)]
    assert said == [None] * 6
    said = [online.update(face["pixel_values"], (int(face["labels"]) + 1) % 3).drift for face in faces(6, seed=31)]
    assert any(text is not None and "stream has changed" in text for text in said)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_an_adapter_saved_in_fewer_bits_learns(dtype, tmp_path):
    from ciao_peft import CIAOModel
    from helpers.fakes import tiny_backbone

    trained().save_pretrained(tmp_path / "small", dtype=dtype)
    model = CIAOModel.from_pretrained(tiny_backbone(), tmp_path / "small", "default")
    assert learner(model).update(*mislabelled()).right_after == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_backbone_in_half_precision_is_learned_on(dtype):
    model = trained().to(dtype)
    online = learner(model)
    pixels, names = mislabelled()
    assert online.update(pixels.to(dtype), names).right_after == 3
    assert all(p.dtype == torch.float32 for p in model.adapters["default"].parameters())


TASKS = {
    "values": (
        {"problem_type": "regression", "num_labels": 2, "id2label": {0: "arousal", 1: "valence"}, "num_bins": 3},
        {"arousal": 0.9, "valence": -0.9},
    ),
    "concordance": (
        {"problem_type": "regression", "num_labels": 1, "regression_loss": "ccc", "num_bins": 3, "id2label": None},
        [0.9],
    ),
    "sets": (
        {"problem_type": "multi_label_classification", "num_labels": 2, "id2label": {0: "smile", 1: "gaze"}},
        ["smile"],
    ),
    "distributions": ({}, {"angry": 0.2, "bored": 0.8}),
}


@pytest.mark.parametrize("task", TASKS)
def test_every_problem_is_learned(task):
    changes, label = TASKS[task]
    model = make_model(**({"id2label": MOODS} | changes)).eval()
    online = OnlineTrainer(model, args=OnlineArguments(max_steps=200, learning_rate=0.01, allow_one_class=True))
    pixels, _ = mislabelled(1)
    update = online.update(pixels, label if task != "concordance" else torch.tensor([label]))
    assert (update.right_after, update.kept) == (1, True)
    assert online.update(pixels, [label] if task != "concordance" else torch.tensor([label])).right_before == 1


@pytest.mark.parametrize("changes", [{"depths": 1}, {"tuning": "last_conv"}, {"spatial_maps": 2, "hidden_sizes": ()}])
def test_every_kind_of_adapter_is_learned(changes):
    online = learner(trained(**changes))
    assert online.update(*mislabelled()).right_after == 3


def test_an_adapter_that_reads_clips_learns_from_clips():
    model = make_model(id2label=MOODS, frames=2, recurrent_size=8).eval()
    online = OnlineTrainer(model, args=OnlineArguments(max_steps=100, learning_rate=0.01))
    clips = torch.randn(2, 2, *SIZE, generator=torch.Generator().manual_seed(3))
    assert online.update(clips, ["angry", "calm"]).right_after == 2
    assert online.update(model.extract_features(clips), ["angry", "calm"]).faces == 2
    assert len(online.memory) == 2


def test_an_adapter_with_an_encoder_of_its_own_is_refused():
    with pytest.raises(TrainingError, match="owns its whole encoder"):
        OnlineTrainer(make_model(tuning="full"))


def test_results_are_said_in_one_sentence():
    online = learner(args=KEEP_ALL, guard=faces(30, seed=11))
    text = str(online.update(*mislabelled()))
    assert text.startswith("Version 1, kept: every correction is right. Right 0 -> 3 of 3; elsewhere ")


def test_an_empty_memory_is_made_where_none_is_given():
    online = OnlineTrainer(trained())
    assert isinstance(online.memory, FeatureMemory)
    assert len(online.memory) == 0
