"""Measures how well an encoder distinguishes people on whom it was not trained."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

__all__ = ["verification_auc"]

# The last digits of a cosine depend on the order of the sum. Pairs that are equally similar must compare equal.
_DECIMALS = 12


def verification_auc(embeddings: Tensor, people: Sequence[Hashable]) -> float:
    """The chance that two pictures of one person are more similar than two pictures of different people.

    This is the area under the ROC curve of the cosines of all pairs; ties count half.

    Args:
        embeddings: One embedding of unit length per picture, `(N, D)`.
        people: The person on each of the N pictures. At least two people, one of them on two pictures, are needed.

    Returns:
        A number from 0 to 1; 0.5 is chance.

    Example:
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
        >>> verification_auc(embeddings, ["ann", "ann", "bea"])  # 0.6 against 0 and 0.8
        0.5
    """
    numbers = {person: number for number, person in enumerate(dict.fromkeys(people))}
    ids = torch.tensor([numbers[person] for person in people])
    first, second = torch.triu_indices(len(ids), len(ids), offset=1)
    unit = embeddings.double()
    likeness, same = (unit @ unit.T).round(decimals=_DECIMALS)[first, second], ids[first] == ids[second]
    _, place, count = likeness.unique(return_inverse=True, return_counts=True)
    rank = (count.cumsum(0) - (count - 1).double() / 2)[place]  # ties share their mean rank
    wins = rank[same].sum() - same.sum() * (same.sum() + 1) / 2
    return float(wins / (same.sum() * (~same).sum()))
