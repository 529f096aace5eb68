"""One visitor: the worlds they chose, and what they showed. Knows nothing of the browser."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

from ..errors import AdapterNotFoundError, CIAOError, InputError, UndoError, quoted
from ..online import OnlineUpdate
from ..scenes import Face
from .cards import Answer, card, cards, heat_over, picture_uri, said_in_short, stage
from .controls import file_link, tools
from .learning import LearningWorld, Rehearsal, label_of
from .looking import Looker, Seen, Shot, picture_shot, video_shots
from .worlds import World, WorldPool

__all__ = ["MOST_LEARNING", "Visit"]

MOST_LEARNING = 4
"""Worlds that one visitor lets learn."""

_EMPTY = "Show a face: a picture, the webcam or a video."


class Visit:
    """What a page knows of one visitor.

    Args:
        pool: The page's worlds; a visit starts with the owner's.
        looker: Reads.
        rehearsal: Faces on which worlds that learn keep their answers; painted ones when left out.

    Attributes:
        keys: Of the visitor's worlds.
        note: A word on what was done last.
        offer: A link to what was saved last, as HTML; empty otherwise.

    Example:
        >>> from PIL import Image
        >>> visit = Visit(WorldPool(["ciao/painted-affect"]), Looker(lambda image: [(10, 10, 40, 40)]))
        >>> visit.show_picture(Image.new("RGB", (64, 64)))
        >>> visit.note
        'One face.'
        >>> visit.close()
    """

    def __init__(self, pool: WorldPool, looker: Looker, rehearsal: Rehearsal | None = None):
        self.pool, self.looker = pool, looker
        self.rehearsal = Rehearsal() if rehearsal is None else rehearsal
        self.keys = list(pool.own)
        self.note = self.offer = ""
        self._learning: dict[str, LearningWorld] = {}
        self._undone: str | None = None  # the world whose last correction was not kept
        self._added: list[str] = []
        self._seen: list[Seen] = []
        self._at, self._face, self._track = 0, 0, None
        self._lock = threading.RLock()

    keys: list[str]
    note: str
    offer: str
    _track: int | None

    # -- what is shown ---------------------------------------------------------------------------------------------

    def show_picture(self, picture: Any) -> None:
        """Reads a picture: a path or a PIL image; after an error nothing is shown any more."""
        with self._lock:
            self.clear()
            self._read([picture_shot(picture)])

    def show_video(self, path: str, progress: Callable[[float], object] | None = None) -> None:
        """Reads a video; after an error nothing is shown any more."""
        with self._lock:
            self.clear()
            self._read(list(video_shots(path)), progress)

    def clear(self) -> None:
        """Forgets what was shown."""
        with self._lock:
            self._seen, self.note, self.offer, self._undone = [], "", "", None
            self._at, self._face, self._track = 0, 0, None

    def choose(self, face: int) -> None:
        """Chooses the face that the cards are about, by its index in the picture."""
        with self._lock:
            if isinstance(face, int) and 0 <= face < len(self._faces()):
                self._face, self._track = face, self._faces()[face].track

    def go_to(self, seconds: float) -> None:
        """Goes to the moment of the video that is nearest."""
        with self._lock:
            if self._seen and self._seen[0].shot.time is not None:
                self._at = min(range(len(self._seen)), key=lambda at: abs((self._seen[at].shot.time or 0.0) - seconds))

    @property
    def times(self) -> list[float]:
        """Seconds of the moments of a video; empty for a picture."""
        return [seen.shot.time for seen in self._seen if seen.shot.time is not None]

    @property
    def now(self) -> float | None:
        """The moment that is shown, in seconds; None for a picture."""
        return self._seen[self._at].shot.time if self._seen else None

    # -- worlds ----------------------------------------------------------------------------------------------------

    def add(self, source: str) -> None:
        """Adds a world and reads what is shown in it.

        Raises:
            CIAOError: as `WorldPool.add` says; the worlds are then as they were.
        """
        world = self.pool.add(source)
        with self._lock:
            if world.key in self.keys:
                self.pool.release(world.key)
                self.note = f"{world.title} is here already."
                return
            self._added.append(world.key)
            self.keys.append(world.key)
            try:
                self._read([seen.shot for seen in self._seen])
            except CIAOError:
                self.remove(world.key)
                raise
            self.note = f"{world.title} was added."

    def remove(self, key: str) -> None:
        """Takes a world off this visitor's page; others keep it."""
        with self._lock:
            if key in self.keys:
                self.keys.remove(key)
                self.note = f"{key.rpartition('/')[2]} was removed."
                self._forget(key)
            if key in self._added:
                self._added.remove(key)
                self.pool.release(key)

    def close(self) -> None:
        """Lets go of everything."""
        with self._lock:
            self.clear()
            for key in [*self._learning]:
                self._forget(key)
            for key in [*self._added]:
                self.remove(key)

    # -- learning --------------------------------------------------------------------------------------------------

    def correct(self, key: str, said: object, *, word: str | None = None, face: int | None = None) -> OnlineUpdate:
        """Lets this visitor's copy of a world learn what is right for a face, and reads again what is shown.

        Args:
            key: The world's.
            said: As `ciao_peft.demo.learning.label_of` takes it.
            word: A new word in its place.
            face: The face's index in the picture; the chosen one's when left out.

        Raises:
            InputError: no face is shown, or there is no such face, label or room for another copy.
            CIAOError: as `LearningWorld.correct` says; the world is as it was.
        """
        with self._lock:
            if face is not None:
                self._check_face(face)
                self.choose(face)
            with self._held() as worlds:
                world = self._mine(worlds, key)
                faces = self._faces()
                if not faces:
                    raise InputError("There is no face to correct: show one first.")
                seen, own = self._seen[self._at], faces[self._chosen()]
                label = None if word is not None else label_of(said, own.answers[key] or {}, world.config)
                learning = self._learning.get(key) or self._begin(world)
                try:
                    update = learning.correct(self.looker.pixels(seen.shot.picture(), own, world), label, word=word)
                except CIAOError:
                    if not learning.corrections:
                        self._forget(key)
                    raise
            self._read_again()
            self.note, self.offer = _told(learning.world, update), ""
            self._undone = None if update.kept else key
            if not learning.corrections:
                self._forget(key)
            return update

    def undo(self, key: str) -> None:
        """Takes the last correction of a world back, and reads again what is shown.

        Raises:
            UndoError: there is none.
        """
        with self._lock:
            learning = self._learned(key)
            learning.undo()
            self._undone = None
            left = learning.corrections
            if not left:
                self._forget(key)
            self._read_again()
            self.offer = ""
            self.note = f"{key.rpartition('/')[2]} is as it was before its last correction; " + (
                f"it has learned {_counted(left)}." if left else "it has learned nothing."
            )

    def save(self, key: str, name: str) -> bytes:
        """A zip of what a world has learned, as an adapter under a new name.

        Raises:
            UndoError: it has learned nothing.
            AdapterNameError: it cannot be an adapter's name.
        """
        with self._lock:
            content = self._learned(key).zipped(name)
            self.note, self.offer = (
                "Here is a file of it, without anything of your faces: ",
                file_link(name.strip(), content),
            )
            return content

    def corrections(self, key: str) -> int:
        """How many corrections a world of this visitor has learned."""
        return self._learning[key].corrections if key in self._learning else 0

    def _check_face(self, face: object) -> None:
        if isinstance(face, bool) or not isinstance(face, int) or not 0 <= face < len(self._faces()):
            raise InputError(f"There are {len(self._faces())} faces, numbered from 0; got {quoted(face)}.")

    def _mine(self, worlds: list[World], key: str) -> World:
        found = next((world for world in worlds if world.key == key), None)
        if found is None:
            raise AdapterNotFoundError(key, self.keys)
        return found

    def _begin(self, world: World) -> LearningWorld:
        if len(self._learning) >= MOST_LEARNING:
            raise InputError(
                f"{MOST_LEARNING} worlds have learned from you already; undo what one of them learned first."
            )
        self._learning[world.key] = learning = LearningWorld(self.pool, world, self.rehearsal)
        return learning

    def _learned(self, key: str) -> LearningWorld:
        if key not in self._learning:
            raise UndoError(f"{quoted(key)} has learned nothing here.")
        return self._learning[key]

    def _forget(self, key: str) -> None:
        if key in self._learning:
            self._learning.pop(key).close()

    @contextmanager
    def _held(self) -> Iterator[list[World]]:
        """The visitor's worlds, their own copies in the place of those that learned."""
        with self.pool.held(self.keys) as worlds:
            yield [self._learning[world.key].world if world.key in self._learning else world for world in worlds]

    def _read_again(self) -> None:
        at, face, track = self._at, self._face, self._track
        self._read([seen.shot for seen in self._seen])
        self._at, self._face, self._track = at, face, track

    # -- in HTML and in JSON ---------------------------------------------------------------------------------------

    def stage(self) -> str:
        """The picture with its boxes."""
        with self._lock, self._held() as worlds:
            if not self._seen:
                return f'<div class="ciao-stage"><p>{escape(self.note or _EMPTY)}</p></div>'
            faces = self._faces()
            spoken = [_spoken(face, worlds) for face in faces]
            return stage(self._seen[self._at].shot.picture(), faces, self._chosen() if faces else None, spoken)

    def cards(self, maps: bool = True) -> str:
        """A card for each world.

        Args:
            maps: Whether to show where each world looks, which takes as long as reading again, and what to do about an
                answer. Neither is of use where the next picture comes at once.
        """
        with self._lock, self._held() as worlds:
            if not worlds:
                return '<p class="ciao-note">No world is left. Add one below.</p>'
            faces = self._faces()
            if not faces:
                return cards([card(world.key, world.config, None) for world in worlds])
            seen, face = self._seen[self._at], faces[self._chosen()]
            looks = self.looker.maps(worlds, seen, face) if maps else {}
            made = []
            for world in worlds:
                heat = picture_uri(heat_over(*looks[world.key])) if world.key in looks else None
                answer = face.answers.get(world.key)
                count = self.corrections(world.key)
                undone = self._undone == world.key
                below = tools(world.key, world.config, answer, count, undone) if maps and answer else ""
                made.append(card(world.key, world.config, answer, heat, self._course(world, face), below))
            return cards(made)

    def to_dict(self) -> dict[str, Any]:
        """What is shown now, as plain data for JSON: size of the picture, and each face with its answers."""
        with self._lock:
            if not self._seen:
                return {"width": 0, "height": 0, "faces": []}
            width, height = self._seen[self._at].size
            return {"width": width, "height": height, "faces": [face.to_dict() for face in self._faces()]}

    def described(self) -> list[dict[str, object]]:
        """The worlds, as plain data for JSON."""
        with self._lock, self._held() as worlds:
            return [world.described() for world in worlds]

    # -- inside ----------------------------------------------------------------------------------------------------

    def _read(self, shots: list[Shot], progress: Callable[[float], object] | None = None) -> None:
        if not shots or not self.keys:
            return
        with self._held() as worlds:
            self._seen = self.looker.read(worlds, shots, progress)
        most = max(len(seen.faces) for seen in self._seen)
        if shots[0].time is None:
            self.note = {0: "No face was found in this picture.", 1: "One face."}.get(
                most, f"{most} faces. Choose one in the picture."
            )
        else:
            self._at = next((at for at, seen in enumerate(self._seen) if seen.faces), 0)
            moments = f"{len(self._seen)} moments of {self._seen[-1].shot.time or 0:.1f} seconds"
            self.note = f"{moments}; " + ("no face was found." if most == 0 else f"at most {_counted(most)} at once.")

    def _faces(self) -> tuple[Face, ...]:
        return self._seen[self._at].faces if self._seen else ()

    def _chosen(self) -> int:
        """The same person, where they are followed; the largest face where they are not in the picture."""
        faces = self._faces()
        if self._track is not None:
            return next((index for index, face in enumerate(faces) if face.track == self._track), 0)
        return min(self._face, len(faces) - 1)

    def _course(self, world: World, face: Face) -> tuple[list[tuple[float, Answer]], float] | None:
        now = self._seen[self._at].shot.time
        if face.track is None or now is None:
            return None
        said: list[tuple[float, Answer]] = []
        for seen in self._seen:
            for other in seen.faces:
                answer = other.answers.get(world.key)
                if other.track == face.track and answer is not None and seen.shot.time is not None:
                    said.append((seen.shot.time, answer))
        return said, now


