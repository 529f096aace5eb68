"""Finds faces in pictures, follows one through the frames of a clip, and cuts it out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..checking import check_choice
from ..detection import (
    Box,
    Detector,
    FaceFinder,
    FoundFace,
    detected,
    haar_detector,
    make_detector,
    yunet_detector,
)
from ..errors import DataError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["MISSING", "Box", "Detector", "FaceLocalizer", "crop_faces", "haar_detector", "yunet_detector"]

MISSING = ("nearest", "skip", "whole", "error")
"""What `crop_faces` can do with frames in which there is no face."""


class FaceLocalizer:
    """Finds the one face that counts in a picture, and cuts it out as a square.

    Args:
        detector: `"haar"`, `"yunet"`, `"dlib"`, the path of a YuNet .onnx or cascade .xml file, or any function from an
            RGB array to boxes.
        margin: Added around the box on every side, in shares of its longer side.
        max_side: Pictures are scaled down to this many pixels for detection only; crops come from the whole picture.
        size: Crops larger than this are scaled down to it; `None` keeps them.

    Attributes:
        detect: The detector as a function from `(H, W, 3)` uint8 RGB to x, y, width and height of each face.

    Raises:
        DataError: a setting is out of its range, or the detector is nothing that can detect.

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

    detect: Detector
    margin: float
    max_side: int
    size: int | None

    def __init__(
        self,
        detector: str | os.PathLike[str] | Detector = "haar",
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
        self.detect = make_detector(detector)

    def boxes(self, image: Image.Image) -> list[Box]:
        """Finds all faces of a picture.

        Args:
            image: A picture of any size and mode.

        Returns:
            A box per face in the pixels of the picture, whatever the size at which it was searched.

        Raises:
            DataError: the detector returned something other than boxes.

        Example:
            >>> from PIL import Image
            >>> localizer = FaceLocalizer(lambda image: [(10, 10, 20, 20)], max_side=640)
            >>> localizer.boxes(Image.new("RGB", (1280, 960)))  # searched at half its size
            [Box(x=20, y=20, width=40, height=40)]
        """
        return [box for box, _ in detected(image.convert("RGB"), self.detect, self.max_side)]

    def locate(self, image: Image.Image, previous: Box | None = None) -> Box | None:
        """Finds the one face that counts.

        Args:
            image: A picture of any size and mode.
            previous: Where the face was in the frame before.

        Returns:
            The face that overlaps the previous one most; without a previous or an overlapping one, the largest face.
            `None` if there is no face.
        """
        boxes = self.boxes(image)
        if not boxes:
            return None
        if previous is not None and max(overlaps := [box.overlap(previous) for box in boxes]) > 0:
            return boxes[overlaps.index(max(overlaps))]
        return max(boxes, key=lambda box: box.area)

    def crop(self, image: Image.Image, box: Box) -> Image.Image:
        """Cuts out the square around a box with its margin; what lies outside the picture is black.

        Args:
            image: A picture of any mode.
            box: In the pixels of the picture.

        Returns:
            A square RGB picture of `size` pixels a side at most.

        Example:
            >>> from PIL import Image
            >>> localizer = FaceLocalizer(lambda image: [], margin=0.5)
            >>> localizer.crop(Image.new("RGB", (100, 100)), Box(40, 40, 20, 10)).size
            (40, 40)
        """
        from PIL import Image as Images

        side = max(box.width, box.height) * (1 + 2 * self.margin)
        left, top = box.x + (box.width - side) / 2, box.y + (box.height - side) / 2
        face = image.convert("RGB").crop((round(left), round(top), round(left + side), round(top + side)))
        if self.size is not None and max(face.size) > self.size:
            face = face.resize((self.size, self.size), Images.Resampling.BOX, reducing_gap=None)
        return face

    def finder(self) -> FaceFinder:
        """A finder of all faces that cuts each out as this localizer does: for adapters that learned from its crops.

        Example:
            >>> FaceLocalizer(lambda image: [], margin=0.5).finder().square(FoundFace(Box(40, 40, 20, 10)))
            (30.0, 25.0, 40.0)
        """
        return _LocalizedFinder(self)


class _LocalizedFinder(FaceFinder):
    def __init__(self, localizer: FaceLocalizer):
        super().__init__(localizer.detect, max_side=localizer.max_side, margin=localizer.margin)
        self._localizer = localizer

    def square(self, face: FoundFace) -> tuple[float, float, float]:
        box, side = face.box, max(face.box.width, face.box.height) * (1 + 2 * self.margin)
        return box.x + (box.width - side) / 2, box.y + (box.height - side) / 2, side

    def crop(self, picture: Image.Image, face: FoundFace) -> Image.Image:
        return self._localizer.crop(picture, face.box)


def crop_faces(
    frames: Sequence[Image.Image], localizer: FaceLocalizer, missing: str = "nearest"
) -> list[tuple[int, Image.Image]]:
    """Follows one face through the frames of a clip and cuts it out of each.

    The face is the largest one in the first frame with a face; in later frames, the one that overlaps it most.
    `missing` says what happens to a frame without a face:

    - `"nearest"`: it is cut where the face is in the nearest frame with a face;
    - `"skip"`: it is left out;
    - `"whole"`: it is used as it is;
    - `"error"`: it is an error.

    Args:
        frames: Pictures in order of time.
        localizer: Finds the face and cuts it out.
        missing: One of the four above.

    Returns:
        Index into `frames` and face, for every frame that is not left out. Empty when no frame has a face, unless
        `missing` is `"whole"`.

    Raises:
        DataError: a frame has no face, and `missing` is `"error"`; or `missing` is none of the four.

    Example:
        >>> from PIL import Image
        >>> frames = [Image.new("RGB", (64, 64), colour) for colour in ("white", "black", "white")]
        >>> localizer = FaceLocalizer(lambda image: [(8, 8, 32, 32)] if image.any() else [], margin=0.0)
        >>> [(index, face.size) for index, face in crop_faces(frames, localizer, missing="skip")]
        [(0, (32, 32)), (2, (32, 32))]
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
    with_face = [index for index, box in enumerate(boxes) if box is not None]
    crops: list[tuple[int, Image.Image]] = []
    for index, (frame, box) in enumerate(zip(frames, boxes, strict=True)):
        if box is None and missing == "nearest" and with_face:
            box = boxes[min(with_face, key=lambda other: abs(other - index))]
        if box is not None:
            crops.append((index, localizer.crop(frame, box)))
        elif missing == "whole":
            crops.append((index, frame.convert("RGB")))
    return crops
