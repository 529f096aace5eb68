"""Stored features as a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FeatureCacheError
from .store import Layout, key_hash, map_tensors


class FeatureDataset:
    """A map-style dataset of `{"features": (tensor, ...), "labels": label}`, as `cache_features` returns it.

    Args:
        key: Whose features they are.
        layout: What is stored of them.
        labels: A row per sample, or None.
        tensors: The features in memory, `(views * samples, ...)` each; or
        folder: where they lie.
        rows: Numbers of the samples it shows, for a part of what is stored; `(clips, frames)` for clips of them.
        label_names: Of the classes in the order of their ids, where known.

    Attributes:
        views: Stored views of each sample; view 0 is the picture as it is, and what indexing gives.
        has_excitation: Whether u of the frozen conv units is stored behind the features.
    """

    def __init__(
        self,
        key: dict[str, Any],
        layout: Layout,
        labels: Tensor | None,
        tensors: tuple[Tensor, ...] | None = None,
        folder: Path | None = None,
        rows: Tensor | None = None,
        label_names: list[str] | None = None,
    ):
        self.key = key
        self.layout = layout
        self.labels = labels
        self.folder = folder
        self.label_names = label_names
        self.views: int = key["views"]
        self.has_excitation: bool = key.get("excitation", False)
        self._stored: int = key["num_samples"]
        self._rows = rows
        self._tensors = tensors

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Everything that is stored, `(views * samples, ...)` each: in memory, or mapped into it."""
        if self._tensors is None:
            self._tensors = map_tensors(self.folder, self.layout)
        return self._tensors

    @property
    def key_hash(self) -> str:
        """A short name for whose features they are, with or without u."""
        return key_hash(self.key)

    @property
    def frames(self) -> int | None:
        """Frames of each sample, where the samples are clips."""
        return self._rows.shape[1] if self._rows is not None and self._rows.ndim == 2 else None

    def __len__(self) -> int:
        return self._stored if self._rows is None else len(self._rows)

    def features(
        self, indices: Sequence[int] | Tensor, views: int | Tensor = 0, include_excitation: bool = True
    ) -> tuple[Tensor, ...]:
        """The features of many samples at once, `(B, ...)` each, of clips `(B, T, ...)`, as they are stored.

        Args:
            indices: Numbers of the samples.
            views: Which of the stored views; one for all, or one for each.
            include_excitation: With u behind them, where it is stored.
        """
        indices = torch.as_tensor(indices, dtype=torch.long)
        rows = indices if self._rows is None else self._rows[indices]
        if self.frames is not None and isinstance(views, Tensor):
            views = views[:, None]  # all frames of a clip in the same view
        rows = rows + views * self._stored
        tensors = self.tensors
        if self.has_excitation and not include_excitation:
            tensors = tensors[: -len(self.key["targets"])]
        if self.frames is not None:
            return tuple(tensor.index_select(0, rows.flatten()).unflatten(0, rows.shape) for tensor in tensors)
        return tuple(tensor.index_select(0, rows) for tensor in tensors)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        rows = list(zip(*self.features(indices), strict=True))
        labels = [None] * len(rows) if self.labels is None else self.labels[torch.as_tensor(indices)]
        samples = [{"features": row, "labels": label} for row, label in zip(rows, labels, strict=True)]
        return samples if self.labels is not None else [{"features": sample["features"]} for sample in samples]

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"There are {len(self)} samples; got the index {index}.")
        return self.__getitems__([index % len(self)])[0]

    def select(self, indices: Sequence[int]) -> FeatureDataset:
        """A part of the samples, over the same files: for folds, or a held-out share.

        Example:
            >>> key = {"views": 1, "num_samples": 3}
            >>> stored = FeatureDataset(key, Layout(((2,),), "float32", 3), None, (torch.eye(3, 2),))
            >>> stored.select([2, 0]).features([1])[0].tolist()
            [[1.0, 0.0]]
        """
        indices = torch.as_tensor(list(indices), dtype=torch.long)
        rows = indices if self._rows is None else self._rows[indices]
        labels = None if self.labels is None else self.labels[indices]
        return FeatureDataset(self.key, self.layout, labels, self._tensors, self.folder, rows, self.label_names)

    def clips(self, rows: Any) -> FeatureDataset:
        """Clips of these samples, over the same files, each with the label of its first frame.

        Args:
            rows: `(clips, frames)`, which samples are the frames of each clip, as `Clips` has them.

        Example:
            >>> key = {"views": 1, "num_samples": 3}
            >>> stored = FeatureDataset(key, Layout(((1,),), "float32", 3), None, (torch.tensor([[5.0], [6], [7]]),))
            >>> stored.clips([[0, 2], [1, 1]]).features([0, 1])[0].squeeze(-1).tolist()
            [[5.0, 7.0], [6.0, 6.0]]
        """
        numbers = torch.as_tensor(rows, dtype=torch.long)
        labels = None if self.labels is None else self.labels[numbers[:, 0]]
        numbers = numbers if self._rows is None else self._rows[numbers]
        return FeatureDataset(self.key, self.layout, labels, self._tensors, self.folder, numbers, self.label_names)

    def with_labels(self, labels: Tensor | None) -> FeatureDataset:
        """The same features with other labels, a row per sample."""
        return FeatureDataset(self.key, self.layout, labels, self._tensors, self.folder, self._rows, self.label_names)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        if self.folder is not None:
            state["_tensors"] = None  # other processes map the files themselves
        return state

    def check_belongs_to(self, expected: dict[str, Any]) -> None:
        """Refuses features that a model does not make.

        Args:
            expected: The part of a key that says which model, as `model_key` gives it.

        Raises:
            FeatureCacheError: they are of another backbone, cut or preprocessing; says which.
        """
        changed = [name for name, value in expected.items() if self.key.get(name) != value]
        if changed:
            raise FeatureCacheError(
                f"These stored features were not made by this model: {', '.join(changed)} differ. Make them anew with "
                "`cache_features(model, dataset, folder)`."
            )
