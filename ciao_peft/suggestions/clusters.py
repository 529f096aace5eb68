"""Groups of vectors, and how typical each is of its group."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["k_means", "typicality"]

_ROUNDS = 25
_NEIGHBOURS = 20  # as in TypiClust


def k_means(vectors: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Sorts vectors into groups by Lloyd's algorithm, started by k-means++.

    Args:
        vectors: `(N, D)`.
        count: Groups, 1 to N.
        generator: Draws the start.

    Returns:
        The number of each vector's group, `(N,)`; a group may be empty where vectors are equal.

    Example:
        >>> groups = k_means(torch.tensor([[0.0], [9.0], [0.1], [9.1]]), 2, torch.Generator().manual_seed(0))
        >>> groups[0] == groups[2], groups[1] == groups[3], groups[0] == groups[1]
        (tensor(True), tensor(True), tensor(False))
    """
    centres = vectors[_spread(vectors, count, generator)].clone()
    groups = torch.full((len(vectors),), -1)
    for _ in range(_ROUNDS):
        new = _nearest(vectors, centres)
        if torch.equal(new, groups):
            break
        groups = new
        sizes = groups.bincount(minlength=count)
        sums = torch.zeros_like(centres).index_add_(0, groups, vectors)
        kept = sizes > 0  # an empty group keeps its centre
        centres[kept] = sums[kept] / sizes[kept, None]
    return groups


def typicality(vectors: Tensor, groups: Tensor) -> Tensor:
    """How typical each vector is of its group: one over the mean distance to its 20 nearest ones there.

    Args:
        vectors: `(N, D)`.
        groups: The number of each vector's group, `(N,)`.

    Returns:
        `(N,)`; 0 for a vector that is alone in its group.

    Example:
        >>> typicality(torch.tensor([[0.0], [1.0], [3.0], [50.0]]), torch.tensor([0, 0, 0, 1])).tolist()
        [0.5, 0.6666666865348816, 0.4000000059604645, 0.0]
    """
    found = torch.zeros(len(vectors))
    for group in groups.unique().tolist():
        rows = (groups == group).nonzero()[:, 0]
        near = min(_NEIGHBOURS, len(rows) - 1)
        if not near:
            continue
        for part in rows.split(1024):
            apart = torch.cdist(vectors[part], vectors[rows])
            nearest = apart.topk(near + 1, dim=1, largest=False).values[:, 1:]  # the first is the vector itself
            found[part] = 1 / nearest.mean(dim=1).clamp_min(1e-6)
    return found


def _spread(vectors: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Numbers of vectors to start from, each drawn in proportion to its squared distance to those before it."""
    first = int(torch.randint(len(vectors), (1,), generator=generator))
    chosen, left = [first], (vectors - vectors[first]).square().sum(dim=1)
    for _ in range(count - 1):
        weights = left if bool(left.sum() > 0) else torch.ones_like(left)
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
        left = torch.minimum(left, (vectors - vectors[chosen[-1]]).square().sum(dim=1))
    return torch.tensor(chosen)


def _nearest(vectors: Tensor, centres: Tensor) -> Tensor:
    squares = centres.square().sum(dim=1)
    return torch.cat([(squares - 2 * part @ centres.T).argmin(dim=1) for part in vectors.split(4096)])
