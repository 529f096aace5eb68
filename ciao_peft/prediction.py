"""From pictures to logits, batch by batch, and from logits to named answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checking import check_number
from .config import CIAOConfig
from .data.frames import frame_places
from .errors import DataError, DataNotFoundError, InputError
from .preprocessing import Preprocessing


def is_folder(images: Any) -> bool:
    """Whether what is to be read is a folder of pictures."""
    return isinstance(images, (str, os.PathLike)) and Path(images).is_dir()


def pictures_in(folder: str | os.PathLike) -> list[Path]:
    """The pictures that lie directly in a folder, in the order of their names: files that end as those do which
    `load_faces` reads. Hidden files are left out.

    Raises:
        DataNotFoundError: there is none; says what is there instead.
    """
    from .data.builder import IMAGE_SUFFIXES  # late: it brings `datasets` along

    entries = sorted(entry for entry in Path(folder).iterdir() if not entry.name.startswith("."))
    pictures = [entry for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file()]
    if not pictures:
        folders = sum(entry.is_dir() for entry in entries)
        raise DataNotFoundError(
            f"There is no picture in '{folder}': {len(entries) - folders} other files, {folders} folders. Give the "
            "folder that holds the pictures, or a list of paths."
        )
    return pictures


def clip_pixels(clip: Any, frames: int, preprocessing: Preprocessing) -> Tensor:
    """The frames that stand for a clip, `(1, frames, C, H, W)`.

    Args:
        clip: A list of pictures, in order; `frame_places` says which are taken, and what becomes of a shorter clip.
        frames: How many are wanted.
        preprocessing: Makes them pixels.

    Raises:
        InputError: it is no list, or an empty one.
        DataError: a picture cannot be read.
    """
    if not isinstance(clip, (list, tuple)) or not clip:
        got = "an empty list" if isinstance(clip, (list, tuple)) else type(clip).__name__
        raise InputError(f"A clip is a list of its frames, pictures in order; got {got}. `sample_frames` reads videos.")
    return preprocessing([clip[place] for place in frame_places(len(clip), frames)])[None]


def read_pictures(
    pictures: Sequence[Any],
    preprocessing: Callable[[Any], Tensor],
    read: Callable[[Tensor], Mapping[str, Tensor]],
    configs: Mapping[str, CIAOConfig],
    *,
    batch_size: int,
    disable_tqdm: bool | None = None,
) -> list[dict[str, dict[str, float]]]:
    """What each world says of each picture.

    Args:
        pictures: Whatever `preprocessing` takes, one by one.
        preprocessing: Makes one of them pixels, `(1, C, H, W)`; of a clip `(1, T, C, H, W)`.
        read: From pixels of several to logits by world.
        configs: Of the worlds to read in.
        batch_size: Pictures read at once.
        disable_tqdm: No progress bar; when left out, none unless a terminal is there to show it.

    Raises:
        InputError: `batch_size` is no whole number of 1 or more.
        DataError: a picture cannot be read; says which.
    """
    from tqdm.auto import tqdm

    check_number("batch_size", batch_size, int, 1, error=InputError)
    quiet = not sys.stderr.isatty() if disable_tqdm is None else disable_tqdm
    answers = []
    with tqdm(total=len(pictures), unit="picture", disable=quiet) as progress:
        for start in range(0, len(pictures), batch_size):
            pixels = []
            for index in range(start, min(start + batch_size, len(pictures))):
                try:
                    pixels.append(preprocessing(pictures[index]))
                except DataError as error:
                    if len(pictures) == 1:
                        raise
                    raise type(error)(f"Picture {index} of {len(pictures)}: {error}") from error
            with torch.inference_mode():
                logits = read(torch.cat(pixels))
            worlds = {name: named_answers(logits[name], config) for name, config in configs.items()}
            answers.extend({name: rows[row] for name, rows in worlds.items()} for row in range(len(pixels)))
            progress.update(len(pixels))
    return answers


def named_answers(logits: Tensor, config: CIAOConfig) -> list[dict[str, float]]:
    """Each row's logits as values by label.

    Args:
        logits: `(B, num_labels)`.
        config: Of the adapter that gave them.

    Returns:
        For each row `{label: probability}`, likeliest first, or `{name: value}` in order for regression.

    Example:
        >>> config = CIAOConfig(problem_type="regression", num_labels=2, id2label={0: "arousal", 1: "valence"})
        >>> named_answers(torch.tensor([[0.5, -0.25]]), config)
        [{'arousal': 0.5, 'valence': -0.25}]
    """
    values = logits.float()
    if config.problem_type == "single_label_classification":
        values = values.softmax(dim=1)
    elif config.problem_type == "multi_label_classification":
        values = values.sigmoid()
    answers = []
    for row in values.tolist():
        pairs = [(config.id2label[index], round(value, 6)) for index, value in enumerate(row)]
        ordered = pairs if config.problem_type == "regression" else sorted(pairs, key=lambda pair: -pair[1])
        answers.append(dict(ordered))
    return answers
