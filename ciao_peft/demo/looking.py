"""Reads what a visitor shows: a picture, or a video at evenly spread moments."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from ..data.frames import timed_frames, video_seconds
from ..detection import FaceFinder, FoundFace, finder_of
from ..errors import DataError, DataNotFoundError
from ..preprocessing import Preprocessing, as_mode, open_picture
from ..preprocessing.pictures import MAX_PIXELS
from ..reader import FaceReader
from ..saliency import gradcam_plus_plus
from ..scenes import Face
from .worlds import World

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

__all__ = ["MOST_FRAMES", "MOST_SECONDS", "Looker", "Seen", "Shot", "picture_shot", "video_shots"]

MOST_SECONDS = 120.0
"""Of a video that are read."""

MOST_FRAMES = 120
"""Of a video that are read, evenly spread."""

_SHORTEST_STEP = 0.2  # seconds from one frame to the next
_LONGEST_SIDE = {"picture": 1600, "frame": 960}  # pixels; what is held of a visitor's pictures


class Shot(NamedTuple):
    """A moment, as it is held.

    Args:
        encoded: Its picture: a PNG, or a JPEG of a moment of a video.
        time: Seconds from the start of the video; None for a picture.
    """

    encoded: bytes
    time: float | None

    def picture(self) -> Image:
        """The picture, in RGB."""
        from PIL import Image

        return Image.open(io.BytesIO(self.encoded)).convert("RGB")


@dataclass(frozen=True)
class Seen:
    """A moment that was read.

    Args:
        shot: What was shown.
        faces: Its faces, the largest first, with answers by the keys of the worlds.
        size: Width and height of its picture, in pixels.
    """

    shot: Shot
    faces: tuple[Face, ...]
    size: tuple[int, int]


def picture_shot(picture: Any) -> Shot:
    """A visitor's picture, checked and made smaller where it is large.

    Args:
        picture: A path, a PIL image, or what went wrong when it was opened.

    Raises:
        DataError: it is no picture, damaged, or too large; it was not decoded where its size says so.

    Example:
        >>> from PIL import Image
        >>> picture_shot(Image.new("RGB", (3200, 1000))).picture().size
        (1600, 500)
    """
    if isinstance(picture, Exception):
        raise DataError("This is no picture that can be read.") from picture
    try:
        return _held(as_mode(open_picture(picture), "RGB"), None, "picture")
    except DataError as error:
        raise _told_plainly(error, picture) from error


def _told_plainly(error: DataError, picture: Any) -> DataError:
    """What is wrong with a picture, in words for a visitor, which do not tell where the page put the file."""
    cause = type(error.__cause__).__name__
    if cause == "UnidentifiedImageError":
        return DataError("This file is no picture that can be read. Give a PNG, JPEG or WebP.")
    if cause.startswith("DecompressionBomb"):
        return DataError(f"This picture is too large: at most {MAX_PIXELS:,} pixels are read. Make it smaller.")
    said = str(error)
    if isinstance(picture, (str, os.PathLike)):
        said = said.replace(repr(os.fspath(picture)), "This file")
    return DataError(said)


def video_shots(path: str) -> Iterator[Shot]:
    """Moments of a visitor's video, at most `MOST_FRAMES` of its first `MOST_SECONDS`, evenly spread.

    Args:
        path: The file.

    Raises:
        DataError: it is no video, or damaged from the start.
        DataNotFoundError: PyAV and OpenCV are missing.

    Example:
        >>> next(video_shots(__file__))
        Traceback (most recent call last):
        ...
        ciao_peft.errors.DataError: This file is no video that can be read. Give an MP4 or WebM.
    """
    length = video_seconds(path)
    step = max(_SHORTEST_STEP, min(MOST_SECONDS if length is None else length, MOST_SECONDS) / MOST_FRAMES)
    count, before = 0, -1.0
    try:
        for index, (time, picture) in enumerate(timed_frames(path)):
            now = index / 25 if time is None else time
            if now >= MOST_SECONDS or count >= MOST_FRAMES:
                break
            if count and now < before + step - 1e-3:
                continue
            yield _held(picture, now, "frame")
            count, before = count + 1, now
    except DataNotFoundError:
        raise
    except DataError as error:
        if not count:  # one that ends early still shows what it has
            raise DataError("This file is no video that can be read. Give an MP4 or WebM.") from error
    if not count:
        raise DataError("This video has no frame that can be read.")


def _held(picture: Image, time: float | None, kind: str) -> Shot:
    most = _LONGEST_SIDE[kind]
    picture = picture.convert("RGB")
    picture.thumbnail((most, most))
    file = io.BytesIO()
    if kind == "picture":  # read as it is
        picture.save(file, "PNG", compress_level=1)
    else:
        picture.save(file, "JPEG", quality=92)
    return Shot(file.getvalue(), time)


class Looker:
    """Finds the faces of pictures and reads them in worlds that may sit on several models.

    Args:
        detector: As for `ciao_peft.detection.FaceFinder`.

    Raises:
        DataError, MissingExtraError: as `ciao_peft.detection.make_detector` says.

    Example:
        >>> from PIL import Image
        >>> from ciao_peft.demo import WorldPool
        >>> pool = WorldPool(["ciao/painted-affect"])
        >>> looker, shot = Looker(lambda image: [(10, 10, 40, 40)]), picture_shot(Image.new("RGB", (64, 64)))
        >>> seen = looker.read(pool.worlds, [shot])
        >>> sorted(seen[0].faces[0].answers["ciao/painted-affect"])
        ['arousal', 'valence']
    """

    def __init__(self, detector: Any = "yunet"):
        self.finder = finder_of(detector)

    finder: FaceFinder

    def read(
        self, worlds: Sequence[World], shots: Sequence[Shot], progress: Callable[[float], object] | None = None
    ) -> list[Seen]:
        """Reads pictures, or the moments of a video, whose people are then followed and answers smoothed.

        Args:
            worlds: One or more, held meanwhile.
            shots: All with a time, or all without.
            progress: Called with the share that is done, 0 to 1.

        Returns:
            One for each shot.
        """
        groups: dict[int, list[World]] = {}
        for world in worlds:
            groups.setdefault(id(world.model), []).append(world)
        follow = bool(shots) and shots[0].time is not None
        seen: list[Seen] = []
        for number, group in enumerate(groups.values()):
            keys = {world.adapter_name: world.key for world in group}
            reader = FaceReader(group[0].model, list(keys), detector=self.finder)
            pictures = [shot.picture() for shot in shots] if not follow else (shot.picture() for shot in shots)
            with reader.read(pictures, follow=follow, fps=_rate(shots)) as frames:
                for index, frame in enumerate(frames):
                    faces = tuple(_renamed(face, keys) for face in frame.faces)
                    if number == 0:
                        seen.append(Seen(shots[index], faces, frame.picture.size))
                    else:  # the same finder found the same faces
                        joined = map(_joined, seen[index].faces, faces)
                        seen[index] = replace(seen[index], faces=tuple(joined))
                    if progress is not None:
                        progress((number * len(shots) + index + 1) / (len(groups) * len(shots)))
        order = [world.key for world in worlds]
        return [replace(one, faces=tuple(_in_order(face, order) for face in one.faces)) for one in seen]

    def fitted(self, picture: Image, face: Face, preprocessing: Preprocessing) -> np.ndarray:
        """What an encoder sees of a face, `(height, width, C)`, uint8."""
        return self.finder.fit(picture, FoundFace(face.box, face.score), preprocessing)

    def pixels(self, picture: Image, face: Face, world: World) -> Tensor:
        """A face as the encoder of a world is fed, `(1, C, H, W)`.

        Args:
            picture: In RGB.
            face: One of its faces.
            world: Held meanwhile.
        """
        preprocessing = world.model.preprocessing
        assert preprocessing is not None  # the pool takes no world without
        return preprocessing.normalise(self.fitted(picture, face, preprocessing)[None])

    def maps(self, worlds: Sequence[World], seen: Seen, face: Face) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Where each world looks in a face.

        Args:
            worlds: Held meanwhile.
            seen: The moment.
            face: One of its faces.

        Returns:
            By key: the face in RGB, `(height, width, 3)`, uint8, and its GradCAM++, `(height, width)`, 0 to 1.
        """
        picture, found = seen.shot.picture(), {}
        for world in worlds:
            preprocessing = world.model.preprocessing
            if preprocessing is None:
                continue
            pixels = self.fitted(picture, face, preprocessing)
            source = preprocessing.normalise(pixels[None]).to(next(world.model.backbone.parameters()).device)
            heat = gradcam_plus_plus(world.model, source, adapter_name=world.adapter_name)[0]
            shown = pixels[:, :, ::-1] if preprocessing.mode == "BGR" else pixels
            found[world.key] = (shown.repeat(3, axis=2) if shown.shape[2] == 1 else shown, heat.cpu().numpy())
        return found


def _rate(shots: Sequence[Shot]) -> float:
    """Frames a second, for the smoothing."""
    times = [shot.time for shot in shots if shot.time is not None]
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 5.0


def _renamed(face: Face, keys: dict[str, str]) -> Face:
    return replace(face, answers={keys[name]: answer for name, answer in face.answers.items()})


def _joined(one: Face, other: Face) -> Face:
    return replace(one, answers={**one.answers, **other.answers})


def _in_order(face: Face, keys: Sequence[str]) -> Face:
    return replace(face, answers={key: face.answers[key] for key in keys})
