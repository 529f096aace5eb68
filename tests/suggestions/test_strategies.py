"""Strategies by their definitions, by hand and by brute force."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from ciao_peft.errors import ConfigError, InputError
from ciao_peft.suggestions import STRATEGIES, Candidates, choose, uncertainty
from ciao_peft.suggestions.clusters import k_means, typicality
from ciao_peft.suggestions.strategies import NEEDS_ANSWERS


def some(count=40, size=6, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    answers = torch.randn(count, classes, generator=generator).mul(2).softmax(dim=1)
    return Candidates(torch.rand(count, size, generator=generator), answers)


def on_circle(*degrees):
    radians = torch.tensor(degrees).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def test_uncertainties_worked_by_hand():
    answers = torch.tensor([[0.5, 0.25, 0.25]])
    assert uncertainty(answers, "least-confidence").item() == pytest.approx(0.5 * 3 / 2)
    assert uncertainty(answers, "margin").item() == pytest.approx(0.75)
    entropy = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25)) / math.log(3)
    assert uncertainty(answers, "entropy").item() == pytest.approx(entropy)


@pytest.mark.parametrize("kind", ["least-confidence", "margin", "entropy"])
def test_uncertainty_is_one_where_all_is_open_and_zero_where_nothing_is(kind):
    answers = torch.stack([torch.full((5,), 0.2), F.one_hot(torch.tensor(3), 5).float()])
    assert uncertainty(answers, kind).tolist() == pytest.approx([1.0, 0.0], abs=1e-6)
    both = torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    assert uncertainty(both, kind, several=True).tolist() == pytest.approx([1.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_chooses_different_faces_and_the_same_ones_every_time(strategy):
    chosen = choose(some(), 12, strategy, seed=3)
    assert len(set(chosen.indices)) == 12
    assert chosen == choose(some(), 12, strategy, seed=3)
    assert all(map(math.isfinite, chosen.scores))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_more_are_asked_for_than_there_are(strategy):
    assert sorted(choose(some(7), 50, strategy).indices) == list(range(7))


@pytest.mark.parametrize("strategy", ["random", "typiclust", "badge"])
def test_another_seed_chooses_others(strategy):
    assert len({tuple(choose(some(200), 5, strategy, seed=seed).indices) for seed in range(4)}) > 1


@pytest.mark.parametrize("kind", ["least-confidence", "margin", "entropy"])
def test_the_least_sure_answers_come_first(kind):
    candidates = some()
    expected = uncertainty(candidates.probabilities, kind).sort(descending=True)
    chosen = choose(candidates, 5, kind)
    assert chosen.indices == expected.indices[:5].tolist()
    assert chosen.scores == pytest.approx(expected.values[:5].tolist())


def test_k_center_takes_the_farthest_each_time():
    candidates, known = some(), some(3, seed=1).vectors
    unit = F.normalize(candidates.vectors, dim=1)
    covered, expected = [*F.normalize(known, dim=1)], []
    for _ in range(6):
        distances = [min((one - other).norm() for other in covered) for one in unit]
        best = max(range(len(unit)), key=lambda index: distances[index])
        expected.append(best)
        covered.append(unit[best])
    assert choose(Candidates(candidates.vectors, known=known), 6, "k-center").indices == expected


def test_k_center_without_labels_begins_in_the_middle():
    assert choose(Candidates(on_circle(0.0, 30.0, 80.0)), 3, "k-center").indices == [1, 2, 0]


def test_typiclust_takes_one_typical_face_of_each_crowd_the_largest_first():
    crowds = [
        on_circle(*(start + step for step in (0.0, 1.0, 2.0, 3.0, 4.0)[:size])) for start, size in ((0.0, 5), (90.0, 5))
    ]
    crowds.append(on_circle(*(180.0 + 0.5 * step for step in range(7))))
    found = choose(Candidates(torch.cat(crowds)), 3, "typiclust").indices
    assert found[0] == 10 + 3  # the middle of the largest crowd
    assert sorted(index // 5 if index < 10 else 2 for index in found) == [0, 1, 2]
    assert set(found) == {2, 7, 13}


def test_typiclust_stays_away_from_crowds_with_a_label():
    vectors = torch.cat([on_circle(*(start + step for step in range(6))) for start in (0.0, 90.0)])
    for crowd in (0, 1):
        known = on_circle(90.0 * crowd + 2.5)
        (found,) = choose(Candidates(vectors, known=known), 1, "typiclust").indices
        assert found // 6 == 1 - crowd


def test_badge_begins_with_the_longest_gradient_and_draws_by_squared_distance():
    candidates = some(6, 3, 3)
    guessed = F.one_hot(candidates.probabilities.argmax(dim=1), 3)
    unit = F.normalize(candidates.vectors, dim=1)
    gradients = ((candidates.probabilities - guessed)[:, :, None] * unit[:, None, :]).flatten(1)
    first = int(gradients.norm(dim=1).argmax())
    weights = (gradients - gradients[first]).square().sum(dim=1)
    seconds = torch.zeros(6)
    for seed in range(2000):
        found = choose(candidates, 2, "badge", seed=seed)
        assert found.indices[0] == first
        seconds[found.indices[1]] += 1
        assert found.scores[1] == pytest.approx(weights[found.indices[1]].sqrt().item(), rel=1e-4)
    assert torch.allclose(seconds / 2000, weights / weights.sum(), atol=0.04)


def test_cluster_margin_asks_each_cluster_before_it_asks_one_twice():
    hidden = torch.cat([on_circle(*(start + 0.1 * step for step in range(10))) for start in (0.0, 120.0, 240.0)])
    sure = torch.linspace(0.5, 0.99, 30)  # the first cluster is the least sure one
    candidates = Candidates(torch.rand(30, 4), torch.stack([sure, 1 - sure], dim=1), hidden)
    assert choose(candidates, 3, "cluster-margin", near=1).indices == [0, 10, 20]
    assert choose(candidates, 3, "margin", near=1).indices == [0, 1, 2]


def test_faces_that_nearly_equal_a_chosen_or_a_known_one_are_passed_over_and_counted():
    vectors = on_circle(0.0, 1.0, 40.0, 41.0, 42.0, 80.0)
    sure = torch.tensor([0.5, 0.51, 0.6, 0.61, 0.62, 0.9])
    candidates = Candidates(vectors, torch.stack([sure, 1 - sure], dim=1))
    near = math.cos(math.radians(3))
    assert choose(candidates, 6, "margin", near=near) == ([0, 2, 5], pytest.approx([1.0, 0.8, 0.2]), 3)
    known = Candidates(vectors, candidates.probabilities, known=on_circle(81.0))
    assert choose(known, 6, "margin", near=near)[::2] == ([0, 2], 4)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_equal_faces_are_asked_for_once(strategy):
    candidates = some(5)
    twice = Candidates(candidates.vectors.repeat(3, 1), candidates.probabilities.repeat(3, 1))
    found = choose(twice, 15, strategy)
    assert sorted(index % 5 for index in found.indices) == list(range(5))
    assert found.near == 10


@pytest.mark.parametrize("strategy", NEEDS_ANSWERS)
def test_a_strategy_that_needs_answers_says_so(strategy):
    with pytest.raises(InputError, match=f"'{strategy}' asks how sure an adapter is"):
        choose(Candidates(torch.rand(3, 2)), 1, strategy)


def test_settings_that_there_are_not_are_refused():
    with pytest.raises(ConfigError, match="`strategy`"):
        choose(some(), 1, "margins")
    for wrong in ({"count": 0}, {"near": 1.5}, {"seed": -1}):
        with pytest.raises(ConfigError, match=f"`{next(iter(wrong))}`"):
            choose(**{"candidates": some(), "count": 1, "strategy": "random", **wrong})
    broken = Candidates(torch.tensor([[float("nan"), 1.0]]))
    with pytest.raises(InputError, match="not finite"):
        choose(broken, 1, "random")


def test_k_means_finds_the_groups_that_lie_apart():
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    vectors = (centres[:, None] + torch.randn(3, 20, 2, generator=generator)).flatten(0, 1)
    groups = k_means(vectors, 3, generator).view(3, 20)
    assert all(len(group.unique()) == 1 for group in groups)
    assert len(groups[:, 0].unique()) == 3


def test_typicality_is_one_over_the_mean_distance_to_the_nearest_of_the_group():
    generator = torch.Generator().manual_seed(0)
    vectors, groups = torch.rand(60, 3, generator=generator), torch.arange(60) % 2
    for row in (0, 31, 58):
        own = [(vectors[row] - vectors[other]).norm().item() for other in range(row % 2, 60, 2) if other != row]
        assert typicality(vectors, groups)[row].item() == pytest.approx(1 / (sum(sorted(own)[:20]) / 20), rel=1e-4)
