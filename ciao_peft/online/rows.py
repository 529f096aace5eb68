"""Faces as an update sees them: stored features, labels as rows of numbers, and what tells one face from another."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from ..config import CIAOConfig
from ..labels import discretise

__all__ = ["Faces", "classes_of", "means_of_channels", "same_faces", "sketches_of"]

_SKETCH = 16
_ALIKE = (
    5e-3  # relative distance; float16 and other batch sizes move features by a tenth of it, other faces by far more
)


@dataclass(frozen=True)
class Faces:
    """Features and labels of some faces.

    Args:
        tensors: What crosses the cut, then the depths that the adapter reads; `(B, ...)` each, of clips `(B, T, ...)`.
        labels: `(B, num_labels)`, float32: shares of classes that sum to 1, values, or 0 and 1.

    Shapes:
        Rows of all tensors are the same faces in the same order.

    Example:
        >>> faces = Faces((torch.rand(3, 8, 4, 4),), torch.eye(3))
        >>> len(faces), faces.rows([2]).labels
        (3, tensor([[0., 0., 1.]]))
    """

    tensors: tuple[Tensor, ...]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, numbers: Sequence[int]) -> Faces:
        """Some of the faces.

        Args:
            numbers: Which, in the new order.
        """
        chosen = torch.as_tensor(list(numbers), dtype=torch.long, device="cpu")
        return Faces(tuple(tensor[chosen.to(tensor.device)] for tensor in self.tensors), self.labels[chosen])

    def padded(self, num_labels: int) -> Faces:
        """The faces with zeros for labels that came after them.

        Args:
            num_labels: How many labels there are.
        """
        return Faces(self.tensors, torch.nn.functional.pad(self.labels, (0, num_labels - self.labels.shape[1])))


def classes_of(labels: Tensor, config: CIAOConfig) -> list[int]:
    """The class of each row, by which a memory is balanced and herded.

    It is the class, or the most voted one; for regressed values the cell of the label space (`discretise`); for sets of
    labels the set, by a number that stays when more labels come.

    Args:
        labels: `(B, num_labels)`, as in `Faces`.
        config: Of the adapter.

    Returns:
        A whole number for each row, equal where the classes are.

    Example:
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=3)
        >>> classes_of(torch.tensor([[0.0, 1.0, 0.0], [0.6, 0.2, 0.2]]), config)
        [1, 0]
    """
    if config.problem_type == "single_label_classification":
        return labels.argmax(dim=1).tolist()
    if config.problem_type == "regression":
        return discretise(labels, config.num_bins, config.label_range).tolist()
    return [_number_of([place for place, on in enumerate(row) if on]) for row in labels.tolist()]


def _number_of(places: list[int]) -> int:
    return int.from_bytes(blake2b(repr(places).encode(), digest_size=7).digest(), "little")


@functools.lru_cache(maxsize=8)
def _signs(count: int) -> Tensor:
    drawn = torch.randint(0, 2, (count,), generator=torch.Generator().manual_seed(0), device="cpu")
    return drawn.float() * 2 - 1


@torch.no_grad()
def sketches_of(tensors: Sequence[Tensor]) -> Tensor:
    """A few numbers for each face, by which the same face is known again (a count sketch, Charikar et al. 2002).

    Numbers get random signs and are summed in 16 groups, after all of a face were scaled to unit length; distances stay
    about what they were.

    Args:
        tensors: Features, `(B, ...)` each.

    Returns:
        `(B, 16)`, float32, on the CPU.

    Example:
        >>> features = torch.rand(2, 8, 4, 4)
        >>> (sketches_of([features.half()]) - sketches_of([features])).abs().max() < 1e-3
        tensor(True)
    """
    flat = torch.cat([tensor.detach().to("cpu").flatten(1).float() for tensor in tensors], dim=1)
    flat = flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-12)
    signed = flat * _signs(flat.shape[1])
    if more := -flat.shape[1] % _SKETCH:
        signed = torch.nn.functional.pad(signed, (0, more))
    return signed.unflatten(1, (-1, _SKETCH)).sum(dim=1)


def same_faces(sketches: Tensor, others: Tensor) -> list[int]:
    """For each face the first of others that is the same one, or -1.

    Args:
        sketches: `(B, 16)`, of `sketches_of`.
        others: `(N, 16)`.

    Example:
        >>> one, other = sketches_of([torch.rand(1, 8, 4, 4)]), sketches_of([torch.rand(1, 8, 4, 4)])
        >>> same_faces(torch.cat([other, one]), one)
        [-1, 0]
    """
    if not len(others):
        return [-1] * len(sketches)
    alike = torch.cdist(sketches.double(), others.double()) <= _ALIKE
    return [int(row.nonzero()[0, 0]) if bool(row.any()) else -1 for row in alike]


@torch.no_grad()
def means_of_channels(tensors: Sequence[Tensor], clips: bool = False) -> Tensor:
    """φ of herding: the mean of each channel over its positions, of all tensors together scaled to unit length.

    Args:
        tensors: Features, `(B, C, ...)` each, of clips `(B, T, C, ...)`.
        clips: Whether they are of clips, over whose frames the mean goes as well.

    Returns:
        `(B, D)`, float32, on the CPU.

    Example:
        >>> means_of_channels([torch.ones(1, 4, 6, 6)])
        tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """
    parts: list[Tensor] = []
    for tensor in tensors:
        rows = tensor.detach().to("cpu").float()
        rows = rows.mean(dim=1) if clips else rows
        parts.append(rows.flatten(2).mean(dim=2) if rows.ndim > 2 else rows)
    together = torch.cat(parts, dim=1)
    return together / together.norm(dim=1, keepdim=True).clamp(min=1e-12)
