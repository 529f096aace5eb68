"""What is known of faces without labels: read once by the frozen encoder and, where there is one, by an adapter."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..adapters import Adapter, checked_source, read_maps
from ..backbone.maps import average_cells, is_map
from ..errors import DataError, DataNotFoundError, InputError, quoted, shortened
from ..features import FeatureDataset, Samples, model_key
from ..heads import pool_map
from ..model import CIAOModel
from ..prediction import check_preprocessing, is_several
from ..preprocessing import Preprocessing
from ..preprocessing.ahead import in_threads
from ..preprocessing.pictures import is_broken_picture
from ..progress import long_work
from ..urls import not_on_this_disk
from .unlabelled import still_to_label, told

__all__ = ["Read", "pictures_below", "read_faces"]

_LONGEST_REASON = 80


@dataclass(eq=False)
class Read:
    """What was read of faces.

    Args:
        rows: Their numbers among the faces that were given, unreadable ones left out.
        vectors: The frozen encoder's last answers, averaged over positions, `(N, D)`, float32.
        logits: What the adapter says, `(N, C)`, float32; None without one.
        hidden: What the last layer of the adapter's head reads, `(N, H)`; None without an adapter.
        files: By number, the name of each face's file, where there is one.
        unreadable: Names or numbers of pictures that could not be read, each with the reason.
        passed_over: Why faces of a folder were not looked at, with how many.
    """

    rows: list[int] = field(default_factory=list)
    vectors: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    logits: Tensor | None = None
    hidden: Tensor | None = None
    files: dict[int, str] = field(default_factory=dict)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    passed_over: dict[str, int] = field(default_factory=dict)


def pictures_below(folder: str | os.PathLike[str]) -> list[Path]:
    """The pictures in a folder and the folders in it, in the order of their names; hidden ones are left out.

    Raises:
        DataNotFoundError: there is no such folder, or no picture in it.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "day").mkdir()
        >>> for name in ("b.png", "day/a.JPG", "notes.txt"):
        ...     (folder / name).touch()
        >>> [path.name for path in pictures_below(folder)]
        ['b.png', 'a.JPG']
    """
    from ..data.builder import IMAGE_SUFFIXES, walk  # late: it brings `datasets` along

    if not Path(folder).is_dir():
        hint = not_on_this_disk(folder) or " Give one that holds pictures."
        raise DataNotFoundError(f"There is no folder {quoted(str(folder))}.{hint}")
    every = walk(folder)
    pictures = [path for path in every if path.suffix.lower() in IMAGE_SUFFIXES]
    if not pictures:
        raise DataNotFoundError(f"There is no picture in {quoted(str(folder))}; it has {len(every)} other files.")
    return pictures


def read_faces(
    model: CIAOModel,
    faces: Any,
    adapter_name: str | None,
    *,
    batch_size: int = 64,
    disable_tqdm: bool | None = None,
) -> Read:
    """Reads faces batch by batch and keeps what a choice needs of each; pictures that cannot be read are noted.

    Args:
        model: In eval mode.
        faces: As `ciao_peft.suggest` takes them.
        adapter_name: The adapter that answers; None for the frozen encoder alone.
        batch_size: Faces read at once.
        disable_tqdm: No progress bar; when left out, none unless a terminal is there to show it.

    Raises:
        InputError: the model is in training mode, or has no preprocessing for pictures; or these are no faces.
        DataError: no face could be read.
        UntraceableBackboneError: the backbone could not be cut.
        FeatureCacheError: stored features are another model's.

    Example:
        >>> from ciao_peft import load_encoder
        >>> read = read_faces(CIAOModel(load_encoder("small-face")), [np.zeros((64, 64, 3), np.uint8), b"none"], None)
        >>> read.rows, read.vectors.shape[0], len(read.unreadable)
        ([0], 1, 1)
    """
    if model.training:
        raise InputError("Faces are chosen by a model at rest: dropout would blur it. Call `model.eval()` first.")
    found = Read()
    parts: list[tuple[Tensor, Tensor | None, Tensor | None]] = []
    with torch.inference_mode(), model.reading_with(adapter_name):
        adapter = None if adapter_name is None else model.adapters[adapter_name]
        if isinstance(faces, FeatureDataset):
            batches, total = _stored_batches(model, faces, batch_size), len(faces)
        else:
            batches, total = _live_batches(model, faces, found, batch_size)
        with long_work(total, "suggest", "face", disable_tqdm) as progress:
            for rows, pixels, features in batches:
                parts.append(_known_of(model, adapter, pixels, features))
                found.rows += rows
                progress.update(len(rows))
    if not parts:
        few = "; ".join(f"{name}: {why}" for name, why in found.unreadable[:3])
        raise DataError(f"None of {len(found.unreadable)} pictures can be read: {few or 'there is none'}.")
    vectors, logits, hidden = (list(column) for column in zip(*parts, strict=True))
    found.vectors = torch.cat(vectors).clone()
    if adapter is not None:
        found.logits, found.hidden = torch.cat(logits).clone(), torch.cat(hidden).clone()
    return found


_Batches = Iterator[tuple[list[int], "Tensor | None", tuple[Tensor, ...]]]


def _known_of(
    model: CIAOModel, adapter: Adapter | None, pixels: Tensor | None, features: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Vectors, logits and what the last layer reads, of a batch."""
    units = len(model.opened.excitation_shapes)
    crossing, depths = len(model.opened.feature_shapes), len(model.depths)
    has_units = len(features) == crossing + depths + units
    answers = features[-units:] if has_units else features[:crossing]
    pooled = [average_cells(one.float()) if is_map(one.shape) else one.float().flatten(1) for one in answers]
    vectors = torch.cat(pooled, dim=1).cpu()
    if adapter is None:
        return vectors, None, None
    opened, own = model.opened, adapter.encoder is not None
    if own and pixels is None:
        raise InputError("This adapter has an encoder of its own and reads pixels; give pictures, not stored features.")
    asked = (pixels, None) if own else (None, features)
    source = checked_source(model._frozen, opened, *asked, None, adapter.depths)
    seen = read_maps([(None, "it")], {"it": adapter}, model._frozen, features_of=opened, **source)[0]
    feature_map, averages = (seen, None) if isinstance(seen, Tensor) else seen
    logits, hidden = adapter.head(pool_map(feature_map, adapter.config.pooling), averages)
    return vectors, logits.float().cpu(), hidden.float().cpu()


