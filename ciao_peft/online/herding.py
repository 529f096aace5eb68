"""Which faces stand best for their class: those whose mean stays nearest to the mean of all (iCaRL)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["herd"]


@torch.no_grad()
def herd(points: Tensor, count: int, mean: Tensor | None = None) -> list[int]:
    r"""Chooses points one after the other, so that their mean stays as near as possible to a mean (herding).

    $$p_k = \arg\min_i \left\lVert \mu - \frac{1}{k} \left(\phi_i + \sum_{j<k} \phi_{p_j}\right) \right\rVert$$

    Welling 2009; as exemplars of a class in iCaRL (Rebuffi et al. 2017, Algorithm 4). No point is chosen twice; of
    equal ones the first is.

    Args:
        points: φ, `(N, D)`.
        count: How many to choose, at most N.
        mean: μ, `(D,)`; the mean of the points when left out.

    Returns:
        Numbers of the chosen points, the best first.

    Example:
        >>> herd(torch.tensor([[0.0], [5.0], [6.0], [9.0]]), 2)  # the mean is 5; 5 is there, and 5 and 6 make 5.5
        [1, 2]
    """
    exact = points.double()
    mean = exact.mean(dim=0) if mean is None else mean.double()
    total, chosen = torch.zeros_like(mean), []
    left = torch.ones(len(exact), dtype=torch.bool, device=exact.device)
    for k in range(1, min(count, len(exact)) + 1):
        distances = ((total + exact) / k - mean).norm(dim=1)
        best = int(distances.masked_fill(~left, float("inf")).argmin())
        left[best] = False
        total += exact[best]
        chosen.append(best)
    return chosen
