"""Finding faces: detectors by name, and what an encoder is fed of each face."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .boxes import Box as Box
    from .boxes import Detector as Detector
    from .finding import DETECTORS as DETECTORS
    from .finding import FaceFinder as FaceFinder
    from .finding import FoundFace as FoundFace
    from .finding import detected as detected
    from .finding import dlib_detector as dlib_detector
    from .finding import finder_of as finder_of
    from .finding import make_detector as make_detector
    from .opencv import haar_detector as haar_detector
    from .opencv import yunet_detector as yunet_detector
    from .yunet import YuNet as YuNet
    from .yunet import YuNetDetector as YuNetDetector

__all__ = [
    "DETECTORS",
    "Box",
    "Detector",
    "FaceFinder",
    "FoundFace",
    "YuNet",
    "YuNetDetector",
    "detected",
    "dlib_detector",
    "finder_of",
    "haar_detector",
    "make_detector",
    "yunet_detector",
]

_MODULE_OF = {
    "Box": "boxes",
    "DETECTORS": "finding",
    "Detector": "boxes",
    "FaceFinder": "finding",
    "FoundFace": "finding",
    "YuNet": "yunet",
    "YuNetDetector": "yunet",
    "detected": "finding",
    "dlib_detector": "finding",
    "finder_of": "finding",
    "haar_detector": "opencv",
    "make_detector": "finding",
    "yunet_detector": "opencv",
}

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
