"""A dataset as the library reads it: labels all at once, pixels by batch, and a fingerprint of what it shows."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checking import all_finite
from ..config import CIAOConfig
from ..data.clip_rows import Clips
from ..errors import CIAOError, DataError, TrainingError, listed
from ..labels import check_labels
from ..preprocessing import Preprocessing
from ..preprocessing.pictures import open_picture

_LABEL_KEYS = ("labels", "label")


class Samples:
    """Reads a `datasets.Dataset` with `image` and `label`, or a map-style dataset of `pixel_values` and `labels`.

    Args:
        dataset: One split. A `labels` attribute of a map-style dataset, a row per sample, spares reading every sample
            for its label.
        preprocessing: For the pictures of an `image` column.
        name: What to call it in messages.

    Raises:
        DataError: it is empty, no single split, or its samples have neither pictures nor pixels.

    Example:
        >>> faces = [{"pixel_values": torch.full((3, 8, 8), n / 2), "labels": n} for n in range(2)]
        >>> samples = Samples(faces, None)
        >>> samples.labels().tolist(), samples.pixels([1, 0]).shape
        ([0, 1], torch.Size([2, 3, 8, 8]))
    """

    def __init__(self, dataset: Any, preprocessing: Preprocessing | None, name: str = "the dataset"):
        self.name = name
        self.preprocessing = preprocessing
        if isinstance(dataset, Mapping):
            raise DataError(
                f"{name} is several splits ({listed(dataset)}); give one of them, such as `dataset['train']`."
            )
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise DataError(
                f"{name} is a {type(dataset).__name__}, which cannot be asked for its length or a sample by number. "
                "Store its features first, `cache_features(model, dataset, folder)`, where it is a stream of "
                "`datasets`; else load it without `streaming`, or make it a list."
            )
        if len(dataset) == 0:
            raise DataError(f"{name} is empty.")
        self._is_table = hasattr(dataset, "with_format") and hasattr(dataset, "features")
        self._is_plain = self._is_table and dataset.format["type"] != "custom"
        self._columns: dict[str, Any] = {}
        if self._is_plain:
            dataset = dataset.with_format(None)
        self.dataset = dataset
        self.source, self.label_key = keys_of(dataset[0], preprocessing, name)

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def frames(self) -> Samples:
        """What the trunk runs over: these samples themselves; of `ClipSamples` their frames."""
        return self

    def _batch(self, indices: Sequence[int], key: str) -> list[Any]:
        indices = [int(index) for index in indices]
        if self._is_table:
            return list((self._only(key) if self._is_plain else self.dataset)[indices][key])
        if hasattr(self.dataset, "__getitems__"):
            return [item[key] for item in self.dataset.__getitems__(indices)]
        return [self.dataset[index][key] for index in indices]

    def _only(self, key: str) -> Any:
        """The table without its other columns, which would be decoded as well."""
        if key not in self._columns:
            self._columns[key] = self.dataset.select_columns([key])
        return self._columns[key]

    def pixels(self, indices: Sequence[int]) -> Tensor:
        """`(B, C, H, W)` as the encoder is fed.

        Raises:
            DataError: a picture cannot be read, or pixel values differ in shape or are not finite; names the sample.
        """
        values = self._batch(indices, self.source)
        if self.source == "image":
            return self.preprocessing(values)
        return stacked(values, indices, self.name)

    def labels(self) -> Tensor | None:
        """Labels of all samples, a row each; None where there are none."""
        if self.label_key is None:
            return None
        own = getattr(self.dataset, "labels", None)
        if self._is_table and self.label_key in self.dataset.column_names:
            values = self.dataset.select_columns([self.label_key]).with_format("numpy")[:][self.label_key]
        elif own is not None and not callable(own) and len(own) == len(self):
            values = own
        else:
            values = self._batch(range(len(self)), self.label_key)
        return as_tensor(values, self.name)

    @property
    def is_fixed(self) -> bool:
        """Whether it is a table, which nobody changes in place; a list or a dataset of one's own may be."""
        return self._is_plain

    @property
    def label_names(self) -> list[str] | None:
        """Names of the classes in the order of their ids, where the dataset has any."""
        return getattr(self.dataset.features.get(self.label_key), "names", None) if self._is_table else None

    def digest(self, index: int) -> bytes:
        """16 bytes that change with what the sample shows; its label does not count."""
        if self._is_plain and self.source == "image":
            value = self._undecoded()[index]["image"]
            mode = getattr(self.dataset.features["image"], "mode", None)
            if isinstance(value, Mapping):
                return picture_digest(value, mode)
        return digest_of(self._batch([index], self.source)[0])

    def _undecoded(self) -> Any:
        if not hasattr(self, "_raw"):
            from datasets import Image

            feature = self.dataset.features["image"]
            self._raw = self._only("image")
            if isinstance(feature, Image):
                self._raw = self._raw.cast_column("image", Image(mode=feature.mode, decode=False))
        return self._raw

    def shows_the_same_twice(self) -> bool:
        """Whether a sample asked for again is the same: no, where the dataset augments on the fly, even if seldom.

        Samples from all over the dataset are compared, 64 times in all: a few of them are easily the same by chance.
        """
        if self._is_plain:
            return True
        some = np.linspace(0, len(self) - 1, min(len(self), 64)).astype(int).tolist()
        first = {index: self.digest(index) for index in some}
        again = range(-(-64 // len(some)))
        return all(self.digest(index) == first[index] for _ in again for index in some)


class ClipSamples:
    """`Clips` as the library reads them: what is stored and told apart are the frames, once each.

    Args:
        clips: Of one split.
        preprocessing, name: As for `Samples`.

    Attributes:
        frames: The rows of frames.
        rows: `(clips, frames)`, which of them are whose.
    """

    def __init__(self, clips: Clips, preprocessing: Preprocessing | None, name: str = "the dataset"):
        if len(clips) == 0:
            raise DataError(f"{name} is empty.")
        self.frames = Samples(clips.faces, preprocessing, name)
        self.name, self.rows = name, clips.rows
        self.label_key, self.label_names = self.frames.label_key, self.frames.label_names

    def __len__(self) -> int:
        return len(self.rows)

    def pixels(self, indices: Sequence[int]) -> Tensor:
        """`(B, T, C, H, W)`; errors as for `Samples`."""
        rows = self.rows[np.asarray(indices, dtype=np.int64)]
        return self.frames.pixels(rows.flatten()).unflatten(0, rows.shape)

    def labels(self) -> Tensor | None:
        """Labels of all clips, a row each; None where there are none."""
        labels = self.frames.labels()
        return None if labels is None else labels[torch.from_numpy(self.rows[:, 0])]

    @property
    def is_fixed(self) -> bool:
        """As for `Samples`."""
        return self.frames.is_fixed

    def shows_the_same_twice(self) -> bool:
        """As for `Samples`."""
        return self.frames.shows_the_same_twice()


def samples_of(dataset: Any, preprocessing: Preprocessing | None, name: str = "the dataset") -> Samples | ClipSamples:
    """A dataset as the library reads it; errors as for `Samples`."""
    return (ClipSamples if isinstance(dataset, Clips) else Samples)(dataset, preprocessing, name)


def check_labels_of(data: Any, config: CIAOConfig, name: str) -> Tensor:
    """Labels of all samples, if an adapter with this config can learn them.

    Args:
        data: `Samples` or a `FeatureDataset`.
        config: Of the adapter.
        name: What to call the dataset in messages.

    Raises:
        TrainingError: there are none, or their names come in another order than the config's.
        InputError: one of them is out of range or not finite; says which row.
    """
    labels, names, expected = data.labels, data.label_names, list(config.id2label.values())
    labels = labels() if callable(labels) else labels
    if labels is None:
        raise TrainingError(f"{name} has no labels: a sample needs 'labels' or 'label' beside its pixels.")
    if names is not None and names != expected and sorted(names) == sorted(expected):
        raise TrainingError(
            f"{name} numbers its classes in another order ({', '.join(names)}) than the adapter "
            f"({', '.join(expected)}). Cast its label column to `ClassLabel(names=list(config.id2label.values()))`."
        )
    try:
        return check_labels(labels, config)
    except CIAOError as error:
        raise type(error)(f"The labels of {name}: {error}") from error


def keys_of(first: Any, preprocessing: Preprocessing | None, name: str) -> tuple[str, str | None]:
    """Under which keys a sample has its picture and its label, None for no label.

    Raises:
        DataError: it has neither picture nor pixels, or a picture that nobody knows how to prepare.
    """
    keys = set(first) if isinstance(first, Mapping) else set()
    source = next((key for key in ("pixel_values", "image") if key in keys), None)
    if source is None:
        what = f"keys {listed(keys)}" if keys else f"type {type(first).__name__}"
        raise DataError(f"A sample of {name} must be a dict with 'image' or 'pixel_values'; it has {what}.")
    if source == "image" and preprocessing is None:
        raise DataError(
            f"{name} holds pictures, and the backbone does not say how they must be prepared for it; give "
            "`preprocessing=` to get_ciao_model, or a dataset of 'pixel_values'."
        )
    return source, next((key for key in _LABEL_KEYS if key in keys), None)


def stacked(values: Sequence[Any], indices: Sequence[int], name: str) -> Tensor:
    """`pixel_values` of these samples as one tensor.

    Raises:
        DataError: they differ in shape or are not finite; names the sample.
    """
    values = [torch.as_tensor(value) for value in values]
    if len(shapes := {tuple(value.shape) for value in values}) > 1:
        raise DataError(f"'pixel_values' of {name} differ in shape: {listed(shapes)}. Bring them to one size.")
    for index, value in zip(indices, values, strict=True):
        if not all_finite(value):
            raise DataError(
                f"'pixel_values' of sample {int(index)} of {name} hold NaN or infinite values. Check how it was "
                "prepared."
            )
    return torch.stack(values)


def picture_bytes(value: Mapping[str, Any]) -> bytes:
    """The file of a picture that was not decoded, wherever it lies."""
    if value.get("bytes") is not None:
        return value["bytes"]
    if "://" not in value["path"]:
        return Path(value["path"]).read_bytes()
    from datasets.utils.file_utils import xopen  # in an archive, or far away

    with xopen(value["path"], "rb") as file:
        return file.read()


def picture_digest(value: Mapping[str, Any], mode: str | None) -> bytes:
    """16 bytes that change with the file of a picture and with the mode it is turned into."""
    return hashlib.blake2b(f"{mode}\0".encode() + picture_bytes(value), digest_size=16).digest()


def as_tensor(values: Any, name: str) -> Tensor:
    """Labels of all samples, a row each."""
    if isinstance(values, Tensor):
        return values
    try:
        if isinstance(values, (list, tuple)) and isinstance(values[0], Tensor):
            return torch.stack([torch.as_tensor(value) for value in values])
        array = np.asarray(values)
        if array.dtype == object:
            array = np.stack([np.asarray(value) for value in values])
        return torch.as_tensor(array)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"The labels of {name} are no numbers of one shape: {error}.") from None


def digest_of(value: Any) -> bytes:
    """16 bytes that change with an array, a tensor, a file at a path, or what a picture shows once it is prepared."""
    if isinstance(value, (str, Path)):
        return hashlib.blake2b(Path(value).read_bytes(), digest_size=16).digest()
    pillow = sys.modules.get("PIL.Image")  # nobody has a picture who did not import it
    if pillow is not None and isinstance(value, pillow.Image):
        value = open_picture(value)
        if value.mode in ("P", "PA") or ("transparency" in value.info and value.mode in ("1", "L", "RGB")):
            value = value.convert("RGBA")  # the same numbers mean something else with another palette
    kind = getattr(value, "mode", "")
    if isinstance(value, Tensor):
        kind, value = str(value.dtype), value.detach().cpu().contiguous().view(torch.uint8).numpy()
    array = np.ascontiguousarray(value)
    header = f"{kind}\0{array.dtype.str}\0{array.shape}\0".encode()
    return hashlib.blake2b(header + array.tobytes(), digest_size=16).digest()
