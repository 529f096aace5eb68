"""Follows people from frame to frame by where their faces are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..checking import check_number
from ..detection import Box
from ..errors import InputError

__all__ = ["Tracker"]

_LONGEST_GUESS = 0.5
"""Seconds for which a face is taken to move on as it did; who is lost for longer is looked for where that led."""


@dataclass
class _Track:
    number: int
    box: tuple[float, float, float, float]  # left, top, width, height
    time: float
    speed: tuple[float, float] = (0.0, 0.0)  # of its centre, pixels a second

    def guess(self, time: float) -> tuple[float, float, float, float]:
        ahead = min(time - self.time, _LONGEST_GUESS)
        return (self.box[0] + ahead * self.speed[0], self.box[1] + ahead * self.speed[1], *self.box[2:])

    def meet(self, box: Box, time: float) -> None:
        ahead = time - self.time
        if ahead > 0:
            moved = [(new + size / 2) - (old + was / 2) for new, size, old, was in _edges(box, self.box)]
            self.speed = (0.5 * (self.speed[0] + moved[0] / ahead), 0.5 * (self.speed[1] + moved[1] / ahead))
        self.box, self.time = (float(box.x), float(box.y), float(box.width), float(box.height)), time

    def scale(self, across: float, down: float) -> None:
        left, top, width, height = self.box
        self.box = (left * across, top * down, width * across, height * down)
        self.speed = (self.speed[0] * across, self.speed[1] * down)


def _edges(box: Box, other: tuple[float, float, float, float]) -> tuple[tuple[float, float, float, float], ...]:
    return (box.x, box.width, other[0], other[2]), (box.y, box.height, other[1], other[3])


class Tracker:
    """Gives each person the same number in all frames.

    A face moves on as it did before; it is the person whose guessed place it overlaps most, the largest overlap of all
    first. A face that overlaps nobody enough is a new person; numbers are never given twice. Who looks like whom is not
    asked: two people who meet and part again behind something may be confused.

    Args:
        overlap: Intersection over union that is enough, above 0 and up to 1.
        max_gap: Seconds after which who was not seen is forgotten, 0 or more.

    Raises:
        ConfigError: a setting is out of its range.

    Example:
        >>> tracker = Tracker()
        >>> tracker.update([Box(0, 0, 20, 20), Box(50, 0, 20, 20)], 0.0)
        [1, 2]
        >>> tracker.update([Box(48, 0, 20, 20), Box(90, 50, 20, 20), Box(3, 0, 20, 20)], 0.04)
        [2, 3, 1]
    """

    overlap: float
    max_gap: float

    def __init__(self, *, overlap: float = 0.2, max_gap: float = 1.0):
        check_number("overlap", overlap, float, 0.01, 1)
        check_number("max_gap", max_gap, float, 0)
        self.overlap, self.max_gap = overlap, max_gap
        self._tracks: list[_Track] = []
        self._last, self._time, self._size = 0, -math.inf, None

    def update(self, boxes: Sequence[Box], time: float, size: tuple[int, int] | None = None) -> list[int]:
        """Takes the faces of the next frame.

        Args:
            boxes: Where they are, in pixels.
            time: Of the frame, in seconds; not before that of the frame before.
            size: Width and height of the frame. Where it changes, the places of all people are scaled with it.

        Returns:
            The number of each, from 1.

        Raises:
            InputError: the frame is before the last one.
        """
        if time < self._time:
            raise InputError(f"Frames must be in order of time; one at {time:g} s follows one at {self._time:g} s.")
        if size is not None and self._size not in (None, size):
            for track in self._tracks:
                track.scale(size[0] / self._size[0], size[1] / self._size[1])
        self._size, self._time = size if size is not None else self._size, time
        self._tracks = [track for track in self._tracks if time - track.time <= self.max_gap]
        guesses = [track.guess(time) for track in self._tracks]
        pairs = [
            (_shared(box, guess), -track, face) for face, box in enumerate(boxes) for track, guess in enumerate(guesses)
        ]
        met: dict[int, _Track] = {}
        taken: set[int] = set()
        for shared, track, face in sorted(pairs, reverse=True):
            if shared < self.overlap:
                break
            if face not in met and track not in taken:
                taken.add(track)
                met[face] = self._tracks[-track]
        numbers = []
        for face, box in enumerate(boxes):
            if face in met:
                met[face].meet(box, time)
            else:
                self._last += 1
                met[face] = _Track(self._last, (float(box.x), float(box.y), float(box.width), float(box.height)), time)
                self._tracks.append(met[face])
            numbers.append(met[face].number)
        return numbers

    @property
    def followed(self) -> set[int]:
        """The numbers of the people who are not forgotten.

        Example:
            >>> tracker = Tracker(max_gap=1.0)
            >>> _ = tracker.update([Box(0, 0, 20, 20)], 0.0), tracker.update([], 0.9)
            >>> tracker.followed
            {1}
            >>> _ = tracker.update([], 1.1)
            >>> tracker.followed
            set()
        """
        return {track.number for track in self._tracks}


def _shared(box: Box, other: tuple[float, float, float, float]) -> float:
    """Intersection over union."""
    across = min(box.x + box.width, other[0] + other[2]) - max(box.x, other[0])
    down = min(box.y + box.height, other[1] + other[3]) - max(box.y, other[1])
    shared = max(0.0, across) * max(0.0, down)
    union = box.area + other[2] * other[3] - shared
    return shared / union if union > 0 else 0.0
