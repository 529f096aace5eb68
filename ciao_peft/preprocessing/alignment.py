"""Brings every face to lie in the same way: landmarks, a similarity transform, a chip of one size."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..checking import check_choice, checked_keys, is_number, make_plain
from ..errors import ConfigError, DataError, shortened
from .chips import face_chip
from .landmarks import five_points
from .pictures import as_mode

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

__all__ = ["FIVE_POINTS", "Alignment", "Landmarks", "MissingFace", "aligned", "alignment_of", "mark_of"]

FIVE_POINTS = "five-points"
"""The landmarks that dlib's trees, which are in this package, find in the whole picture."""

Landmarks = Callable[["np.ndarray"], Any]
"""Takes `(H, W, 3)` uint8 RGB; gives the five landmarks `(5, 2)` as `five_points` does, or None without a face."""

MissingFace = Literal["whole", "error"]
"""What happens to a picture without landmarks: it is used whole, as it is, or it is an error."""

_OWN, _MARK, _MAX_SIDE = "own:", "ciao_peft aligned ", 1024
_DESCRIPTION = 0x010E  # the tag of EXIF that a copy is marked with


class _Count:
    """How many pictures of an alignment had no landmarks; said at the first, the second, the fourth and so on."""

    seen: int
    missed: int

    def __init__(self) -> None:
        self.seen = self.missed = 0
        self._lock = threading.Lock()

    def add(self, missed: bool) -> None:
        with self._lock:
            self.seen, self.missed = self.seen + 1, self.missed + missed
            seen, count = self.seen, self.missed
        if missed and not count & (count - 1):
            warnings.warn(
                f"No landmarks were found in {count:,} of {seen:,} pictures so far; such a picture is used whole, as "
                'it is. `Alignment(missing="error")` makes it an error.',
                stacklevel=5,
            )

    def __getstate__(self) -> dict[str, int]:
        return {"seen": self.seen, "missed": self.missed}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__init__()
        self.__dict__.update(state)


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Turns, scales and shifts faces so that their eyes and noses come to lie in the same places, as dlib does.

    Called with a picture, it gives the chip: `five_points` finds the corners of the eyes and the base of the nose,
    `face_chip` brings them to where those of a mean face are. Landmarks are looked for in the whole picture, which
    should be a crop that the face about fills. Faces in larger scenes need a localizer, see
    `ciao_peft.data.located_landmarks`.

    Plain data, which is stored with every adapter: an adapter that was trained on faces aligned in one way is refused
    where they are aligned in another way, or not at all.

    Args:
        landmarks: `"five-points"`, or a function from `(H, W, 3)` uint8 RGB to five landmarks `(5, 2)` in the order of
            `five_points`, or to None. A function is stored by its name only (`own:NAME`; its attribute `name` where it
            has one), and must be given again where the adapter is loaded.
        size: Side of the chip, in pixels, 16 to 1024. The encoder's `size` follows from the chip as from any picture.
        padding: Around the box of the mean face, in sides of the box, 0 to 1.
        missing: What happens to a picture without landmarks: `"whole"` uses it as it is, and says how many there are;
            `"error"` refuses it.

    Raises:
        ConfigError: a value that cannot work.

    Example:
        >>> from PIL import Image
        >>> Alignment()(Image.new("RGB", (96, 96), "gray")).size
        (150, 150)
        >>> def nobody(pixels):
        ...     return None
        >>> Alignment(landmarks=nobody, padding=0.5).to_dict()
        {'landmarks': 'own:nobody', 'size': 150, 'padding': 0.5, 'missing': 'whole'}
    """

    landmarks: str | Landmarks = FIVE_POINTS
    size: int = 150
    padding: float = 0.25
    missing: MissingFace = "whole"
    finder: Landmarks | None = field(default=None, compare=False, repr=False)
    count: _Count = field(default_factory=_Count, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        make_plain(self)
        if callable(self.landmarks):
            name = getattr(self.landmarks, "name", None) or getattr(self.landmarks, "__name__", "<lambda>")
            if not isinstance(name, str) or "<" in name:
                raise ConfigError(
                    "A function of landmarks needs a name, by which adapters remember it: give it an attribute `name`."
                )
            object.__setattr__(self, "finder", self.landmarks)
            object.__setattr__(self, "landmarks", _OWN + name)
        if self.landmarks != FIVE_POINTS and not (
            isinstance(self.landmarks, str)
            and self.landmarks.startswith(_OWN)
            and len(_OWN) < len(self.landmarks) <= 200
        ):
            raise ConfigError(f"`landmarks` must be {FIVE_POINTS!r} or a function; got {_short(self.landmarks)}.")
        if not is_number(self.size, int, 16, _MAX_SIDE):
            raise ConfigError(
                f"`size` of a chip must be a whole number from 16 to {_MAX_SIDE}; got {_short(self.size)}."
            )
        if not is_number(self.padding, float, 0, 1):
            raise ConfigError(f"`padding` must be a number from 0 to 1; got {_short(self.padding)}.")
        object.__setattr__(self, "padding", float(self.padding))
        check_choice("missing", self.missing, get_args(MissingFace))

    def __call__(self, picture: Image) -> Image:
        """Aligns the face in a picture.

        Args:
            picture: In mode RGB, upright.

        Returns:
            The chip, `size` x `size`; the picture itself where it is a copy that `ciao align` made in the same way, or
            where it has no landmarks and `missing` is `"whole"`.

        Raises:
            DataError: it has no landmarks and `missing` is `"error"`; it is a copy that was aligned in another way; or
                the function of landmarks gave something else than five points.
            ConfigError: the function of landmarks was not given, only its name.
        """
        if (mark := mark_of(picture)) is not None:
            if mark == self.mark:
                return picture
            raise DataError(f"The picture was aligned in another way: {shortened(mark)} there, {self.mark} here.")
        chip = self.chip(picture)
        self.count.add(chip is None and self.missing == "whole")
        if chip is None and self.missing == "error":
            raise DataError(
                'No landmarks of a face were found in the picture. `Alignment(missing="whole")` uses such pictures as '
                "they are."
            )
        return picture if chip is None else chip

    def chip(self, picture: Image) -> Image | None:
        """The chip of a picture, whatever `missing` says.

        Args:
            picture: In mode RGB, upright.

        Returns:
            A picture of `size` x `size`; None where there are no landmarks, or none that make a face.

        Raises:
            DataError: the function of landmarks gave something else than five points.
            ConfigError: the function of landmarks was not given, only its name.

        Example:
            >>> from PIL import Image
            >>> Alignment(size=64).chip(Image.new("RGB", (96, 96))).size
            (64, 64)
        """
        import numpy as np

        pixels = np.asarray(picture)
        if self.landmarks == FIVE_POINTS:
            points = five_points(pixels, (0, 0, *picture.size)) if min(picture.size) > 1 else None
        elif self.finder is None:
            raise ConfigError(
                f"These faces are aligned by a function of yours, {self.landmarks!r}, which is not stored. Give it "
                "again: `preprocessing.replace(align=Alignment(landmarks=FUNCTION))` as `preprocessing=`."
            )
        else:
            points = self.finder(pixels)
        if points is None:
            return None
        must = f"{self.landmarks!r} must give landmarks of shape (5, 2) or None; gave"
        try:
            points = np.asarray(points, np.float64)
        except Exception as error:  # a tensor with gradients has an error of its own
            raise DataError(f"{must} {_short(points)}: {error}.") from error
        if points.shape != (5, 2):
            raise DataError(f"{must} {points.shape}.")
        return face_chip(picture, points, self.size, self.padding) if np.isfinite(points).all() else None

    @property
    def mark(self) -> str:
        """What a copy that is aligned in this way says about itself: landmarks, size and padding, as JSON.

        Example:
            >>> Alignment().mark
            '{"landmarks": "five-points", "padding": 0.25, "size": 150}'
        """
        data = self.to_dict()
        del data["missing"]
        return json.dumps(data, sort_keys=True)

    def exif(self) -> bytes:
        """The EXIF data of a copy that is aligned in this way; `mark_of` reads it.

        Example:
            >>> b"five-points" in Alignment().exif()
            True
        """
        from PIL import Image

        exif = Image.Exif()
        exif[_DESCRIPTION] = _MARK + self.mark
        return exif.tobytes()

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain data for JSON; `from_dict` makes an equal object of it.

        Example:
            >>> Alignment.from_dict(Alignment(size=96).to_dict()) == Alignment(size=96)
            True
        """
        return {name: getattr(self, name) for name in ("landmarks", "size", "padding", "missing")}

    @classmethod
    def from_dict(cls, data: Any) -> Alignment:
        """Makes an `Alignment` of what `to_dict` returned.

        Args:
            data: Exactly its keys.

        Raises:
            ConfigError: a key is missing, unknown or has a value that it cannot have.

        Example:
            >>> Alignment.from_dict({"size": 96})
            Traceback (most recent call last):
            ...
            ciao_peft.errors.ConfigError: The alignment has no landmarks, missing, padding; ...
        """
        known = ("landmarks", "size", "padding", "missing")
        values = checked_keys("The alignment", data, known)
        if missing := sorted(set(known) - set(values)):
            raise ConfigError(f"The alignment has no {', '.join(missing)}; it has exactly {', '.join(known)}.")
        return cls(**values)


