"""Cuts an upright face of one size out of a picture, given its landmarks, as dlib does."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .landmarks import similarity

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

__all__ = ["face_chip"]

# Where the landmarks of `five_points` lie in a face's box, from its upper left corner, in sides of the box: the means
# over many faces that dlib uses.
_MEAN_FACE = (
    (0.8595674595992, 0.2134981538014),
    (0.6460604764104, 0.2289674387677),
    (0.1205750620789, 0.2137274526848),
    (0.3340850613712, 0.2290642403242),
    (0.4901123135679, 0.6277975316475),
)


def face_chip(picture: Image, points: np.ndarray, size: int = 150, padding: float = 0.25) -> Image | None:
    """Turns, scales and shifts a picture so that its landmarks come to lie where those of a mean face are.

    The same steps as `get_face_chip` of dlib 20: the similarity transform of the landmarks by least squares; the
    picture halved, with the weights 1 4 6 4 1, as often as the face stays larger than the chip; then bilinear
    interpolation. What lies outside the picture is black.

    Args:
        picture: In mode RGB.
        points: `(5, 2)`, as `five_points` returns them.
        size: Side of the chip, in pixels.
        padding: Around the box of the mean face, in sides of the box.

    Returns:
        A picture of `size` x `size`; None where the landmarks lie all at one place, or so far outside or apart that
        nothing of the picture would be on it.

    Example:
        >>> import numpy as np
        >>> from PIL import Image
        >>> points = np.array([[74, 40], [60, 41], [25, 40], [39, 41], [49, 67]])
        >>> face_chip(Image.new("RGB", (100, 100), "white"), points).getpixel((75, 75))
        (255, 255, 255)
    """
    import numpy as np
    from PIL import Image

    mean_face = (padding + np.array(_MEAN_FACE)) / (2 * padding + 1) * size
    matrix, shift = similarity(mean_face, np.asarray(points, np.float64))
    scale = math.hypot(matrix[0, 0], matrix[1, 0])
    if not (np.isfinite(matrix).all() and np.isfinite(shift).all()) or not 1e-3 < scale * size < 1e5:
        return None
    turn = matrix / scale
    # The rectangle that becomes the chip: the centres of its first and last pixels, before it is turned.
    center = matrix @ np.array([size / 2, size / 2]) + shift
    reach = np.full(2, (scale * size - 1) / 2)
    corners = np.array([center - reach, center + reach])
    halvings, grow, smaller = 0, 2, _halved(corners)
    while _area(smaller) > size * size:
        smaller, halvings, grow = _halved(smaller), halvings + 1, 2 * grow + 2
    box = _around(center, turn, reach, grow, picture.size)
    if box is None:
        return None
    cut = picture.crop(box)
    corners = corners - np.array(box[:2])
    for _ in range(halvings):
        pixels = np.asarray(cut)
        if min(pixels.shape[:2]) <= 8:
            return None
        cut, corners = Image.fromarray(_half(pixels)), _halved(corners)
    return _interpolated(cut, corners, turn, size)


def _halved(corners: np.ndarray) -> np.ndarray:
    """Where corners are in a picture of half the size, by dlib's rule."""
    import numpy as np

    return corners / 2 - np.array([1.25, 0.75])


def _area(corners: np.ndarray) -> float:
    width, height = corners[1] - corners[0] + 1
    return max(0.0, width) * max(0.0, height)


def _around(
    center: np.ndarray, turn: np.ndarray, reach: np.ndarray, grow: int, size: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """The part of the picture that the turned rectangle needs: left, top, right and bottom, the last two outside."""
    import numpy as np

    signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    turned = center + (signs * reach) @ turn.T
    low = np.maximum(turned.min(axis=0) - grow, 0)
    high = np.minimum(turned.max(axis=0) + grow, np.array(size) - 1)
    (left, top), (right, bottom) = np.floor(low + 0.5).astype(int), np.floor(high + 0.5).astype(int) + 1
    if not (low <= high).all() or right - left < 2 or bottom - top < 2:
        return None
    return int(left), int(top), int(right), int(bottom)


def _half(pixels: np.ndarray) -> np.ndarray:
    """`(H, W, 3)`, uint8, blurred with the weights 1 4 6 4 1 each way: every second row and column of it."""
    import numpy as np

    (rows, columns), wide = pixels.shape[:2], np.uint16
    height, width = (rows - 3) // 2, (columns - 3) // 2
    flat = np.ascontiguousarray(pixels).reshape(rows, -1)
    even, odd = flat[0::2], flat[1::2]
    tall = np.add(odd[:height], odd[1 : height + 1], dtype=wide) << 2
    tall += np.multiply(even[1 : height + 1], 6, dtype=wide)
    tall += even[:height]
    tall += even[2 : height + 2]
    # One colour after the other: NumPy is slow where the innermost axis has three entries.
    planes = np.ascontiguousarray(tall.reshape(height, columns, 3).transpose(2, 0, 1))
    even, odd = planes[:, :, 0::2], planes[:, :, 1::2]
    sums = (odd[:, :, :width] + odd[:, :, 1 : width + 1]) << 2
    sums += 6 * even[:, :, 1 : width + 1]
    sums += even[:, :, :width]
    sums += even[:, :, 2 : width + 2]
    sums >>= 8  # the largest sum was 255 * 16 * 16, which 16 bits just hold
    return np.ascontiguousarray(sums.astype(np.uint8).transpose(1, 2, 0))


def _interpolated(picture: Image, corners: np.ndarray, turn: np.ndarray, size: int) -> Image:
    """The turned rectangle of a picture as a chip."""
    import numpy as np
    from PIL import Image

    center = corners.mean(axis=0)
    # From a pixel of the chip to a place in the picture; both count from the centres of their first pixels.
    step = turn * ((corners[1] - corners[0]) / (size - 1))
    start = center + turn @ (corners[0] - center)
    # Pillow counts from the corners of pixels.
    offset = start + 0.5 - step @ np.array([0.5, 0.5])
    coefficients = (step[0, 0], step[0, 1], offset[0], step[1, 0], step[1, 1], offset[1])
    chip = picture.transform((size, size), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    ends = start + np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * (size - 1) @ step.T
    limit = np.array(picture.size) - 1
    if (ends >= 0).all() and (ends < limit).all():
        return chip
    # Pillow takes the nearest pixel for half a pixel around the picture; there dlib's chips are black.
    line = np.arange(size)
    inside = np.ones((size, size), bool)
    for axis in (0, 1):
        place = start[axis] + step[axis, 0] * line + (step[axis, 1] * line)[:, None]
        inside &= (place >= 0) & (place < limit[axis])
    pixels = np.array(chip)
    pixels[~inside] = 0
    return Image.fromarray(pixels)
