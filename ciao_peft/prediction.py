"""From pictures to logits, batch by batch, and from logits to named answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from .checking import check_number
from .config import CIAOConfig
from .data.frames import frame_places
from .errors import ConfigError, DataError, DataNotFoundError, InputError
from .preprocessing import Preprocessing
from .preprocessing.ahead import in_threads
from .probabilities import Prior, probabilities
from .progress import long_work

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "batch_answers",
    "check_confidence",
    "check_preprocessing",
    "clip_frames",
    "if_sure",
    "is_folder",
    "is_several",
    "label_names",
    "label_values",
    "named_answers",
    "pictures_in",
    "predict",
    "read_pictures",
]

Fitted = TypeVar("Fitted")


def predict(
    images: Any,
    preprocessing: Preprocessing,
    read: Callable[[Tensor], Mapping[str, Tensor]],
    configs: Mapping[str, CIAOConfig],
    *,
    frames: int | None = None,
    by_world: bool = False,
    prior: Prior | None = None,
    min_confidence: float | None = None,
    batch_size: int = 32,
    disable_tqdm: bool | None = None,
) -> Any:
    """Reads a picture, a list of pictures or a folder, and names the answers: the body of `CIAOModel.predict`.

    Args:
        images: A path, a PIL image, an array `(H, W)` or `(H, W, 3)` of uint8, a list of them, a column of `datasets`
            or whatever else goes through them one by one, or a folder. With `frames` a list of clips, each a list of
            pictures.
        preprocessing: Makes a picture pixels.
        read: From pixels `(B, C, H, W)`, of clips `(B, frames, C, H, W)`, to logits `(B, num_labels)` by world.
        configs: Configs of the worlds to read in, by name.
        frames: Frames in each clip, or None for single pictures.
        by_world: Whether an answer is one for each world, by name; otherwise it is that of the first world.
        prior: Frequencies of the classes where the answers are wanted, as `ciao_peft.probabilities.probabilities`
            takes them, in all of the worlds.
        min_confidence: From 0 to 1; None stands for an answer whose likeliest class is less probable than this.
        batch_size: Pictures read at once.
        disable_tqdm: No progress bar; when left out, none unless a terminal is there to show it.

    Returns:
        An answer for each picture; for one picture not in a list, its own; for a folder `{path: answer}`.

    Raises:
        InputError: `batch_size` is no whole number of 1 or more, or a clip is no list.
        ConfigError: `prior` or `min_confidence` does not fit a world.
        DataError: a picture cannot be read, or the folder has none.

    Example:
        >>> import numpy as np
        >>> config = CIAOConfig(problem_type="regression", num_labels=1, id2label={0: "brightness"})
        >>> preprocessing = Preprocessing(size=(8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)
        >>> def brightness(pixels):
        ...     return {"light": pixels.mean(dim=(1, 2, 3))[:, None]}
        >>> predict(np.full((8, 8, 3), 255, dtype=np.uint8), preprocessing, brightness, {"light": config})
        {'brightness': 1.0}
    """
    for config in configs.values():
        label_values(torch.zeros(1, config.num_labels, device="cpu"), config, prior)
        check_confidence(min_confidence, config)
    is_list, folder = is_several(images), is_folder(images)
    pictures: Sequence[Any] = pictures_in(images) if folder else _sequence(images) if is_list else [images]
    fit, join = preprocessing.fit_all, partial(_normalised, preprocessing=preprocessing, of_clips=frames is not None)
    worlds = read_pictures(
        pictures,
        fit if frames is None else lambda clip: fit(clip_frames(clip, frames)),
        read,
        configs,
        join=join,
        prior=prior,
        batch_size=batch_size,
        disable_tqdm=disable_tqdm,
    )
    if min_confidence is not None:
        worlds = [{name: if_sure(answer, min_confidence) for name, answer in each.items()} for each in worlds]
    answers = worlds if by_world else [answer[next(iter(configs))] for answer in worlds]
    if folder:
        return {str(path): answer for path, answer in zip(pictures, answers, strict=True)}
    return answers if is_list else answers[0]


def is_several(images: Any) -> bool:
    """Whether what is to be read goes through pictures one by one: a list, a column of `datasets`, a generator.

    Example:
        >>> from pathlib import Path
        >>> is_several(["a.png"]), is_several("a.png"), is_several(Path("a.png")), is_several(iter(["a.png"]))
        (True, False, False, True)
    """
    if isinstance(images, (list, tuple)):
        return True
    single = isinstance(images, (str, bytes, os.PathLike, Mapping)) or hasattr(images, "__array__")
    return not single and hasattr(images, "__iter__")


def _sequence(images: Any) -> Sequence[Any]:
    """Pictures by number; a column of `datasets` stays on disk until a picture is asked for."""
    by_number = hasattr(images, "__len__") and hasattr(images, "__getitem__")
    return images if by_number else list(images)


def is_folder(images: Any) -> bool:
    """Whether what is to be read is a folder of pictures.

    Example:
        >>> is_folder("."), is_folder("face.jpg"), is_folder(["."])
        (True, False, False)
    """
    return isinstance(images, (str, os.PathLike)) and Path(images).is_dir()


def pictures_in(folder: str | os.PathLike[str]) -> list[Path]:
    """The pictures that lie directly in a folder, in the order of their names.

    A picture is a file with a suffix that `load_faces` reads, such as `.jpg` or `.png`. Hidden files are left out.

    Raises:
        DataNotFoundError: there is no picture; the message says what is there instead.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("b.png", "a.JPG", "notes.txt"):
        ...     (folder / name).touch()
        >>> [path.name for path in pictures_in(folder)]
        ['a.JPG', 'b.png']
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


def clip_frames(clip: Any, frames: int) -> list[Any]:
    """Chooses the frames that stand for a clip.

    Args:
        clip: A list of pictures, in order; `frame_places` says which are taken, and what becomes of a shorter clip.
        frames: The number of frames to take.

    Returns:
        So many pictures.

    Raises:
        InputError: it is no list, or an empty one.

    Example:
        >>> clip_frames(["first.png", "second.png", "third.png", "fourth.png"], 2)
        ['second.png', 'fourth.png']
    """
    if not isinstance(clip, (list, tuple)) or not clip:
        got = "an empty list" if isinstance(clip, (list, tuple)) else type(clip).__name__
        raise InputError(f"A clip is a list of its frames, pictures in order; got {got}. `sample_frames` reads videos.")
    return [clip[place] for place in frame_places(len(clip), frames)]


def _normalised(fitted: Sequence[np.ndarray], preprocessing: Preprocessing, of_clips: bool) -> Tensor:
    """The pixels of a batch, normalised all at once."""
    import numpy as np

    return preprocessing.normalise(np.stack(fitted) if of_clips else np.concatenate(fitted))


def read_pictures(
    pictures: Sequence[Any],
    fit: Callable[[Any], Fitted],
    read: Callable[[Tensor], Mapping[str, Tensor]],
    configs: Mapping[str, CIAOConfig],
    *,
    join: Callable[[list[Fitted]], Tensor],
    prior: Prior | None = None,
    batch_size: int,
    disable_tqdm: bool | None = None,
) -> list[dict[str, dict[str, float]]]:
    """Reads pictures batch by batch, and names what each world says of each picture.

    Several pictures are opened in threads, those of the next batch while one is read.

    Args:
        pictures: Whatever `fit` takes, one by one.
        fit: Opens one of them; called in any thread.
        read: From pixels of several, `(B, C, H, W)`, to logits `(B, num_labels)` by world.
        configs: Configs of the worlds to read in, by name.
        join: From what `fit` made of B pictures to their pixels, `(B, C, H, W)`; of clips `(B, T, C, H, W)`.
        prior: Frequencies of the classes where the answers are wanted.
        batch_size: Pictures read at once.
        disable_tqdm: No progress bar; when left out, none unless a terminal is there to show it.

    Returns:
        For each picture the named answers of each world, `{world: {label: value}}`.

    Raises:
        InputError: `batch_size` is no whole number of 1 or more.
        DataError: a picture cannot be read; the message says which.

    Example:
        >>> config = CIAOConfig(problem_type="regression", num_labels=1, id2label={0: "arousal"})
        >>> def as_pixels(value):
        ...     return torch.full((1, 3, 2, 2), value)
        >>> def mean(pixels):
        ...     return {"adults": pixels.mean(dim=(1, 2, 3))[:, None]}
        >>> read_pictures([0.5, 0.25], as_pixels, mean, {"adults": config}, join=torch.cat, batch_size=2)
        [{'adults': {'arousal': 0.5}}, {'adults': {'arousal': 0.25}}]
    """
    check_number("batch_size", batch_size, int, 1, error=InputError)
    if len(pictures) == 1:
        return batch_answers(read, join([fit(pictures[0])]), configs, prior)

    def fitted(numbered: tuple[int, Any]) -> Fitted:
        index, picture = numbered
        try:
            return fit(picture)
        except DataError as error:
            raise type(error)(f"Picture {index} of {len(pictures)}: {error}") from error

    answers = []
    numbered = ((index, pictures[index]) for index in range(len(pictures)))
    with long_work(len(pictures), "predict", "picture", disable_tqdm) as progress:
        made = in_threads(fitted, numbered, ahead=2 * batch_size)
        while batch := list(islice(made, min(batch_size, len(pictures)))):
            answers += batch_answers(read, join(batch), configs, prior)
            progress.update(len(batch))
    return answers


def batch_answers(
    read: Callable[[Tensor], Mapping[str, Tensor]],
    pixels: Tensor,
    configs: Mapping[str, CIAOConfig],
    prior: Prior | None,
) -> list[dict[str, dict[str, float]]]:
    """What each world says of each picture of a batch. What a GPU computes comes back all at once.

    Args:
        read: From pixels of several pictures, `(B, C, H, W)`, to logits `(B, num_labels)` by world.
        pixels: `(B, C, H, W)`.
        configs: Configs of the worlds to read in, by name.
        prior: Frequencies of the classes where the answers are wanted.

    Returns:
        For each picture the named answers of each world, `{world: {label: value}}`.
    """
    with torch.inference_mode():
        logits = read(pixels)
        values = [label_values(logits[name], config, prior) for name, config in configs.items()]
        rows = (values[0] if len(values) == 1 else torch.cat(values, dim=1)).tolist()
    answers: list[dict[str, dict[str, float]]] = [{} for _ in rows]
    first = 0
    for name, config in configs.items():
        for answer, row in zip(answers, rows, strict=True):
            answer[name] = _named(row[first : first + config.num_labels], config)
        first += config.num_labels
    return answers


def named_answers(logits: Tensor, config: CIAOConfig, prior: Prior | None = None) -> list[dict[str, float]]:
    """Each row's logits as values by label.

    Args:
        logits: `(B, num_labels)`.
        config: Config of the adapter that gave them.
        prior: Frequencies of the classes where the answers are wanted, as `ciao_peft.probabilities.probabilities`
            takes them.

    Returns:
        For each row `{label: probability}`, likeliest first, or `{name: value}` in order for regression.

    Example:
        >>> config = CIAOConfig(problem_type="regression", num_labels=2, id2label={0: "arousal", 1: "valence"})
        >>> named_answers(torch.tensor([[0.5, -0.25]]), config)
        [{'arousal': 0.5, 'valence': -0.25}]
    """
    return [_named(row, config) for row in label_values(logits, config, prior).tolist()]


def label_values(logits: Tensor, config: CIAOConfig, prior: Prior | None = None) -> Tensor:
    """Logits as the values that answers give: probabilities, or the logits themselves for regression.

    Args:
        logits: `(B, num_labels)`, any floating dtype.
        config: Config of the adapter that gave them.
        prior: Frequencies of the classes where the answers are wanted.

    Returns:
        `(B, num_labels)`, float32.

    Raises:
        ConfigError: a `prior` that does not fit, as `ciao_peft.probabilities.probabilities` says.

    Example:
        >>> config = CIAOConfig(problem_type="multi_label_classification", num_labels=2)
        >>> label_values(torch.zeros(1, 2), config)
        tensor([[0.5000, 0.5000]])
    """
    if config.problem_type == "regression" and prior is None:
        return logits.float()
    return probabilities(logits.float(), config, prior)


def check_preprocessing(preprocessing: Preprocessing | None, otherwise: str = "") -> Preprocessing:
    """How pictures are prepared for a backbone that has to say so.

    Args:
        preprocessing: The backbone's.
        otherwise: What a caller may give in place of pictures, as the end of the message.

    Raises:
        InputError: there is none.

    Example:
        >>> check_preprocessing(None, ", or give pixels")
        Traceback (most recent call last):
        ...
        ciao_peft.errors.InputError: This backbone does not say how pictures must be prepared for it; give \
`preprocessing=` to get_ciao_model, or give pixels.
    """
    if preprocessing is None:
        raise InputError(
            "This backbone does not say how pictures must be prepared for it; give `preprocessing=` to get_ciao_model"
            f"{otherwise}."
        )
    return preprocessing


def check_confidence(min_confidence: float | None, config: CIAOConfig) -> None:
    """Refuses a `min_confidence` that a world cannot have.

    Raises:
        ConfigError: it is no number from 0 to 1, or the world does not answer with one class of several.
    """
    if min_confidence is None:
        return
    check_number("min_confidence", min_confidence, float, 0, 1)
    if config.problem_type != "single_label_classification":
        raise ConfigError(f"`min_confidence` is for one class of several; a world here is {config.problem_type!r}.")


def if_sure(answer: dict[str, float], min_confidence: float) -> dict[str, float] | None:
    """An answer, or None where its likeliest class is less probable than that.

    Example:
        >>> if_sure({"sad": 0.6, "glad": 0.4}, 0.5), if_sure({"sad": 0.6, "glad": 0.4}, 0.7)
        ({'sad': 0.6, 'glad': 0.4}, None)
    """
    return answer if max(answer.values()) >= min_confidence else None


def _named(row: list[float], config: CIAOConfig) -> dict[str, float]:
    pairs = [(name, round(value, 6)) for name, value in zip(label_names(config), row, strict=True)]
    return dict(pairs if config.problem_type == "regression" else sorted(pairs, key=lambda pair: -pair[1]))


def label_names(config: CIAOConfig) -> list[str]:
    """The name of each label, in the order of the logits.

    Example:
        >>> label_names(CIAOConfig(problem_type="regression", num_labels=2, id2label={0: "arousal", 1: "valence"}))
        ['arousal', 'valence']
    """
    return list((config.id2label or {}).values())  # a config fills in what was left out, ordered by index
