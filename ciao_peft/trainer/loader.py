"""From a plan of batches to tensors: pictures or stored features, this process's share of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..backbone import Depth
from ..errors import TrainingError
from ..features import Augmentation, ClipSamples, FeatureDataset, Samples
from ..features.workers import ErrorsSent, received
from .accelerator import rows_per_process
from .resident import ResidentFeatures, check_finite_rows
from .seeds import seed_everything, seed_of


@dataclass
class Batch:
    """What one process computes of one micro-batch.

    Args:
        inputs: `pixel_values` or `features`, as `CIAOModel.forward` takes them.
        labels: Of these samples; None where there are none.
        counts: Samples of this micro-batch on each process.

    Shapes:
        With `b` samples on this process: `pixel_values` `(b, C, H, W)`, or `(b, T, C, H, W)` for clips; `features` a
        tuple of tensors with `b` rows each; labels `(b,)` or `(b, num_labels)`.

    Example:
        >>> batch = Batch({"pixel_values": torch.zeros(2, 3, 16, 16)}, torch.tensor([0, 1]), [2])
        >>> batch.to(torch.device("cpu")).inputs["pixel_values"].shape
        torch.Size([2, 3, 16, 16])
    """

    inputs: dict[str, Any]
    labels: Tensor | None
    counts: list[int] = field(default_factory=list)

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device; tensors that are there already are not copied."""
        return self.with_tensors([tensor.to(device, non_blocking=True) for tensor in self.tensors()])

    def tensors(self) -> list[Tensor]:
        """All tensors of the batch."""
        inputs = [part for value in self.inputs.values() for part in (value if isinstance(value, tuple) else (value,))]
        return inputs if self.labels is None else [*inputs, self.labels]

    @property
    def shape(self) -> tuple[Any, ...]:
        """What tells batches of another make apart, for which tensors cannot be exchanged."""
        inputs = tuple((name, len(value) if isinstance(value, tuple) else None) for name, value in self.inputs.items())
        return inputs, self.labels is None, tuple(self.counts)

    def with_tensors(self, tensors: Sequence[Tensor]) -> Batch:
        """A batch of the same make with other tensors.

        Args:
            tensors: In the order of `tensors()`.

        Example:
            >>> batch = Batch({"features": (torch.zeros(2, 4), torch.zeros(2, 1))}, torch.tensor([0, 1]), [2])
            >>> other = batch.with_tensors([tensor + 1 for tensor in batch.tensors()])
            >>> other.labels, len(other.inputs["features"])
            (tensor([1, 2]), 2)
        """
        rest = iter(tensors)
        inputs = {
            name: tuple(next(rest) for _ in value) if isinstance(value, tuple) else next(rest)
            for name, value in self.inputs.items()
        }
        return Batch(inputs, None if self.labels is None else next(rest), self.counts)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, from where a GPU fetches it while it computes. Needs a GPU."""
        return self.with_tensors([tensor.pin_memory() for tensor in self.tensors()])


class Order(NamedTuple):
    """What is to be read as one batch.

    Args:
        rows: Samples `(b,)` of this process.
        counts: As for `Batch`.
        seed: Of what is random in the whole batch; None for view 0 and no seed.
        rank: Of this process.
    """

    rows: np.ndarray
    counts: list[int]
    seed: int | None = None
    rank: int = 0


class BatchDataset:
    """A dataset and its labels, read by batch; what `DataLoader` sends to its workers.

    Args:
        data: Pictures or stored features.
        labels: `(N,)` or `(N, num_labels)`: those of all samples, as `check_labels` returns them, or None.
        include_excitation: Whether stored u is of use to the adapter.
        resident: The same features on the device that trains, where they are there.
        views: Views of each sample that are drawn from; with 0 or 1, none but the first.
        augment: How the views of pictures differ.
        depths: Which of the stored depths the adapter reads; all when None.

    Shapes:
        Items are batches, see `Batch`.

    Example:
        >>> from ciao_peft.features import samples_of
        >>> faces = [{"pixel_values": torch.full((3, 16, 16), float(n)), "labels": n % 2} for n in range(4)]
        >>> data = samples_of(faces, None)
        >>> source = BatchDataset(data, data.labels())
        >>> source[Order(np.array([3, 0]), [2])].labels
        tensor([1, 0])
        >>> len(source), source.kind
        (4, 'pixels')
    """

    data: Samples | ClipSamples | FeatureDataset
    labels: Tensor | None
    include_excitation: bool
    resident: ResidentFeatures | None
    views: int
    depths: Sequence[Depth] | None

    def __init__(
        self,
        data: Samples | ClipSamples | FeatureDataset,
        labels: Tensor | None,
        include_excitation: bool = True,
        resident: ResidentFeatures | None = None,
        views: int = 1,
        augment: Augmentation | None = None,
        depths: Sequence[Depth] | None = None,
    ):
        self.data = data
        self.depths = depths
        self.include_excitation = include_excitation
        self.labels = labels
        self.resident = resident
        self.views = max(views, 1)
        self._augment = augment
        self._labels_there: dict[torch.device, Tensor] = {}
        self._unseen: Tensor | None = None  # samples and views whose features were not looked at yet

    @property
    def is_mirrored(self) -> bool:
        """Whether each sample has one more view, its mirror image."""
        mirror = Augmentation.of_views(2)
        if self.views != 2 or mirror is None:
            return False
        stored = self.data.key.get("augmentation") if isinstance(self.data, FeatureDataset) else None
        return self._augment == mirror if stored is None else {**stored, "seed": 0} == mirror.to_dict()

    @property
    def kind(self) -> str:
        """What training reads, as a checkpoint remembers it: pixels, or features of a certain content."""
        return f"features {self.data.key_hash}" if isinstance(self.data, FeatureDataset) else "pixels"

    @property
    def known_labels(self) -> Tensor:
        """The labels of a dataset that has some.

        Raises:
            TrainingError: there are none.
        """
        if self.labels is None:
            raise TrainingError("The dataset has no labels to learn or to compare with.")
        return self.labels

    def labels_on(self, device: torch.device) -> Tensor | None:
        """All labels on a device, `(N, ...)`; copied there once.

        Args:
            device: Where they are to be.
        """
        if self.labels is None:
            return None
        if device not in self._labels_there:
            self._labels_there[device] = self.labels.to(device)
        return self._labels_there[device]

    def __len__(self) -> int:
        """Samples, all batches together."""
        return len(self.data)

    def __getitem__(self, order: Order) -> Batch:
        """Reads one batch.

        Args:
            order: Which.

        Raises:
            DataError: a picture cannot be read, or features that are read for the first time are not finite.
        """
        indices, counts, seed, rank = order
        rows = torch.from_numpy(indices)
        labels = None if self.labels is None else self.labels[rows]
        views = self.views_of(order)
        if isinstance(self.data, FeatureDataset):
            features = self.data.features(rows, 0 if views is None else views, self.include_excitation, self.depths)
            self._look_at(features, rows, rows if views is None else rows + views * len(self.data))
            return Batch({"features": features}, labels, counts)
        if seed is not None:  # for datasets that augment on the fly
            seed_everything(seed_of(seed, rank) if rank else seed)
        pixels = self.data.pixels(indices.tolist())
        return Batch({"pixel_values": pixels if views is None else self._seen(pixels, rows, views)}, labels, counts)

    def views_of(self, order: Order) -> Tensor | None:
        """The view of each sample of a batch, `(b,)`; None where all are view 0.

        They are drawn for the whole batch, so that several processes see what one would.

        Args:
            order: As for indexing.
        """
        if order.seed is None or self.views == 1:
            return None
        whole = np.random.default_rng(order.seed).integers(0, self.views, sum(order.counts))
        first = sum(order.counts[: order.rank])
        return torch.from_numpy(whole[first : first + len(order.rows)])

    def _seen(self, pixels: Tensor, samples: Tensor, views: Tensor) -> Tensor:
        """Pictures, or the frames of clips, in their views; as `cache_features` would store them."""
        assert self._augment is not None  # or there is one view
        frames = pixels.shape[1] if pixels.ndim == 5 else 1
        flat = pixels.flatten(0, 1) if pixels.ndim == 5 else pixels
        samples, views = samples.repeat_interleave(frames), views.repeat_interleave(frames)
        seen = flat.clone()
        for view in views.unique().tolist():
            own = views == view
            seen[own] = self._augment(flat[own], samples[own].tolist(), view=view, preprocessing=None)
        return seen.view_as(pixels)

    def _look_at(self, features: tuple[Tensor, ...], samples: Tensor, numbers: Tensor) -> None:
        if self._unseen is None:
            self._unseen = torch.ones(self.views * len(self.data), dtype=torch.bool, device="cpu")
        if self._unseen[numbers].any():
            check_finite_rows(features, samples)
            self._unseen[numbers] = False


class _Orders:
    """A sampler whose orders are set anew for each epoch, so that workers live on."""

    def __init__(self) -> None:
        self.orders: Sequence[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.orders)

    def __len__(self) -> int:
        return len(self.orders)


class BatchLoader:
    """Hands out this process's share of planned batches.

    Args:
        source: What to read.
        rank, num_processes: Which share of each batch.
        num_workers: Processes that read ahead; results do not depend on their number. Stored features need none.
        device: Where batches end up.

    Shapes:
        See `Batch`.

    Example:
        >>> from ciao_peft.features import samples_of
        >>> faces = [{"pixel_values": torch.zeros(3, 16, 16), "labels": n} for n in range(5)]
        >>> data = samples_of(faces, None)
        >>> loader = BatchLoader(BatchDataset(data, data.labels()), 0, 2, 0, torch.device("cpu"))
        >>> [batch.labels.tolist() for batch in loader.read([np.array([4, 2, 0]), np.array([1, 3])], [None, None])]
        [[4, 2], [1]]
    """

    source: BatchDataset
    rank: int
    num_processes: int
    device: torch.device

    def __init__(self, source: BatchDataset, rank: int, num_processes: int, num_workers: int, device: torch.device):
        self.source, self.rank, self.num_processes, self.device = source, rank, num_processes, device
        self._sampler = _Orders()
        # Stored features need no workers: sending tensors between processes costs more than reading them.
        workers = 0 if isinstance(source.data, FeatureDataset) else num_workers
        self._loader = DataLoader(
            cast("Dataset[Batch]", ErrorsSent(source) if workers else source),  # indexed by the orders of the sampler
            batch_size=None,
            sampler=self._sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),
        )

    def read(self, plan: Sequence[np.ndarray], seeds: Sequence[int | None]) -> Iterator[Batch]:
        """Reads this process's share of the batches of a plan, one after the other.

        Args:
            plan: Indices of each batch, over all processes, as `plan_epoch` gives them.
            seeds: One per batch, the same in all processes, for what is random in it; None for view 0 and no seed.

        Raises:
            ValueError: there are more or fewer seeds than batches.
        """
        orders: list[Order] = []
        for indices, seed in zip(plan, seeds, strict=True):
            counts = rows_per_process(len(indices), self.num_processes)
            first = sum(counts[: self.rank])
            orders.append(Order(indices[first : first + counts[self.rank]], counts, seed, self.rank))
        if self.source.resident is not None:
            yield from self._selected(orders, self.source.resident)
            return
        self._sampler.orders = orders
        with torch.device("cpu"):  # it draws a number, and reads it
            batches = received(iter(self._loader))
        if self.device.type == "cuda":
            yield from _copied_ahead(batches, self.device)
            return
        for batch in batches:
            yield batch.to(self.device)

    def _selected(self, orders: Sequence[Order], resident: ResidentFeatures) -> Iterator[Batch]:
        """Batches of features that are on the device: the numbers of an epoch's rows are copied once, and no batch."""
        samples = [torch.from_numpy(order.rows) for order in orders]
        views = [self.source.views_of(order) for order in orders]
        rows = [s if v is None else s + v * len(self.source) for s, v in zip(samples, views, strict=True)]
        labels = self.source.labels_on(self.device)
        sizes = [len(own) for own in samples]
        if not sizes:
            return
        numbers = torch.stack([torch.cat(samples), torch.cat(rows)])
        if self.device.type == "cuda":
            numbers = numbers.pin_memory()
        parts = numbers.to(self.device, non_blocking=True).split(sizes, dim=1)
        for order, (own_samples, own_rows) in zip(orders, parts, strict=True):
            own_labels = None if labels is None else labels.index_select(0, own_samples)
            yield Batch({"features": resident.features(own_rows)}, own_labels, order.counts)


def _copied_ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Copies each batch to a GPU on a stream of its own, while the batch before it is computed."""
    stream = torch.cuda.Stream(device)

    def copied() -> Batch | None:
        batch = next(batches, None)
        if batch is None:
            return None
        with torch.cuda.stream(stream):
            return batch.to(device)

    coming = copied()
    while coming is not None:
        now = torch.cuda.current_stream(device)
        now.wait_stream(stream)
        batch = coming
        for tensor in batch.tensors():
            tensor.record_stream(now)
        coming = copied()
        yield batch
