"""From a picture to the faces in it, and from a face to what an encoder is fed."""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ..checking import check_number
from ..errors import DataError, MissingExtraError, quoted
from ..preprocessing import Preprocessing, as_mode, face_chip, five_points
from ..preprocessing.alignment import FIVE_POINTS, Alignment
from .boxes import Box, Detector
from .opencv import haar_detector, yunet_detector

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

__all__ = ["DETECTORS", "FaceFinder", "FoundFace", "detected", "dlib_detector", "finder_of", "make_detector"]

DETECTORS = ("yunet", "haar", "dlib")
"""The detectors that go by a name: a network in this package, OpenCV's Haar features, and dlib's gradients."""

MARGINS = {"haar": 0.02, "dlib": 0.06, "yunet": 0.06}
"""Around the box of each detector, so that the square holds what a picture of a face dataset does."""

_LARGEST = 4
"""How many times as large as its picture a face may be, by a detector that sees beyond the border."""


class FoundFace(NamedTuple):
    """A face that a detector found.

    Args:
        box: In the pixels of the picture; may reach beyond its border.
        score: How sure the detector is, 0 to 1; None where it does not say.

    Example:
        >>> FoundFace(Box(8, 8, 30, 40)).side
        34.64101615137755
    """

    box: Box
    score: float | None = None

    @property
    def side(self) -> float:
        """Side of a square as large as the box, in pixels."""
        return math.sqrt(max(0, self.box.area))


def make_detector(detector: str | os.PathLike[str] | Detector) -> Detector:
    """The detector that a setting means.

    Args:
        detector: One of `DETECTORS`, the path of a YuNet .onnx file or of a cascade .xml file for OpenCV, or a
            function from `(H, W, 3)` uint8 RGB to boxes, which is returned as it is.

    Returns:
        A function, as `Detector` describes it.

    Raises:
        DataError: it is none of these.
        DataNotFoundError: a file is missing.
        MissingExtraError: OpenCV or dlib is missing.

    Example:
        >>> import numpy as np
        >>> make_detector("yunet")(np.zeros((64, 64, 3), np.uint8))
        []
    """
    if callable(detector):
        return detector
    if detector == "yunet":
        from .yunet import YuNetDetector  # late: it brings torch along, which datasets alone do not need

        return YuNetDetector()
    if detector == "haar":
        return haar_detector()
    if detector == "dlib":
        return dlib_detector()
    suffix = Path(detector).suffix if isinstance(detector, (str, os.PathLike)) else ""
    if suffix == ".onnx":
        return yunet_detector(detector)
    if suffix == ".xml":
        return haar_detector(detector)
    raise DataError(
        "`detector` must be 'haar', 'yunet', 'dlib', the path of an .onnx or .xml file, or a function; got "
        f"{quoted(detector)}."
    )


def dlib_detector(*, upsample: int = 0, threshold: float = 0.0) -> Detector:
    """Makes a detector of dlib's histograms of gradients; it finds upright faces from about 80 pixels on.

    Args:
        upsample: How often pictures are doubled before they are searched, 0 to 4: each time, faces of half the size
            are found, in four times the time.
        threshold: What a hit must exceed; lower finds more, higher fewer.

    Returns:
        A function that takes `(H, W, 3)` uint8 RGB and returns x, y, width, height and a score for each face.

    Raises:
        MissingExtraError: dlib is missing.
    """
    check_number("upsample", upsample, int, 0, 4)
    try:
        import dlib
    except ImportError:
        raise MissingExtraError("dlib", "The detector 'dlib'", "dlib") from None
    find: Any = dlib.get_frontal_face_detector()  # pyright: ignore[reportAttributeAccessIssue]
    lock = threading.Lock()  # it keeps what it is computing in itself

    def detect(image: np.ndarray) -> list[tuple[float, ...]]:
        with lock:
            boxes, strengths, _ = find.run(image, upsample, threshold)
        # Its strength has no upper bound; from 1 on there is hardly ever no face.
        return [
            (box.left(), box.top(), box.width(), box.height(), min(1.0, max(0.0, strength)))
            for box, strength in zip(boxes, strengths, strict=True)
        ]

    return detect


