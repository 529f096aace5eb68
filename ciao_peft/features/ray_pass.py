"""A pass of pictures through the trunk by Ray's workers: blocks of rows, which each worker reads, computes and keeps.

A block is several of the batches that one process would make of the same rows, so that the bits are the same. Workers
that see the folder of the features write into it, as the processes of `torchrun` do; the others send what they computed
to this process, which writes. A row has one place in the folder: a block that is begun anew writes the same there.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..engine import RayEngine, ray_running, sendable
from ..errors import DataError, LaunchError
from ..model import CIAOModel
from ..surroundings import outside_inference
from .augmentation import Augmentation
from .keys import features_layout, fingerprint
from .layout import DTYPES, FeatureLayout
from .passing import batches_of, in_runs, pass_through_trunk
from .processes import Processes
from .samples import Samples
from .store import DONE_FILE, INDEX_FILE, FeatureWriter
from .streams import StreamSamples

__all__ = ["fingerprint_by_ray", "pass_by_ray"]

_BATCHES_PER_TASK = 8
_DIGESTS_PER_TASK = 2048
_MOST_TASKS = 2000  # of which Ray keeps a list; a task of more than one block reports after each


@dataclass(frozen=True)
class _Work:
    """All that a worker needs; sent to each machine once."""

    model: CIAOModel
    samples: Samples | StreamSamples
    key: dict[str, Any]
    augment: Augmentation | None
    batch_size: int
    num_workers: int
    folder: Path | None
    layout: FeatureLayout
    sign: str

    def sees_folder(self) -> bool:
        """Whether the folder of the process that started the work is this machine's, too."""
        return self.folder is not None and (self.folder / self.sign).exists()


def pass_by_ray(
    model: CIAOModel,
    samples: Samples | StreamSamples,
    rows: Sequence[int],
    key: dict[str, Any],
    augment: Augmentation | None,
    keep: Callable[[list[int], tuple[Tensor, ...]], None],
    *,
    folder: Path | None,
    batch_size: int,
    num_workers: int = 0,
    engine: RayEngine,
) -> Generator[int, None, None]:
    """Does what `pass_through_trunk` does, with the workers of Ray.

    Args:
        model: As for `pass_through_trunk`; each worker gets a copy, on the device on which the model is here.
        samples: As for `pass_through_trunk`; each worker gets a copy, and must reach the files that it names.
        rows: As for `pass_through_trunk`.
        key: As for `pass_through_trunk`.
        augment: As for `pass_through_trunk`.
        keep: As for `pass_through_trunk`, for rows of workers that do not see the folder; called in this thread.
        folder: Where features are stored, with files for all rows; None to keep all rows here.
        batch_size: As for `pass_through_trunk`.
        num_workers: As for `pass_through_trunk`, of each worker.
        engine: Says where Ray runs and how work is shared out.

    Yields:
        The number of rows that were kept since the last time.

    Raises:
        Exception: as for `pass_through_trunk`; whatever a worker raised.
        LaunchError: workers ended again and again, or Ray did.
    """
    if not len(rows):
        return
    sign = f".{INDEX_FILE}.{uuid.uuid4().hex}.tmp"  # a name that is tidied away with the complete folder at the latest
    layout = features_layout(model, key)
    work = _Work(model, samples, key, augment, batch_size, num_workers, folder, layout, sign)
    per_task = _BATCHES_PER_TASK * batch_size if engine.rows_per_task is None else engine.rows_per_task
    blocks = list(_blocks(batches_of(rows, batch_size, len(samples)), per_task))
    with ray_running(engine) as ray, _sign_of(folder, sign):
        results = _results(ray, engine, work, blocks, on_gpu=next(model.backbone.parameters()).is_cuda)
        with closing(results):
            for kind, content in results:
                if kind == "error":
                    raise content
                if kind == "stored":
                    yield content
                    continue
                numbers, tensors = content
                keep(numbers, _as_tensors(tensors, layout, len(numbers)))
                yield len(numbers)


