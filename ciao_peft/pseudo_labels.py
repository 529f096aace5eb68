"""Eq. 6-8: what samples without labels add to the loss: views that stay together, and labels of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ._shapes import Bool, Float, Int
from .config import CIAOConfig
from .errors import InputError
from .labels import widest_dtype
from .probabilities import adjusted_logits

__all__ = ["PseudoLabels", "SeenUnlabelled", "pseudo_label_loss", "pseudo_labels"]

_KEPT = 0.95
"""Of what was seen of unlabelled samples, at each update: a memory of about twenty."""


class PseudoLabels(NamedTuple):
    """Labels that an adapter gave to samples by itself.

    Args:
        labels: `(U,)`, the likeliest class of each.
        counts: `(U,)`, whether the adapter is sure enough of it to learn from it.

    Shapes:
        `(U,)` each.

    Example:
        >>> PseudoLabels(torch.tensor([1, 0]), torch.tensor([True, False])).counts.sum()
        tensor(1)
    """

    labels: Int[Tensor, " unlabelled"]
    counts: Bool[Tensor, " unlabelled"]


class SeenUnlabelled:
    r"""Running means of what an adapter said of unlabelled samples: how often each class, and how surely.

    $$\bar p_k \leftarrow 0.95\, \bar p_k + 0.05\, \mathrm{mean}_u\, p_{uk} \qquad
      \bar c_k \leftarrow 0.95\, \bar c_k + 0.05\, \mathrm{mean}_{u:\, \arg\max p_u = k}\, p_{uk}$$

    The means of the classes start at 1/C; how surely, at 1, and where a batch has no sample of a class, it stays. The
    share of the samples that counted starts at 0.

    Args:
        num_labels: C.
        device: Where they are kept, in its widest floating point.

    Attributes:
        values: `(2 C + 1,)`: how often each class, how surely each, and the share that counted.

    Shapes:
        probabilities `(U, C)`; counts `(U,)`.

    Example:
        >>> seen = SeenUnlabelled(2, torch.device("cpu"))
        >>> seen.update(torch.tensor([[0.9, 0.1], [0.7, 0.3]]))
        >>> [round(value, 3) for value in seen.state()]
        [0.515, 0.485, 0.99, 1.0, 0.0]
    """

    values: Float[Tensor, " means"]

    def __init__(self, num_labels: int, device: torch.device):
        exact = widest_dtype(device)
        parts = torch.full((num_labels,), 1 / num_labels), torch.ones(num_labels), torch.zeros(1)
        self.values = torch.cat([part.to(device, exact) for part in parts])
        self.values[:num_labels] = 1 / num_labels  # to the last bit

    @property
    def num_labels(self) -> int:
        """C."""
        return (len(self.values) - 1) // 2

    @property
    def classes(self) -> Float[Tensor, " classes"]:
        """How often each class is said, `(C,)`, with the sum 1."""
        return self.values[: self.num_labels]

    @property
    def sureness(self) -> Float[Tensor, " classes"]:
        """Mean probability of a class where it is the likeliest, `(C,)`."""
        return self.values[self.num_labels : -1]

    @property
    def share(self) -> Float[Tensor, ""]:
        """Share of the samples that counted."""
        return self.values[-1]

    def update(self, probabilities: Float[Tensor, "unlabelled classes"]) -> None:
        """Counts a batch of unlabelled samples.

        Args:
            probabilities: `(U, C)`, as the adapter gave them.
        """
        own = probabilities.to(self.values.dtype)
        sure, labels = own.max(dim=1)
        chosen = F.one_hot(labels, self.num_labels).to(own.dtype)
        counts = chosen.sum(dim=0)
        surely = torch.where(counts > 0, (sure @ chosen) / counts.clamp(min=1), self.sureness)
        now = torch.cat([own.mean(dim=0), surely, self.values[-1:]])
        self.values = _KEPT * self.values + (1 - _KEPT) * now

    def count(self, counts: Bool[Tensor, " unlabelled"]) -> None:
        """Notes which samples of a batch were sure enough.

        Args:
            counts: `(U,)`, of `PseudoLabels`.
        """
        share = counts.to(self.values.dtype).mean()
        self.values = torch.cat([self.values[:-1], (_KEPT * self.share + (1 - _KEPT) * share)[None]])

    def state(self) -> list[float]:
        """Plain data for a checkpoint, from which `restore` goes on to the bit."""
        return self.values.tolist()

    def restore(self, state: Sequence[float]) -> None:
        """Puts back what `state` gave.

        Args:
            state: 2 C + 1 numbers.

        Raises:
            InputError: there are more or fewer.
        """
        if len(state) != len(self.values):
            raise InputError(f"{len(self.values)} running means of {self.num_labels} classes; got {len(state)}.")
        self.values = torch.tensor(list(state), dtype=self.values.dtype, device=self.values.device)


def pseudo_labels(
    logits: Float[Tensor, "unlabelled classes"],
    config: CIAOConfig,
    *,
    confidence: float,
    seen: SeenUnlabelled | None = None,
    share: float = 1.0,
    alignment: float = 0.0,
    adaptive: bool = False,
) -> PseudoLabels:
    r"""Labels of unlabelled samples by what an adapter says of them (Eq. 7).

    $$q_{uk} \propto p_{uk} \left(\frac{\pi_k}{\bar p_k}\right)^{\beta} \qquad
      \hat y_u = \arg\max_k q_{uk} \qquad m_u = [\max_k q_{uk} \ge \theta_{\hat y_u}]$$

    p are the probabilities as the task loss sees them (`logit_adjustment` included). With β = 0, q is p; with 1, the
    classes come out as often as in the training, where `seen` knows how often the adapter says each (distribution
    alignment, Berthelot et al. 2020). θ is `confidence` for all classes (FixMatch, Sohn et al. 2020). With `adaptive`,
    it is what the adapter's mean probability of each class is where it says that class, if that is less:

    $$\theta_k = \min(\theta,\; \bar c_k)$$

    so that the threshold follows training and class (as in FreeMatch, Wang et al. 2023). Of the samples of a batch with
    one pseudo-label, moreover, only the surest `share` counts, one at least: an adapter that is too sure of everything,
    or of one class, still learns from what it is surest of in each (class-balanced self-training, Zou et al. 2018).

    Args:
        logits: `(U, C)`, of the view that decides.
        config: Of a single-label adapter; gives `logit_adjustment` and, as π, `class_prior`.
        confidence: θ, from 0 to 1.
        share: ρ, of the samples with one pseudo-label, from 0 to 1; 1 lets all of them count.
        seen: Running means, which this batch is added to first; needed for `alignment` and `adaptive`.
        alignment: β, from 0 to 1.
        adaptive: Whether θ follows what was seen.

    Returns:
        `(U,)` class ids, and which of them count.

    Raises:
        InputError: the config is of another problem; or `seen` or `class_prior` is needed and missing.

    Example:
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
        >>> found = pseudo_labels(torch.tensor([[4.0, 0.0], [0.0, 1.0]]), config, confidence=0.9)
        >>> found.labels.tolist(), found.counts.tolist()  # of 98 and 73 percent
        ([0, 1], [True, False])
    """
    if config.problem_type != "single_label_classification":
        raise InputError(f"Pseudo-labels are classes; the adapter is one of {config.problem_type}.")
    exact = widest_dtype(logits.device)
    probabilities = adjusted_logits(logits.to(exact), config).softmax(dim=1)
    if seen is None and (alignment > 0 or adaptive):
        raise InputError("`alignment` and `adaptive` need `seen`, a `SeenUnlabelled` of this training.")
    if seen is not None:
        seen.update(probabilities)
        if alignment > 0:
            if config.class_prior is None:
                raise InputError("`alignment` needs the frequencies of the classes, as `class_prior` of the config.")
            prior = torch.tensor(config.class_prior, dtype=exact, device=logits.device)
            tiny = torch.finfo(exact).tiny
            probabilities = probabilities * (prior / seen.classes.clamp(min=tiny)) ** alignment
            probabilities = probabilities / probabilities.sum(dim=1, keepdim=True)
    sure, labels = probabilities.max(dim=1)
    if adaptive and seen is not None:
        threshold = seen.sureness.clamp(max=confidence)[labels]
    else:
        threshold = torch.full_like(sure, confidence)
    counts = sure >= threshold
    if share < 1:
        counts = counts & _surest(_margins(logits, config, probabilities), labels, config.num_labels, share)
    if seen is not None:
        seen.count(counts)
    return PseudoLabels(labels, counts)


def _margins(
    logits: Float[Tensor, "unlabelled classes"], config: CIAOConfig, q: Float[Tensor, "unlabelled classes"]
) -> Float[Tensor, " unlabelled"]:
    """What orders samples as their probabilities do, also where those are 1 to the last bit."""
    labels = q.argmax(dim=1, keepdim=True)
    own = adjusted_logits(logits.to(q.dtype), config)
    others = own.scatter(1, labels, -torch.inf).logsumexp(dim=1)
    return own.gather(1, labels)[:, 0] - others


def _surest(
    sure: Float[Tensor, " unlabelled"], labels: Int[Tensor, " unlabelled"], num_labels: int, share: float
) -> Bool[Tensor, " unlabelled"]:
    """Whether a sample is among the surest of those with its label; the earlier one of two that are equally sure."""
    order = sure.argsort(descending=True, stable=True)
    chosen = F.one_hot(labels[order], num_labels)
    place = (chosen.cumsum(dim=0) * chosen).sum(dim=1)  # from 1 on, among those of its label
    most = (share * chosen.sum(dim=0)).ceil().clamp(min=1)[labels[order]]
    return torch.empty_like(place, dtype=torch.bool).scatter_(0, order, place <= most)


def pseudo_label_loss(
    logits: Float[Tensor, "unlabelled classes"], found: PseudoLabels, config: CIAOConfig
) -> Float[Tensor, ""]:
    r"""Cross-entropy with pseudo-labels, over all unlabelled samples of the batch (Eq. 8).

    $$L_u = -\frac{1}{U} \sum_u m_u \log p^{\mathrm{learning}}_{u \hat y_u}$$

    Where few samples are sure, the loss is small: it is divided by all of them, as in FixMatch.

    Args:
        logits: `(U, C)`, of the view that learns.
        found: Of the view that decides.
        config: Gives `logit_adjustment`.

    Returns:
        A scalar in float32 or wider; 0 where no sample counts.

    Example:
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=4)
        >>> found = PseudoLabels(torch.tensor([0, 3]), torch.tensor([True, False]))
        >>> pseudo_label_loss(torch.zeros(2, 4), found, config)  # half of log 4
        tensor(0.6931)
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    each = F.cross_entropy(adjusted_logits(logits, config), found.labels, reduction="none")
    return torch.where(found.counts, each, 0.0).mean()
