"""Detectors of OpenCV: Haar features, the face localizer of the paper, and YuNet from a file of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, DataNotFoundError, MissingExtraError
from .boxes import Box, Detector

__all__ = ["haar_detector", "yunet_detector"]


def haar_detector(
    cascade: str | os.PathLike[str] | None = None, *, scale: float = 1.1, neighbours: int = 5
) -> Detector:
    """Makes a detector of OpenCV's cascade of Haar features: the face localizer of the paper.

    Args:
        cascade: A cascade file; OpenCV 4's own frontal one when left out.
        scale: Factor between the sizes that are looked for; smaller is slower and finds more.
        neighbours: Hits that make a face; larger gives fewer false ones.

    Returns:
        A function that takes `(H, W, 3)` uint8 RGB and returns a `Box` per face.

    Raises:
        MissingExtraError: OpenCV is missing.
        DataNotFoundError: its cascade classifier or the cascade file is missing (version 5 ships neither).
        DataError: the file is no Haar cascade.
    """
    cv2 = _opencv()
    if not hasattr(cv2, "CascadeClassifier"):
        raise DataNotFoundError(
            f"OpenCV {cv2.__version__} has no cascade classifier: version 5 moved it out. Install "
            "'opencv-python-headless<5', or use `detector=` with 'yunet' or a function of your own."
        )
    path = Path(cascade) if cascade else Path(cv2.data.haarcascades) / "haarcascade_frontalface_default.xml"
    if not path.is_file():
        raise DataNotFoundError(
            f"There is no cascade file {str(path)!r}. OpenCV 4 brings its own: install 'opencv-python-headless<5', or "
            "give the path of a haarcascade_frontalface_default.xml."
        )
    classifier = cv2.CascadeClassifier(str(path))
    if classifier.empty():
        raise DataError(f"{str(path)!r} is no Haar cascade.")

    def detect(image: np.ndarray) -> list[Box]:
        grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
        return [Box(*map(int, box)) for box in classifier.detectMultiScale(grey, scale, neighbours)]

    return detect


def yunet_detector(model: str | os.PathLike[str], *, threshold: float = 0.7) -> Detector:
    """Makes a detector of OpenCV's YuNet network; it finds more faces than Haar features do, turned ones too.

    Args:
        model: The file `face_detection_yunet_*.onnx` of OpenCV's model zoo.
        threshold: Score from which on a hit counts as a face, 0 to 1.

    Returns:
        A function that takes `(H, W, 3)` uint8 RGB and returns a `Box` per face.

    Raises:
        MissingExtraError: OpenCV is missing.
        DataNotFoundError: the file is missing.
        DataError: OpenCV cannot read the file as a YuNet model.
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


def _opencv() -> Any:
    try:
        import cv2
    except ImportError:
        what = "Finding faces without a `detector` of your own"
        raise MissingExtraError("OpenCV", what, "video") from None
    return cv2
