"""Stored features without the pictures they were made of, on disk or in an object store."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checking import is_number
from ..door import MAX_TEXT_BYTES, parse_json, read_file
from ..errors import FeatureCacheError, RemoteNotFoundError, quoted
from ..remote import RepoFile, cache_of, fetch, is_url, parse_url, put_folder, writable
from ..remote.fetching import installed
from ..saving.files import local_path
from .cached import FeatureDataset
from .checks import CHECKSUM_BYTES, CHECKSUM_FILE, RowChecks
from .layout import FeatureLayout, tensor_file
from .processes import Processes
from .store import INDEX_FILE, FeatureFiles

__all__ = ["cache_in_store", "load_features"]

_MOST_SAMPLES = 2**60


def load_features(
    source: str | os.PathLike[str],
    labels: Tensor | Sequence[Any] | None = None,
    *,
    label_names: Sequence[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> FeatureDataset:
    """Features that `cache_features` stored, without the pictures: to train where those are not.

    Whether they belong to a model is looked at when it trains from them. Each row is compared with its checksum when it
    is first read.

    Args:
        source: A folder that `cache_features` filled, or the URL of one in a store, which is fetched into the cache.
        labels: Numbers, one row for each picture, in the order in which they were stored; labels are not stored with
            features.
        label_names: Names of the classes, values or labels in the order of their indices.
        cache_dir: For a URL: replaces the user's cache.
        local_files_only: For a URL: use the cache alone and no network.
        storage_options: For a URL, as for `ciao_peft.hub.read_pretrained`.

    Returns:
        The features.

    Raises:
        FeatureCacheError: the folder holds none, is damaged or not filled to its end; or `labels` are too many, too
            few or no numbers, or `label_names` no names.
        RemoteError: a subclass says why the store does not give them.

    Example:
        >>> import tempfile, torch
        >>> from torch import nn
        >>> from ciao_peft import cache_features
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU())
        >>> faces = [{"pixel_values": torch.rand(3, 32, 32), "labels": n % 2} for n in range(6)]
        >>> folder = tempfile.mkdtemp() + "/features"
        >>> stored = cache_features(net, faces, folder)
        >>> again = load_features(folder, stored.labels)
        >>> torch.equal(again.features([3])[0], stored.features([3])[0]), again[3]["labels"]
        (True, tensor(1))
    """
    if is_url(source):
        settings: dict[str, Any] = {"cache_dir": cache_dir, "storage_options": storage_options}
        folder = _fetched(str(source), local_files_only=local_files_only, **settings)
    else:
        folder = local_path(source)
    key, _ = _index(folder)
    files = FeatureFiles(folder, key)
    if not files.complete:
        raise FeatureCacheError(
            f"The stored features in '{folder}' were not stored to their end. Run `cache_features` for that folder "
            "again; it goes on where it stopped."
        )
    if labels is not None:
        labels = _as_numbers(labels)
        if len(labels) != key["num_samples"]:
            raise FeatureCacheError(
                f"There are {key['num_samples']:,} stored samples in '{folder}' and {len(labels):,} labels; one each, "
                "in the order in which they were stored."
            )
    names = None if label_names is None else _as_names(label_names, labels)
    return FeatureDataset(
        files.key, files.stored_layout, labels, folder=files.folder, label_names=names, checks=files.checks
    )


def _as_names(names: Any, labels: Tensor | None) -> list[str]:
    given = names.tolist() if isinstance(names, np.ndarray) else names
    texts = [*given] if isinstance(given, (list, tuple)) and all(isinstance(name, str) for name in given) else []
    if not texts or len({*texts}) < len(texts):
        raise FeatureCacheError(
            "`label_names` must be the names, each once, in the order of their indices, such as ['calm', 'glad']; got "
            f"{quoted(names)}."
        )
    classes = labels is not None and labels.ndim == 1 and not labels.is_floating_point() and len(labels) > 0
    if labels is not None and classes and int(labels.max()) >= len(texts):
        raise FeatureCacheError(f"`label_names` has {len(texts)} names, and `labels` go up to {int(labels.max())}.")
    return texts


def _as_numbers(labels: Any) -> Tensor:
    try:
        rows = labels.detach() if isinstance(labels, Tensor) else np.array(np.asarray(labels).tolist())
        values = torch.as_tensor(rows)
    except (TypeError, ValueError, RuntimeError):
        values = None
    if values is None or not values.dim():
        raise FeatureCacheError(
            f"`labels` must be numbers, one row for each picture; got {type(labels).__name__}. Names of the classes "
            "are `label_names`."
        )
    return values


def cache_in_store(url: str, store_in: Callable[[Path], FeatureDataset]) -> FeatureDataset:
    """Stores features in an object store, or takes those that are there.

    They are made in the cache, where an interrupted pass goes on, and put when they are complete, the index last.

    Args:
        url: The folder in the store.
        store_in: Stores them in a folder here; refuses one that holds others.

    Returns:
        The features, read from the cache.

    Raises:
        FeatureCacheError: as `store_in` says.
        RemoteError: a subclass says why the store does not give or take them.
    """
    place, processes = parse_url(url), Processes()
    try:
        return store_in(_fetched(url))
    except RemoteNotFoundError:
        store = writable(place)
    making = cache_of(place) / "making"
    stored = store_in(making)
    folder = None
    if processes.is_main:
        files = _files(stored.layout)
        folder = installed(place, files, making, put_folder(store, making, [file.name for file in files]))
    [folder] = [found for found in processes.collect([folder]) if found is not None]
    checks = RowChecks(folder, stored.layout)
    return FeatureDataset(
        stored.key,
        stored.layout,
        stored.labels,
        folder=folder,
        rows=stored.rows,
        label_names=stored.label_names,
        checks=checks,
    )


def _fetched(url: str, **settings: Any) -> Path:
    place = parse_url(url)
    _, layout = _index(fetch(place, [RepoFile(INDEX_FILE, MAX_TEXT_BYTES)], **settings))
    return fetch(place, _files(layout), **settings)


def _files(layout: FeatureLayout) -> list[RepoFile]:
    """The files of complete features, each of which may be as large as the index says; the index comes last."""
    tensors = [RepoFile(tensor_file(Path(), n).name, layout.file_bytes(n)) for n in range(len(layout.shapes))]
    checks = RepoFile(CHECKSUM_FILE, layout.num_rows * len(layout.shapes) * CHECKSUM_BYTES)
    return [*tensors, checks, RepoFile(INDEX_FILE, MAX_TEXT_BYTES)]


def _index(folder: Path) -> tuple[dict[str, Any], FeatureLayout]:
    path = folder / INDEX_FILE
    found = parse_json(read_file(path, MAX_TEXT_BYTES, error=FeatureCacheError), path, error=FeatureCacheError)
    key = found.get("key") if isinstance(found, dict) else None
    if not isinstance(key, dict) or not all(
        isinstance(count := key.get(name), int) and is_number(count, int, 1, _MOST_SAMPLES)
        for name in ("views", "num_samples")
    ):
        raise FeatureCacheError(f"'{path}' is no index of stored features: its key is {quoted(key)}.")
    try:
        return key, FeatureLayout.from_dict(found.get("layout"))
    except FeatureCacheError as error:
        raise FeatureCacheError(f"'{path}' is no index of stored features: {error}.") from None
