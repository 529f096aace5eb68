"""Datasets of faces. `load_faces` finds each by its name; nothing heavy is imported before that."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from ..errors import DataError

if TYPE_CHECKING:
    from datasets import DatasetDict, IterableDatasetDict

_BUILDERS = {
    "painted_faces": "painted_faces:PaintedFaces",
    "imagefolder": "imagefolder:ImageFolder",
}
_HERE = {
    "paint_face": "painting",
    "Expression": "people",
    "Person": "people",
    "View": "people",
    "LabelSet": "labels",
    "labels_of": "labels",
    "hold_out": "splits",
}
__all__ = ["dataset_builder", "list_faces", "load_faces", *_HERE]


def list_faces() -> list[str]:
    """Names that `load_faces` knows.

    Example:
        >>> "painted_faces" in list_faces()
        True
    """
    return sorted(_BUILDERS)


def dataset_builder(name: str) -> type:
    """The builder class behind a name.

    Raises:
        DataError: no dataset goes by this name.

    Example:
        >>> dataset_builder("painted_faces").__name__
        'PaintedFaces'
    """
    if name not in _BUILDERS:
        known = ", ".join(map(repr, list_faces()))
        raise DataError(
            f"No dataset is named {name!r}. Datasets: {known}. For pictures of your own use "
            "`load_faces('imagefolder', folder)`."
        )
    module, class_name = _BUILDERS[name].split(":")
    return getattr(importlib.import_module(f".{module}", __name__), class_name)


def load_faces(
    name: str,
    data_dir: str | os.PathLike | None = None,
    *,
    streaming: bool = False,
    num_proc: int | None = None,
    cache_dir: str | os.PathLike | None = None,
    **settings: Any,
) -> DatasetDict | IterableDatasetDict:
    """A dataset of faces by its name, ready for training: columns `image`, `label` and more by dataset.

    `label` is a `ClassLabel` (single-label classification), or a list of numbers: regressed values, a distribution over
    the classes, or a 0 or 1 per label.

    Args:
        name: One of `list_faces()`.
        data_dir: Folder with the files, for every dataset that cannot be drawn on the spot.
        streaming: Read while iterating, without preparing anything on disk first.
        num_proc: Processes that prepare the data.
        cache_dir: Where prepared data is kept; by default where `datasets` keeps everything.
        settings: The dataset's own settings, such as `world="affect"` for painted faces or `label_column=` for a
            folder of images; its builder's config lists them.

    Returns:
        One dataset per split that there is.

    Raises:
        DataError: an unknown name or setting, or files that cannot be read as this dataset.
        DataNotFoundError: the folder or a file in it is missing.

    Example:
        >>> import tempfile
        >>> faces = load_faces("painted_faces", num_train=6, num_validation=2, num_test=2, cache_dir=tempfile.mkdtemp())
        >>> faces["train"].column_names
        ['image', 'label', 'identity', 'movements']
        >>> faces["train"].features["label"].names[:3]
        ['neutral', 'happiness', 'sadness']
    """
    builder = dataset_builder(name)(
        data_dir=data_dir, cache_dir=None if cache_dir is None else str(cache_dir), **settings
    )
    if streaming:
        return builder.as_streaming_dataset()
    builder.download_and_prepare(num_proc=num_proc)
    return builder.as_dataset()


def __getattr__(name: str) -> Any:
    if name in _HERE:
        return getattr(importlib.import_module(f".{_HERE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