def fingerprint_by_ray(samples: Samples | StreamSamples, engine: RayEngine, processes: Processes) -> str:
    """The hash that `fingerprint` gives, of pictures that Ray's workers read.

    Args:
        samples: One split; workers must reach the files that it names.
        engine: Says where Ray runs.
        processes: Those that were started together with this one; there must be none.

    Raises:
        Exception: whatever a worker raised.
        DataError: the samples are a stream, which can only be read from its start.
        LaunchError: workers ended again and again, or Ray did; or there are several processes.
    """
    if processes.count > 1:
        raise LaunchError(
            f"{processes.count} processes were started together, and `engine='ray'` shares the work out itself. Start "
            "one process; `RayEngine(workers=...)` says how many work."
        )
    if isinstance(samples, StreamSamples):
        raise DataError(
            f"{samples.name} is a stream, which Ray's workers cannot read from the middle. Give the files themselves, "
            "such as 's3://.../*.parquet', or a table; or leave `engine` out."
        )
    parts = [
        np.arange(first, min(first + _DIGESTS_PER_TASK, len(samples)))
        for first in range(0, len(samples), _DIGESTS_PER_TASK)
    ]
    if len(parts) == 1:  # sooner done than sent
        return fingerprint(samples, processes)
    found: dict[int, bytes] = {}
    with ray_running(engine) as ray, closing(_results(ray, engine, samples, parts, on_gpu=False)) as results:
        for kind, content in results:
            if kind == "error":
                raise content
            found[content[0]] = content[1]
    return blake2b(b"".join(found[first] for first in sorted(found)), digest_size=16).hexdigest()


def _blocks(batches: Iterable[list[int]], rows_per_task: int) -> Iterator[np.ndarray]:
    """Several batches at a time, as many as have `rows_per_task` rows or more."""
    block: list[int] = []
    for batch in batches:
        block += batch
        if len(block) >= rows_per_task:
            yield np.array(block)
            block = []
    if block:
        yield np.array(block)


@contextmanager
def _sign_of(folder: Path | None, name: str) -> Iterator[None]:
    """A file in the folder while it is filled: a worker that finds it there may write beside it."""
    if folder is None:
        yield
        return
    (folder / name).touch()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / name).unlink()


# -- what Ray runs ---------------------------------------------------------------------------------------------------


def _results(
    ray: Any, engine: RayEngine, work: _Work | Samples, blocks: Sequence[np.ndarray], *, on_gpu: bool
) -> Generator[tuple[str, Any], None, None]:
    """What comes of the blocks, in any order: kinds, `"error"` among them, and contents."""
    import ray.data as ray_data

    unit = "GPU" if on_gpu else "CPU"
    available = int(ray.cluster_resources().get(unit, 0))
    if not available:
        raise LaunchError(f"The cluster of Ray has no {unit}, and the model lies on one. Move it with `model.to(...)`.")
    workers = min(available if engine.workers is None else engine.workers, len(blocks))
    items, sent = [{"rows": block} for block in blocks], ray.put(work)  # held here while workers may ask for it
    context = ray_data.DataContext.get_current()
    before, logger = context.enable_progress_bars, logging.getLogger("ray.data")
    level, logger.level = logger.level, logging.ERROR
    context.enable_progress_bars = False
    try:
        table = ray_data.from_items(items, override_num_blocks=min(len(items), _MOST_TASKS)).map_batches(
            _Worker,
            fn_constructor_args=(sent, engine.retries, uuid.uuid4().hex),
            batch_size=1,
            batch_format="numpy",
            # A machine may be lost with its workers: those that are left go on.
            compute=ray_data.ActorPoolStrategy(min_size=1, max_size=workers, initial_size=workers),
            num_gpus=1 if on_gpu else None,
            num_cpus=None if on_gpu else 1,
        )
        for batch in table.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
            for result in batch["result"]:
                yield pickle.loads(result)  # what `_Worker` made
    finally:
        context.enable_progress_bars, logger.level = before, level


