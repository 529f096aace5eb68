"""Reads frames of videos with PyAV or OpenCV, whichever is installed."""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ..checking import check_choice
from ..errors import DataError, DataNotFoundError, MissingExtraError, shortened
from .whole_video import Shortfall, announced, shortfall

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "READERS",
    "camera_frames",
    "frame_places",
    "is_stream",
    "read_frames",
    "sample_frames",
    "sampled_frames",
    "timed_frames",
    "video_seconds",
]

READERS = ("av", "cv2")
"""Libraries that read videos, PyAV and OpenCV; the first that is installed is used."""


def read_frames(path: str | os.PathLike[str], reader: str | None = None) -> Iterator[Image.Image]:
    """Reads every frame of a video.

    Args:
        path: The video file.
        reader: `"av"` or `"cv2"`; the first that is installed when left out.

    Returns:
        RGB images in order of time, upright, read one by one while you iterate.

    Raises:
        DataNotFoundError: the file is missing, or no reader is installed.
        DataError: the file is no video, or is damaged.
    """
    return (picture() for _, picture in _watched(path, reader))


def timed_frames(path: str | os.PathLike[str], reader: str | None = None) -> Iterator[tuple[float | None, Image.Image]]:
    """Reads every frame of a video, and when it is shown.

    Args:
        path: The video file, or the address of a stream with its scheme, such as `rtsp://...`, which goes on as long as
            it is sent.
        reader: As for `read_frames`.

    Returns:
        Seconds from the start as the file says, however irregular, or None where it does not say; and an RGB image,
        upright. They are read one by one while you iterate.

    Raises:
        DataNotFoundError: the file is missing, or no reader is installed.
        DataError: it is no video, or is damaged; in its place in the order, after what could be read.
    """
    return ((seconds, picture()) for seconds, picture in _watched(path, reader))


def camera_frames(number: int) -> Iterator[tuple[float, Image.Image]]:
    """Reads the pictures of a camera, for as long as you ask for them.

    Args:
        number: 0 for the first camera.

    Returns:
        Seconds since the first picture, and an RGB image. Closing the iterator lets go of the camera.

    Raises:
        MissingExtraError: OpenCV is missing.
        DataNotFoundError: there is no such camera, or another program has it.
        DataError: it stopped sending.
    """
    from PIL import Image

    try:
        import cv2
    except ImportError:
        raise MissingExtraError("OpenCV", "Reading a camera", "video") from None
    capture = cv2.VideoCapture(number)
    try:
        if not capture.isOpened():
            raise DataNotFoundError(
                f"There is no camera {number}, or another program has it. Cameras are counted from 0."
            )
        start, count = None, 0
        while True:
            sent, pixels = capture.read()
            if not sent:
                raise DataError(f"The camera {number} sent nothing more after {count:,} pictures.")
            now = time.monotonic()
            start = now if start is None else start
            count += 1
            yield now - start, Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
    finally:
        capture.release()


def video_seconds(path: str | os.PathLike[str]) -> float | None:
    """How long a video says its pictures last, in seconds; None where it does not say.

    Args:
        path: A video file that was read before.
    """
    return announced(path).seconds


Pictures = Iterator[tuple[float | None, Callable[[], "Image.Image"]]]
"""Per frame its seconds and a function that makes an image of it: counting frames costs no conversion."""


def is_stream(path: Any) -> bool:
    """Whether a source is the address of a stream, with its scheme.

    Example:
        >>> is_stream("rtsp://door/camera"), is_stream("clip.mp4"), is_stream("C:clip.mp4")
        (True, False, False)
    """
    return isinstance(path, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path) is not None


def _watched(path: str | os.PathLike[str], reader: str | None) -> Pictures:
    """The pictures; a warning at their end says what is missing of a file."""
    pictures = _pictures(path, reader)  # refuses what is none at once

    def watched() -> Pictures:
        times: list[float | None] = []
        for seconds, picture in pictures:
            if not is_stream(path):
                times.append(seconds)
            yield seconds, picture
        if times and (short := shortfall(announced(path), times)):
            _warn(path, short)

    return watched()