def alignment_of(setting: Any) -> Alignment | None:
    """The alignment that a setting means.

    Args:
        setting: None, `"five-points"`, a function of landmarks, or an `Alignment`.

    Raises:
        ConfigError: it is none of these.

    Example:
        >>> alignment_of("five-points") == Alignment(), alignment_of(None)
        (True, None)
    """
    if setting is None or isinstance(setting, Alignment):
        return setting
    named = isinstance(setting, str) and setting == FIVE_POINTS
    if named or (callable(setting) and not isinstance(setting, type)):
        return Alignment(landmarks=setting)
    raise ConfigError(
        f"`align` must be None, {FIVE_POINTS!r}, a function of landmarks or an Alignment; got {_short(setting)}."
    )


def aligned(picture: Image, alignment: Any) -> Image:
    """A picture as an encoder is to see it: aligned, or as it is.

    Args:
        picture: In any mode, upright.
        alignment: None leaves the picture as it is.

    Returns:
        The chip in mode RGB, or the picture.

    Raises:
        DataError: the picture has no landmarks, and the alignment refuses that; or it is a copy that `ciao align`
            made in another way than this one, which would be none for pictures as they come.

    Example:
        >>> from PIL import Image
        >>> aligned(Image.new("L", (96, 96)), Alignment(size=32)).size, aligned(Image.new("L", (96, 96)), None).size
        ((32, 32), (96, 96))
    """
    mark = mark_of(picture)
    if alignment is not None:
        # A copy is not converted first, which may drop what its file says about itself.
        return alignment(as_mode(picture, "RGB") if mark is None else picture)
    if mark is not None:
        raise DataError(
            f"The picture is an aligned copy ({shortened(mark)}), and this preprocessing aligns nothing: what "
            "learns from such copies must see all its pictures aligned. Give the model "
            '`preprocessing=encoder.preprocessing.replace(align="five-points")`, or the alignment of the copy.'
        )
    return picture


def mark_of(picture: Image) -> str | None:
    """How a picture was aligned, if it is a copy that `ciao align` wrote.

    Args:
        picture: As Pillow opened it, or a copy.

    Returns:
        The `mark` of the alignment, or None.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (8, 8)).save(file, "PNG", exif=Alignment().exif())
        >>> mark_of(Image.open(file)) == Alignment().mark
        True
    """
    exif = picture.info.get("exif")
    if not isinstance(exif, bytes) or _MARK.encode() not in exif:
        return None
    description = picture.getexif().get(_DESCRIPTION)
    return str(description).removeprefix(_MARK) if str(description).startswith(_MARK) else None


def _short(value: object) -> str:
    return shortened(repr(value))