def _stored_batches(model: CIAOModel, faces: FeatureDataset, batch_size: int) -> _Batches:
    if faces.frames is not None:
        raise InputError("These stored features are of clips, and faces are chosen one by one; give those of frames.")
    faces.check_belongs_to(model_key(model))
    weight = next(model.backbone.parameters())
    for first in range(0, len(faces), batch_size):
        rows = list(range(first, min(first + batch_size, len(faces))))
        features = faces.features(rows, depths=model.depths)
        yield rows, None, tuple(one.to(weight.device, weight.dtype) for one in features)


def _live_batches(model: CIAOModel, faces: Any, found: Read, batch_size: int) -> tuple[_Batches, int]:
    source = _source(model, faces, found)
    device = next(model.backbone.parameters()).device

    def numbered() -> Iterator[tuple[int, Any]]:
        for row in range(source.size):
            try:
                yield row, source.raw(row)
            except Exception as error:
                if not is_broken_picture(error):
                    raise
                yield row, error

    def opened(entry: tuple[int, Any]) -> tuple[int, Any]:
        row, raw = entry
        try:
            return row, raw if isinstance(raw, Exception) else source.fit(row, raw)
        except Exception as error:
            if not is_broken_picture(error):
                raise
            return row, error

    def batches() -> _Batches:
        made = in_threads(opened, numbered(), ahead=2 * batch_size)
        while batch := list(islice(made, batch_size)):
            broken = [(row, error) for row, error in batch if isinstance(error, Exception)]
            found.unreadable += [
                (found.files.get(row, f"number {row}"), source.why(row, error)) for row, error in broken
            ]
            read = [(row, one) for row, one in batch if not isinstance(one, Exception)]
            if read:
                pixels = source.join([one for _, one in read]).to(device)
                yield [row for row, _ in read], pixels, model.extract_features(pixels, include_excitation=True)

    return batches(), source.size


