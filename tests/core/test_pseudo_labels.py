"""Pseudo-labels and views of unlabelled samples, by their definitions in float64."""

from __future__ import annotations

import math

import pytest
import torch

from ciao_peft import CIAOConfig
from ciao_peft.contrastive import supervised_contrastive_loss
from ciao_peft.errors import InputError
from ciao_peft.losses import with_views
from ciao_peft.pseudo_labels import PseudoLabels, SeenUnlabelled, pseudo_label_loss, pseudo_labels
from helpers.losses import by_definition

CPU = torch.device("cpu")


def config(**changes):
    return CIAOConfig(problem_type="single_label_classification", num_labels=3, **changes)


def logits(count=12, seed=0):
    return 3 * torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def spelled_out(batches, prior, theta, beta, adaptive, tau=0.0, share=1.0):
    """Eq. 7 with loops over batches and samples: labels, and which count, of the last batch."""
    often, surely, labels, counts = [1 / 3] * 3, [1.0] * 3, [], []
    for batch in batches:
        rows = []
        for row in batch.tolist():
            raised = [math.exp(s) * prior[k] ** tau for k, s in enumerate(row)]
            rows.append([value / sum(raised) for value in raised])
        for k in range(3):
            often[k] = 0.95 * often[k] + 0.05 * sum(row[k] for row in rows) / len(rows)
            own = [row[k] for row in rows if row[k] == max(row)]
            surely[k] = 0.95 * surely[k] + 0.05 * sum(own) / len(own) if own else surely[k]
        labels, counts = [], []
        for row in rows:
            turned = [p * (prior[k] / often[k]) ** beta for k, p in enumerate(row)]
            turned = [p / sum(turned) for p in turned]
            label = turned.index(max(turned))
            threshold = min(theta, surely[label]) if adaptive else theta
            labels.append(label)
            counts.append(max(turned) >= threshold)
    for k in range(3):  # of each label, the surest share; the margin orders as the probability of the task loss does
        raised = [[math.exp(s) * prior[j] ** tau for j, s in enumerate(row)] for row in batches[-1].tolist()]
        odds = [row[k] / (sum(row) - row[k]) for row in raised]
        own = sorted((u for u in range(len(labels)) if labels[u] == k), key=lambda u: -odds[u])
        for u in own[max(1, math.ceil(share * len(own))) :]:
            counts[u] = False
    return labels, counts


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("tau", [0.0, 1.0])
@pytest.mark.parametrize(("theta", "share"), [(0.9, 1.0), (0.0, 0.6), (0.6, 0.3)])
def test_labels_and_which_count_are_those_of_the_definition(beta, adaptive, tau, theta, share):
    prior = (0.6, 0.3, 0.1)
    own, seen = config(class_prior=prior, logit_adjustment=tau), SeenUnlabelled(3, CPU)
    batches = [logits(seed=seed) for seed in range(4)]
    found = PseudoLabels(torch.zeros(0), torch.zeros(0))
    for batch in batches:
        found = pseudo_labels(batch, own, confidence=theta, share=share, seen=seen, alignment=beta, adaptive=adaptive)
    labels, counts = spelled_out(batches, prior, theta, beta, adaptive, tau, share)
    assert found.labels.tolist() == labels
    assert found.counts.tolist() == counts
    assert 0 < sum(counts) < len(counts)


def test_the_surest_count_where_all_are_sure_to_the_last_bit():
    sure = torch.tensor([[90.0, 0, 0], [99.0, 0, 0], [80.0, 0, 0], [0, 70.0, 0], [0, 0, 60.0]])
    found = pseudo_labels(sure, config(), confidence=0.5, share=0.5)
    assert found.labels.tolist() == [0, 0, 0, 1, 2]
    assert found.counts.tolist() == [True, True, False, True, True]  # two of three; one of one
    assert pseudo_labels(sure, config(), confidence=0.5, share=0.0).counts.tolist() == [False, True, False, True, True]


def test_the_loss_is_that_of_the_definition_in_float64():
    found = pseudo_labels(logits(seed=1), config(), confidence=0.8)
    learning = logits(seed=2).requires_grad_(True)
    expected = 0.0
    for row, label, counts in zip(learning.tolist(), found.labels.tolist(), found.counts.tolist(), strict=True):
        expected -= counts * math.log(math.exp(row[label]) / sum(math.exp(s) for s in row)) / 12
    loss = pseudo_label_loss(learning, found, config())
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    loss.backward()
    assert not learning.grad[~found.counts].any()
    assert torch.autograd.gradcheck(
        lambda x: pseudo_label_loss(x, found, config()), logits(seed=2).requires_grad_(True)
    )


def test_where_nothing_counts_loss_and_gradient_are_zero():
    learning = logits().requires_grad_(True)
    loss = pseudo_label_loss(learning, PseudoLabels(torch.zeros(12, dtype=torch.long), torch.zeros(12) > 0), config())
    loss.backward()
    assert loss.item() == 0.0
    assert not learning.grad.any()


@pytest.mark.parametrize("denominator", ["all", "negatives"])
def test_views_of_one_picture_are_positives_and_labelled_pairs_stay(denominator):
    draw = torch.Generator().manual_seed(3)
    z, learning, deciding = (torch.randn(n, 8, dtype=torch.float64, generator=draw) for n in (5, 3, 3))
    targets = torch.tensor([2, 0, 2, 1, 0])
    rows, ids = with_views(z, targets, learning, deciding)
    assert ids[:5].tolist() == targets.tolist()
    assert ids[5:8].tolist() == ids[8:].tolist()
    assert len({*ids[5:].tolist()}) == 3
    assert not {*ids[5:].tolist()} & {0, 1, 2}
    loss = supervised_contrastive_loss(rows, ids, temperature=0.3, denominator=denominator)
    assert loss.item() == pytest.approx(by_definition(rows, ids, 0.3, denominator, "mean").item(), rel=1e-10)
    # The same pairs as weights, which overlapping sets of labels take.
    weights = (targets[:, None] == targets[None, :]).double()
    rows, pairs = with_views(z, weights, learning, deciding)
    assert torch.equal(pairs, (ids[:, None] == ids[None, :]).double())
    assert supervised_contrastive_loss(rows, pairs, temperature=0.3, denominator=denominator).item() == pytest.approx(
        loss.item(), rel=1e-10
    )


def test_what_was_seen_goes_on_to_the_bit_from_its_state():
    seen, other = SeenUnlabelled(3, CPU), SeenUnlabelled(3, CPU)
    for seed in range(3):
        seen.update(logits(seed=seed).softmax(dim=1))
    other.restore(seen.state())
    for one in (seen, other):
        one.update(logits(seed=9).softmax(dim=1))
    assert torch.equal(seen.values, other.values)
    assert seen.classes.sum().item() == pytest.approx(1.0)
    with pytest.raises(InputError, match="7 running means of 3 classes; got 2"):
        other.restore([0.5, 0.5])


def test_what_is_missing_is_said():
    with pytest.raises(InputError, match="adapter is one of regression"):
        pseudo_labels(logits(), CIAOConfig(problem_type="regression", num_labels=3), confidence=0.5)
    with pytest.raises(InputError, match="need `seen`"):
        pseudo_labels(logits(), config(), confidence=0.5, adaptive=True)
    with pytest.raises(InputError, match="class_prior"):
        pseudo_labels(logits(), config(), confidence=0.5, seen=SeenUnlabelled(3, CPU), alignment=0.5)
