"""Where frames come from: pictures, folders, videos, cameras, streams and whatever gives frames one by one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..checking import is_number
from ..data.frames import camera_frames, is_stream, timed_frames
from ..errors import DataError, DataNotFoundError, InputError, quoted
from ..prediction import is_several
from ..preprocessing import open_picture

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Shot", "Shots", "open_source"]


class Shot(NamedTuple):
    """One picture of a source, before faces are looked for.

    Args:
        source: Name of the file, the address of a stream or `camera 0`; None where there is none.
        number: Which of its source it is, from 0.
        time: Seconds from the start of its source; None for pictures that are no frames.
        picture: In any mode, upright.
    """

    source: str | None
    number: int
    time: float | None
    picture: Image


class Shots(NamedTuple):
    """What a source gives.

    Args:
        shots: One by one, read when they are asked for.
        live: Whether it sends as time passes, so that waiting for more frames delays answers.
    """

    shots: Iterator[Shot]
    live: bool


def open_source(source: Any, *, follow: bool | None = None, fps: float = 30.0) -> Shots:
    """Opens a source of pictures.

    Args:
        source: A picture (path, PIL image, array `(H, W)` or `(H, W, 3)` of uint8), a folder of pictures and videos, a
            video, the address of a stream (`rtsp://...`), the number of a camera, or what gives pictures one by one.
        follow: Whether pictures are frames that follow one another. When left out, those of videos, cameras, streams
            and generators are; those of lists and folders are not.
        fps: Frames a second where the source does not say when each is shown.

    Returns:
        The pictures; faults are raised where they come up in the order.

    Raises:
        DataNotFoundError: there is no such file, or the folder has neither a picture nor a video.
        InputError: it is none of these.
    """
    if not is_number(fps, float, 1e-3, 1e5):
        raise InputError(f"`fps` must be frames a second, above 0; got {quoted(fps)}.")
    if isinstance(source, bool) or source is None or isinstance(source, (bytes, dict)):
        raise InputError(
            "A source is a picture, a folder, a video, the number of a camera, the address of a stream or what gives "
            f"pictures one by one; got {quoted(source)}."
        )
    if isinstance(source, int):
        frames = camera_frames(source)
        return Shots((Shot(f"camera {source}", *numbered) for numbered in _numbered(frames, fps)), True)
    if is_stream(source):
        frames = timed_frames(source)
        return Shots((Shot(source, *numbered) for numbered in _numbered(frames, fps)), True)
    if isinstance(source, (str, os.PathLike)):
        return Shots(_files(Path(source).expanduser(), bool(follow), fps), False)
    if is_several(source):
        follows = not hasattr(source, "__len__") if follow is None else follow
        return Shots(_several(source, follows, fps), follows and not hasattr(source, "__len__"))
    return Shots(iter([Shot(None, 0, 0.0 if follow else None, open_picture(source))]), False)


def _numbered(frames: Iterable[tuple[float | None, Image]], fps: float) -> Iterator[tuple[int, float, Image]]:
    """Numbers frames, and sees to it that their times rise."""
    before = -1 / fps
    for index, (time, picture) in enumerate(frames):
        # Some files tell no time, or the same one again, or go back where they were cut together.
        time = time if time is not None and time > before else before + 1 / fps
        yield index, time, picture
        before = time


def _several(pictures: Iterable[Any], follows: bool, fps: float) -> Iterator[Shot]:
    for index, given in enumerate(pictures):
        try:
            picture = open_picture(given)
        except DataError as error:
            raise type(error)(f"Picture {index}: {error}") from error
        name = os.fspath(given) if isinstance(given, (str, os.PathLike)) else None
        yield Shot(name if isinstance(name, str) else None, index, index / fps if follows else None, picture)


def _files(path: Path, follows: bool, fps: float) -> Iterator[Shot]:
    from ..data.builder import HIDDEN, IMAGE_SUFFIXES, VIDEO_SUFFIXES  # late: it brings `datasets` along

    if not path.exists():
        raise DataNotFoundError(f"There is no picture, video or folder at '{path}'.")
    if not path.is_dir():
        if path.suffix and path.suffix.lower() not in IMAGE_SUFFIXES:  # there are more kinds of video than one knows
            return _video(path, fps)
        return iter([Shot(str(path), 0, 0.0 if follows else None, open_picture(path))])
    files = sorted(
        file
        for file in path.iterdir()
        if file.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES) and not file.name.startswith(HIDDEN)
    )
    if not files:
        raise DataNotFoundError(f"There is neither a picture nor a video in '{path}'.")
    return _folder(files, VIDEO_SUFFIXES, path, follows, fps)


def _folder(
    files: list[Path], video_suffixes: tuple[str, ...], folder: Path, follows: bool, fps: float
) -> Iterator[Shot]:
    for index, file in enumerate(files):
        if file.suffix.lower() in video_suffixes:
            yield from _video(file, fps)
        elif follows:  # the pictures are the frames of one video
            yield Shot(str(folder), index, index / fps, open_picture(file))
        else:
            yield Shot(str(file), 0, None, open_picture(file))


def _video(path: Path, fps: float) -> Iterator[Shot]:
    index, time = -1, 0.0
    try:
        for index, time, picture in _numbered(timed_frames(path), fps):
            yield Shot(str(path), index, time, picture)
    except DataError as error:
        if index < 0:
            raise
        raise DataError(f"'{path}' ends early, after {index + 1:,} frames ({time:.1f} s): {error}") from error
    if index < 0:
        raise DataError(f"'{path}' has no frame that can be read.")