class _Source(NamedTuple):
    """Faces by number: what there is of one, how that is fitted (in any thread), and how several become pixels.

    `why` says in short why one cannot be read.
    """

    size: int
    raw: Callable[[int], Any]
    fit: Callable[[int, Any], Any]
    join: Callable[[list[Any]], Tensor]
    why: Callable[[int, Exception], str] = lambda _, error: _in_short(error)


def _source(model: CIAOModel, faces: Any, found: Read) -> _Source:
    preprocessing = model.preprocessing
    pictures: Sequence[Any]
    if isinstance(faces, (str, os.PathLike)):
        every = pictures_below(faces)
        pictures, found.passed_over = still_to_label(faces, every)
        if not pictures:
            raise DataError(f"None of {len(every)} faces is to be labelled: {told(found.passed_over)}.")
        named = {row: path.relative_to(faces).as_posix() for row, path in enumerate(pictures)}
    elif isinstance(faces, Mapping):
        raise InputError(f"These are several splits ({', '.join(map(str, faces))}); give the one to choose from.")
    elif _is_dataset(faces):
        return _source_of_dataset(Samples(faces, preprocessing, "the faces"), preprocessing, found)
    elif is_several(faces):
        pictures = faces if hasattr(faces, "__len__") and hasattr(faces, "__getitem__") else list(faces)
        named = {row: os.fspath(one) for row, one in enumerate(pictures) if isinstance(one, (str, os.PathLike))}
    else:
        raise InputError(
            f"Faces are a folder, a list of pictures, a dataset or stored features; got {type(faces).__name__}."
        )
    if not len(pictures):
        raise DataError("There is no face to choose from: the list is empty.")
    preprocessing = check_preprocessing(preprocessing)
    found.files.update(named)

    def why(row: int, error: Exception) -> str:
        from ..data.builder import image_problem

        return (image_problem(pictures[row]) if row in named else None) or _in_short(error)

    fit, join = (lambda _, raw: preprocessing.fit_all(raw)), _normalised(preprocessing)
    return _Source(len(pictures), lambda row: pictures[row], fit, join, why)


def _source_of_dataset(samples: Samples, preprocessing: Preprocessing | None, found: Read) -> _Source:
    if samples.source == "pixel_values" or preprocessing is None:
        return _Source(len(samples), lambda row: samples.pixels([row]), lambda _, pixels: pixels, torch.cat)

    def raw(row: int) -> Any:
        picture = samples.raw([row])[0]
        path = picture.get("path") if isinstance(picture, Mapping) else None
        if path:
            found.files[row] = str(path)
        return picture

    return _Source(len(samples), raw, lambda row, raw: samples.fit(row, raw)[None], _normalised(preprocessing))


def _is_dataset(faces: Any) -> bool:
    if hasattr(faces, "column_names"):
        return True
    if isinstance(faces, (list, tuple)):
        return bool(faces) and isinstance(faces[0], Mapping)
    return hasattr(faces, "__getitem__") and hasattr(faces, "__len__") and not is_several(faces)


def _normalised(preprocessing: Preprocessing) -> Callable[[list[Any]], Tensor]:
    return lambda fitted: preprocessing.normalise(np.concatenate(fitted))


def _in_short(error: Exception) -> str:
    return shortened(str(error).splitlines()[0] if str(error) else type(error).__name__, _LONGEST_REASON)
