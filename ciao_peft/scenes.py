"""Scenes: every face of a picture, with what each world says of it; and a word where one face was expected."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .checking import check_number
from .config import CIAOConfig
from .detection import Box, FaceFinder, FoundFace
from .errors import CIAOError, DataError, InputError
from .prediction import batch_answers, check_confidence, if_sure, is_folder, is_several, label_values, pictures_in
from .preprocessing import Preprocessing, as_mode, open_picture
from .preprocessing.ahead import in_threads
from .preprocessing.alignment import mark_of
from .probabilities import Prior

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

__all__ = ["Answers", "Face", "WorldReader", "faces_in", "predict_scenes", "warn_of_scene"]

Answers = Mapping[str, "Mapping[str, float] | None"]
"""By world, `{label: value}`, likeliest first for classes; None where the world is not sure enough."""

SCENE_SIDE = 256
"""Pictures with shorter sides are taken for faces that somebody cut out."""

SMALL = 0.35
"""A face whose box is narrower than this share of the picture's shorter side is a small one."""


@dataclass(frozen=True, kw_only=True)
class Face:
    """A face of a picture, and what is known of it.

    Args:
        box: Where it is, in pixels of the picture; may reach beyond its border.
        score: How sure the detector is that it is one, 0 to 1; None where it does not say.
        answers: What each world says of it.
        track: The number that the face has in all frames of a video or stream; None where nobody is followed.

    Example:
        >>> face = Face(box=Box(4, 2, 10, 20), answers={"fer": {"glad": 0.9, "sad": 0.1}})
        >>> face.to_dict()
        {'box': [4, 2, 10, 20], 'score': None, 'track': None, 'answers': {'fer': {'glad': 0.9, 'sad': 0.1}}}
    """

    box: Box
    score: float | None = None
    answers: Answers
    track: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The face as plain data for JSON.

        Example:
            >>> Face(box=Box(0, 0, 9, 9), answers={}, track=1).to_dict()
            {'box': [0, 0, 9, 9], 'score': None, 'track': 1, 'answers': {}}
        """
        score = None if self.score is None else round(self.score, 4)
        answers = {name: None if answer is None else dict(answer) for name, answer in self.answers.items()}
        return {"box": list(self.box), "score": score, "track": self.track, "answers": answers}


@dataclass(frozen=True, kw_only=True)
class WorldReader:
    """Reads faces that were fitted for an encoder, in several worlds, batch by batch.

    Args:
        read: From pixels `(B, C, H, W)` to logits `(B, num_labels)` by world.
        configs: Configs of the worlds, by name.
        preprocessing: The encoder's.
        prior: Frequencies of the classes where the answers are wanted.
        min_confidence: None stands for an answer whose likeliest class is less probable than this, 0 to 1.
        batch_size: Faces read at once.

    Raises:
        InputError: `batch_size` is no whole number of 1 or more.
        ConfigError: `prior` or `min_confidence` does not fit a world.

    Example:
        >>> import numpy as np
        >>> config = CIAOConfig(problem_type="regression", num_labels=1, id2label={0: "light"})
        >>> def brightness(pixels):
        ...     return {"lamp": pixels.mean(dim=(1, 2, 3))[:, None]}
        >>> plain = Preprocessing(size=(8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)
        >>> reader = WorldReader(read=brightness, configs={"lamp": config}, preprocessing=plain)
        >>> reader.answers([np.full((8, 8, 3), 255, np.uint8)])
        [{'lamp': {'light': 1.0}}]
    """

    read: Callable[[Tensor], Mapping[str, Tensor]]
    configs: Mapping[str, CIAOConfig]
    preprocessing: Preprocessing
    prior: Prior | None = None
    min_confidence: float | None = None
    batch_size: int = 32

    def __post_init__(self) -> None:
        import torch

        check_number("batch_size", self.batch_size, int, 1, error=InputError)
        for name, config in self.configs.items():
            if config.frames is not None:
                raise InputError(
                    f"The adapter '{name}' reads clips of {config.frames} frames, and a face in a scene is one "
                    "picture. Cut the clips out with `ciao_peft.data.crop_faces`, and give them to `predict`."
                )
            label_values(torch.zeros(1, config.num_labels, device="cpu"), config, self.prior)
            check_confidence(self.min_confidence, config)

    def answers(self, fitted: Sequence[np.ndarray]) -> list[Answers]:
        """What each world says of each face.

        Args:
            fitted: Each `(height, width, C)`, uint8, as `FaceFinder.fit` makes it.

        Returns:
            For each face `{world: {label: value}}`.
        """
        import numpy as np

        said: list[Answers] = []
        for start in range(0, len(fitted), self.batch_size):
            pixels = self.preprocessing.normalise(np.stack(fitted[start : start + self.batch_size]))
            said += batch_answers(self.read, pixels, self.configs, self.prior)
        if self.min_confidence is not None:
            least = self.min_confidence
            said = [{n: if_sure(dict(answer or {}), least) for n, answer in each.items()} for each in said]
        return said


def faces_in(
    picture: Image, finder: FaceFinder, preprocessing: Preprocessing
) -> tuple[Image, list[FoundFace], list[np.ndarray]]:
    """The faces of a picture, and what an encoder sees of each.

    Args:
        picture: In any mode, upright.
        finder: Finds them.
        preprocessing: The encoder's.

    Returns:
        The picture in RGB, its faces, and `(height, width, C)`, uint8, for each.

    Raises:
        DataError: the picture cannot be decoded, or a face has no landmarks and the alignment refuses that.

    Example:
        >>> from PIL import Image
        >>> finder = FaceFinder(lambda image: [(10, 10, 20, 20)])
        >>> picture, faces, fitted = faces_in(Image.new("L", (64, 64)), finder, Preprocessing(size=(16, 16)))
        >>> picture.mode, len(faces), fitted[0].shape
        ('RGB', 1, (16, 16, 3))
    """
    picture = as_mode(picture, "RGB")
    faces = finder.find(picture)
    return picture, faces, [finder.fit(picture, face, preprocessing) for face in faces]


def predict_scenes(images: Any, finder: FaceFinder, reader: WorldReader) -> Any:
    """Reads every face of a picture, a list of pictures or a folder: `CIAOModel.predict` with `faces`.

    Args:
        images: As for `ciao_peft.prediction.predict`.
        finder: Finds the faces.
        reader: Reads them.

    Returns:
        A list of `Face`, the largest first, for each picture; for one picture not in a list, its own; for a folder
        `{path: faces}`. A picture without a face has an empty list.

    Raises:
        DataError: a picture cannot be read, or the folder has none.

    Example:
        >>> from PIL import Image
        >>> config = CIAOConfig(problem_type="regression", num_labels=1, id2label={0: "light"})
        >>> def brightness(pixels):
        ...     return {"lamp": pixels.mean(dim=(1, 2, 3))[:, None]}
        >>> plain = Preprocessing(size=(8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)
        >>> reader = WorldReader(read=brightness, configs={"lamp": config}, preprocessing=plain)
        >>> finder = FaceFinder(lambda image: [(10, 10, 20, 20), (40, 10, 30, 30)])
        >>> [face.box.x for face in predict_scenes(Image.new("RGB", (100, 60), "white"), finder, reader)]
        [40, 10]
    """
    several, folder = is_several(images), is_folder(images)
    pictures: Iterable[Any] = pictures_in(images) if folder else images if several else [images]
    scenes = list(_scenes(pictures, finder, reader, alone=not several and not folder))
    if folder:
        return {str(path): faces for path, faces in zip(pictures, scenes, strict=True)}
    return scenes if several else scenes[0]


def _scenes(pictures: Iterable[Any], finder: FaceFinder, reader: WorldReader, alone: bool) -> Iterator[list[Face]]:
    def looked_at(numbered: tuple[int, Any]) -> tuple[list[FoundFace], list[np.ndarray]]:
        index, picture = numbered
        try:
            return faces_in(open_picture(picture), finder, reader.preprocessing)[1:]
        except DataError as error:
            raise error if alone else type(error)(f"Picture {index}: {error}") from error

    made = in_threads(looked_at, enumerate(pictures), ahead=8)
    while batch := list(islice(made, 8)):
        said = iter(reader.answers([face for _, fitted in batch for face in fitted]))
        for found, _ in batch:
            faces = [Face(box=face.box, score=face.score, answers=next(said)) for face in found]
            yield sorted(faces, key=lambda face: -face.box.area)


def warn_of_scene(image: Any) -> None:
    """Warns where a large picture, given as a face, shows none, several, or a small one.

    Looks only at what may be a scene: a picture of at least 256 pixels each way that is no aligned copy. Whatever is
    wrong with the picture itself is left to who reads it.

    Args:
        image: A path, a PIL image or an array.

    Example:
        >>> from PIL import Image
        >>> warn_of_scene(Image.new("RGB", (96, 96)))  # too small for a scene
    """
    if _too_small(image):
        return
    try:
        picture = open_picture(image)
        if min(picture.size) < SCENE_SIDE or mark_of(picture) is not None:
            return
        faces = FaceFinder("yunet", max_side=320, min_size=1).find(picture)
    except CIAOError:
        return
    width, height = picture.size
    largest = max((min(face.box.width, face.box.height) for face in faces), default=0)
    whole = "it is read whole, as though one face filled it"
    if not faces:
        said = f"No face was found in this picture of {width} x {height} pixels; {whole}."
    elif len(faces) > 1:
        said = f"There are {len(faces)} faces in this picture; {whole}."
    elif largest < SMALL * min(picture.size):
        said = f"The face in this picture is small, {largest} of {min(picture.size)} pixels; {whole}."
    else:
        return
    warnings.warn(
        f'{said} `predict(picture, faces="yunet")` reads each face of a scene, `faces=False` asks for no such look.',
        stacklevel=3,
    )


def _too_small(image: Any) -> bool:
    """Whether a picture that is no file is too small for a scene; a file tells when it is opened."""
    if isinstance(image, (str, os.PathLike)):
        return False
    size = getattr(image, "size", None)
    shape = size if isinstance(size, tuple) else tuple(getattr(image, "shape", ()))[:2]
    return len(shape) < 2 or min(shape) < SCENE_SIDE