def _counted(faces: int) -> str:
    return "one face" if faces == 1 else f"{faces} faces"


def _told(world: World, update: OnlineUpdate) -> str:
    """What a correction did, in words for a visitor."""
    new = f" It has a new word: {', '.join(update.added)}." if update.added else ""
    if not update.kept:
        said = f"{world.title} did not learn it: {update.reason}. It is as it was."
    elif update.right_after == update.faces:
        said = f"{world.title} has learned it and is right about this face now."
    else:
        said = f"{world.title} has learned from it, and is not right about this face yet; correct it once more."
    return f"{said}{new} {_elsewhere(world, update)}".strip()


def _elsewhere(world: World, update: OnlineUpdate) -> str:
    """What was forgotten, on faces that it did not learn."""
    if update.guard_before is None or update.guard_after is None:
        return ""
    before, after, size = update.guard_before, update.guard_after, update.guard_size
    if world.config.problem_type == "single_label_classification":
        counts = [round(points * size / 100) for points in (before, after)]
        return f"Of {size} other faces it answered {counts[0]} as at first before this, and {counts[1]} after it."
    return (
        f"On {size} other faces it agreed with its start by {before:.0f} of 100 points before this, {after:.0f} after."
    )


def _spoken(face: Face, worlds: list[World]) -> str:
    parts = []
    for world in worlds:
        answer = face.answers.get(world.key)
        if answer is not None:
            parts.append(f"{world.title} {said_in_short(answer, world.config)}")
    return "; ".join(parts)
