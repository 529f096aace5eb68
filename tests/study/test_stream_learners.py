"""Learners that train the adapter: what each keeps, and what each holds."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from ciao_peft.features import cache_features
from ciao_peft.online import FeatureMemory, OnlineArguments
from ciao_peft.study.streams import (
    ElasticWeights,
    GradientSettings,
    LearningWithoutForgetting,
    Naive,
    Online,
    Rehearsal,
)
from helpers.fakes import bits, pixels, same_bits, wrap

FAST = {"learning_rate": 0.02, "steps": 10}


def learner_of(kind, **settings):
    model = wrap(num_labels=3, hidden_sizes=())
    return kind(model, "default", GradientSettings(**{**FAST, **settings}))


def some(learner, count=6, seed=0):
    """Features of the learner's model, of noise."""
    noise = torch.rand(count, *learner.model.input_size, generator=torch.Generator().manual_seed(seed))
    return learner.model.extract_features(noise)


def moved(learner, before):
    return max(float((tensor - before[name]).abs().max()) for name, tensor in bits(learner.adapter).items())


@pytest.mark.parametrize("kind", [Naive, Rehearsal, ElasticWeights, LearningWithoutForgetting])
def test_what_arrives_is_learned_and_the_backbone_stays(kind):
    learner = learner_of(kind)
    backbone, features = bits(learner.model.backbone), some(learner)
    learner.observe(features, torch.full((6,), 2))
    assert learner.predict(features).tolist() == [2] * 6
    assert same_bits(backbone, bits(learner.model.backbone))


def test_naive_training_on_one_class_forgets_the_others():
    learner = learner_of(Naive)
    first, second = some(learner, seed=0), some(learner, seed=1)
    learner.observe(first, torch.full((6,), 1))
    for _ in range(5):
        learner.observe(second, torch.full((6,), 2))
    assert learner.predict(first).tolist() == [2] * 6


def test_rehearsal_keeps_within_its_bound_and_each_that_came_as_likely():
    learner = learner_of(Rehearsal, steps=1, replayed=4)
    size = sum(2 * tensor[0].numel() for tensor in some(learner, 1)) + 12 + 73
    room, features = 5 * size + size - 1, some(learner, 20)
    kept = torch.zeros(20)
    for seed in range(60):
        learner = learner_of(Rehearsal, memory_bytes=room, seed=seed, steps=1)
        learner.begin([tensor[:8] for tensor in features], torch.arange(8) % 3)
        learner._keep([tensor[8:] for tensor in features], torch.arange(8, 20) % 3)
        assert len(learner.memory) == 5 and learner.memory_bytes == 5 * size + 3 * 8 <= room
        kept += torch.tensor([place >= 0 for place in learner.memory.find(features)])
    share = kept / 60  # each of 20 in a quarter of the draws; a standard deviation of 0.056
    assert (share - 0.25).abs().max() < 0.2 and abs(share[:10].mean() - 0.25) < 0.05


def test_rehearsal_replays_what_it_kept_with_its_own_labels():
    learner = learner_of(Rehearsal, replayed=3)
    features = some(learner, 4)
    learner.begin(features, torch.tensor([0, 1, 2, 1]))
    rows, labels = learner.batch(some(learner, 2, seed=1), torch.tensor([2, 2]))
    assert len(rows[0]) == len(labels) == 5 and labels[:2].tolist() == [2, 2]
    for row, label in zip(rows[0][2:], labels[2:], strict=True):
        place = int((features[0] - row).flatten(1).norm(dim=1).argmin())
        assert label == [0, 1, 2, 1][place] and torch.equal(features[0][place].half().float(), row)


def test_ewc_weighs_a_parameter_by_the_mean_square_of_its_gradient():
    learner = learner_of(ElasticWeights)
    features = some(learner, 5)
    learner.finish(features, torch.arange(5) % 3)
    bias = learner.adapter.head.get_parameter("0.bias")
    last = next(place for place, parameter in enumerate(learner.trained) if parameter is bias)
    # d(-log p_y) / d bias_k = p_k - [k = y]: its mean square, with y drawn from p, is p_k (1 - p_k) on average.
    probabilities = learner.logits(features).detach().softmax(dim=1)
    totals = []
    for seed in range(60):
        learner.chance.manual_seed(seed)
        learner.fisher = None
        learner.finish(features, torch.arange(5) % 3)
        totals.append(learner.fisher[last])
    expected = (probabilities * (1 - probabilities)).mean(dim=0)
    torch.testing.assert_close(torch.stack(totals).mean(dim=0), expected, rtol=0.15, atol=0.02)


