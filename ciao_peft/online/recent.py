"""The last corrections, which are learned together, and the adapter before the first of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checking import all_finite
from ..errors import AdapterFileError
from .rows import Faces, same_faces, sketches_of

__all__ = ["Recent", "together_with"]


@dataclass(frozen=True, eq=False)
class Recent:
    """Corrections that the next update learns once more, from where the first of them began.

    Twelve updates, each of which starts where the one before has ended, drift: each pulls towards its own face, and
    what holds it back is the adapter that was pulled already. Starting over costs a few more faces in each step.

    Args:
        tensors: The adapter's `state_dict` before the first of them.
        faces: The corrections, without u.
    """

    tensors: Mapping[str, Tensor]
    faces: Faces

    def check(self, state: Mapping[str, Tensor], where: str) -> None:
        """Refuses what is no earlier state of an adapter, though it was read from a file that is whole.

        Args:
            state: The `state_dict` of the adapter now.
            where: The file, for the message.

        Raises:
            AdapterFileError: other tensors, or NaN.
        """
        fits = self.tensors.keys() == state.keys() and all(
            tensor.shape == state[key].shape and tensor.dtype == state[key].dtype and all_finite(tensor)
            for key, tensor in self.tensors.items()
        )
        if not fits:
            raise AdapterFileError(f"'{where}' holds no earlier state of the adapter that lies beside it.")


def together_with(recent: Recent | None, corrections: Faces) -> Faces:
    """Earlier corrections and new ones; of a face that is corrected again, the new label counts.

    Args:
        recent: The earlier ones, or None.
        corrections: The new ones, without u.

    Returns:
        The earlier ones, then the new ones.

    Example:
        >>> first, second = (Faces((torch.rand(1, 8, 4, 4),), torch.tensor([[0.0, 1.0]])) for _ in range(2))
        >>> both = together_with(Recent({}, first), second)
        >>> len(both), len(together_with(Recent({}, both), first))
        (2, 2)
    """
    if recent is None:
        return corrections
    found = same_faces(sketches_of(recent.faces.tensors), sketches_of(corrections.tensors))
    earlier = recent.faces.rows([place for place, again in enumerate(found) if again < 0])
    pairs = zip(earlier.tensors, corrections.tensors, strict=True)
    tensors = tuple(torch.cat([one.to(other.device), other]) for one, other in pairs)
    return Faces(tensors, torch.cat([earlier.labels, corrections.labels]))