def _warn(path: str | os.PathLike[str], short: Shortfall) -> None:
    warnings.warn(f"{shortened(repr(str(path)))} {short.said}.", stacklevel=3)


def _pictures(path: str | os.PathLike[str], reader: str | None) -> Pictures:
    if not is_stream(path) and not os.path.isfile(path):
        raise DataNotFoundError(f"There is no video {str(path)!r}.")
    if reader is not None:
        check_choice("reader", reader, READERS, DataError)
    for name in READERS if reader is None else (reader,):
        try:
            module = __import__(name)
        except ImportError:
            continue
        return _read_with_av(module, path) if name == "av" else _read_with_opencv(module, path)
    raise DataNotFoundError(
        "Reading videos needs PyAV or OpenCV, and neither is installed. Install both with `pip install "
        "'ciao_peft[video]'`."
    )


def sample_frames(path: str | os.PathLike[str], count: int, reader: str | None = None) -> list[tuple[int, Image.Image]]:
    """Reads `count` frames spread evenly over a video: the middle one of each of `count` equal parts.

    A video with fewer frames gives all it has. Where some could not be read, a warning says how many.

    Args:
        path: The video file.
        count: Number of frames, 1 or more.
        reader: As for `read_frames`.

    Returns:
        Number of the frame in the video, counted from 0, and the frame as an RGB image; in order of time.

    Raises:
        DataError: the file has no frame that can be read, or `count` is no number of frames.
    """
    frames, short = sampled_frames(path, count, reader)
    if short is not None:
        _warn(path, short)
    return frames


def sampled_frames(
    path: str | os.PathLike[str], count: int, reader: str | None = None
) -> tuple[list[tuple[int, Image.Image]], Shortfall | None]:
    """As `sample_frames`; a second value says what could not be read, instead of a warning.

    Args:
        path, count, reader: As for `sample_frames`.

    Raises:
        DataError: as for `sample_frames`.
    """
    if count < 1:
        raise DataError(f"`count` must be 1 frame or more; got {count!r}.")
    # Two passes rather than what the header says: headers are wrong, and clips are too long to keep whole.
    times = [seconds for seconds, _ in _pictures(path, reader)]
    if not times:
        raise DataError(f"{str(path)!r} has no frame that can be read.")
    places = set(frame_places(len(times), min(count, len(times))))
    frames = [(index, picture()) for index, (_, picture) in enumerate(_pictures(path, reader)) if index in places]
    return frames, shortfall(announced(path), times)


def frame_places(total: int, count: int) -> list[int]:
    """Chooses the frames that stand for a clip: the middle one of each of `count` equal parts.

    A clip with fewer frames gives all it has, and then repeats its last one.

    Args:
        total: Number of frames of the clip, 1 or more.
        count: Number of frames to choose, 1 or more.

    Returns:
        `count` numbers from 0 to `total - 1`, in ascending order.

    Example:
        >>> frame_places(20, 4), frame_places(3, 5)
        ([2, 7, 12, 17], [0, 1, 2, 2, 2])
    """
    if total < count:
        return [min(place, total - 1) for place in range(count)]
    return [(2 * part + 1) * total // (2 * count) for part in range(count)]


def _read_with_av(av: Any, path: str | os.PathLike[str]) -> Pictures:
    def upright(frame: Any) -> Image.Image:
        image = frame.to_image()
        turn = int(getattr(frame, "rotation", 0) or 0)
        return image.rotate(turn, expand=True) if turn % 360 else image

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{str(path)!r} has no picture, only {len(container.streams)} other stream(s).")
            for frame in container.decode(video=0):
                yield frame.time, partial(upright, frame)
    except av.error.FFmpegError as error:
        raise DataError(f"{str(path)!r} cannot be read as a video: {error}.") from None


def _read_with_opencv(cv2: Any, path: str | os.PathLike[str]) -> Pictures:
    from PIL import Image

    capture = cv2.VideoCapture(str(path))

    def picture() -> Image.Image:
        return Image.fromarray(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))

    try:
        if not capture.isOpened():
            raise DataError(f"{str(path)!r} cannot be read as a video.")
        first = True
        while capture.grab():
            seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            yield (seconds if seconds > 0 or first else None), picture
            first = False
    finally:
        capture.release()
