"""Pictures through the frozen trunk, once: to a folder or into memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, FeatureCacheError, UntraceableBackboneError, listed
from ..model import CIAOModel
from ..preprocessing import Preprocessing
from .cached import FeatureDataset
from .processes import Processes
from .samples import Samples
from .store import DTYPES, FeatureFiles, Layout, free_memory, readable_size
from .views import Augmentation

if TYPE_CHECKING:
    from collections.abc import Callable


def cache_features(
    model_or_encoder: CIAOModel | nn.Module,
    dataset: Any,
    folder: str | os.PathLike | None = None,
    *,
    views: int = 1,
    dtype: str | None = None,
    augment: Augmentation | None = None,
    batch_size: int = 64,
    disable_tqdm: bool | None = None,
) -> FeatureDataset | dict[str, FeatureDataset]:
    """Runs the frozen trunk once over a dataset and keeps what crosses the cut, for `CIAOTrainer` to train from.

    On disk, features are flat files that are mapped into memory. What is there already is used; what was interrupted is
    taken up where it stopped; under `torchrun`, the processes share the work. Whose features they are is told by
    content: weights and dtype of the backbone, place of the cut, preprocessing, views, storage dtype and the pictures.
    No path, time, batch size or number of processes matters (kernels may round differently for other batch sizes and
    devices; stored features are then those of whoever computed them first). Labels are not stored: they come from the
    dataset.

    Args:
        model_or_encoder: A model, whose active adapter says where to cut; or a bare backbone.
        dataset: A `datasets.Dataset` with `image`, a map-style dataset of `pixel_values`, or a dict of several splits.
        folder: Where to keep them, with a folder for each split of a dict; in memory only, if left out.
        views: Stored views of each picture: the picture as it is, and `views - 1` augmented ones.
        dtype: `"float32"`, `"bfloat16"` or `"float16"`. The backbone's own when left out: nothing is lost. Half
            precision takes half the room and rounds.
        augment: How views differ; `Augmentation()` when left out.
        batch_size: Pictures that go through the trunk at once.
        disable_tqdm: No progress bar and no message; when left out, none unless a terminal is there to show it.

    Returns:
        A `FeatureDataset`, or a dict of one for each split.

    Raises:
        UntraceableBackboneError: the backbone could not be cut.
        FeatureCacheError: the folder holds features of something else, damaged ones or other files; the disk is too
            full; or the dataset augments on the fly, which stored features would silently undo.
        ConfigError: an unknown dtype, or views and augmentation that do not go together.
        DataError: the dataset is empty or holds no pictures.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU())
        >>> faces = [{"pixel_values": torch.rand(3, 32, 32), "labels": n % 2} for n in range(6)]
        >>> stored = cache_features(net, faces)
        >>> [tuple(tensor.shape) for tensor in stored.features([0, 5])], stored[0]["labels"]
        ([(2, 8, 30, 30)], tensor(0))
    """
    if isinstance(dataset, Mapping):
        settings = {"views": views, "dtype": dtype, "augment": augment, "batch_size": batch_size}
        return {
            name: cache_features(
                model_or_encoder,
                split,
                None if folder is None else Path(folder) / name,
                **settings,
                disable_tqdm=disable_tqdm,
            )
            for name, split in dataset.items()
        }
    augment = _checked_settings(views, dtype, augment, batch_size)
    with _as_model(model_or_encoder, dataset) as model:
        samples = Samples(dataset, model.preprocessing)
        return store_features(
            model,
            samples,
            lambda key: None if folder is None else Path(folder),
            views=views,
            dtype=dtype,
            augment=augment,
            batch_size=batch_size,
            disable_tqdm=disable_tqdm,
        )


def store_features(
    model: CIAOModel,
    samples: Samples,
    folder_of: Callable[[dict[str, Any]], Path | None],
    *,
    views: int = 1,
    dtype: str | None = None,
    augment: Augmentation | None = None,
    batch_size: int = 64,
    disable_tqdm: bool | None = None,
) -> FeatureDataset:
    """`cache_features` for one split, in a folder that may depend on the key.

    Args:
        model: Its active adapter says where to cut.
        samples: The split.
        folder_of: From the key to the folder, or None for memory.
        views, dtype, augment, batch_size, disable_tqdm: As for `cache_features`.
    """
    if not samples.shows_the_same_twice():
        raise FeatureCacheError(
            f"{samples.name} shows something else each time a sample is asked for, so one pass cannot stand for it. "
            "Take the augmentation out of the dataset and store augmented views, `views=4, augment=Augmentation(...)`; "
            "or train with `feature_cache='never'`."
        )
    processes = Processes()
    key = model_key(model) | {
        "dtype": dtype or _name_of(next(model.backbone.parameters()).dtype),
        "views": views,
        "augmentation": None if augment is None else augment.to_dict(),
        "num_samples": len(samples),
        "data": _fingerprint(samples, processes),
    }
    extract = _extractor(model, samples, augment)
    folder = folder_of(key)
    if folder is None:
        return _in_memory(key, samples, extract, batch_size, disable_tqdm)
    files = FeatureFiles(folder, key)
    if not files.complete:
        files = _fill(files, samples, extract, batch_size, processes, disable_tqdm)
    return FeatureDataset(key, files.layout, samples.labels(), folder=files.folder, label_names=samples.label_names)


def model_key(model: CIAOModel) -> dict[str, Any]:
    """The part of a key that says which model made features: backbone, cut (of the active adapter) and preprocessing.

    Raises:
        UntraceableBackboneError: the backbone could not be cut.
    """
    opened = model.opened
    if not opened.traceable:
        raise UntraceableBackboneError(
            f"{type(model.backbone).__name__} could not be cut in two, so there are no features to keep "
            f"({opened.reason}). Train with `feature_cache='never'`."
        )
    return {
        "backbone": model.backbone_signature(),
        "backbone_dtype": str(next(model.backbone.parameters()).dtype).removeprefix("torch."),
        "targets": list(opened.targets),
        "preprocessing": None if model.preprocessing is None else model.preprocessing.to_dict(),
        "input_size": list(model.input_size),
    }


def feature_bytes(model: CIAOModel, pixels: Tensor) -> int:
    """Bytes that the features of one picture take, in the backbone's dtype.

    Args:
        model: Its active adapter says where to cut.
        pixels: `(1, C, H, W)`.
    """
    return sum(tensor.numel() * tensor.element_size() for tensor in model.extract_features(pixels))


def _checked_settings(
    views: int, dtype: str | None, augment: Augmentation | None, batch_size: int
) -> Augmentation | None:
    for name, value in (("views", views), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"`{name}` must be a whole number of 1 or more; got {value!r}.")
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"`dtype` must be one of {listed(DTYPES)}; got {dtype!r}.")
    if augment is not None and not isinstance(augment, Augmentation):
        raise ConfigError(f"`augment` must be an Augmentation; got {type(augment).__name__}.")
    if augment is not None and views == 1:
        raise ConfigError("With `views=1` only the picture as it is would be stored; `augment` needs 2 views or more.")
    return Augmentation() if augment is None and views > 1 else augment


def _name_of(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    return name if name in DTYPES else "float32"


@contextmanager
def _as_model(model_or_encoder: CIAOModel | nn.Module, dataset: Any) -> Iterator[CIAOModel]:
    if isinstance(model_or_encoder, CIAOModel):
        yield model_or_encoder
        return
    first = dataset[0] if hasattr(dataset, "__getitem__") and len(dataset) else None
    pixels = first.get("pixel_values") if isinstance(first, Mapping) else None
    preprocessing = Preprocessing.for_backbone(model_or_encoder)
    size = preprocessing.input_size if preprocessing is not None else None
    model = CIAOModel(model_or_encoder, input_size=size if pixels is None else tuple(torch.as_tensor(pixels).shape))
    try:
        yield model
    finally:
        model.unload()


def _fingerprint(samples: Samples, processes: Processes) -> str:
    digests = processes.collect([samples.digest(index) for index in processes.share(len(samples))])
    return blake2b(b"".join(digests), digest_size=16).hexdigest()


def _extractor(
    model: CIAOModel, samples: Samples, augment: Augmentation | None
) -> Callable[[int, list[int]], tuple[Tensor, ...]]:
    device = next(model.backbone.parameters()).device

    def extract(view: int, indices: list[int]) -> tuple[Tensor, ...]:
        pixels = samples.pixels(indices).to(device)
        if view:
            pixels = augment(pixels, indices, view=view, preprocessing=model.preprocessing)
        return model.extract_features(pixels)

    return extract


def _layout(key: dict[str, Any], example: tuple[Tensor, ...]) -> Layout:
    shapes = tuple(tuple(tensor.shape[1:]) for tensor in example)
    return Layout(shapes, key["dtype"], key["num_samples"] * key["views"])


def _batches(rows: list[int], batch_size: int, num_samples: int) -> Iterator[list[int]]:
    """Rows in batches that follow one another and stay within one view."""
    batch: list[int] = []
    for row in rows:
        if batch and (len(batch) == batch_size or row != batch[-1] + 1 or row % num_samples == 0):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _tell(layout: Layout, where: str, processes: Processes | None, disable_tqdm: bool | None) -> Any:
    """A progress bar over the rows that are left; the size is told first."""
    import sys

    from tqdm.auto import tqdm

    quiet = disable_tqdm if disable_tqdm is not None else not sys.stderr.isatty()
    quiet = quiet or (processes is not None and not processes.is_main)
    if not quiet:
        size = readable_size(layout.row_bytes() * layout.num_rows)
        tqdm.write(f"Storing features {where}: {layout.num_rows} rows of {readable_size(layout.row_bytes())}, {size}.")
    return lambda total: tqdm(total=total, desc="features", unit="row", disable=quiet, leave=False)


def _fill(
    files: FeatureFiles,
    samples: Samples,
    extract: Callable[[int, list[int]], tuple[Tensor, ...]],
    batch_size: int,
    processes: Processes,
    disable_tqdm: bool | None,
) -> FeatureFiles:
    num_samples = len(samples)
    if files.layout is None and processes.is_main:
        files.create(_layout(files.key, extract(0, [0])))
    processes.wait_for_everyone()
    if files.layout is None:  # made by another process just now
        files = FeatureFiles(files.folder, files.key)
    left = files.rows_left().tolist()
    progress = _tell(files.layout, f"in '{files.folder}'", processes, disable_tqdm)
    share = processes.share(len(left))
    own = left[share.start : share.stop]
    processes.wait_for_everyone()  # nobody marks a row before all know what is left
    with files.writer() as writer, progress(len(own)) as bar:
        for rows in _batches(own, batch_size, num_samples):
            view = rows[0] // num_samples
            writer.put(rows[0], extract(view, [row % num_samples for row in rows]))
            bar.update(len(rows))
    processes.wait_for_everyone()
    if processes.is_main:
        files.finish()
    processes.wait_for_everyone()
    return files


def _in_memory(
    key: dict[str, Any],
    samples: Samples,
    extract: Callable[[int, list[int]], tuple[Tensor, ...]],
    batch_size: int,
    disable_tqdm: bool | None,
) -> FeatureDataset:
    layout = _layout(key, extract(0, [0]))
    needed, free = layout.row_bytes() * layout.num_rows, free_memory()
    if needed > 0.8 * free:
        raise FeatureCacheError(
            f"{layout.num_rows} rows of features take {readable_size(needed)}, and {readable_size(free)} of memory are "
            "free. Give a `folder`, or store them in dtype='bfloat16'."
        )
    stored = tuple(torch.empty((layout.num_rows, *shape), dtype=DTYPES[layout.dtype]) for shape in layout.shapes)
    with _tell(layout, "in memory", None, disable_tqdm)(layout.num_rows) as bar:
        for rows in _batches(list(range(layout.num_rows)), batch_size, len(samples)):
            view = rows[0] // len(samples)
            for tensor, part in zip(stored, extract(view, [row % len(samples) for row in rows]), strict=True):
                tensor[rows[0] : rows[-1] + 1] = part.to(tensor.device, tensor.dtype)
            bar.update(len(rows))
    return FeatureDataset(key, layout, samples.labels(), stored, label_names=samples.label_names)
