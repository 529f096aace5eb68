"""Finds datasets of faces by their names, and loads them."""

from __future__ import annotations

import importlib
import logging
import os
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from ..errors import DataError

if TYPE_CHECKING:
    from datasets import DatasetDict, IterableDatasetDict

    from .builder import FacesBuilder

__all__ = ["dataset_builder", "list_faces", "load_faces"]

_BUILDERS = {
    "affectnet": "affectnet:AffectNet",
    "painted_faces": "painted_faces:PaintedFaces",
    "imagefolder": "imagefolder:ImageFolder",
    "jaffe": "jaffe:Jaffe",
    "emoreact": "emoreact:EmoReact",
    "fer2013": "fer2013:Fer2013",
    "ferplus": "ferplus:FerPlus",
}


def list_faces() -> list[str]:
    """The names of all datasets that `load_faces` can load, in alphabetical order.

    Example:
        >>> "painted_faces" in list_faces()
        True
    """
    return sorted(_BUILDERS)


def dataset_builder(name: str) -> type[Any]:
    """The class that reads the dataset with this name.

    Args:
        name: One of `list_faces()`.

    Returns:
        The builder class; its `BUILDER_CONFIG_CLASS` lists the settings of the dataset.

    Raises:
        DataError: no dataset goes by this name.

    Example:
        >>> dataset_builder("painted_faces").__name__
        'PaintedFaces'
    """
    if name not in _BUILDERS:
        names = ", ".join(map(repr, list_faces()))
        raise DataError(
            f"No dataset is named {name!r}. Datasets: {names}. For pictures of your own use "
            "`load_faces('imagefolder', folder)`."
        )
    module, class_name = _BUILDERS[name].split(":")
    return getattr(importlib.import_module(f".{module}", __package__), class_name)


@overload
def load_faces(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    protocol: str | None = "default",
    fold: int | str = 0,
    drop_duplicates: bool = False,
    streaming: Literal[False] = False,
    num_proc: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> DatasetDict: ...


@overload
def load_faces(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    protocol: str | None = "default",
    fold: int | str = 0,
    drop_duplicates: bool = False,
    streaming: bool,
    num_proc: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> DatasetDict | IterableDatasetDict: ...


def load_faces(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    protocol: str | None = "default",
    fold: int | str = 0,
    drop_duplicates: bool = False,
    streaming: bool = False,
    num_proc: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> DatasetDict | IterableDatasetDict:
    """Loads a dataset of faces by its name, ready for training: columns `image`, `label` and more by dataset.

    `label` is a `ClassLabel` (single-label classification), or a list of numbers: regressed values, a distribution over
    the classes, or a 0 or 1 per label. `labels_of` tells which, and what they are called.

    Pictures that are in two splits are reported with a warning where they are kept inside the dataset (FER2013, FER+),
    and identities wherever they are known.

    Args:
        name: One of `list_faces()`.
        data_dir: Folder with the files, for every dataset that cannot be drawn on the spot.
        protocol: How it is split for an experiment, one of `PROTOCOLS[name]`; by default the first of them. `None`
            gives the files' own splits.
        fold: Which fold of the protocol, by number or name (JAFFE: `"KA"`); official splits have one.
        drop_duplicates: Drop training pictures that are identical to another one or to one of the other splits.
        streaming: Read while iterating, without preparing anything on disk first.
        num_proc: Processes that prepare the data.
        cache_dir: Where prepared data is kept; by default where `datasets` keeps everything.
        settings: The dataset's own settings, such as `world="affect"` for painted faces or `label_column=` for a
            folder of images; its builder's config lists them.

    Returns:
        One dataset per split that there is.

    Raises:
        DataError: an unknown name, protocol or setting, or files that cannot be read as this dataset.
        DataNotFoundError: the folder or a file in it is missing.

    Example:
        >>> import tempfile
        >>> faces = load_faces("painted_faces", num_train=6, num_validation=2, num_test=2, cache_dir=tempfile.mkdtemp())
        >>> faces["train"].column_names
        ['image', 'label', 'identity', 'movements']
        >>> faces["train"].features["label"].names[:3]
        ['neutral', 'happiness', 'sadness']
    """
    builder_class = dataset_builder(name)
    if protocol is not None:
        protocol = _checked_protocol(name, protocol)
        settings = builder_class.settings_for(protocol) | settings
    builder = builder_class(data_dir=data_dir, cache_dir=None if cache_dir is None else str(cache_dir), **settings)
    if streaming:
        return _streamed(name, builder, protocol, drop_duplicates)
    builder.download_and_prepare(num_proc=num_proc)
    faces = cast("DatasetDict", builder.as_dataset())
    if protocol is not None:
        faces = _fold(name, faces, protocol, fold)
    if drop_duplicates:
        from .duplicates import drop_duplicate_pictures

        faces, lost = drop_duplicate_pictures(faces)
        _log(
            f"{name}: dropped duplicate pictures: " + ", ".join(f"{count} of {split}" for split, count in lost.items())
        )
    _warn_of_shared(name, faces, pictures=builder.KEEPS_PICTURES and not drop_duplicates)
    return faces


def _checked_protocol(name: str, protocol: str) -> str:
    from .protocols import PROTOCOLS

    protocols = PROTOCOLS[name]
    if protocol == "default":
        return protocols[0]
    if protocol not in protocols:
        raise DataError(f"{name} has no protocol {protocol!r}. It has: {', '.join(map(repr, protocols))}; or None.")
    return protocol


def _fold(name: str, faces: DatasetDict, protocol: str, fold: int | str) -> DatasetDict:
    from .protocols import protocol_folds

    names = []
    for number, candidate in enumerate(protocol_folds(name, faces, protocol)):
        if str(fold) in (str(number), candidate.name):  # command lines give text
            return candidate.splits
        names.append(candidate.name)
    shown = ", ".join(f"{number} ({label})" for number, label in enumerate(names))
    raise DataError(f"Protocol {protocol!r} of {name} has no fold {fold!r}. It has: {shown}.")


def _streamed(name: str, builder: FacesBuilder, protocol: str | None, drop_duplicates: bool) -> IterableDatasetDict:
    if drop_duplicates or protocol not in (None, "official"):
        what = "Dropping duplicates" if drop_duplicates else f"Protocol {protocol!r}"
        raise DataError(
            f"{what} needs to know all rows of {name}: load it without `streaming`, or with `protocol=None`."
        )
    faces = builder.as_streaming_dataset()
    return faces if protocol is None else cast("IterableDatasetDict", _fold(name, faces, protocol, 0))


def _warn_of_shared(name: str, faces: DatasetDict, pictures: bool) -> None:
    from .duplicates import shared_between_splits

    columns = [None] * pictures + ["identity"] * all("identity" in split.column_names for split in faces.values())
    for column in columns:
        for shared in shared_between_splits(faces, column):
            if shared.first == "train":
                _log(f"{name}: {shared}. Scores on {shared.second} will be too good.")


def _log(message: str) -> None:
    logging.getLogger("ciao_peft.data").warning(message)
