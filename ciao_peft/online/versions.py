"""The states that an adapter went through: changed as a whole or not at all, and undone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..adapters import Adapter
from ..config import CIAOConfig
from ..errors import UndoError, quoted
from ..surroundings import CopiedLock, outside_inference
from .growing import grow_head, put_state
from .kept import MemoryState
from .memory import FeatureMemory
from .reading import Reader
from .recent import Recent
from .rows import Faces
from .update import Version

__all__ = ["VersionedAdapter"]


@dataclass(frozen=True)
class _State:
    """Adapter and memory at one moment, and the points that the guard had lost by then."""

    tensors: dict[str, Tensor]
    config: CIAOConfig
    memory: MemoryState
    versions: tuple[Version, ...]
    lost: float
    recent: Recent | None


class VersionedAdapter:
    """The part of `OnlineTrainer` that puts a new state of adapter and memory in place, and goes back.

    Args:
        reader: Reads for the adapter.
        memory: Changes with the adapter.
        keep_versions: Earlier states that `undo` can go back to.
    """

    adapter_name: str
    memory: FeatureMemory

    def __init__(self, reader: Reader, memory: FeatureMemory, keep_versions: int):
        self._reader, self.memory, self.adapter_name = reader, memory, reader.name
        self._keep = keep_versions
        self._lock = CopiedLock()
        self._versions = [Version(0, "as it was given")]
        self._next = 1
        self._lost = 0.0  # points that the guard lost since the first version
        self._earlier: list[_State] = []
        self._recent: Recent | None = None  # corrections that the next update learns once more
        self._left = reader.adapter, self._bits()  # the adapter as the last call left it

    @property
    def versions(self) -> list[Version]:
        """The states that led to the present one, oldest first; the last is the present."""
        return list(self._versions)

    @property
    def version(self) -> int:
        """Number of the present version."""
        return self._versions[-1].number

    def add_class(self, name: str) -> Version:
        """Adds a class (or a label) that no face has yet. Every answer stays what it was, until faces of it come.

        Args:
            name: Its name.

        Returns:
            The new version.

        Raises:
            ConfigError: the name is taken or empty, or the adapter regresses values.
            TrainingError: the adapter is in training elsewhere.
        """
        with self._learning() as adapter:
            work = copy.deepcopy(adapter)
            grow_head(work, [name])
            self._commit(work, None, f"{quoted(name)} added", 0.0)
            return self._versions[-1]

    def undo(self) -> Version:
        """Makes adapter and memory what they were before the last update that was kept.

        Returns:
            The version that it is now.

        Raises:
            UndoError: there is none to go back to, or the adapter was changed elsewhere since.
            TrainingError: the adapter is in training elsewhere.
        """
        with self._learning(may_forget=False) as adapter:
            if not self._earlier:
                raise UndoError(
                    f"There is nothing to undo: the adapter {quoted(self.adapter_name)} is at version {self.version}, "
                    f"and {self._keep} earlier versions are kept at most, none of them over a restart."
                )
            earlier = self._earlier[-1]
            self._put(adapter, earlier)
            self._earlier.pop()
            self._versions, self._lost = list(earlier.versions), earlier.lost
            return self._versions[-1]

    def _bits(self) -> dict[str, Tensor]:
        return {key: tensor.detach().clone() for key, tensor in self._reader.adapter.state_dict().items()}

    def _state(self) -> _State:
        memory, versions = self.memory.state(), tuple(self._versions)
        return _State(self._left[1], self._reader.config, memory, versions, self._lost, self._recent)

    @contextmanager
    def _learning(self, may_forget: bool = True) -> Iterator[Adapter]:
        """The adapter, which nobody else trains meanwhile."""
        with self._lock:
            adapter = self._reader.adapter
            with adapter.hold.for_training(self.adapter_name), outside_inference(gradients=True):
                self._notice_changes(adapter, may_forget)
                yield adapter

    def _notice_changes(self, adapter: Adapter, may_forget: bool) -> None:
        """Whether the adapter is still the one that the last call left; else there is nothing to undo."""
        same, left = self._left
        now = adapter.state_dict()
        if adapter is same and now.keys() == left.keys() and all(_equal(now[key], left[key]) for key in left):
            return
        if not may_forget:
            raise UndoError(
                f"The adapter {quoted(self.adapter_name)} was changed elsewhere since version {self.version}; undoing "
                "would take that back as well. Load the adapter that you want."
            )
        self._left, self._lost, self._recent = (adapter, self._bits()), 0.0, None
        self._earlier.clear()
        self._versions.append(Version(self._next, "changed elsewhere"))
        self._next += 1

    def _commit(
        self, work: Adapter, corrections: Faces | None, what: str, lost: float, recent: Recent | None = None
    ) -> None:
        """Puts a copy in the place of the adapter, and the corrections into the memory: both or neither."""
        adapter, before = self._reader.adapter, self._state()
        try:
            put_state(adapter, work.state_dict(), work.config)
            if work.config.num_labels > before.config.num_labels and len(self.memory):
                self.memory.grow(work.config.num_labels)
            if corrections is not None:
                self.memory.add(corrections, work.config, self._reader.key())
        except BaseException:
            self._put(adapter, before)
            raise
        self._left = adapter, {key: tensor.detach() for key, tensor in work.state_dict().items()}  # nobody's else
        self._earlier = [*self._earlier, before][-self._keep :] if self._keep else []
        self._versions = [*self._versions, Version(self._next, what)]
        self._next += 1
        self._lost, self._recent = max(self._lost + lost, 0.0), recent

    def _put(self, adapter: Adapter, state: _State) -> None:
        put_state(adapter, state.tensors, state.config)
        self.memory.restore(state.memory)
        self._left, self._recent = (adapter, state.tensors), state.recent


def _equal(now: Tensor, before: Tensor) -> bool:
    return now.shape == before.shape and torch.equal(now, before.to(now.device))
