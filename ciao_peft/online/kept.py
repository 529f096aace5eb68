"""The rows of a memory: which of the faces that come by are kept, within a bound in bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..trainer.seeds import seed_of
from .herding import herd
from .rows import Faces, means_of_channels, same_faces, sketches_of

__all__ = ["KeptRows", "MemoryState", "Policy", "Row", "bytes_of_face"]

Policy = Literal["reservoir", "class_balanced", "herding"]

_OF_A_ROW = 64 + 8 + 1  # bytes of its sketch, its class, and whether it is held apart


def bytes_of_face(tensors: Sequence[Tensor], label: Tensor) -> int:
    """What a face takes in a memory: features, label, sketch, class, and whether it is held apart.

    Args:
        tensors: Its features.
        label: Its label.

    Example:
        >>> bytes_of_face([torch.zeros(8, 4, 4, dtype=torch.float16)], torch.zeros(3))  # 256 + 12 + 73
        341
    """
    return sum(tensor.nbytes for tensor in tensors) + label.nbytes + _OF_A_ROW


@dataclass(frozen=True, eq=False)
class Row:
    """One stored face; never changed, so that states of a memory can share it.

    Args:
        tensors: Its features.
        label: `(num_labels,)`.
        kind: Its class, as `classes_of` numbers it.
        held: Whether it is held apart from rehearsal.
        sketch: What it is known again by.
        nbytes: What it takes.

    Shapes:
        tensors: As those of one face, mostly `(C, H, W)`; label `(num_labels,)`; sketch `(16,)`.
    """

    tensors: tuple[Tensor, ...]
    label: Tensor
    kind: int
    held: bool
    sketch: Tensor
    nbytes: int

    @classmethod
    def of(cls, tensors: Sequence[Tensor], label: Tensor, kind: int, held: bool, sketch: Tensor) -> Row:
        """A row with a copy of everything.

        Args:
            tensors, label, kind, held, sketch: As for the class.
        """
        own = tuple(tensor.clone() for tensor in tensors)
        return cls(own, label.clone(), kind, held, sketch.clone(), bytes_of_face(own, label))


@dataclass(frozen=True)
class MemoryState:
    """A memory at one moment, as `FeatureMemory.state` gives it; shares its rows with the memory.

    Args:
        rows: What was stored.
        seen: How many faces of each class came by so far.
        sums: Of herding: the sum of φ over them, by class.
        key: Whose features they are, or None.
    """

    rows: tuple[Row, ...]
    seen: dict[int, int]
    sums: dict[int, Tensor]
    key: dict[str, Any] | None


class KeptRows:
    """The part of `FeatureMemory` that holds rows, and chooses which of them stay.

    Args:
        max_bytes, policy, held_share, seed: As for `FeatureMemory`.

    Shapes:
        Features are `(B, ...)` for each tensor that crosses the cut.
    """

    max_bytes: int
    policy: Policy
    held_share: float
    seed: int
    key: dict[str, Any] | None

    def __init__(self, max_bytes: int, policy: Policy, held_share: float, seed: int):
        self.max_bytes, self.policy, self.held_share, self.seed = max_bytes, policy, held_share, seed
        self.key = None
        self._rows: list[Row] = []
        self._bytes = 0  # of the rows
        self._known = torch.empty(0, 16, dtype=torch.float32, device="cpu")  # their sketches
        self._seen: dict[int, int] = {}
        self._sums: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes now: every tensor of it, and eight for each class that came by."""
        return self._bytes + self._of_classes()

    def _of_classes(self) -> int:
        return 8 * len(self._seen) + sum(total.nbytes for total in self._sums.values())

    @property
    def counts(self) -> dict[int, int]:
        """How many faces of each class are stored, by the number of the class.

        For regression a class is a cell of the label space, for sets of labels a set.
        """
        return dict(sorted(Counter(row.kind for row in self._rows).items()))

    @property
    def num_held(self) -> int:
        """How many of its faces are held apart from rehearsal."""
        return sum(row.held for row in self._rows)

    def find(self, tensors: Sequence[Tensor]) -> list[int]:
        """Where each of some faces is stored, or -1.

        Args:
            tensors: Features, `(B, ...)` each.
        """
        return same_faces(sketches_of(tensors), self._known)

    def state(self) -> MemoryState:
        """What it holds now, for `restore`; costs next to nothing."""
        return MemoryState(tuple(self._rows), dict(self._seen), dict(self._sums), self.key)

    def restore(self, state: MemoryState) -> None:
        """Makes it what it was.

        Args:
            state: What `state` gave.
        """
        self._seen, self._sums, self.key = dict(state.seen), dict(state.sums), state.key
        self._hold(state.rows)

    def faces_of(self, rows: Sequence[Row]) -> Faces:
        """Faces of some rows, in the dtype of the memory.

        Args:
            rows: Some of `state().rows`.
        """
        tensors = tuple(torch.stack(parts) for parts in zip(*(row.tensors for row in rows), strict=True))
        return Faces(tensors, torch.stack([row.label for row in rows]) if rows else torch.empty(0, 0, device="cpu"))

    # -- changing what is held ---------------------------------------------------------------------------------------

    def _hold(self, rows: Sequence[Row]) -> None:
        self._rows = list(rows)
        self._bytes = sum(row.nbytes for row in rows)
        sketches = [row.sketch for row in rows]
        self._known = torch.stack(sketches) if sketches else torch.empty(0, 16, dtype=torch.float32, device="cpu")

    def _append(self, row: Row) -> None:
        self._rows.append(row)
        self._bytes += row.nbytes
        self._known = torch.cat([self._known, row.sketch[None]])

    def _set(self, place: int, row: Row) -> None:
        self._bytes += row.nbytes - self._rows[place].nbytes
        self._rows[place] = row
        self._known = torch.cat([self._known[:place], row.sketch[None], self._known[place + 1 :]])

    def _to_width(self, num_labels: int) -> None:
        def wider(row: Row) -> Row:
            more = num_labels - len(row.label)
            if more <= 0:
                return row
            label = torch.nn.functional.pad(row.label, (0, more))
            return replace(row, label=label, nbytes=bytes_of_face(row.tensors, label))

        if any(len(row.label) < num_labels for row in self._rows):
            self._hold([wider(row) for row in self._rows])

    # -- what the policies say ---------------------------------------------------------------------------------------

    def _put(self, row: Row, clips: bool) -> None:
        """One face that comes by. Herding chooses in `_shrink`, among all that came."""
        place = same_faces(row.sketch[None], self._known)[0]
        if place >= 0:
            old = self._rows[place]
            if torch.equal(old.label, row.label):
                return
            self._forget(old, clips)
            self._hold([other for other in self._rows if other is not old])
        self._count(row, clips)
        number = sum(self._seen.values())
        generator = torch.Generator().manual_seed(seed_of(self.seed, number, 1))
        draws = torch.rand(3, generator=generator, dtype=torch.float64, device="cpu").tolist()
        row = replace(row, held=draws[0] < self.held_share)
        if self.policy == "herding" or self.nbytes + row.nbytes <= self.max_bytes:
            self._append(row)
        elif self.policy == "reservoir":
            self._replace(range(len(self._rows)), row, draws, number)
        else:
            counts = Counter(other.kind for other in self._rows)
            most = max(counts.values(), default=0)
            if counts[row.kind] < most:  # of a class that has fewer than the largest: one of that gives way
                places = [place for place, other in enumerate(self._rows) if counts[other.kind] == most]
                self._set(places[int(draws[1] * len(places))], row)
            else:
                own = [place for place, other in enumerate(self._rows) if other.kind == row.kind]
                self._replace(own, row, draws, self._seen[row.kind])

    def _replace(self, places: Sequence[int], row: Row, draws: list[float], seen: int) -> None:
        """Vitter's Algorithm R: the n-th face takes the place of one of m with probability m / n."""
        slot = int(draws[2] * seen)
        if slot < len(places):
            self._set(places[slot], row)

    def _count(self, row: Row, clips: bool) -> None:
        self._seen[row.kind] = self._seen.get(row.kind, 0) + 1
        if self.policy == "herding":
            point = _point_of(row, clips)
            self._sums[row.kind] = self._sums.get(row.kind, torch.zeros_like(point)) + point

    def _forget(self, row: Row, clips: bool) -> None:
        """Takes a face that had a wrong label out of what is counted of that class."""
        self._seen[row.kind] -= 1
        if self.policy == "herding":
            self._sums[row.kind] = self._sums[row.kind] - _point_of(row, clips)
        if not self._seen[row.kind]:
            del self._seen[row.kind]
            self._sums.pop(row.kind, None)

    def _shrink(self, clips: bool) -> None:
        """Gives back what is more than the bound allows."""
        if not self._rows or self.nbytes <= self.max_bytes:
            return
        capacity = max(self.max_bytes - self._of_classes(), 0) // max(row.nbytes for row in self._rows)
        if self.policy == "herding":
            self._hold(self._herded(capacity, clips))
            return
        rows = list(self._rows)
        while len(rows) > capacity:
            counts = Counter(row.kind for row in rows)
            most = max(counts.values())
            last = [place for place, row in enumerate(rows) if counts[row.kind] == most][-1]
            del rows[last if self.policy == "class_balanced" else -1]
        self._hold(rows)

    def _herded(self, capacity: int, clips: bool) -> list[Row]:
        kinds = sorted({row.kind for row in self._rows})
        own = {kind: [row for row in self._rows if row.kind == kind] for kind in kinds}
        quota = quotas({kind: len(rows) for kind, rows in own.items()}, capacity)
        kept: list[Row] = []
        for kind, rows in own.items():
            tensors = [torch.stack(parts) for parts in zip(*(row.tensors for row in rows), strict=True)]
            points = means_of_channels(tensors, clips)
            kept += [rows[place] for place in herd(points, quota[kind], self._sums[kind] / self._seen[kind])]
        return kept


def _point_of(row: Row, clips: bool) -> Tensor:
    """φ of one face."""
    return means_of_channels([tensor[None] for tensor in row.tensors], clips)[0].double()


def quotas(there: dict[int, int], capacity: int) -> dict[int, int]:
    """How many of each class are kept: equally many; what a small class leaves goes to the others.

    Args:
        there: How many there are of each class.
        capacity: How many are kept in all.

    Example:
        >>> quotas({0: 1, 1: 9, 2: 9}, 6)
        {0: 1, 1: 3, 2: 2}
    """
    quota, left = dict.fromkeys(there, 0), capacity
    while left > 0 and (open_ := [kind for kind in there if quota[kind] < there[kind]]):
        for kind in open_[:left]:
            quota[kind] += 1
        left -= min(left, len(open_))
    return quota