class _Worker:
    """Holds the trunk, and works off one block of rows after the other; made in a process of Ray.

    Ray begins anew what a worker left that was killed, without an end; here, not more often than `retries` says.

    Args:
        sent: Refers to the work, which is fetched with the first block.
        retries: How often a block is begun anew on one machine.
        name: Of this pass, unlike any other's.
    """

    def __init__(self, sent: Any, retries: int, name: str):
        self._sent, self._retries = sent, retries
        self._tries = Path(tempfile.gettempdir()) / f"ciao_peft.{name}"
        self._work: _Work | Samples | None = None

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        rows = [int(row) for row in batch["rows"][0]]
        try:
            with self._counted(rows):
                for result in self._results(rows):
                    yield _as_batch(result)
        except Exception as error:
            yield _as_batch(("error", sendable(error, "A sample cannot be read")))

    @contextmanager
    def _counted(self, rows: list[int]) -> Iterator[None]:
        """Leaves a mark while a block is at work, which outlives a worker that is killed."""
        tries = Path(f"{self._tries}.{rows[0]}.tries")
        with tries.open("ab") as file:
            file.write(b"1")
        try:
            if (count := tries.stat().st_size) > self._retries + 1:
                raise LaunchError(
                    f"A worker of Ray that stored the rows from {rows[0]} to {rows[-1]} was killed, {count - 1} times "
                    "in all. A full memory ends workers: give fewer `RayEngine(workers=...)` or a smaller "
                    "`batch_size`. So do some decoders on damaged files; without `engine`, this process says more. "
                    "What was stored before is kept."
                )
            yield
        finally:
            tries.unlink(missing_ok=True)

    def _results(self, rows: list[int]) -> Iterator[tuple[str, Any]]:
        if self._work is None:
            import ray

            self._work = cast("_Work | Samples", ray.get(self._sent))
        work = self._work
        if not isinstance(work, _Work):
            yield "digests", (rows[0], b"".join(work.digests(rows)))
            return
        with outside_inference(), work.model.reading_with():
            yield from _stored(work, rows) if work.sees_folder() else _sent(work, rows)


def _as_batch(result: tuple[str, Any]) -> dict[str, Any]:
    column = np.empty(1, dtype=object)
    column[0] = pickle.dumps(result, protocol=pickle.HIGHEST_PROTOCOL)
    return {"result": column}


def _pass(work: _Work, rows: list[int], keep: Callable[[list[int], tuple[Tensor, ...]], None]) -> Iterator[int]:
    options: dict[str, Any] = {"batch_size": work.batch_size, "num_workers": work.num_workers}
    return pass_through_trunk(work.model, work.samples, rows, work.key, work.augment, keep, **options)


def _stored(work: _Work, rows: list[int]) -> Iterator[tuple[str, Any]]:
    assert work.folder is not None
    left = _not_marked(work.folder, rows)  # where this block is begun anew, part of it is there
    with FeatureWriter(work.folder, work.layout) as writer:
        for _ in _pass(work, left, partial(in_runs, writer.put)):
            pass
    yield "stored", len(rows)


def _sent(work: _Work, rows: list[int]) -> Iterator[tuple[str, Any]]:
    kept: list[tuple[list[int], list[np.ndarray]]] = []

    def keep(numbers: list[int], tensors: tuple[Tensor, ...]) -> None:
        stored = [tensor.to(DTYPES[work.layout.dtype]).contiguous() for tensor in tensors]
        kept.append((numbers, [tensor.view(-1).view(torch.uint8).numpy() for tensor in stored]))

    for _ in _pass(work, rows, keep):
        while kept:
            yield "rows", kept.pop(0)


def _as_tensors(arrays: Sequence[np.ndarray], layout: FeatureLayout, count: int) -> tuple[Tensor, ...]:
    """Tensors `(count, ...)` of the bytes that `_sent` made of them."""
    dtype = DTYPES[layout.dtype]
    return tuple(
        torch.frombuffer(bytearray(array), dtype=dtype).view(count, *shape)
        if array.size
        else torch.empty((count, *shape), dtype=dtype)
        for array, shape in zip(arrays, layout.shapes, strict=True)
    )


def _not_marked(folder: Path, rows: list[int]) -> list[int]:
    with (folder / DONE_FILE).open("rb") as file:
        file.seek(rows[0])
        marks = file.read(rows[-1] + 1 - rows[0])
    return [row for row in rows if marks[row - rows[0]] != 1]
