"""Finds datasets of faces by their names, and loads them."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from ..errors import DataError, listed, quoted, shortened
from ..installed import check_installed
from ..urls import is_url

if TYPE_CHECKING:
    from datasets import DatasetDict, IterableDatasetDict

    from .builder import FacesBuilder

__all__ = ["dataset_builder", "list_faces", "load_faces"]

_BUILDERS = {
    "affectnet": "affectnet:AffectNet",
    "painted_faces": "painted_faces:PaintedFaces",
    "imagefolder": "imagefolder:ImageFolder",
    "table": "facestable:FacesTable",
    "jaffe": "jaffe:Jaffe",
    "ckplus": "ckplus:CKPlus",
    "expw": "expw:ExpW",
    "rafdb": "rafdb:RafDb",
    "emoreact": "emoreact:EmoReact",
    "fer2013": "fer2013:Fer2013",
    "ferplus": "ferplus:FerPlus",
    "videofolder": "videofolder:VideoFolder",
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
        OutdatedPackageError: `datasets`, or what it imports, is older than the bound of this library.

    Example:
        >>> dataset_builder("painted_faces").__name__
        'PaintedFaces'
    """
    if name not in _BUILDERS:
        names = ", ".join(map(repr, list_faces()))
        raise DataError(
            f"No dataset is named {shortened(repr(name))}. Datasets: {names}. For pictures of your own use "
            "`load_faces('imagefolder', folder)` or `load_faces(csv='labels.csv')`."
        )
    check_installed("datasets")
    module, class_name = _BUILDERS[name].split(":")
    return getattr(importlib.import_module(f".{module}", __package__), class_name)