def test_ewc_adds_half_its_strength_times_the_weighted_squares():
    learner = learner_of(ElasticWeights, strength=10.0)
    learner.finish(some(learner), torch.arange(6) % 3)
    with torch.no_grad():
        for parameter in learner.trained:
            parameter.add_(0.1)
    expected = 0.5 * 10 * sum(float((fisher * 0.01).sum()) for fisher in learner.fisher)
    assert learner.penalty((), torch.zeros(1)).item() == pytest.approx(expected, rel=1e-3)


def test_ewc_holds_what_mattered_and_fades():
    free, held = learner_of(ElasticWeights, strength=0.0), learner_of(ElasticWeights, strength=1e7)
    found = []
    for learner in (free, held):
        learner.begin(some(learner, 20), torch.arange(20) % 3)
        first = [tensor.clone() for tensor in learner.fisher]
        bias = learner.adapter.head.get_parameter("0.bias")
        before = bias.detach().clone()
        learner.observe(some(learner, seed=1), torch.full((6,), 2))
        found.append(float((bias.detach() - before).abs().max()))
        learner.most = 0
        learner.finish(some(learner, seed=1), torch.full((6,), 2))
        assert all(torch.allclose(now, 0.95 * then) for now, then in zip(learner.fisher, first, strict=True))
    assert found[1] < 0.5 * found[0]


def test_lwf_compares_the_answers_for_old_classes_with_those_before():
    learner = learner_of(LearningWithoutForgetting, strength=3.0)
    features = some(learner)
    assert learner.penalty(features, learner.logits(features)).item() == 0  # there are no old classes
    learner.begin(features, torch.tensor([0, 1] * 3))
    before = learner.logits(features).detach()
    learner.observe(some(learner, seed=1), torch.full((6,), 1))
    now = learner.logits(features)
    then, after = (F.softmax(logits[:, :2] / 2, dim=1) for logits in (before, now))
    expected = 3 * 4 * (then * (then.log() - after.log())).sum(dim=1).mean()
    assert learner.penalty(features, now).item() == pytest.approx(expected.item(), rel=1e-4)
    assert learner.seen == {0, 1}


def test_lwf_forgets_less_than_naive_training():
    lost = []
    for kind in (Naive, LearningWithoutForgetting):
        learner = learner_of(kind, strength=10.0, steps=30)
        first, second = some(learner, 9, seed=0), some(learner, 9, seed=0)
        learner.observe(first, torch.arange(9) % 2)
        learner.finish(first, torch.arange(9) % 2)
        before = learner.logits(second).detach()[:, :2].softmax(dim=1)
        learner.observe(some(learner, seed=2), torch.full((6,), 2))
        lost.append(float((learner.logits(second).detach()[:, :2].softmax(dim=1) - before).abs().mean()))
    assert lost[1] < lost[0]


def test_the_librarys_own_learner_fills_its_memory_from_what_is_known_and_counts_what_it_undoes():
    model = wrap(num_labels=3, hidden_sizes=())
    known = cache_features(model, [{"pixel_values": face, "labels": n % 3} for n, face in enumerate(pixels(30, 0))])
    args = OnlineArguments(max_forgetting=0, min_guard=1, learning_rate=0.5, mask_learning_rate=0.5, max_steps=5)
    learner = Online(model, "default", FeatureMemory(20_000, held_share=0.5), args)
    learner.know(known)
    assert sorted(learner.trainer.memory.counts) == [0, 1, 2]
    assert 0 < learner.memory_bytes == learner.trainer.memory.nbytes <= 20_000
    kept = [learner.trainer.version]
    for seed in range(4):
        learner.observe(some(learner, 3, seed=seed + 5), torch.full((3,), seed % 3))
        kept.append(learner.trainer.version)
    assert learner.undone == sum(one == other for one, other in itertools.pairwise(kept)) > 0
    assert learner.predict(known.features(range(4))).shape == (4,)
