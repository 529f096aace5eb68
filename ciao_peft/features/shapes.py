"""What a dataset must be, before anything is read of it; whatever is not says what to make of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import CIAOError, DataError, listed, shortened

__all__ = ["check_dataset", "first_sample"]

_COLUMNS = {"image", "pixel_values", "label", "labels"}


def check_dataset(dataset: Any, name: str) -> None:
    """Refuses what cannot be asked for its length and for a sample by number.

    Args:
        dataset: What was given as one split.
        name: Name of the dataset in messages.

    Raises:
        DataError: it is empty, several splits, columns instead of samples, a table of pandas, or a stream.

    Example:
        >>> check_dataset({"train": [], "test": []}, "the dataset")
        Traceback (most recent call last):
        ...
        ciao_peft.errors.DataError: the dataset is several splits ('test', 'train'); give one of them, such as \
`dataset['train']`.
    """
    kind = type(dataset)
    if kind.__module__.partition(".")[0] in ("pandas", "polars"):
        library = kind.__module__.partition(".")[0]
        raise DataError(
            f"{name} is a {kind.__name__} of {library}, whose samples are no dicts. Write "
            f"`datasets.Dataset.from_{library}(frame)`, with a column `image` cast to `datasets.Image()`, and `label`."
        )
    if isinstance(dataset, Mapping):
        if _COLUMNS & set(dataset):
            raise DataError(
                f"{name} is a dict of columns ({listed(dataset)}), not of samples. Write "
                "`datasets.Dataset.from_dict(columns)`, or make a list of dicts, one for each sample."
            )
        raise DataError(f"{name} is several splits ({listed(dataset)}); give one of them, such as `dataset['train']`.")
    if kind.__name__ == "DataLoader" and kind.__module__.startswith("torch."):
        raise DataError(f"{name} is a DataLoader; give its dataset, `loader.dataset`. Batches are made here.")
    if isinstance(dataset, (str, bytes)):
        raise DataError(
            f"{name} is text, {dataset!r}. Load it first, `ciao_peft.data.load_faces('imagefolder', folder)`."
        )
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise DataError(
            f"{name} is a {kind.__name__}, which cannot be asked for its length or a sample by number. "
            "Store its features first, `cache_features(model, dataset, folder)`, where it is a stream of "
            "`datasets`; else load it without `streaming`, or make it a list."
        )
    if len(dataset) == 0:
        raise DataError(f"{name} is empty.")


def first_sample(dataset: Any, name: str) -> Any:
    """The first sample of a dataset that `check_dataset` let pass.

    Args:
        dataset: One split.
        name: Name of the dataset in messages.

    Raises:
        DataError: it has no sample number 0.

    Example:
        >>> first_sample([{"labels": 1}], "the dataset")
        {'labels': 1}
    """
    try:
        return dataset[0]
    except CIAOError:
        raise
    except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: Pillow's word for a broken PNG
        raise DataError(
            f"Sample 0 of {name} cannot be read ({type(error).__name__}: {shortened(str(error))}). Its picture may be "
            "damaged; mend it, or leave it out."
        ) from error
    except (LookupError, TypeError) as error:
        raise DataError(
            f"{name} is a {type(dataset).__name__} of {len(dataset)} whose sample 0 cannot be read "
            f"({type(error).__name__}: {error}). `dataset[0]` must be a dict with 'image' or 'pixel_values', and "
            "with 'labels'."
        ) from error
