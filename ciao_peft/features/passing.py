"""One pass of pictures through the trunk: read ahead, computed, and kept while the next ones are computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..checking import all_finite
from ..errors import FeatureCacheError
from ..model import CIAOModel
from ..preprocessing.ahead import in_threads
from .augmentation import Augmentation
from .layout import DTYPES, consecutive_runs
from .samples import Samples
from .stacking import stack_pixels
from .stored_depths import depths_of
from .streams import StreamSamples
from .workers import ErrorsSent, received

if TYPE_CHECKING:
    from torch.cuda import Event

__all__ = ["batches_of", "in_runs", "pass_through_trunk", "read_ahead"]

_KEPT_LATER = 2  # batches that may wait to be kept while others are computed


def pass_through_trunk(
    model: CIAOModel,
    samples: Samples | StreamSamples,
    rows: Sequence[int],
    key: dict[str, Any],
    augment: Augmentation | None,
    keep: Callable[[list[int], tuple[Tensor, ...]], None],
    *,
    batch_size: int,
    num_workers: int = 0,
) -> Generator[int, None, None]:
    """Runs the trunk over rows that are to be stored, and hands over what crosses the cut.

    Nothing waits for the GPU but the thread that keeps, so that pictures are read and launched meanwhile.

    Args:
        model: Its active adapter says where to cut.
        samples: What the rows are views of; view v of sample i is row `v * samples + i`.
        rows: Numbers of the rows, in ascending order.
        key: Has `excitation` and `dtype`, and `depths` if there are any.
        augment: How views other than 0 differ.
        keep: Called with the numbers of rows and their tensors, `(B, ...)` each on the CPU; in another thread, one
            batch after the other, in order.
        batch_size: Rows that go through the trunk at once.
        num_workers: As for `read_ahead`.

    Yields:
        The number of rows that were kept since the last time. After an error, what was computed before it is kept.

    Raises:
        DataError: a sample cannot be read.
        FeatureCacheError: features are not finite, in the backbone's dtype or in that of the storage.

    Example:
        >>> from torch import nn
        >>> model = CIAOModel(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), input_size=(3, 8, 8))
        >>> samples = Samples([{"pixel_values": torch.rand(3, 8, 8), "labels": n} for n in range(5)], None)
        >>> key, kept = {"excitation": False, "dtype": "float32"}, []
        >>> passed = pass_through_trunk(
        ...     model, samples, [0, 1, 4], key, None, lambda rows, tensors: kept.append(rows), batch_size=2
        ... )
        >>> list(passed), kept
        ([2, 1], [[0, 1], [4]])
    """
    num_samples, device = len(samples), next(model.backbone.parameters()).device
    depths = depths_of(key)
    batches = list(batches_of(rows, batch_size, num_samples))
    indices = [[row % num_samples for row in batch] for batch in batches]
    pending: deque[tuple[int, Future[None]]] = deque()

    def kept() -> int:
        count, future = pending.popleft()
        if (error := future.exception()) is not None:
            wait([later for _, later in pending])
            pending.clear()  # whatever they raise, this one was first
            raise error
        return count

    with (
        ThreadPoolExecutor(1, thread_name_prefix="ciao_peft") as keeper,
        closing(read_ahead(samples, indices, num_workers, device)) as read,
    ):
        try:
            for batch, numbers, pixels in zip(batches, indices, read, strict=True):
                pixels = pixels.to(device, non_blocking=True)
                if samples.source == "image" and samples.preprocessing is not None:
                    pixels = samples.preprocessing.normalise(pixels)
                view = batch[0] // num_samples
                if view and augment is not None:
                    pixels = augment(pixels, numbers, view=view, preprocessing=model.preprocessing)
                features = model.extract_features(pixels, key["excitation"], depths)
                computed = _Computed(features, key["dtype"], numbers, samples.name, device.type == "cuda")
                pending.append((len(batch), keeper.submit(lambda b, c: keep(b, c.tensors()), batch, computed)))
                while len(pending) > _KEPT_LATER:
                    yield kept()
        except BaseException:
            while pending:  # an error in an earlier batch comes first
                kept()
            raise
        while pending:
            yield kept()


class _Computed:
    """What crossed the cut in one batch, on its way from the device; made without waiting for it."""

    def __init__(self, features: tuple[Tensor, ...], stored: str, numbers: list[int], name: str, on_gpu: bool):
        self._name, self._stored, self._numbers = name, stored, numbers
        self._arrived: Event | None = None
        rounded = [tensor.to(DTYPES[stored]).contiguous() for tensor in features]
        if on_gpu:
            flags = torch.stack([value.isfinite().all() for value in (*rounded, *features)])
            self._tensors = tuple(tensor.to("cpu", non_blocking=True) for tensor in rounded)
            self._finite: Any = flags.to("cpu", non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(rounded[0].device))
        else:
            self._tensors = tuple(tensor.to("cpu") for tensor in rounded)
            # What is finite after rounding was so before.
            fit = [all_finite(tensor) for tensor in self._tensors]
            self._finite = [*fit, *(is_ or all_finite(tensor) for is_, tensor in zip(fit, features, strict=True))]

    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors, once they have arrived.

        Raises:
            FeatureCacheError: they are not finite.
        """
        if self._arrived is not None:
            self._arrived.synchronize()
        finite = [bool(flag) for flag in self._finite]
        computed = finite[len(self._tensors) :]
        for rounded, fits, was_finite in zip(self._tensors, finite, computed, strict=False):
            if not fits:
                row = self._numbers[int((~rounded.isfinite()).flatten(1).any(dim=1).nonzero()[0, 0])]
                what = f"do not fit into {self._stored}; store them in bfloat16 or float32"
                raise FeatureCacheError(
                    f"The features of sample {row} of {self._name} "
                    f"{what if was_finite else 'are NaN or infinite: check the weights of the backbone'}."
                )
        return self._tensors


