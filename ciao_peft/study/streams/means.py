"""Classifiers that count instead of training, and forget nothing: class means, and means with one shared covariance."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import InputError

__all__ = ["NearestMean", "StreamingLDA"]


class NearestMean:
    """The class whose mean is nearest, in Euclidean distance; means of everything that was ever seen.

    Args:
        num_labels: Number of classes.
        size: Numbers of a vector.

    Attributes:
        counts: Vectors seen of each class, `(K,)`.
        means: Their means, `(K, D)`, float64.

    Shapes:
        Vectors are `(B, D)`.

    Example:
        >>> classifier = NearestMean(num_labels=2, size=1)
        >>> classifier.add(torch.tensor([[0.0], [2.0], [9.0]]), torch.tensor([0, 0, 1]))
        >>> classifier.means.flatten().tolist(), classifier.scores(torch.tensor([[4.0], [6.0]])).argmax(1).tolist()
        ([1.0, 9.0], [0, 1])
    """

    counts: Tensor
    means: Tensor

    def __init__(self, num_labels: int, size: int):
        self.counts = torch.zeros(num_labels, dtype=torch.long)
        self.means = torch.zeros(num_labels, size, dtype=torch.float64)

    def add(self, vectors: Tensor, labels: Tensor) -> None:
        """Takes more vectors in; in which parts and order they come does not count.

        Args:
            vectors: `(B, D)`.
            labels: Their classes, `(B,)`.

        Raises:
            InputError: shapes or classes do not fit, or a vector is not finite.
        """
        vectors = self._checked(vectors, labels)
        for one in labels.unique().tolist():
            self._add_class(one, vectors[labels == one])

    def scores(self, vectors: Tensor) -> Tensor:
        """How well each class fits: minus the squared distance, `(B, K)`; -inf for classes that were never seen.

        Args:
            vectors: `(B, D)`.
        """
        distances = torch.cdist(vectors.double(), self.means)
        return (-distances.square()).masked_fill(self.counts == 0, float("-inf"))

    @property
    def memory_bytes(self) -> int:
        """What it keeps, in float32."""
        return 4 * self.means.numel() + 8 * len(self.counts)

    def _add_class(self, one: int, vectors: Tensor) -> None:
        before, new = self.counts[one].item(), len(vectors)
        self.means[one] += (vectors.mean(dim=0) - self.means[one]) * (new / (before + new))
        self.counts[one] += new

    def _checked(self, vectors: Tensor, labels: Tensor) -> Tensor:
        count, size = self.means.shape
        if vectors.ndim != 2 or vectors.shape[1] != size or labels.shape != vectors.shape[:1]:
            raise InputError(
                f"This takes vectors (B, {size}) and labels (B,); got {tuple(vectors.shape)} and {tuple(labels.shape)}."
            )
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < count:
            raise InputError(f"Classes go from 0 to {count - 1}; got {int(labels.min())} to {int(labels.max())}.")
        if not vectors.isfinite().all():
            raise InputError("A vector has a value that is not finite.")
        return vectors.double()


class StreamingLDA(NearestMean):
    r"""Linear discriminant analysis of a stream: class means, and one covariance within classes (Hayes & Kanan 2020).

    $$s_k(z) = \mu_k^\top \Lambda z - \tfrac{1}{2} \mu_k^\top \Lambda \mu_k \ (+ \log \tfrac{n_k}{n}), \quad
      \Lambda = \left( (1 - \epsilon) \Sigma + \epsilon \tfrac{\mathrm{tr} \Sigma}{D} I \right)^{-1}$$

    The covariance is that of all vectors around the means of their classes, updated so that it is exact after every
    vector; the paper's update is the same but for a factor that tends to 1. It shrinks towards a multiple of the
    identity as scikit-learn's does, so that ε has no unit.

    Args:
        num_labels, size: As for `NearestMean`.
        shrinkage: ε, above 0 and at most 1.
        priors: Whether frequent classes are more probable, as in scikit-learn; in the paper all are alike.

    Attributes:
        scatter: The sum of squares within classes, `(D, D)`, float64.

    Shapes:
        Vectors are `(B, D)`, labels `(B,)`.

    Example:
        >>> classifier = StreamingLDA(num_labels=2, size=2)
        >>> points = torch.tensor([[0.0, 0.0], [4.0, 1.0], [0.0, 2.0], [4.0, 3.0]])
        >>> classifier.add(points, torch.tensor([0, 0, 1, 1]))
        >>> classifier.scores(torch.tensor([[2.0, 1.4], [2.0, 1.6]])).argmax(1).tolist()
        [0, 1]
    """

    shrinkage: float
    priors: bool
    scatter: Tensor

    def __init__(self, num_labels: int, size: int, *, shrinkage: float = 1e-2, priors: bool = False):
        super().__init__(num_labels, size)
        if not 0 < shrinkage <= 1:
            raise InputError(f"`shrinkage` must be above 0 and at most 1; got {shrinkage!r}.")
        self.shrinkage = shrinkage
        self.priors = priors
        self.scatter = torch.zeros(size, size, dtype=torch.float64)
        self._weights: tuple[Tensor, Tensor] | None = None

    def scores(self, vectors: Tensor) -> Tensor:
        """The discriminants of all classes, `(B, K)`; -inf for classes that were never seen.

        Args:
            vectors: `(B, D)`.
        """
        if self._weights is None:
            self._weights = self._solved()
        weights, biases = self._weights
        return (vectors.double() @ weights.T + biases).masked_fill(self.counts == 0, float("-inf"))

    @property
    def memory_bytes(self) -> int:
        """What it keeps, in float32."""
        return super().memory_bytes + 4 * self.scatter.numel()

    def _add_class(self, one: int, vectors: Tensor) -> None:
        before, new = self.counts[one].item(), len(vectors)
        apart = vectors.mean(dim=0) - self.means[one]
        around = vectors - vectors.mean(dim=0)
        self.scatter += around.T @ around + torch.outer(apart, apart) * (before * new / (before + new))
        super()._add_class(one, vectors)
        self._weights = None

    def _solved(self) -> tuple[Tensor, Tensor]:
        total, size = int(self.counts.sum()), len(self.scatter)
        covariance = self.scatter / max(total, 1)
        mean = covariance.trace() / size
        even = torch.eye(size, dtype=torch.float64) * (mean if mean > 0 else 1.0)
        weights = torch.linalg.solve((1 - self.shrinkage) * covariance + self.shrinkage * even, self.means.T).T
        biases = -0.5 * (weights * self.means).sum(dim=1)
        if self.priors:
            biases = biases + (self.counts.double() / max(total, 1)).log()
        return weights, biases