@overload
def load_faces(
    name: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    protocol: str | None = "default",
    fold: int | str = 0,
    test_fraction: float | None = None,
    group_by: str | None = None,
    drop_duplicates: bool = False,
    streaming: Literal[False] = False,
    num_proc: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> DatasetDict: ...


@overload
def load_faces(
    name: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    protocol: str | None = "default",
    fold: int | str = 0,
    test_fraction: float | None = None,
    group_by: str | None = None,
    drop_duplicates: bool = False,
    streaming: bool,
    num_proc: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> DatasetDict | IterableDatasetDict: ...


def load_faces(
    name: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    protocol: str | None = "default",
    fold: int | str = 0,
    test_fraction: float | None = None,
    group_by: str | None = None,
    drop_duplicates: bool = False,
    streaming: bool = False,
    num_proc: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> DatasetDict | IterableDatasetDict:
    """Loads a dataset of faces by its name, ready for training: columns `image`, `label` and more by dataset.

    A table of one's own needs no name: `load_faces(csv="labels.csv", image_column="photo", label_column="emotion")`. It
    names its splits (`split_column=`) or is divided (`test_fraction=`); `FacesTableConfig` has its settings.

    `label` is a `ClassLabel` (single-label classification), or a list of numbers: regressed values, a distribution over
    the classes, or a 0 or 1 per label. `labels_of` tells which, and what they are called.

    Pictures that are in two splits are reported with a warning where they are kept inside the dataset (FER2013, FER+),
    and identities wherever they are known.

    Args:
        name: One of `list_faces()`; may be left out where `csv=` names a table.
        data_dir: Folder with the files, for every dataset that cannot be drawn on the spot.
        protocol: How it is split for an experiment, one of `PROTOCOLS[name]`; by default the first of them. `None`
            gives the files' own splits.
        fold: Which fold of the protocol, by number or name (JAFFE: `"KA"`); official splits have one.
        test_fraction: Hold this share of the training rows out as `test`, above 0 and below 1, where there is no test
            split (`hold_out`).
        group_by: The column that says which rows belong together, such as the person: nobody is in both parts. Of a
            folder or table of one's own, the column is kept as `identity`. When left out, it is `identity` where the
            dataset has that, and rows are divided one by one elsewhere.
        drop_duplicates: Drop training pictures that are identical to another one or to one of the other splits.
        streaming: Read while iterating, without preparing anything on disk first.
        num_proc: Processes that prepare the data.
        cache_dir: The folder on this disk where prepared data is kept; by default where `datasets` keeps everything.
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
    if name is None:
        if "csv" not in settings:
            raise DataError("Which faces? Give the name of a dataset, or `csv=` with a table of your own.")
        name = "table"
    builder_class = dataset_builder(name)
    own_columns = "identity_column" in inspect.signature(builder_class.BUILDER_CONFIG_CLASS).parameters
    if group_by is not None and own_columns and settings.setdefault("identity_column", group_by) != group_by:
        raise DataError(f"`group_by` and `identity_column` are one; got {quoted(group_by)} and another one.")
    if protocol is not None:
        protocol = _checked_protocol(name, protocol)
        settings = builder_class.settings_for(protocol) | settings
    if is_url(cache_dir):
        raise DataError(f"`cache_dir` must be a folder on this disk; got {quoted(str(cache_dir))}, which is a URL.")
    cache = None if cache_dir is None else str(cache_dir)
    builder = builder_class(data_dir=data_dir, cache_dir=cache, **settings)
    if streaming:
        if test_fraction is not None:
            raise DataError("`test_fraction` needs to know all rows: load the faces without `streaming`.")
        return _streamed(name, builder, protocol, drop_duplicates)
    builder.download_and_prepare(num_proc=num_proc)
    faces = cast("DatasetDict", builder.as_dataset())
    if protocol is not None:
        faces = _fold(name, faces, protocol, fold)
    if test_fraction is not None:
        faces = _with_test(name, faces, test_fraction, "identity" if own_columns and group_by else group_by)
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

    folds = list(protocol_folds(name, faces, protocol))
    names = [candidate.name for candidate in folds]
    if str(fold) in names:  # a table may name its folds 1, 2, 3
        return folds[names.index(str(fold))].splits
    for number, candidate in enumerate(folds):
        if str(fold) == str(number):  # command lines give text
            return candidate.splits
    shown = ", ".join(f"{number} ({label})" for number, label in enumerate(names))
    raise DataError(f"Protocol {protocol!r} of {name} has no fold {fold!r}. It has: {shown}.")


def _with_test(name: str, faces: DatasetDict, fraction: float, group_by: str | None) -> DatasetDict:
    """Holds a part of the training rows out as the test split that the faces lack."""
    from .splits import hold_out

    if "test" in faces or "train" not in faces:
        raise DataError(
            f"`test_fraction` divides a training split where there is no test split; there is {listed(faces)}."
        )
    train = faces["train"]
    column = group_by
    if group_by is None:
        column = next((name for name in ("identity", "clip", "picture") if name in train.column_names), None)
    elif group_by not in train.column_names:
        raise DataError(f"{name} has no column {quoted(group_by)} to group by. Columns: {listed(train.column_names)}.")
    if column in (None, "clip", "picture"):
        rows = "rows" if column is None else f"{column}s"
        _log(
            f"{name}: {rows} are divided one by one, so one person may be in both train and test. Name the column of "
            "the people with `group_by`."
        )
    rest, test = hold_out(train, fraction, group_by=column)
    return type(faces)({**faces, "train": rest, "test": test})


def _streamed(name: str, builder: FacesBuilder, protocol: str | None, drop_duplicates: bool) -> IterableDatasetDict:
    from .protocols import has_folds

    if drop_duplicates or protocol not in (None, "official"):
        what = "Dropping duplicates" if drop_duplicates else f"Protocol {protocol!r}"
        raise DataError(
            f"{what} needs to know all rows of {name}: load it without `streaming`, or with `protocol=None`."
        )
    faces = builder.as_streaming_dataset()
    if protocol is not None and has_folds(name, faces):
        raise DataError(
            f"The folds of {name} can be divided once all rows are known: load it without `streaming`, or with "
            "`protocol=None`."
        )
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