def batches_of(rows: Sequence[int], batch_size: int, num_samples: int) -> Iterator[list[int]]:
    """Rows in batches that stay within one view; there may be others between them.

    Args:
        rows: Their numbers, in ascending order.
        batch_size: Rows of a batch, at most.
        num_samples: Rows of a view.

    Example:
        >>> list(batches_of(range(5), batch_size=2, num_samples=3))
        [[0, 1], [2], [3, 4]]
    """
    for _, of_view in groupby(rows, lambda row: row // num_samples):
        while batch := list(islice(of_view, batch_size)):
            yield batch


def in_runs(put: Callable[[int, tuple[Tensor, ...]], None], rows: list[int], tensors: tuple[Tensor, ...]) -> None:
    """Puts the rows of a batch, which need not follow one another.

    Args:
        put: `FeatureWriter.put`.
        rows: Their numbers, in ascending order.
        tensors: `(rows, ...)` each.

    Example:
        >>> in_runs(lambda first, tensors: print(first, len(tensors[0])), [3, 4, 7], (torch.zeros(3, 2),))
        3 2
        7 1
    """
    for run in consecutive_runs(rows):
        put(rows[run.start], tuple(tensor[run] for tensor in tensors))


# -- reading ---------------------------------------------------------------------------------------------------------


def read_ahead(
    samples: Samples | StreamSamples,
    batches: Sequence[list[int]],
    num_workers: int = 0,
    device: torch.device | None = None,
) -> Generator[Tensor, None, None]:
    """Reads batches of samples, the next ones while one is in use.

    Args:
        samples: What to read. A stream is always read by this process.
        batches: Numbers of the samples of each batch.
        num_workers: Processes that read and prepare pictures. With 0, this process reads, and opens the pictures in
            threads.
        device: Where the batches go: for a GPU they are put into page-locked memory.

    Yields:
        Of pictures `(B, height, width, C)` in uint8, for `preprocessing.normalise`; else pixels `(B, C, H, W)`.

    Raises:
        DataError: a sample cannot be read; it comes in its place in the order.

    Example:
        >>> samples = Samples([{"pixel_values": torch.full((3, 8, 8), float(n))} for n in range(3)], None)
        >>> [batch[:, 0, 0, 0].tolist() for batch in read_ahead(samples, [[0, 2], [1]])]
        [[0.0, 2.0], [1.0]]
    """
    pin = device is not None and device.type == "cuda"
    if num_workers and isinstance(samples, Samples):
        yield from _by_workers(samples, batches, num_workers, pin)
    elif samples.source == "image" and samples.preprocessing is not None:
        numbered = (entry for batch in batches for entry in zip(batch, samples.raw(batch), strict=True))
        size = max(map(len, batches), default=1)
        fitted = in_threads(lambda entry: samples.fit(*entry), numbered, ahead=size)
        for batch in batches:
            pictures = torch.from_numpy(np.stack(list(islice(fitted, len(batch)))))
            yield pictures.pin_memory() if pin else pictures
    else:
        for batch in batches:
            yield stack_pixels(samples.raw(batch), batch, samples.name, pin)


def _by_workers(samples: Samples, batches: Sequence[list[int]], num_workers: int, pin: bool) -> Iterator[Tensor]:
    loader: DataLoader[Any] = DataLoader(
        cast("Dataset[Any]", ErrorsSent(_ByBatch(samples))),
        batch_size=None,
        sampler=cast("Any", batches),
        num_workers=min(num_workers, len(batches)),
        pin_memory=pin,
        generator=torch.Generator(),
    )
    with torch.device("cpu"):  # it draws a number, and reads it
        read = iter(loader)
    try:
        yield from received(read)
    finally:
        del read, loader  # the workers go with them, and do not wait until an error is forgotten


class _ByBatch:
    """Samples as `DataLoader` sends them to its workers, batch by batch."""

    def __init__(self, samples: Samples):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, indices: list[int]) -> Tensor:
        samples = self.samples
        raw = samples.raw(indices)
        if samples.source != "image" or samples.preprocessing is None:
            return stack_pixels(raw, indices, samples.name)
        return torch.from_numpy(np.stack([samples.fit(*entry) for entry in zip(indices, raw, strict=True)]))
