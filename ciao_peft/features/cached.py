"""Stored features as a map-style dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..backbone import Depth
from ..errors import FeatureCacheError
from .checks import RowChecks
from .layout import FeatureLayout, MappedRows, map_tensors
from .store import key_hash
from .stored_depths import depths_of, places_of

__all__ = ["FeatureDataset"]


class FeatureDataset:
    """A map-style dataset of `{"features": (tensor, ...), "labels": label}`, as `cache_features` returns it.

    Args:
        key: Whose features they are, as plain data.
        layout: Shapes, dtype and number of the stored rows.
        labels: One row per sample, `(samples, ...)`, or None.
        tensors: The features in memory, `(views * samples, ...)` each; without them, `folder` is needed.
        folder: The folder with the features.
        rows: Numbers of the stored samples that this dataset shows, `(samples,)`, or `(clips, frames)` for clips of
            them; all samples when left out.
        label_names: Names of the classes, values or labels in the order of their indices, where they are known.
        checks: The checksums of the rows in the folder, which are looked at when a row is first read.

    Attributes:
        views: Stored views of each sample; view 0 is the picture as it is, and indexing returns it.
        has_excitation: Whether u of the frozen conv units is stored behind the features.
        depths: Earlier units whose averaged answers are stored between the features and u.

    Shapes:
        A sample's features are one tensor for each tensor that crosses the cut, mostly `(C, H, W)`, in the storage
        dtype; of clips `(T, C, H, W)`.

    Example:
        >>> from torch import nn
        >>> from ciao_peft import cache_features
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU())
        >>> stored = cache_features(net, [{"pixel_values": torch.rand(3, 32, 32), "labels": n % 2} for n in range(6)])
        >>> len(stored), stored[5]["features"][0].shape, stored[5]["labels"]
        (6, torch.Size([8, 30, 30]), tensor(1))
    """

    key: dict[str, Any]
    layout: FeatureLayout
    labels: Tensor | None
    folder: Path | None
    label_names: list[str] | None
    views: int
    has_excitation: bool
    depths: tuple[Depth, ...]

    def __init__(
        self,
        key: dict[str, Any],
        layout: FeatureLayout,
        labels: Tensor | None,
        tensors: tuple[Tensor, ...] | None = None,
        folder: Path | None = None,
        rows: Tensor | None = None,
        label_names: list[str] | None = None,
        checks: RowChecks | None = None,
    ):
        self.key = key
        self.layout = layout
        self.labels = labels
        self.folder = folder
        self.label_names = label_names
        self.checks = checks
        self.views = key["views"]
        self.has_excitation = key.get("excitation", False)
        self.depths = depths_of(key)
        self._stored: int = key["num_samples"]
        self._rows = rows
        self._tensors = tensors
        self._mapped: MappedRows | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All stored tensors, `(views * samples, ...)` each, in memory or mapped into it."""
        if self._tensors is None:
            if self.folder is None:
                raise FeatureCacheError("There are neither tensors nor a folder with them.")
            self._tensors = map_tensors(self.folder, self.layout)
        return self._tensors

    @property
    def key_hash(self) -> str:
        """A short name of the key; whether u is stored does not change it."""
        return key_hash(self.key)

    @property
    def rows(self) -> Tensor | None:
        """Numbers of the stored samples that this dataset shows, as it was given; None for all of them."""
        return self._rows

    @property
    def frames(self) -> int | None:
        """Number of frames of each sample if the samples are clips, else None."""
        return self._rows.shape[1] if self._rows is not None and self._rows.ndim == 2 else None

    def __len__(self) -> int:
        return self._stored if self._rows is None else len(self._rows)

    def features(
        self,
        indices: Sequence[int] | Tensor,
        views: int | Tensor = 0,
        include_excitation: bool = True,
        depths: Sequence[Depth] | None = None,
    ) -> tuple[Tensor, ...]:
        """Reads the features of many samples at once.

        Args:
            indices: Numbers of the samples, `(B,)`.
            views: Number of the stored view, one for all samples or `(B,)`.
            include_excitation: Return u as well, behind the features, if it is stored.
            depths: Which of the stored depths to return, between features and u, as `model.depths` has them; all when
                left out.

        Returns:
            Tensors `(B, ...)`, or `(B, T, ...)` of clips, in the storage dtype.

        Raises:
            FeatureCacheError: a depth is not stored, or a row that is read for the first time is not what was written.
        """
        numbers = torch.as_tensor(indices, dtype=torch.long, device="cpu")
        rows = numbers if self._rows is None else self._rows[numbers]
        if self.frames is not None and isinstance(views, Tensor):
            views = views[:, None]  # all frames of a clip in the same view
        rows = rows + views * self._stored
        tensors = self._to_read()
        places = self._places(len(tensors), include_excitation, depths)
        flat = rows.flatten()
        if self._mapped is not None:
            read = self._mapped.read(flat, places)
        else:
            read = tuple(tensors[place].index_select(0, flat) for place in places)
        if self.checks is not None:
            self.checks.check(flat, read, places)
        return read if self.frames is None else tuple(tensor.unflatten(0, rows.shape) for tensor in read)

    def _places(self, count: int, include_excitation: bool, depths: Sequence[Depth] | None) -> Sequence[int]:
        """Which of the stored tensors are read."""
        every = depths is None or (not depths and "depths" not in self.key)
        if every and (include_excitation or not self.has_excitation):
            return range(count)
        return places_of(self.key, count, include_excitation, depths)

    def _to_read(self) -> tuple[Tensor, ...]:
        """The tensors of which rows are taken, mapped so that no more than these rows is read from the disk."""
        if self.folder is None:
            return self.tensors
        if self._mapped is None:
            self._mapped = MappedRows(self.folder, self.layout)
        return self._mapped.tensors

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        rows = list(zip(*self.features(indices), strict=True))
        labels = [None] * len(rows) if self.labels is None else self.labels[torch.as_tensor(indices, device="cpu")]
        samples = [{"features": row, "labels": label} for row, label in zip(rows, labels, strict=True)]
        return samples if self.labels is not None else [{"features": sample["features"]} for sample in samples]

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"There are {len(self)} samples; got the index {index}.")
        return self.__getitems__([index % len(self)])[0]

    def select(self, indices: Sequence[int]) -> FeatureDataset:
        """Takes a part of the samples, over the same files: for folds, or a held-out share.

        Args:
            indices: Numbers of the samples to keep, in the new order.

        Example:
            >>> key = {"views": 1, "num_samples": 3}
            >>> stored = FeatureDataset(key, FeatureLayout(((2,),), "float32", 3), None, (torch.eye(3, 2),))
            >>> stored.select([2, 0]).features([1])[0].tolist()
            [[1.0, 0.0]]
        """
        numbers = torch.as_tensor(list(indices), dtype=torch.long, device="cpu")
        rows = numbers if self._rows is None else self._rows[numbers]
        labels = None if self.labels is None else self.labels[numbers]
        return self._over(labels, rows)

    def clips(self, rows: Any) -> FeatureDataset:
        """Groups samples into clips, over the same files; each clip has the label of its first frame.

        Args:
            rows: Numbers of the samples that are the frames of each clip, `(clips, frames)`, as `Clips.rows`.

        Example:
            >>> key = {"views": 1, "num_samples": 3}
            >>> layout = FeatureLayout(((1,),), "float32", num_rows=3)
            >>> stored = FeatureDataset(key, layout, None, (torch.tensor([[5.0], [6.0], [7.0]]),))
            >>> stored.clips([[0, 2], [1, 1]]).features([0, 1])[0].squeeze(-1).tolist()
            [[5.0, 7.0], [6.0, 6.0]]
        """
        numbers = torch.as_tensor(rows, dtype=torch.long, device="cpu")
        labels = None if self.labels is None else self.labels[numbers[:, 0]]
        numbers = numbers if self._rows is None else self._rows[numbers]
        return self._over(labels, numbers)

    def with_labels(self, labels: Tensor | None) -> FeatureDataset:
        """Returns the same features with other labels.

        Args:
            labels: One row per sample, or None.

        Example:
            >>> stored = FeatureDataset({"views": 1, "num_samples": 2}, FeatureLayout((), "float32", 2), None, ())
            >>> stored.with_labels(torch.tensor([0, 1])).labels
            tensor([0, 1])
        """
        return self._over(labels, self._rows)

    def _over(self, labels: Tensor | None, rows: Tensor | None) -> FeatureDataset:
        where = (self._tensors, self.folder, rows, self.label_names, self.checks)
        other = FeatureDataset(self.key, self.layout, labels, *where)
        other._mapped = self._mapped
        return other

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        if self.folder is not None:
            state["_tensors"] = state["_mapped"] = None  # other processes map the files themselves
        return state

    def check_belongs_to(self, expected: dict[str, Any]) -> None:
        """Refuses features that another model made.

        Args:
            expected: The part of a key that says which model, as `model_key` gives it.

        Raises:
            FeatureCacheError: they belong to another backbone, cut or preprocessing, or lack depths; says which.
        """
        changed = [name for name, value in expected.items() if name != "depths" and self.key.get(name) != value]
        if changed:
            raise FeatureCacheError(
                f"These stored features were not made by this model: {', '.join(changed)} differ. Make them anew with "
                "`cache_features(model, dataset, folder)`."
            )
        if "depths" in expected:
            places_of(self.key, len(self.layout.shapes), False, depths_of(expected))