def detected(picture: Image, detect: Detector, max_side: int, enlarge: float = 1.0) -> list[tuple[Box, list[float]]]:
    """What a detector finds in a picture that is searched at another size.

    Args:
        picture: In mode RGB.
        detect: As `Detector` describes it.
        max_side: Pictures are scaled down to this many pixels for the search.
        enlarge: Smaller ones are scaled up by this factor at most.

    Returns:
        For each face its box, in the pixels of the picture, and the numbers that followed it.

    Raises:
        DataError: the detector gave something other than boxes.

    Example:
        >>> from PIL import Image
        >>> detected(Image.new("RGB", (1280, 960)), lambda image: [(10, 10, 20, 20, 0.5)], 640)
        [(Box(x=20, y=20, width=40, height=40), [0.5])]
    """
    import numpy as np

    scale = min(max_side / max(picture.size), enlarge)
    searched = picture
    if scale != 1:
        searched = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    found: list[tuple[Box, list[float]]] = []
    given = detect(np.asarray(searched))
    for values in _numbers(given):
        box = Box(*(round(value / scale) for value in values[:4]))
        if max(box.width, box.height) > _LARGEST * max(picture.size):
            raise DataError(
                f"A detector gave a face of {box.width:.3g} x {box.height:.3g} pixels in a picture of "
                f"{picture.width} x {picture.height}; none is more than {_LARGEST} times as large as its picture."
            )
        if box.area:
            found.append((box, values[4:]))
    return found


def _numbers(given: Any) -> list[list[float]]:
    """What a detector gave, as numbers: four or more for each face."""
    try:
        faces = [[float(value) for value in face] for face in given]
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"A detector must give a list with x, y, width and height per face; it gave {quoted(given)}."
        ) from error
    for face in faces:
        if len(face) < 4 or not all(map(math.isfinite, face)):
            raise DataError(f"A detector must give x, y, width and height per face; it gave {quoted(face)}.")
    return faces


