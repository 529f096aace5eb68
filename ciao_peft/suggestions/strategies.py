"""Which faces to label next, as functions of tensors: how unsure an adapter is, and how far faces lie apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checking import check_choice, check_number
from ..errors import InputError
from .clusters import k_means, typicality

__all__ = ["NEEDS_ANSWERS", "STRATEGIES", "Candidates", "Chosen", "choose", "uncertainty"]

STRATEGIES = ("random", "least-confidence", "margin", "entropy", "k-center", "typiclust", "badge", "cluster-margin")
"""How faces can be chosen, by name."""

NEEDS_ANSWERS = ("least-confidence", "margin", "entropy", "badge", "cluster-margin")
"""Those that need an adapter that answers with classes or labels."""

_MOST_CLUSTERS = 500  # as in TypiClust
_MANY = 10  # times as many faces are looked at as are asked for, as in Cluster-Margin
_SMALL_CLUSTER = 5  # faces; TypiClust passes over clusters with fewer


@dataclass(frozen=True, eq=False)
class Candidates:
    """What is known of faces without labels.

    Args:
        vectors: What the frozen encoder says of each, pooled, `(N, D)`. Compared by direction alone.
        probabilities: What an adapter says of each, `(N, C)`; None without one, or for regression.
        hidden: What the last layer of that adapter's head reads, `(N, H)`; `vectors` where it is left out.
        known: Vectors of faces that have labels already, `(M, D)`.
        several: Whether labels exclude each other not, so that each probability stands for itself.

    Example:
        >>> Candidates(torch.eye(3), known=torch.zeros(0, 3)).vectors.shape
        torch.Size([3, 3])
    """

    vectors: Tensor
    probabilities: Tensor | None = None
    hidden: Tensor | None = None
    known: Tensor | None = None
    several: bool = False


class Chosen(NamedTuple):
    """Which of the candidates were chosen, in the order in which to ask for them.

    Args:
        indices: Their numbers.
        scores: What the strategy gave each of them; what it means depends on the strategy.
        near: How many candidates were passed over because they nearly equal a chosen or a known one.
    """

    indices: list[int]
    scores: list[float]
    near: int


def uncertainty(probabilities: Tensor, kind: str, *, several: bool = False) -> Tensor:
    r"""How unsure answers are, from 0 to 1.

    With the probabilities $p_1 \geq p_2 \geq \ldots$ of C classes: `"least-confidence"` is $(1 - p_1) C / (C - 1)$,
    `"margin"` $1 - (p_1 - p_2)$, and `"entropy"` $-\sum_c p_c \log p_c / \log C$ (Settles 2009). Where labels do not
    exclude each other, each is a question with two answers, and the mean over the labels counts.

    Args:
        probabilities: `(N, C)`.
        kind: `"least-confidence"`, `"margin"` or `"entropy"`.
        several: Whether labels do not exclude each other.

    Returns:
        `(N,)`.

    Example:
        >>> answers = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
        >>> [uncertainty(answers, kind).tolist() for kind in ("least-confidence", "margin", "entropy")]
        [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]
    """
    if several:
        both = torch.stack([probabilities, 1 - probabilities], dim=-1)
        return uncertainty(both.flatten(0, 1), kind).view(probabilities.shape).mean(dim=1)
    classes = probabilities.shape[1]
    if classes == 1:
        return torch.zeros(len(probabilities))
    if kind == "entropy":
        return torch.special.entr(probabilities).sum(dim=1) / math.log(classes)
    first, second = probabilities.topk(2, dim=1).values.unbind(dim=1)
    return (1 - first) * classes / (classes - 1) if kind == "least-confidence" else 1 - (first - second)


def choose(candidates: Candidates, count: int, strategy: str, *, near: float = 1.0, seed: int = 0) -> Chosen:
    """Chooses which faces to label next; the same every time for the same seed.

    - `"random"`: any.
    - `"least-confidence"`, `"margin"`, `"entropy"`: those of which the adapter is least sure (`uncertainty`).
    - `"k-center"`: again and again the one farthest from all that are chosen or known: greedy k-center, the core-set
      approach (Sener & Savarese 2018).
    - `"typiclust"`: of as many clusters as there will be labels, the most typical face of the largest one without a
      label (Hacohen et al. 2022).
    - `"badge"`: faces whose labels would change the last layer much and in different ways: k-means++ on the gradients
      of the cross-entropy for the likeliest answer (Ash et al. 2020).
    - `"cluster-margin"`: of ten times as many faces with the smallest margins, the least sure one of each cluster of
      what the last layer reads (after Citovsky et al. 2021).

    Args:
        candidates: What is known of them.
        count: How many to choose, 1 or more; all where there are fewer.
        strategy: One of `STRATEGIES`.
        near: A candidate whose vector has this cosine or more to a chosen or known one is passed over, 0 to 1; at 1
            equal ones alone.
        seed: Of what is drawn.

    Raises:
        ConfigError: a setting that there is not.
        InputError: the strategy needs answers of an adapter, and there are none; or vectors are not finite.

    Example:
        >>> vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.7, 0.7]])
        >>> choose(Candidates(vectors), 2, "k-center").indices
        [2, 0]
        >>> answers = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.5, 0.5]])
        >>> choose(Candidates(vectors, answers), 2, "margin").indices
        [2, 1]
    """
    check_number("count", count, int, 1)
    check_number("seed", seed, int, 0, 2**63 - 1)
    check_number("near", near, float, 0, 1)
    check_choice("strategy", strategy, STRATEGIES)
    if strategy in NEEDS_ANSWERS and candidates.probabilities is None:
        raise InputError(
            f"The strategy {strategy!r} asks how sure an adapter is, and none answers here with classes or labels. "
            "Choose 'k-center', 'typiclust' or 'random', or give an adapter that does."
        )
    every = [candidates.vectors, candidates.probabilities, candidates.hidden, candidates.known]
    if any(one is not None and not bool(one.isfinite().all()) for one in every):
        raise InputError("What is known of the faces has values that are not finite: was the adapter's training sound?")
    generator = torch.Generator().manual_seed(seed)
    unit = F.normalize(candidates.vectors.float(), dim=1)
    known = F.normalize(candidates.known.float(), dim=1) if candidates.known is not None else unit[:0]
    free = torch.ones(len(unit), dtype=torch.bool)
    least = near - 1e-6  # the cosine of a vector with itself may round to less than 1
    for part in _blocks(known):
        free &= ~(unit @ part.T >= least).any(dim=1)
    ranking = _MAKERS[strategy](candidates, unit, known, count, generator)
    chosen: list[int] = []
    scores: list[float] = []
    while len(chosen) < count and bool(free.any()):
        keys, told = ranking.keys()
        best = int(torch.where(free, keys, -math.inf).argmax())
        if not bool(free[best]):  # every key of a free one is -inf
            best = int(free.nonzero()[0])
        chosen.append(best)
        scores.append(float(told[best]))
        free &= unit @ unit[best] < least
        free[best] = False
        ranking.took(best)
    # Whoever is not free and was not chosen nearly equals one that was, or a known one.
    return Chosen(chosen, scores, int((~free).sum()) - len(chosen))


class _Fixed:
    """An order that does not depend on what was chosen before.

    Args:
        scores: `(N,)`; what is told of each.
        order: `(N,)`, the highest first; that of the scores when left out.
    """

    def __init__(self, scores: Tensor, order: Tensor | None = None):
        self.scores, self.order = scores, order

    def keys(self) -> tuple[Tensor, Tensor]:
        """What is maximised, and what is told of it, `(N,)` each."""
        return self.scores if self.order is None else self.order, self.scores

    def took(self, index: int) -> None:
        """One was chosen."""


class _Farthest(_Fixed):
    """Distances to what is chosen or known."""

    def __init__(self, unit: Tensor, known: Tensor):
        super().__init__(torch.full((len(unit),), math.inf))
        self.unit = unit
        for part in _blocks(known):
            self.scores = torch.minimum(self.scores, _distances(unit, part).amin(dim=1))
        if not len(known):  # the most central one first
            self.scores = unit @ F.normalize(unit.mean(dim=0), dim=0)
        self.begun = bool(len(known))

    def took(self, index: int) -> None:
        """Distances to the new one count, too."""
        new = _distances(self.unit, self.unit[index : index + 1])[:, 0]
        self.scores = torch.minimum(self.scores, new) if self.begun else new
        self.begun = True


class _Clusters(_Fixed):
    """The most typical face of the largest cluster with fewest labels."""

    def __init__(self, unit: Tensor, known: Tensor, count: int, generator: torch.Generator):
        every = torch.cat([known, unit])
        wanted = min(len(known) + count, _MOST_CLUSTERS, len(every))
        self.clusters = k_means(every, wanted, generator)
        self.sizes = self.clusters.bincount(minlength=wanted)
        self.labelled = self.clusters[: len(known)].bincount(minlength=wanted)
        self.own = self.clusters[len(known) :]
        super().__init__(typicality(every, self.clusters)[len(known) :])

    def keys(self) -> tuple[Tensor, Tensor]:
        """Fewest labels, then not too small, then the size, then how typical."""
        small = (self.sizes < _SMALL_CLUSTER).double()
        rank = -self.labelled.double() - 0.5 * small + 0.25 * self.sizes / self.sizes.max()
        typical = self.scores.double() / (1 + self.scores.double())  # below 1, in the same order
        return rank[self.own] + 1e-6 * typical, self.scores

    def took(self, index: int) -> None:
        """Its cluster has one label more."""
        self.labelled[self.own[index]] += 1


class _Gradients(_Fixed):
    """k-means++ on gradients of the last layer, which are outer products and never written out."""

    def __init__(self, answers: Tensor, hidden: Tensor, several: bool, generator: torch.Generator):
        guessed = answers.round() if several else F.one_hot(answers.argmax(dim=1), answers.shape[1])
        self.errors, self.hidden, self.generator = (answers - guessed).double(), hidden.double(), generator
        self.squares = self.errors.square().sum(dim=1) * self.hidden.square().sum(dim=1)
        super().__init__(self.squares)
        self.begun = False

    def keys(self) -> tuple[Tensor, Tensor]:
        """The longest gradient first; then one drawn in proportion to the squared distance."""
        if not self.begun:
            return self.scores, self.scores.sqrt()
        # The largest of log w + Gumbel noise is a draw in proportion to w.
        noise = torch.rand(len(self.scores), generator=self.generator, dtype=torch.float64).clamp_min(1e-300)
        return self.scores.log() - (-noise.log()).log(), self.scores.sqrt()

    def took(self, index: int) -> None:
        """Distances to the new one count, too."""
        alike = (self.errors @ self.errors[index]) * (self.hidden @ self.hidden[index])
        new = (self.squares + self.squares[index] - 2 * alike).clamp_min(0)
        self.scores = torch.minimum(self.scores, new) if self.begun else new
        self.begun = True


def _cluster_margin(
    candidates: Candidates, unit: Tensor, known: Tensor, count: int, generator: torch.Generator
) -> _Fixed:
    margins = _unsure("margin")(candidates).scores
    hidden = unit if candidates.hidden is None else F.normalize(candidates.hidden.float(), dim=1)
    first = margins.topk(min(len(unit), _MANY * count)).indices
    groups = k_means(hidden[first], min(count, len(first)), generator)
    rank = torch.full((len(unit),), float(_MANY * count))
    for group in range(int(groups.max()) + 1):
        own = first[groups == group]  # the least sure one first
        rank[own] = torch.arange(len(own), dtype=rank.dtype)
    return _Fixed(margins, margins.double() / 2 - rank)


def _blocks(vectors: Tensor) -> tuple[Tensor, ...]:
    return vectors.split(1024) if len(vectors) else ()


def _distances(unit: Tensor, others: Tensor) -> Tensor:
    return (2 - 2 * unit @ others.T).clamp_min(0).sqrt()


def _unsure(kind: str) -> Callable[..., _Fixed]:
    def make(candidates: Candidates, *_: object) -> _Fixed:
        assert candidates.probabilities is not None
        return _Fixed(uncertainty(candidates.probabilities.float(), kind, several=candidates.several))

    return make


def _badge(candidates: Candidates, unit: Tensor, known: Tensor, count: int, generator: torch.Generator) -> _Fixed:
    assert candidates.probabilities is not None
    hidden = unit if candidates.hidden is None else candidates.hidden
    return _Gradients(candidates.probabilities, hidden, candidates.several, generator)


_MAKERS: dict[str, Callable[..., _Fixed]] = {
    "random": lambda candidates, unit, known, count, generator: _Fixed(torch.rand(len(unit), generator=generator)),
    "least-confidence": _unsure("least-confidence"),
    "margin": _unsure("margin"),
    "entropy": _unsure("entropy"),
    "k-center": lambda candidates, unit, known, count, generator: _Farthest(unit, known),
    "typiclust": lambda candidates, unit, known, count, generator: _Clusters(unit, known, count, generator),
    "badge": _badge,
    "cluster-margin": _cluster_margin,
}
