"""Reads a stream of `datasets`: once for digests and labels, then once for every view that is stored."""

from __future__ import annotations

import copy
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ..data.labels import label_set
from ..errors import DataError, FeatureCacheError
from ..preprocessing import Preprocessing
from ..preprocessing.ahead import in_threads
from .digests import digest_of, picture_bytes, picture_digest
from .processes import Processes
from .samples import keys_of
from .stacking import labels_as_tensor, stack_pixels

if TYPE_CHECKING:
    from datasets import IterableDataset

__all__ = ["StreamSamples", "is_stream"]

# Streams whose shards one after the other are the whole; those of `take` or `shuffle` need not be.
_IN_ORDER = ("ArrowExamplesIterable", "ExamplesIterable")


def is_stream(dataset: Any) -> bool:
    """Whether a dataset is an `IterableDataset` of `datasets`, which can only be read from its start.

    Example:
        >>> from datasets import Dataset
        >>> table = Dataset.from_dict({"labels": [0, 1]})
        >>> is_stream(table), is_stream(table.to_iterable_dataset())
        (False, True)
    """
    library = sys.modules.get("datasets")  # nobody has a stream who did not import it
    return library is not None and isinstance(dataset, library.IterableDataset)


class StreamSamples:
    """Reads an `IterableDataset` with `image` and `label`, or `pixel_values` and `labels`, as `Samples` reads a table.

    Its length, labels and fingerprint come from a first pass in which no picture is decoded. If there are several
    processes, enough shards, and the stream is as it was loaded, each process reads the shards that
    `split_dataset_by_node` gives it; of any other stream, each process reads everything and prepares its share.

    Args:
        stream: One split. If it is split by node already, the whole stream is read.
        preprocessing: Prepares the pictures of an `image` column.
        processes: The processes that share the work; this one alone when left out.
        name: Name of the dataset in messages.

    Attributes:
        source: The key of the pictures in a sample: `"image"` or `"pixel_values"`.
        label_key: The key of the labels: `"labels"`, `"label"`, or None without labels.
        label_names: Names of the classes, values or labels in the order of their indices, or None.

    Raises:
        DataError: the stream is empty, or its samples have neither pictures nor pixels.

    Shapes:
        `pixels` returns `(B, C, H, W)` floats; `labels` returns `(N,)` or `(N, L)`.

    Example:
        >>> from datasets import Dataset
        >>> rows = {"pixel_values": [[[[n / 2] * 8] * 8] * 3 for n in range(3)], "labels": [0, 1, 0]}
        >>> samples = StreamSamples(Dataset.from_dict(rows).to_iterable_dataset(num_shards=2), None)
        >>> len(samples), samples.labels().tolist(), samples.pixels([1, 2]).shape
        (3, [0, 1, 0], torch.Size([2, 3, 8, 8]))
    """

    name: str
    preprocessing: Preprocessing | None
    source: str
    label_key: str | None
    label_names: list[str] | None

    def __init__(
        self,
        stream: IterableDataset,
        preprocessing: Preprocessing | None,
        processes: Processes | None = None,
        name: str = "the dataset",
    ):
        self.name = name
        self.preprocessing = preprocessing
        stream = copy.copy(stream.with_format(None))
        stream._distributed = None
        first = next(iter(stream), None)
        if first is None:
            raise DataError(f"{name} is empty.")
        self.source, self.label_key = keys_of(first, preprocessing, name)
        columns = stream.features or {}
        named = None if self.label_key is None else label_set(stream, self.label_key)
        self.label_names = None if named is None else list(named.names)
        self._picture = columns.get(self.source) if self.source == "image" else None
        if self._picture is not None:
            from datasets import Image

            stream = stream.cast_column("image", Image(mode=self._picture.mode, decode=False))
        self._parts, by_shard = _parts_of(stream, processes)
        self._look_through(by_shard, processes)
        self._reader, self._at = self._values(), -1

    def _look_through(self, by_shard: bool, processes: Processes | None) -> None:
        """The first pass: digest and label of every row, and which rows are in which part."""
        seen = []
        for number, part in self._parts.items():
            rows: list[tuple[bytes, Any]] = []
            for row in in_threads(self._digest, ((row[self.source], row.get(self.label_key)) for row in part)):
                rows.append(row)
                if processes is not None:
                    processes.sign()
            seen.append((number, rows))
        seen = sorted(seen if processes is None else processes.collect(seen))
        total = sum(len(rows) for _, rows in seen)
        everything: list[Any] = [None] * total
        self._rows, first = {}, 0
        for number, rows in seen:
            places = range(first, first + len(rows)) if by_shard else range(number, total, len(seen))
            everything[places.start : places.stop : places.step] = rows
            self._rows[number] = places
            first += len(rows)
        self._digests, self._labels = [digest for digest, _ in everything], [label for _, label in everything]

    def _digest(self, seen: tuple[Any, Any]) -> tuple[bytes, Any]:
        value, label = seen
        return digest_of(value) if self._picture is None else picture_digest(value, self._picture.mode), label

    def __len__(self) -> int:
        return len(self._digests)

    def rows_of_this_process(self, rows: Iterable[int]) -> list[int]:
        """Selects the rows that this process reads.

        Args:
            rows: Numbers of stored rows; view v of sample i is row `v * samples + i`.

        Returns:
            Those of the rows whose sample this process reads, in the same order.
        """
        mine = {row for number in self._parts for row in self._rows[number]}
        return [row for row in rows if row % len(self) in mine]

    def _values(self) -> Iterator[tuple[int, Any]]:
        for number, part in self._parts.items():
            for row, sample in zip(self._rows[number], part, strict=False):
                yield row, sample[self.source]

    def pixels(self, indices: Sequence[int]) -> Tensor:
        """Reads the pixels of a batch, prepared for the encoder.

        Args:
            indices: Numbers of samples that this process reads; ascending numbers are read fastest.

        Returns:
            `(B, C, H, W)`.

        Raises:
            DataError: as for `Samples`.
            FeatureCacheError: the stream shows other pictures than in the first pass.
        """
        raw = self.raw(indices)
        if self.source == "image" and self.preprocessing is not None:
            return self.preprocessing.normalise(
                np.stack([self.fit(*entry) for entry in zip(indices, raw, strict=True)])
            )
        return stack_pixels(raw, indices, self.name)

    def raw(self, indices: Sequence[int]) -> list[Any]:
        """Reads what `fit` makes the pixels of pictures of, or the pixels themselves where they are the samples'.

        Args:
            indices: As for `pixels`.

        Returns:
            One value for each: a picture, one that `datasets` has not decoded yet, or pixels.

        Raises:
            FeatureCacheError: as for `pixels`.
        """
        return [self._value(int(index)) for index in indices]

    def fit(self, index: int, raw: Any) -> np.ndarray:
        """Opens and fits a picture of `raw`; in any thread.

        Args:
            index: Number of the sample.
            raw: What `raw` gave.

        Returns:
            `(height, width, C)`, uint8, for `preprocessing.normalise`.

        Raises:
            DataError: it cannot be read.
        """
        assert self.preprocessing is not None
        if self._picture is not None and isinstance(raw, Mapping):
            raw = self._picture.decode_example(raw)
        try:
            return self.preprocessing.fit_all(raw)[0]
        except DataError as error:
            raise type(error)(f"The picture in row {int(index)} of {self.name}: {error}") from error

    def _value(self, index: int) -> Any:
        if index <= self._at:
            self._reader = self._values()
        self._at, value = next((entry for entry in self._reader if entry[0] == index), (-1, None))
        if self._at < 0:
            self._refuse(index)
        if self._picture is None or value is None:
            if digest_of(value) != self._digests[index]:
                self._refuse(index)
            return value
        content = picture_bytes(value)
        if picture_digest({"bytes": content}, self._picture.mode) != self._digests[index]:
            self._refuse(index)
        return {"path": value.get("path"), "bytes": content}

    def _refuse(self, index: int) -> None:
        raise FeatureCacheError(
            f"Sample {index} of {self.name} is not what it was when the stream was read before, so one pass cannot "
            "stand for it. Take what is random out of the stream, give `shuffle` a seed, and store augmented views, "
            "`views=4, augment=Augmentation(...)`."
        )

    def labels(self) -> Tensor | None:
        """The labels of all samples, `(N,)` or `(N, L)`; None if there are none."""
        return None if self.label_key is None else labels_as_tensor(self._labels, self.name)

    def digest(self, index: int) -> bytes:
        """The hash of the picture of a sample; the same as `Samples` gives for a table with the same pictures.

        Args:
            index: Number of the sample.
        """
        return self._digests[index]

    def digests(self, indices: Sequence[int]) -> list[bytes]:
        """The hashes of the pictures of several samples; see `digest`.

        Args:
            indices: Numbers of the samples.
        """
        return [self._digests[index] for index in indices]

    def shows_the_same_twice(self) -> bool:
        """True; every sample is compared with the first pass while it is read again."""
        return True


def _parts_of(stream: IterableDataset, processes: Processes | None) -> tuple[dict[int, Iterable[Any]], bool]:
    """The parts that this process reads, by number, and whether they are shards or every n-th row of the whole."""
    rank, count = (0, 1) if processes is None else (processes.rank, processes.count)
    if count == 1:
        return {0: stream}, True
    shards = stream.num_shards
    if shards >= count and type(getattr(stream, "_ex_iterable", None)).__name__ in _IN_ORDER:
        return {number: stream.shard(shards, number) for number in range(rank, shards, count)}, True
    return {rank: _EveryNth(stream, rank, count)}, False


class _EveryNth:
    """Every n-th sample, from its start whenever it is iterated."""

    def __init__(self, stream: Iterable[Any], first: int, step: int):
        self.stream, self.first, self.step = stream, first, step

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self.stream), self.first, None, self.step)
