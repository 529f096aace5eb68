"""Cuts a face out of a picture by the box that a dataset gives."""

from __future__ import annotations

import io
import os
from typing import Any

from ..door import open_file
from ..errors import DataError
from ..preprocessing.pictures import MAX_PICTURE_BYTES

__all__ = ["cropped"]


def cropped(
    path: str | os.PathLike[str], face_box: tuple[int, int, int, int] | None, size: int
) -> dict[str, Any] | None:
    """The face in its box, as `datasets` takes a picture in memory.

    Args:
        path: The picture.
        face_box: x, y, width and height in pixels; what lies outside the picture is cut off.
        size: A larger face is scaled down to this many pixels a side.

    Returns:
        The face as PNG under `"bytes"`; `None` if there is no box, or it has no pixel of the picture.

    Raises:
        DataError: the picture cannot be read.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> path = Path(tempfile.mkdtemp(), "a.png")
        >>> Image.new("RGB", (40, 30)).save(path)
        >>> cropped(path, (10, 10, 20, 20), 16)["bytes"][1:4]
        b'PNG'
        >>> cropped(path, (50, 10, 20, 20), 16) is None
        True
    """
    from PIL import Image

    if face_box is None:
        return None
    x, y, width, height = face_box
    with open_file(path, MAX_PICTURE_BYTES, error=DataError) as file, Image.open(file) as image:
        box = max(0, x), max(0, y), min(image.width, x + width), min(image.height, y + height)
        if box[0] >= box[2] or box[1] >= box[3]:
            return None
        face = image.convert("RGB").crop(box)
    face.thumbnail((size, size), Image.Resampling.LANCZOS)
    png = io.BytesIO()
    face.save(png, "PNG", compress_level=1)
    return {"bytes": png.getvalue(), "path": None}
