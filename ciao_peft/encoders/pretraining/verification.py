"""How well an encoder tells people apart of whom it has never seen a picture."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

# The sixteenth digit of a cosine hangs on the order of the sum. Pairs that are equally alike must compare equal.
_DECIMALS = 12


def verification_auc(embeddings: Tensor, people: Sequence[Hashable]) -> float:
    """Chance that two pictures of one person are more alike than two of different people.

    It is the area under the ROC curve of the cosines of all pairs; where two pairs are equally alike, half counts.

    Args:
        embeddings: `(N, D)`, each of unit length.
        people: Who is on each of the N pictures; somebody is on two of them, and there are two people or more.

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
    rank = (count.cumsum(0) - (count - 1).double() / 2)[place]  # pairs that are equally alike share their mean rank
    wins = rank[same].sum() - same.sum() * (same.sum() + 1) / 2
    return (wins / (same.sum() * (~same).sum())).item()
