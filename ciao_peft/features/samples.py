"""Reads datasets for training: labels all at once, pixels by batch, and a digest of each picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.clip_rows import Clips
from ..data.labels import label_set
from ..errors import DataError, listed, quoted
from ..preprocessing import Preprocessing
from ..preprocessing.pictures import is_broken_picture
from .digests import digests_of
from .shapes import check_dataset, first_sample
from .stacking import labels_as_tensor, stack_pixels

__all__ = ["ClipSamples", "Samples", "keys_of", "samples_of"]

_LABEL_KEYS = ("labels", "label")


class Samples:
    """Reads a `datasets.Dataset` with `image` and `label`, or a map-style dataset of `pixel_values` and `labels`.

    Args:
        dataset: One split. If a map-style dataset has an attribute `labels`, one row per sample, not all samples are
            read for their labels; where it says something else than they do, the samples count. Its attribute
            `label_names`, a list, names its classes, values or labels.
        preprocessing: Prepares the pictures of an `image` column.
        name: Name of the dataset in messages.

    Attributes:
        source: The key of the pictures in a sample: `"image"` or `"pixel_values"`.
        label_key: The key of the labels: `"labels"`, `"label"`, or None without labels.

    Raises:
        DataError: the dataset is empty, consists of several splits, or its samples have neither pictures nor pixels.

    Shapes:
        `pixels` returns `(B, C, H, W)` floats; `labels` returns `(N,)` or `(N, L)`.

    Example:
        >>> faces = [{"pixel_values": torch.full((3, 8, 8), n / 2), "labels": n} for n in range(2)]
        >>> samples = Samples(faces, None)
        >>> samples.labels().tolist(), samples.pixels([1, 0]).shape
        ([0, 1], torch.Size([2, 3, 8, 8]))
    """

    name: str
    preprocessing: Preprocessing | None
    dataset: Any
    source: str
    label_key: str | None

    def __init__(self, dataset: Any, preprocessing: Preprocessing | None, name: str = "the dataset"):
        self.name = name
        self.preprocessing = preprocessing
        check_dataset(dataset, name)
        self._is_table = hasattr(dataset, "with_format") and hasattr(dataset, "features")
        self._is_plain = self._is_table and dataset.format["type"] != "custom"
        self._columns: dict[str, Any] = {}
        if self._is_plain:
            dataset = dataset.with_format(None)
        self.dataset = dataset
        first = first_sample(dataset, name)
        self.source, self.label_key = keys_of(first, preprocessing, name)
        self._differs = self._handed_out = False
        self._listed = self._labels_beside_the_samples(first)

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def frames(self) -> Samples:
        """The samples that go through the trunk: these samples themselves (for `ClipSamples`, their frames)."""
        return self

    def _batch(self, indices: Sequence[int], key: str) -> list[Any]:
        indices = [int(index) for index in indices]
        if self._is_plain:
            return list(self._only(key)[indices][key])
        if self._is_table:
            columns = self.dataset[indices]
            if self._listed is not None:
                self._compare_labels(indices, columns[self.label_key])
            return list(columns[key])
        many = getattr(self.dataset, "__getitems__", None)
        items = [self.dataset[index] for index in indices] if many is None else many(indices)
        for index, item in zip(indices, items, strict=True):
            if not isinstance(item, Mapping) or key not in item:
                has = f"the keys {listed(item)}" if isinstance(item, Mapping) else f"the type {type(item).__name__}"
                raise DataError(f"Sample {index} of {self.name} has no {quoted(key)}, as sample 0 has; it has {has}.")
        if self._listed is not None:
            self._compare_labels(indices, [item.get(self.label_key) for item in items])
        return [item[key] for item in items]

    def _compare_labels(self, indices: Sequence[int], labels: Any) -> None:
        """Believes the samples, not the list of labels beside them; too late, where the list was handed out."""
        if self._listed is None or _same(labels_as_tensor(labels, self.name), self._listed[torch.as_tensor(indices)]):
            return
        if self._handed_out:
            raise DataError(
                f"A sample of {self.name} among {list(indices[:8])} has another label than the dataset's own list of "
                "labels gives it. Make them equal, or take the list (`labels`) away: the samples are then read for it."
            )
        self._listed, self._differs = None, True

    def _only(self, key: str) -> Any:
        """The table without its other columns, which would be decoded as well."""
        if key not in self._columns:
            self._columns[key] = self.dataset.select_columns([key])
        return self._columns[key]

    def pixels(self, indices: Sequence[int]) -> Tensor:
        """Reads the pixels of a batch, prepared for the encoder.

        Args:
            indices: Numbers of the samples.

        Returns:
            `(B, C, H, W)`.

        Raises:
            DataError: a picture cannot be read, or pixel values differ in shape or are not finite; names the sample.
        """
        raw = self.raw(indices)
        if self.preprocessing is None or self.source != "image":
            return stack_pixels(raw, indices, self.name)
        return self.preprocessing.normalise(np.stack([self.fit(*entry) for entry in zip(indices, raw, strict=True)]))

    def raw(self, indices: Sequence[int]) -> list[Any]:
        """Reads what `fit` makes the pixels of pictures of, or the pixels themselves where they are the samples'.

        Args:
            indices: Numbers of the samples.

        Returns:
            One value for each: a picture, one that `datasets` has not decoded yet, or pixels.

        Raises:
            DataError: a sample cannot be read.
        """
        if self.source != "image" or self.preprocessing is None:
            return self._batch(indices, self.source)
        if self._is_plain:
            return list(self._undecoded()[[int(index) for index in indices]]["image"])
        try:
            return self._batch(indices, "image")
        except Exception as error:
            if not is_broken_picture(error):
                raise
            for index in indices:  # which of them, to say its row in the dataset
                try:
                    self.fit(index, self._batch([index], "image")[0])
                except Exception as broken:
                    if not is_broken_picture(broken):
                        raise
                    raise self._named(index, broken) from broken
            raise error

    def fit(self, index: int, raw: Any) -> np.ndarray:
        """Opens and fits a picture of `raw`; in any thread.

        Args:
            index: Number of the sample.
            raw: What `raw` gave.

        Returns:
            `(height, width, C)`, uint8, for `preprocessing.normalise`.

        Raises:
            DataError: it cannot be read; names the row.
        """
        assert self.preprocessing is not None
        try:
            if isinstance(raw, Mapping) and self._is_plain and getattr(self.dataset.features["image"], "decode", False):
                raw = self.dataset.features["image"].decode_example(raw)
            elif isinstance(raw, Mapping) and isinstance(raw.get("bytes"), bytes):  # as `data.Shards` gives it
                from datasets import Image

                raw = Image().decode_example({"bytes": raw["bytes"], "path": None})
            return self.preprocessing.fit_all(raw)[0]
        except Exception as error:
            if not is_broken_picture(error):
                raise
            raise self._named(index, error) from error

    def _named(self, index: int, error: Exception) -> DataError:
        prefix = f"The picture in row {int(index)} of {self.name}: "
        if isinstance(error, DataError):
            return error if str(error).startswith(prefix) else type(error)(prefix + str(error))
        return DataError(prefix + str(error))

    def labels(self) -> Tensor | None:
        """Reads the labels of all samples, `(N,)` or `(N, L)`; None if there are none.

        Raises:
            DataError: they are no numbers of one shape.
        """
        if self.label_key is None:
            return None
        if self._is_plain:
            return labels_as_tensor(self._label_column(), self.name)
        if self._listed is None:
            return labels_as_tensor(self._batch(range(len(self)), self.label_key), self.name)
        self._handed_out = True
        return self._listed

    def _labels_beside_the_samples(self, first: Any) -> Tensor | None:
        """The dataset's own list of labels, where it has one and gives the first sample its own."""
        own = getattr(self.dataset, "labels", None)
        if self._is_table:
            own = self._label_column() if self.label_key in self.dataset.column_names else None
        if self._is_plain or self.label_key is None or own is None or callable(own):
            return None
        if not hasattr(own, "__len__") or len(own) != len(self):
            return None
        listed_labels = labels_as_tensor(own, self.name)
        self._differs = not _same(labels_as_tensor([first[self.label_key]], self.name), listed_labels[:1])
        return None if self._differs else listed_labels

    def _label_column(self) -> Any:
        key = str(self.label_key)
        return self.dataset.select_columns([key]).with_format("numpy")[:][key]

    @property
    def is_fixed(self) -> bool:
        """Whether the dataset is a table, which nobody changes in place, unlike a list or a dataset of your own."""
        return self._is_plain

    @property
    def label_names(self) -> list[str] | None:
        """Names of the classes, values or labels in the order of their indices, or None; known once labels are read."""
        if self.label_key is None or self._differs:
            return None
        if not self._is_table:
            own = getattr(self.dataset, "label_names", None)
            return [str(label) for label in own] if isinstance(own, (list, tuple)) else None
        named = label_set(self.dataset, self.label_key)
        return None if named is None else list(named.names)

    def digest(self, index: int) -> bytes:
        """Hashes the picture of a sample; its label does not count.

        Args:
            index: Number of the sample.

        Returns:
            16 bytes.
        """
        return self.digests([index])[0]

    def digests(self, indices: Sequence[int]) -> list[bytes]:
        """Hashes the pictures of several samples, in threads; they are read in this one.

        Args:
            indices: Numbers of the samples.

        Returns:
            16 bytes for each.
        """
        if self._is_plain and self.source == "image":
            mode = getattr(self.dataset.features["image"], "mode", None)
            return digests_of(indices, lambda part: self._undecoded()[list(part)]["image"], mode)
        return digests_of(indices, lambda part: self._batch(part, self.source))

    def _undecoded(self) -> Any:
        if not hasattr(self, "_raw"):
            from datasets import Image

            feature = self.dataset.features["image"]
            self._raw = self._only("image")
            if isinstance(feature, Image):
                self._raw = self._raw.cast_column("image", Image(mode=feature.mode, decode=False))
        return self._raw

    def shows_the_same_twice(self) -> bool:
        """Whether a sample that is read again is the same; False if the dataset augments on the fly, even if seldom.

        Samples from all over the dataset are compared, 64 times in all: a few of them are easily the same by chance.
        """
        some = _spread(len(self))
        in_memory = type(self.dataset) in (list, tuple) and all(type(self.dataset[index]) is dict for index in some)
        if self._is_plain or in_memory:  # asked again, these give the very same objects
            return True
        first = self.digests(some)
        return all(self.digests(some) == first for _ in range(-(-64 // len(some))))


class ClipSamples:
    """Reads `Clips` as `Samples` reads pictures; features are stored once for each frame, not for each clip.

    Args:
        clips: The clips of one split.
        preprocessing: As for `Samples`.
        name: As for `Samples`.

    Attributes:
        frames: The rows of frames as `Samples`.
        rows: Numbers of the frames of each clip, `(clips, frames)`.

    Raises:
        DataError: there is no clip; or as for `Samples`.

    Shapes:
        `pixels` returns `(B, T, C, H, W)` floats; `labels` returns `(N,)` or `(N, L)`.

    Example:
        >>> from ciao_peft.data import clips
        >>> faces = [{"pixel_values": torch.rand(3, 8, 8), "label": 1, "clip": n // 2} for n in range(4)]
        >>> samples = ClipSamples(clips(faces, frames=2), None)
        >>> samples.pixels([1]).shape, samples.labels()
        (torch.Size([1, 2, 3, 8, 8]), tensor([1, 1]))
    """

    name: str
    frames: Samples
    rows: np.ndarray
    label_key: str | None

    def __init__(self, clips: Clips, preprocessing: Preprocessing | None, name: str = "the dataset"):
        if len(clips) == 0:
            raise DataError(f"{name} is empty.")
        self.frames = Samples(clips.faces, preprocessing, name)
        self.name, self.rows = name, clips.rows
        self.label_key = self.frames.label_key

    def __len__(self) -> int:
        return len(self.rows)

    def pixels(self, indices: Sequence[int]) -> Tensor:
        """Reads the pixels of a batch of clips.

        Args:
            indices: Numbers of the clips.

        Returns:
            `(B, T, C, H, W)`.

        Raises:
            DataError: as for `Samples`.
        """
        rows = self.rows[np.asarray(indices, dtype=np.int64)]
        return self.frames.pixels(rows.flatten().tolist()).unflatten(0, rows.shape)

    def labels(self) -> Tensor | None:
        """Reads the labels of all clips, one row each; None if there are none."""
        labels = self.frames.labels()
        return None if labels is None else labels[torch.from_numpy(self.rows[:, 0])]

    @property
    def label_names(self) -> list[str] | None:
        """Names of the labels; see `Samples.label_names`."""
        return self.frames.label_names

    @property
    def is_fixed(self) -> bool:
        """Whether the rows of frames are a table; see `Samples.is_fixed`."""
        return self.frames.is_fixed

    def shows_the_same_twice(self) -> bool:
        """Whether a frame that is read again is the same; see `Samples.shows_the_same_twice`."""
        return self.frames.shows_the_same_twice()


def _same(labels: Tensor, others: Tensor) -> bool:
    return labels.shape == others.shape and torch.equal(labels.double(), others.double())


def _spread(count: int) -> list[int]:
    """Up to 64 numbers of samples from all over a dataset, the first and the last among them."""
    return np.linspace(0, count - 1, min(count, 64)).astype(int).tolist()


def samples_of(dataset: Any, preprocessing: Preprocessing | None, name: str = "the dataset") -> Samples | ClipSamples:
    """Wraps a dataset to read it: `ClipSamples` for `Clips`, `Samples` for anything else.

    Args:
        dataset: One split.
        preprocessing: As for `Samples`.
        name: Name of the dataset in messages.

    Raises:
        DataError: as for `Samples`.

    Example:
        >>> len(samples_of([{"pixel_values": torch.rand(3, 8, 8)}], None))
        1
    """
    return (ClipSamples if isinstance(dataset, Clips) else Samples)(dataset, preprocessing, name)


def keys_of(first: Any, preprocessing: Preprocessing | None, name: str) -> tuple[str, str | None]:
    """Finds the keys under which a sample has its picture and its label.

    Args:
        first: A sample.
        preprocessing: Needed for pictures that are not prepared yet.
        name: Name of the dataset in messages.

    Returns:
        `"pixel_values"` or `"image"`, and `"labels"`, `"label"` or None.

    Raises:
        DataError: the sample has neither picture nor pixels, or a picture without a preprocessing.

    Example:
        >>> keys_of({"pixel_values": 0.5, "label": 1}, None, "the faces")
        ('pixel_values', 'label')
    """
    keys = set(first) if isinstance(first, Mapping) else set()
    source = next((key for key in ("pixel_values", "image") if key in keys), None)
    if source is None:
        what = f"keys {listed(keys)}" if keys else f"type {type(first).__name__}"
        pair = isinstance(first, (tuple, list)) and len(first) == 2
        hint = " Write `[{'pixel_values': x, 'labels': y} for x, y in dataset]`." if pair else ""
        raise DataError(f"A sample of {name} must be a dict with 'image' or 'pixel_values'; it has {what}.{hint}")
    if source == "image" and preprocessing is None:
        raise DataError(
            f"{name} holds pictures, and the backbone does not say how they must be prepared for it; give "
            "`preprocessing=` to get_ciao_model, or a dataset of 'pixel_values'."
        )
    return source, next((key for key in _LABEL_KEYS if key in keys), None)
