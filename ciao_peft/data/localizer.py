"""Faces out of pictures: where they are, which one counts, and what to do when there is none."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..checking import check_choice
from ..errors import DataError, DataNotFoundError

if TYPE_CHECKING:
    from PIL import Image

MISSING = ("nearest", "skip", "whole", "error")
_INSTALL = "Install it with `pip install 'ciao_peft[video]'`, or give `detector` a function of your own."


class Box(NamedTuple):
    """A rectangle in pixels; x to the right, y down, from the upper left corner."""

    x: int
    y: int
    width: int
    height: int

    @property
    def area(self) -> int:
        """Pixels inside."""
        return max(0, self.width) * max(0, self.height)

    def overlap(self, other: Box) -> float:
        """Shared area over the area of both together, 0 to 1.

        Example:
            >>> Box(0, 0, 2, 2).overlap(Box(1, 0, 2, 2))
            0.3333333333333333
        """
        width = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        height = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        shared = max(0, width) * max(0, height)
        union = self.area + other.area - shared
        return shared / union if union else 0.0


Detector = Callable[[np.ndarray], Sequence[Sequence[float]]]
"""Takes `(H, W, 3)` uint8 RGB and gives x, y, width, height of each face, in pixels."""


def haar_detector(cascade: str | os.PathLike | None = None, *, scale: float = 1.1, neighbours: int = 5) -> Detector:
    """OpenCV's cascade of Haar features: the face localizer of the paper.

    Args:
        cascade: A cascade file; OpenCV 4's own frontal one when left out.
        scale: Factor between the sizes that are looked for; smaller is slower and finds more.
        neighbours: Hits that make a face; larger gives fewer false ones.

    Raises:
        DataNotFoundError: OpenCV, its cascade classifier or the cascade file is missing (version 5 ships neither).
    """
    cv2 = _opencv()
    if not hasattr(cv2, "CascadeClassifier"):
        raise DataNotFoundError(
            f"OpenCV {cv2.__version__} has no cascade classifier: version 5 moved it out. Install "
            f"'opencv-python-headless<5', or "
            "use `detector=` with YuNet's .onnx file or a function of your own."
        )
    path = Path(cascade) if cascade else Path(cv2.data.haarcascades) / "haarcascade_frontalface_default.xml"
    if not path.is_file():
        raise DataNotFoundError(
            f"There is no cascade file {str(path)!r}. OpenCV 4 brings its own: install 'opencv-python-headless<5', or "
            f"give the "
            "path of a haarcascade_frontalface_default.xml."
        )
    classifier = cv2.CascadeClassifier(str(path))
    if classifier.empty():
        raise DataError(f"{str(path)!r} is no Haar cascade.")

    def detect(image: np.ndarray) -> list[Box]:
        grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
        return [Box(*map(int, box)) for box in classifier.detectMultiScale(grey, scale, neighbours)]

    return detect


def yunet_detector(model: str | os.PathLike, *, threshold: float = 0.7) -> Detector:
    """OpenCV's YuNet network, from its .onnx file; finds more faces than Haar, turned ones too.

    Args:
        model: The file `face_detection_yunet_*.onnx` of OpenCV's model zoo.
        threshold: Score that makes a face, 0 to 1.

    Raises:
        DataNotFoundError: OpenCV or the file is missing.
    """
    cv2 = _opencv()
    if not Path(model).is_file():
        raise DataNotFoundError(f"There is no YuNet file {str(model)!r}.")
    try:
        network = cv2.FaceDetectorYN.create(str(model), "", (320, 320), threshold)
    except cv2.error as error:
        raise DataError(f"{str(model)!r} is no YuNet model that OpenCV {cv2.__version__} can read: {error}.") from None

    def detect(image: np.ndarray) -> list[Box]:
        network.setInputSize((image.shape[1], image.shape[0]))
        _, faces = network.detect(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR))
        return [] if faces is None else [Box(*(int(value) for value in face[:4])) for face in faces]

    return detect


class FaceLocalizer:
    """Finds the one face that counts in a picture, and cuts it out as a square.

    Args:
        detector: `"haar"`, the path of a YuNet .onnx or cascade .xml file, or any function from an RGB array to boxes.
        margin: Added around the box on every side, in shares of its longer side.
        max_side: Pictures are scaled down to this many pixels for detection only; crops come from the whole picture.
        size: Crops larger than this are scaled down to it; `None` keeps them.

    Example:
        >>> from PIL import Image
        >>> localizer = FaceLocalizer(lambda image: [(10, 10, 20, 20), (40, 10, 30, 30)], margin=0.0)
        >>> picture = Image.new("RGB", (100, 60))
        >>> localizer.locate(picture)  # the larger one
        Box(x=40, y=10, width=30, height=30)
        >>> localizer.locate(picture, previous=Box(12, 10, 20, 20))  # the one that was there before
        Box(x=10, y=10, width=20, height=20)
        >>> localizer.crop(picture, Box(40, 10, 30, 30)).size
        (30, 30)
    """

    def __init__(
        self,
        detector: str | os.PathLike | Detector = "haar",
        *,
        margin: float = 0.15,
        max_side: int = 640,
        size: int | None = None,
    ):
        if not -0.4 <= margin <= 2:
            raise DataError(f"`margin` must lie between -0.4 and 2; got {margin!r}.")
        if max_side < 32 or (size is not None and size < 8):
            raise DataError(
                f"`max_side` must be 32 pixels or more and `size` 8 or more; got {max_side!r} and {size!r}."
            )
        self.margin, self.max_side, self.size = margin, max_side, size
        self.detect = _detector(detector)

    def boxes(self, image: Image.Image) -> list[Box]:
        """All faces of a picture, in its own pixels."""
        shrink = min(1.0, self.max_side / max(image.size))
        small = image.convert("RGB")
        if shrink < 1:
            small = small.resize((max(1, round(image.width * shrink)), max(1, round(image.height * shrink))))
        found = []
        for face in self.detect(np.asarray(small)):
            values = [float(value) for value in face]
            if len(values) < 4 or not all(map(np.isfinite, values)):
                raise DataError(f"A detector must give x, y, width and height per face; it gave {face!r}.")
            box = Box(*(round(value / shrink) for value in values[:4]))
            if box.area:
                found.append(box)
        return found

    def locate(self, image: Image.Image, previous: Box | None = None) -> Box | None:
        """The largest face; after a `previous` one the face that overlaps it most. `None` if there is none."""
        boxes = self.boxes(image)
        if not boxes:
            return None
        if previous is not None and max(overlaps := [box.overlap(previous) for box in boxes]) > 0:
            return boxes[overlaps.index(max(overlaps))]
        return max(boxes, key=lambda box: box.area)

    def crop(self, image: Image.Image, box: Box) -> Image.Image:
        """The square around a box with its margin; what lies outside the picture is black."""
        from PIL import Image as Images

        side = max(box.width, box.height) * (1 + 2 * self.margin)
        left, top = box.x + (box.width - side) / 2, box.y + (box.height - side) / 2
        face = image.convert("RGB").crop((round(left), round(top), round(left + side), round(top + side)))
        if self.size is not None and max(face.size) > self.size:
            face = face.resize((self.size, self.size), Images.Resampling.BOX, reducing_gap=None)
        return face


def crop_faces(
    frames: Sequence[Image.Image], localizer: FaceLocalizer, missing: str = "nearest"
) -> list[tuple[int, Image.Image]]:
    """Follows one face through the frames of a clip and cuts it out of each.

    The face is the largest one of the first frame that has any; later the one where it was before. Frames without a
    face:

    - `"nearest"`: cut where it was in the nearest frame that has one;
    - `"skip"`: are left out;
    - `"whole"`: are used as they are;
    - `"error"`: are refused.

    Args:
        frames: In order of time.
        localizer: Finds and cuts.
        missing: One of the four above.

    Returns:
        Index into `frames` and face, of every frame that is not left out. Empty when no frame has a face, unless
        `missing` is `"whole"`.

    Raises:
        DataError: a frame has no face, and `missing` is `"error"`; or `missing` is none of the four.
    """
    check_choice("missing", missing, MISSING, DataError)
    boxes: list[Box | None] = []
    previous: Box | None = None
    for index, frame in enumerate(frames):
        box = localizer.locate(frame, previous)
        if box is None and missing == "error":
            raise DataError(f"There is no face in frame {index} of {len(frames)}.")
        boxes.append(box)
        previous = box or previous
    known = [index for index, box in enumerate(boxes) if box is not None]
    crops = []
    for index, (frame, box) in enumerate(zip(frames, boxes, strict=True)):
        if box is None and missing == "nearest" and known:
            box = boxes[min(known, key=lambda other: abs(other - index))]
        if box is not None:
            crops.append((index, localizer.crop(frame, box)))
        elif missing == "whole":
            crops.append((index, frame.convert("RGB")))
    return crops


def _detector(given: Any) -> Detector:
    if callable(given):
        return given
    if given == "haar":
        return haar_detector()
    path = Path(str(given))
    if path.suffix == ".onnx":
        return yunet_detector(path)
    if path.suffix == ".xml":
        return haar_detector(path)
    raise DataError(f"`detector` must be 'haar', the path of an .onnx or .xml file, or a function; got {given!r}.")


def _opencv() -> Any:
    try:
        import cv2
    except ImportError:
        raise DataNotFoundError(f"Finding faces needs OpenCV, which is not installed. {_INSTALL}") from None
    return cv2
