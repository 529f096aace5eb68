"""Verification: the AUC of all pairs, by its definition and by scikit-learn."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import pytest
import torch
from torch.nn import functional as F

from ciao_peft.encoders.pretraining.verification import verification_auc

PEOPLE = [f"p{i % 7}" for i in range(30)]
SAME = [one == two for one, two in combinations(PEOPLE, 2)]


def test_it_is_that_of_sklearn_over_all_pairs():
    from sklearn.metrics import roc_auc_score

    embeddings = F.normalize(torch.randn(30, 4))
    likeness = [(one.double() * two.double()).sum().item() for one, two in combinations(embeddings, 2)]
    assert verification_auc(embeddings, PEOPLE) == pytest.approx(roc_auc_score(SAME, likeness), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pairs_that_are_equally_alike_count_half(dtype):
    from sklearn.metrics import roc_auc_score

    # Every one of these is of length 3, with 1/3 and 2/3 as entries, so that many pairs have the same cosine: as exact
    # fractions here, and there as sums that round in another order.
    whole = torch.tensor([[1, 2, 2], [2, 1, 2], [2, 2, 1], [-1, 2, 2], [2, -1, 2], [1, -2, 2]])[torch.arange(30) % 6]
    whole = whole[torch.randperm(30)]
    likeness = [float(Fraction(int(one @ two), 9)) for one, two in combinations(whole, 2)]
    assert len(set(likeness)) < 10
    assert verification_auc(whole.to(dtype) / 3, PEOPLE) == pytest.approx(roc_auc_score(SAME, likeness), abs=1e-9)


def test_one_picture_for_all_tells_nobody_apart_and_one_direction_each_everybody():
    assert verification_auc(torch.tensor([[0.6, 0.8]]).expand(30, -1), PEOPLE) == 0.5
    assert verification_auc(F.one_hot(torch.arange(30) % 7).float(), PEOPLE) == 1.0


def test_turning_and_mirroring_all_embeddings_changes_nothing():
    embeddings, turn = F.normalize(torch.randn(30, 5)), torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    turned = embeddings.double() @ turn
    assert verification_auc(turned, PEOPLE) == pytest.approx(verification_auc(embeddings, PEOPLE), abs=1e-12)
