"""Whether as many frames of a video could be read as it announces: readers skip damaged parts in silence."""

from __future__ import annotations

import itertools
import os
import statistics
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Announced", "Shortfall", "announced", "shortfall"]

_HOLE = 5  # medians between two frames: more than a camera skips
_TAIL = 0.1  # of the length, where no count is exact: sound may go on for a while after the last picture
_TICKS = 1.2  # times as many frames as fit into its length at the rate at which they come
_LOST = 0.05  # of the frames: counts are rounded, and the first ones may only serve others


class Announced(NamedTuple):
    """What a video says of itself.

    Args:
        frames: How many it has; 0 where it does not say.
        exact: Whether it says so itself; if not, it follows from the rate and the length.
        seconds: How long they last; `None` where it does not say.
    """

    frames: int
    exact: bool
    seconds: float | None


class Shortfall(NamedTuple):
    """What of a video could not be read.

    Args:
        frames: How many frames are missing, 0 or more.
        said: What to say of the file after its name.
    """

    frames: int
    said: str


def announced(path: str | os.PathLike[str]) -> Announced:
    """What a video file says of itself; nothing where no library reads it.

    Args:
        path: A video file.
    """
    try:
        import av
        from av.error import FFmpegError
    except ImportError:
        return _announced_to_opencv(path)
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            rate, lengths = stream.average_rate, []
            if stream.duration is not None and stream.time_base is not None:
                lengths.append(float(stream.duration * stream.time_base))
            elif container.duration is not None:  # in microseconds; of all streams together
                lengths.append(container.duration / 1e6)
            if stream.frames and rate:  # the duration of a cut AVI is guessed from its size
                lengths.append(float(stream.frames / rate))
            seconds = max(lengths, default=None)
            guessed = round(seconds * rate) if seconds and rate else 0
            return Announced(stream.frames or guessed, stream.frames > 0, seconds)
    except (FFmpegError, IndexError):
        return Announced(0, False, None)


def _announced_to_opencv(path: str | os.PathLike[str]) -> Announced:
    try:
        import cv2
    except ImportError:
        return Announced(0, False, None)
    capture = cv2.VideoCapture(str(path))
    try:
        frames, rate = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))), capture.get(cv2.CAP_PROP_FPS)
        return Announced(frames, False, frames / rate if frames and rate > 0 else None)
    finally:
        capture.release()


def shortfall(announced: Announced, times: Sequence[float | None]) -> Shortfall | None:
    """What is missing of a video, where frames are: at its end, in a hole between two frames, or somewhere.

    Where nothing but the count is smaller, the video may be one whose frames do not come at an even rate.

    Args:
        announced: What the video says of itself.
        times: Seconds of each frame that could be read, `None` where nothing says so.

    Returns:
        `None` where nothing seems to be missing.

    Example:
        >>> times = [number / 25 for number in range(100) if not 40 <= number < 60]
        >>> print(shortfall(Announced(100, True, 4.0), times).said)
        has a hole from 1.6 s to 2.4 s; 80 of the 100 frames that it announces could be read
        >>> shortfall(Announced(80, True, 4.0), times[:-1])
    """
    frames, exact, seconds = announced
    shown = [time for time in times if time is not None]
    steps = [after - before for before, after in itertools.pairwise(shown)]
    usual = statistics.median(steps) if steps else 0.0
    if seconds and usual > 0 and frames > _TICKS * seconds / usual:  # an AVI of an uneven rate counts its ticks
        frames, exact = round(seconds / usual), False
    missing = max(0, frames - len(times))
    few = missing > max(2, _LOST * frames)
    tail = missing / frames / 2 if few and exact else _TAIL
    told = []
    if seconds and shown and shown[-1] + 2 * (usual or 1 / 30) < (1 - tail) * seconds:
        told.append(f"ends early: its last frame is at {shown[-1]:.1f} s, and it says it lasts {seconds:.1f} s")
    widest = max(range(len(steps)), key=steps.__getitem__) if steps else 0
    if few and steps and steps[widest] > _HOLE * usual > 0:
        told.append(f"has a hole from {shown[widest] + usual:.1f} s to {shown[widest + 1]:.1f} s")
    if not told:
        return None
    said = " and ".join(told)
    if missing:
        about = "the" if exact else "about"
        said += f"; {len(times):,} of {about} {frames:,} frames that it announces could be read"
    return Shortfall(missing, said)
