"""Runs the frozen trunk once over pictures, and keeps its features in a folder or in memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast, overload

import torch
from torch import Tensor, nn

from ..checking import check_choice, check_number
from ..data import open_shards
from ..engine import RayEngine, engine_from, ray_running
from ..errors import CIAOError, ConfigError, FeatureCacheError
from ..model import CIAOModel
from ..preprocessing import Preprocessing
from ..progress import hides_bars, long_work
from ..remote import is_url
from ..saving.files import local_path
from ..surroundings import as_tensor, outside_inference
from .augmentation import Augmentation
from .cached import FeatureDataset
from .in_stores import cache_in_store
from .keys import features_layout, fingerprint, model_key, storage_dtype
from .layout import DTYPES, FeatureLayout, free_disk, free_memory, readable_size
from .passing import in_runs, pass_through_trunk
from .processes import Processes
from .ray_pass import fingerprint_by_ray, pass_by_ray
from .samples import ClipSamples, Samples, samples_of
from .shapes import first_sample
from .store import FeatureFiles
from .streams import StreamSamples, is_stream
from .workers import deaths_told

__all__ = ["SHARE_OF_DISK", "SHARE_OF_MEMORY", "cache_features", "store_features"]

_Pass = Callable[..., Generator[int, None, None]]

SHARE_OF_MEMORY = 0.25
"""Features that are kept by default, not on request, take at most this share of the free memory."""

SHARE_OF_DISK = 0.5
"""u is stored by default, not on request, if features and u take at most this share of the free disk."""


@overload
def cache_features(  # pyright: ignore[reportOverlappingOverload] - only a mapping is several splits
    model_or_encoder: CIAOModel | nn.Module,
    dataset: Mapping[Any, Any],
    folder: str | os.PathLike[str] | None = None,
    *,
    views: int = 1,
    dtype: str | None = None,
    augment: Augmentation | None = None,
    include_excitation: bool = False,
    batch_size: int = 64,
    dataloader_num_workers: int = 0,
    disable_tqdm: bool | None = None,
    engine: str | RayEngine | None = None,
) -> dict[str, FeatureDataset]: ...


@overload
def cache_features(
    model_or_encoder: CIAOModel | nn.Module,
    dataset: Any,
    folder: str | os.PathLike[str] | None = None,
    *,
    views: int = 1,
    dtype: str | None = None,
    augment: Augmentation | None = None,
    include_excitation: bool = False,
    batch_size: int = 64,
    dataloader_num_workers: int = 0,
    disable_tqdm: bool | None = None,
    engine: str | RayEngine | None = None,
) -> FeatureDataset: ...


def cache_features(
    model_or_encoder: CIAOModel | nn.Module,
    dataset: Any,
    folder: str | os.PathLike[str] | None = None,
    *,
    views: int = 1,
    dtype: str | None = None,
    augment: Augmentation | None = None,
    include_excitation: bool = False,
    batch_size: int = 64,
    dataloader_num_workers: int = 0,
    disable_tqdm: bool | None = None,
    engine: str | RayEngine | None = None,
) -> FeatureDataset | dict[str, FeatureDataset]:
    """Runs the frozen trunk once over a dataset and keeps the tensors that cross the cut, for `CIAOTrainer`.

    On disk, features are flat files that are mapped into memory. Features that exist already are used, and an
    interrupted pass continues where it stopped. Under `torchrun`, the processes share the work; processes that were
    started separately wait while one of them stores. Features belong to the content they were made of: weights and
    dtype of the backbone, place of the cut, preprocessing, views, storage dtype and the pictures. Paths, times, batch
    size and number of processes do not matter (kernels may round differently for other batch sizes and devices; the
    features that were computed first are kept). Labels are not stored: they come from the dataset.

    A stream (`streaming=True`) is read to its end twice, once for a fingerprint and once through the trunk, and its
    features equal those of the table with the same pictures; bound an endless stream with `take`. Each process reads
    the shards that `split_dataset_by_node` gives it. The result is a map-style dataset, no stream.

    Args:
        model_or_encoder: A model, whose active adapter says where to cut; or a bare backbone.
        dataset: A `datasets.Dataset` with `image`, a map-style dataset of `pixel_values`, the `clips` of either, a
            stream (`datasets.IterableDataset`) of `image` or `pixel_values`, or a dict of several splits; or what
            `ciao_peft.data.open_shards` opens, a path or URL of Parquet files, tars or pictures.
        folder: The folder to keep them in, with a folder for each split of a dict; in memory only, if left out. Or the
            URL of one in a store, such as `s3://bucket/features`: what is there is fetched into the cache, and what is
            not is made there, and put when it is complete.
        views: Stored views of each picture, 1 or more: the picture as it is, and `views - 1` augmented ones.
        dtype: `"float32"`, `"bfloat16"` or `"float16"`. The backbone's own when left out: nothing is lost. Half
            precision takes half the room and rounds.
        augment: How views differ; `Augmentation()` when left out.
        include_excitation: Keep u, the output of the frozen conv units, as well: it takes more room, and training is
            faster, since no frozen convolution is left to run. Features with u also serve adapters that do not need it
            (`tuning="last_conv"`); a folder without u is refused if u is asked for.
        batch_size: Number of pictures that go through the trunk at once, 1 or more.
        dataloader_num_workers: Processes that read and prepare pictures ahead. With 0, this process reads, and opens
            pictures in threads, which is faster unless a dataset of your own takes its time in Python. Changes no
            result.
        disable_tqdm: Whether to hide the progress bar and messages; when left out, they are shown in a terminal only,
            except for the message that another process is waited for.
        engine: Who runs the trunk: this process when left out, `"ray"` or a `RayEngine` for the workers of Ray on this
            machine or a cluster. The features are the same, to the bit where the processors are.

    Returns:
        A `FeatureDataset`, or a dict of one for each split.

    Raises:
        UntraceableBackboneError: the backbone could not be cut.
        FeatureCacheError: the folder holds features of something else, damaged features or other files; the disk is
            too full; or the dataset augments on the fly, which stored features would silently undo.
        ConfigError: the dtype or the engine is unknown, or views and augmentation do not go together.
        DataError: the dataset is empty or holds no pictures.
        MissingExtraError: the engine is not installed.
        LaunchError: the engine's workers have ended again and again, or several processes use it together.
        RemoteError: a subclass says why a store does not give or take them.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU())
        >>> faces = [{"pixel_values": torch.rand(3, 32, 32), "labels": n % 2} for n in range(6)]
        >>> stored = cache_features(net, faces)
        >>> [tuple(tensor.shape) for tensor in stored.features([0, 5])], stored[0]["labels"]
        ([(2, 8, 30, 30)], tensor(0))
    """
    if isinstance(dataset, Mapping):
        settings: dict[str, Any] = {"views": views, "dtype": dtype, "augment": augment, "batch_size": batch_size}
        settings |= {"include_excitation": include_excitation, "dataloader_num_workers": dataloader_num_workers}
        return {
            name: cache_features(
                model_or_encoder,
                split,
                None if folder is None else f"{folder}/{name}" if is_url(folder) else local_path(folder) / name,
                **settings,
                disable_tqdm=disable_tqdm,
                engine=engine,
            )
            for name, split in dataset.items()
        }
    if isinstance(dataset, (str, os.PathLike)):
        dataset = open_shards(dataset)
    augment = _checked_settings(views, dtype, augment, batch_size)
    check_number("dataloader_num_workers", dataloader_num_workers, int, 0)
    with _as_model(model_or_encoder, dataset) as model:
        if is_stream(dataset):
            samples = StreamSamples(dataset, model.preprocessing, None if folder is None else Processes())
        else:
            samples = samples_of(dataset, model.preprocessing)
        store_in = partial(
            store_features,
            model,
            samples,
            views=views,
            dtype=dtype,
            augment=augment,
            include_excitation=include_excitation,
            batch_size=batch_size,
            dataloader_num_workers=dataloader_num_workers,
            disable_tqdm=disable_tqdm,
            engine=engine,
        )
        if is_url(folder):
            return cache_in_store(str(folder), lambda place: store_in(folder_of=lambda key: place))
        return store_in(folder_of=lambda key: None if folder is None else local_path(folder))


def store_features(
    model: CIAOModel,
    samples: Samples | ClipSamples | StreamSamples,
    folder_of: Callable[[dict[str, Any]], Path | None],
    *,
    views: int = 1,
    dtype: str | None = None,
    augment: Augmentation | None = None,
    include_excitation: bool | None = False,
    batch_size: int = 64,
    dataloader_num_workers: int = 0,
    disable_tqdm: bool | None = None,
    engine: str | RayEngine | None = None,
) -> FeatureDataset:
    """Does the work of `cache_features` for one split, in a folder that may depend on the key.

    Args:
        model: Its active adapter says where to cut.
        samples: The split; the frames of clips are stored once each, and shown as clips.
        folder_of: Takes the key and returns the folder, or None to keep the features in memory.
        views, dtype, augment, batch_size, dataloader_num_workers, disable_tqdm, engine: As for `cache_features`.
        include_excitation: As for `cache_features`. `None` uses an existing folder as it is, and stores u in a new one
            if there is ample room.

    Returns:
        The features of the split.

    Raises:
        UntraceableBackboneError: the backbone could not be cut.
        FeatureCacheError: as for `cache_features`; or the samples are clips of pixels.

    Example:
        >>> model = CIAOModel(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), input_size=(3, 8, 8))
        >>> samples = Samples([{"pixel_values": torch.rand(3, 8, 8), "labels": n} for n in range(2)], None)
        >>> stored = store_features(model, samples, lambda key: None)
        >>> stored.views, stored.tensors[0].shape
        (1, torch.Size([2, 3, 8, 8]))
    """
    chosen = engine_from(engine, "Storing features")
    with ray_running(chosen), outside_inference(), model.reading_with():
        stored = _store_features(
            model,
            samples.frames if isinstance(samples, ClipSamples) else samples,
            folder_of,
            views,
            dtype,
            augment,
            include_excitation,
            batch_size,
            dataloader_num_workers,
            disable_tqdm,
            chosen,
        )
        return stored.clips(samples.rows) if isinstance(samples, ClipSamples) else stored


def _store_features(
    model: CIAOModel,
    samples: Samples | StreamSamples,
    folder_of: Callable[[dict[str, Any]], Path | None],
    views: int,
    dtype: str | None,
    augment: Augmentation | None,
    include_excitation: bool | None,
    batch_size: int,
    num_workers: int,
    disable_tqdm: bool | None,
    engine: RayEngine | None,
) -> FeatureDataset:
    if isinstance(samples, Samples) and samples.source == "pixel_values" and samples.pixels([0]).ndim == 5:
        raise FeatureCacheError(
            f"The samples of {samples.name} are clips, and features are stored of frames: give "
            "`ciao_peft.data.clips(rows of frames)`, or train with `feature_cache='never'`."
        )
    if not samples.shows_the_same_twice():
        raise FeatureCacheError(
            f"{samples.name} shows something else each time a sample is asked for, so one pass cannot stand for it. "
            "Take the augmentation out of the dataset and store augmented views, `views=4, augment=Augmentation(...)`; "
            "or train with `feature_cache='never'`."
        )
    processes = Processes()
    key = model_key(model) | {
        "dtype": dtype or storage_dtype(next(model.backbone.parameters()).dtype),
        "views": views,
        "augmentation": None if augment is None else augment.to_dict(),
        "excitation": bool(include_excitation),
        "num_samples": len(samples),
        "data": fingerprint(samples, processes) if engine is None else fingerprint_by_ray(samples, engine, processes),
    }
    folder = folder_of(key)
    run: _Pass = pass_through_trunk if engine is None else partial(pass_by_ray, engine=engine, folder=folder)
    run = partial(run, model, samples, augment=augment, batch_size=batch_size, num_workers=num_workers)
    if folder is None:
        if include_excitation is None:
            key["excitation"] = _has_ample_room(model, key, folder, processes)
        run = partial(run, key=key)
        return _in_memory(key, features_layout(model, key), samples, run, disable_tqdm)
    files = FeatureFiles(folder, key)
    if not all(processes.collect([files.complete])):
        with processes.exclusively(files.lock_file, lambda: _say_that_it_waits(folder, disable_tqdm)):
            files = FeatureFiles(folder, key)  # others may have stored them meanwhile
            processes.wait_for_everyone()  # nobody writes before all have looked
            if include_excitation is None and files.layout is None:
                key["excitation"] = _has_ample_room(model, key, folder, processes)
            if not files.complete:
                layout, run = features_layout(model, files.key), partial(run, key=files.key)
                files = _fill(files, layout, samples, run, processes, disable_tqdm)
    return FeatureDataset(
        files.key,
        files.stored_layout,
        samples.labels(),
        folder=files.folder,
        label_names=samples.label_names,
        checks=files.checks,
    )


def _checked_settings(
    views: int, dtype: str | None, augment: Augmentation | None, batch_size: int
) -> Augmentation | None:
    for name, value in (("views", views), ("batch_size", batch_size)):
        check_number(name, value, int, 1)
    if dtype is not None:
        check_choice("dtype", dtype, DTYPES)
    if augment is not None and not isinstance(augment, Augmentation):
        raise ConfigError(f"`augment` must be an Augmentation; got {type(augment).__name__}.")
    if augment is not None and views == 1:
        raise ConfigError("With `views=1` only the picture as it is would be stored; `augment` needs 2 views or more.")
    return Augmentation() if augment is None and views > 1 else augment


@contextmanager
def _as_model(model_or_encoder: CIAOModel | nn.Module, dataset: Any) -> Iterator[CIAOModel]:
    if isinstance(model_or_encoder, CIAOModel):
        yield model_or_encoder
        return
    if is_stream(dataset):
        first = next(iter(dataset), None)
    else:
        first = first_sample(dataset, "the dataset") if hasattr(dataset, "__getitem__") and len(dataset) else None
    pixels = first.get("pixel_values") if isinstance(first, Mapping) else None
    preprocessing = Preprocessing.for_backbone(model_or_encoder)
    size = preprocessing.input_size if preprocessing is not None else None
    if pixels is not None:
        size = cast("tuple[int, int, int]", tuple(as_tensor(pixels).shape))
    model = CIAOModel(model_or_encoder, input_size=size)
    try:
        yield model
    finally:
        model.unload()


def _has_ample_room(model: CIAOModel, key: dict[str, Any], folder: Path | None, processes: Processes) -> bool:
    """Whether features and u take no more than a share of what is free, wherever there is a process."""
    layout = features_layout(model, key | {"excitation": True})
    needed = layout.row_bytes() * layout.num_rows
    if folder is None:
        ample = needed * processes.count <= SHARE_OF_MEMORY * free_memory()
    else:
        ample = needed <= SHARE_OF_DISK * free_disk(folder)
    return all(processes.collect([ample]))


def _progress_bars(layout: FeatureLayout, where: str, processes: Processes | None, disable_tqdm: bool | None) -> Any:
    """Prints the size of the features and returns a function that opens a progress bar over a number of rows."""
    from tqdm.auto import tqdm

    if processes is not None and not processes.is_main:
        disable_tqdm = True
    if not hides_bars(disable_tqdm):
        size = readable_size(layout.row_bytes() * layout.num_rows)
        tqdm.write(f"Storing features {where}: {layout.num_rows} rows of {readable_size(layout.row_bytes())}, {size}.")
    return lambda total: long_work(total, "features", "row", disable_tqdm, leave=False)


def _say_that_it_waits(folder: Path, disable_tqdm: bool | None) -> None:
    from tqdm.auto import tqdm

    if not disable_tqdm:  # also without a terminal: a process that waits in silence seems to hang
        tqdm.write(f"Another process stores features in '{folder}'; waiting for it.", file=sys.stderr)


def _fill(
    files: FeatureFiles,
    layout: FeatureLayout,
    samples: Samples | StreamSamples,
    run: _Pass,
    processes: Processes,
    disable_tqdm: bool | None,
) -> FeatureFiles:
    problem = None
    if processes.is_main:
        try:
            with processes.signing():
                files.create(layout) if files.layout is None else files.resume()
        except FeatureCacheError as error:
            problem = str(error)
    problems = [text for text in processes.collect([problem]) if text]
    if problems:
        raise FeatureCacheError(problems[0])
    if files.layout is None:  # made by another process just now
        files = FeatureFiles(files.folder, files.key)
    left: list[int] = files.rows_left().tolist()
    progress = _progress_bars(files.stored_layout, f"in '{files.folder}'", processes, disable_tqdm)
    share = processes.share(len(left))
    own = samples.rows_of_this_process(left) if isinstance(samples, StreamSamples) else left[share.start : share.stop]
    processes.wait_for_everyone()  # nobody marks a row before all know what is left
    try:
        with (
            deaths_told(),
            files.writer() as writer,
            progress(len(own)) as bar,
            # It writes in another thread, and is closed before the files are, whatever happens.
            closing(run(own, keep=lambda rows, tensors: in_runs(writer.put, rows, tensors))) as passed,
        ):
            for count in passed:
                bar.update(count)
                processes.sign()
    except CIAOError as error:
        files.mark_failed(str(error))
        raise
    processes.wait_for_everyone()
    if processes.is_main:
        files.mark_complete()
    processes.wait_for_everyone()
    return files if files.complete else FeatureFiles(files.folder, files.key)


def _in_memory(
    key: dict[str, Any],
    layout: FeatureLayout,
    samples: Samples | StreamSamples,
    run: _Pass,
    disable_tqdm: bool | None,
) -> FeatureDataset:
    needed, free = layout.row_bytes() * layout.num_rows, free_memory()
    if needed > 0.8 * free:
        raise FeatureCacheError(
            f"{layout.num_rows} rows of features take {readable_size(needed)}, and {readable_size(free)} of memory are "
            "free. Give a `folder`, or store them in dtype='bfloat16'."
        )
    stored = tuple(
        torch.empty((layout.num_rows, *shape), dtype=DTYPES[layout.dtype], device="cpu") for shape in layout.shapes
    )
    by_byte = [tensor.flatten(1).view(torch.uint8).numpy() for tensor in stored]

    def keep(rows: list[int], tensors: tuple[Tensor, ...]) -> None:  # all rows come, one after the other
        for array, tensor in zip(by_byte, tensors, strict=True):
            array[rows[0] : rows[-1] + 1] = tensor.flatten(1).view(torch.uint8).numpy()

    with deaths_told(), _progress_bars(layout, "in memory", None, disable_tqdm)(layout.num_rows) as bar:
        for count in run(range(layout.num_rows), keep=keep):
            bar.update(count)
    return FeatureDataset(key, layout, samples.labels(), stored, label_names=samples.label_names)
