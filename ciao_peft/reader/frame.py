"""One picture of a source, and its faces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..scenes import Face
from .annotating import annotated

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Frame"]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One picture of a source, and its faces.

    Args:
        source: Name of the file, the address of a stream or `camera 0`; None for pictures without a name.
        index: Which picture of its source it is, from 0.
        time: Seconds from the start of its source; None for pictures that are no frames.
        picture: In mode RGB.
        faces: The largest first.
        classes: Names of the worlds that answer with one class of several.

    Example:
        >>> from PIL import Image
        >>> frame = Frame(source=None, index=0, time=None, picture=Image.new("RGB", (8, 6)), faces=())
        >>> frame.to_dict()
        {'source': None, 'frame': 0, 'time': None, 'width': 8, 'height': 6, 'faces': []}
    """

    source: str | None
    index: int
    time: float | None
    picture: Image
    faces: tuple[Face, ...]
    classes: frozenset[str] = frozenset()

    def to_dict(self) -> dict[str, Any]:
        """The frame as plain data for JSON, without its picture."""
        time = None if self.time is None else round(self.time, 4)
        return {
            "source": self.source,
            "frame": self.index,
            "time": time,
            "width": self.picture.width,
            "height": self.picture.height,
            "faces": [face.to_dict() for face in self.faces],
        }

    def annotated(self) -> Image:
        """A copy of the picture with the boxes, the numbers and the answers of its faces.

        Example:
            >>> from PIL import Image
            >>> frame = Frame(source=None, index=0, time=None, picture=Image.new("RGB", (8, 6)), faces=())
            >>> frame.annotated().size
            (8, 6)
        """
        return annotated(self.picture, self.faces, self.classes)