class FaceFinder:
    """Finds the faces of a picture, and makes of each what an encoder is fed.

    Args:
        detector: As for `make_detector`.
        max_side: Pictures are scaled down to this many pixels for the search only; faces are cut out of the whole
            picture. Larger finds smaller faces, and is slower.
        enlarge: Pictures are scaled up by this factor for the search, from 1 to 4, where `max_side` lets them.
        margin: Around a square as large as the box, on each side, in sides of it, -0.4 to 2. When left out, as much as
            makes the square of this detector hold what a picture of a face dataset does.
        min_size: Faces are left out whose box is narrower or lower than this many pixels.

    Attributes:
        detect: The detector as a function.

    Raises:
        ConfigError: a setting is out of its range.
        DataError, MissingExtraError: as `make_detector` says.

    Example:
        >>> from PIL import Image
        >>> finder = FaceFinder(lambda image: [(10, 10, 20, 20, 0.9), (40, 10, 3, 3, 0.7)], min_size=8)
        >>> [(face.box, face.score) for face in finder.find(Image.new("RGB", (100, 60)))]
        [(Box(x=10, y=10, width=20, height=20), 0.9)]
    """

    detect: Detector
    max_side: int
    enlarge: float
    margin: float
    min_size: int

    def __init__(
        self,
        detector: str | os.PathLike[str] | Detector = "yunet",
        *,
        max_side: int = 640,
        enlarge: float = 1.0,
        margin: float | None = None,
        min_size: int = 16,
    ):
        check_number("max_side", max_side, int, 32, 16384)
        check_number("enlarge", enlarge, float, 1, 4)
        check_number("min_size", min_size, int, 1, 16384)
        if margin is not None:
            check_number("margin", margin, float, -0.4, 2)
        self.detect = make_detector(detector)
        self.max_side, self.enlarge, self.min_size = max_side, float(enlarge), min_size
        self.margin = MARGINS.get(str(detector), MARGINS["yunet"]) if margin is None else margin
        # Of what others wrote nobody knows whether it may be called twice at once.
        self._alone = None if getattr(self.detect, "parallel", False) else threading.Lock()

    def find(self, picture: Image) -> list[FoundFace]:
        """Finds the faces of a picture.

        Args:
            picture: In any mode, upright.

        Returns:
            The faces, as the detector orders them.

        Raises:
            DataError: the picture cannot be decoded, or the detector gave something other than boxes.
        """
        picture = as_mode(picture, "RGB")
        if self._alone is None:
            found = detected(picture, self.detect, self.max_side, self.enlarge)
        else:
            with self._alone:
                found = detected(picture, self.detect, self.max_side, self.enlarge)
        width, height = picture.size
        faces = [FoundFace(box, min(1.0, max(0.0, more[0])) if more else None) for box, more in found]
        return [
            face
            for face in faces
            if min(face.box.width, face.box.height) >= self.min_size and face.box.overlap(Box(0, 0, width, height)) > 0
        ]

    def square(self, face: FoundFace) -> tuple[float, float, float]:
        """Left edge, upper edge and side of the square that stands for a face, in pixels.

        Example:
            >>> FaceFinder(lambda image: [], margin=0.5).square(FoundFace(Box(40, 40, 20, 20)))
            (30.0, 30.0, 40.0)
        """
        side = face.side * (1 + 2 * self.margin)
        return face.box.x + (face.box.width - side) / 2, face.box.y + (face.box.height - side) / 2, side

    def crop(self, picture: Image, face: FoundFace) -> Image:
        """Cuts out the square of a face; what lies outside the picture is black.

        Args:
            picture: In mode RGB.
            face: One that was found in it.

        Example:
            >>> from PIL import Image
            >>> finder = FaceFinder(lambda image: [], margin=0.25)
            >>> finder.crop(Image.new("RGB", (100, 100)), FoundFace(Box(40, 40, 20, 20))).size
            (30, 30)

        Raises:
            DataError: the square is larger than any picture that Pillow makes.
        """
        from PIL.Image import DecompressionBombError

        left, top, side = self.square(face)
        try:
            return picture.crop((round(left), round(top), round(left) + round(side), round(top) + round(side)))
        except DecompressionBombError as error:
            raise DataError(f"The face at {tuple(face.box)} is too large to be cut out: {error}") from error

    def fit(self, picture: Image, face: FoundFace, preprocessing: Preprocessing) -> np.ndarray:
        """What an encoder sees of a face: aligned where the preprocessing aligns, its square otherwise.

        The landmarks of an aligned face are looked for in its square, and its chip is cut out of the whole picture.

        Args:
            picture: In mode RGB.
            face: One that was found in it.
            preprocessing: The encoder's.

        Returns:
            `(height, width, C)`, uint8, for `Preprocessing.normalise`.

        Raises:
            DataError: the face has no landmarks, and the alignment refuses that.

        Example:
            >>> from PIL import Image
            >>> finder, face = FaceFinder(lambda image: []), FoundFace(Box(40, 40, 40, 40))
            >>> finder.fit(Image.new("RGB", (100, 100)), face, Preprocessing(size=(32, 32), align="five-points")).shape
            (32, 32, 3)
        """
        import numpy as np

        align = preprocessing.align
        if not isinstance(align, Alignment) or align.landmarks != FIVE_POINTS:
            return preprocessing.fit(self.crop(picture, face))
        left, top, side = self.square(face)
        chip = None
        if side >= 2:
            points = five_points(np.asarray(picture), (left, top, side, side))
            chip = face_chip(picture, points, align.size, align.padding)
        if chip is None and align.missing == "error":
            raise DataError(f"No landmarks were found of the face at {tuple(face.box)}.")
        plain = preprocessing.replace(align=None)
        return plain.fit(self.crop(picture, face) if chip is None else chip)


def finder_of(detector: Any) -> FaceFinder:
    """The finder that a setting means.

    Args:
        detector: A `FaceFinder`, which is returned as it is, a `ciao_peft.data.FaceLocalizer`, or what `make_detector`
            takes; `True` is the detector in this package.

    Raises:
        DataError, MissingExtraError: as `make_detector` says.

    Example:
        >>> finder = FaceFinder(lambda image: [])
        >>> finder_of(finder) is finder, finder_of("yunet").margin
        (True, 0.06)
    """
    if isinstance(detector, FaceFinder):
        return detector
    finder: Any = getattr(detector, "finder", None)  # of a localizer, which is of a later room
    if callable(finder):
        return cast("FaceFinder", finder())
    return FaceFinder("yunet" if detector is True else detector)
