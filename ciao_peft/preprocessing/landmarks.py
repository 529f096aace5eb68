"""Five landmarks of a face, found by dlib's regression trees: the corners of the eyes, and the base of the nose."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..checking import is_number
from ..errors import DataError, shortened
from ..packaged import packaged_bytes
from .landmark_file import POINTS, SPLITS, unpacked

if TYPE_CHECKING:
    import numpy as np

__all__ = ["TREES", "TREES_SHA256", "five_points", "landmark_trees", "similarity"]

TREES = Path(__file__).parent / "weights" / "five_points.safetensors"
"""The bundled trees, made by `landmark_file.convert_landmarks`."""

TREES_SHA256 = "bb25b2db8d504868e2b4bc2d8032b9c06c99ab3f36237419bc6427e251db5894"
"""Of the bundled trees."""


class _Cascade(NamedTuple):
    """One round of trees: all of them look at the same pixels, and each moves the shape by one of its leaves."""

    anchors: np.ndarray  # (P,), which landmark a pixel is near
    deltas: np.ndarray  # (2, P), its way from there, in sides of the face's box
    one: np.ndarray  # (T * 16,), of the two pixels that a split compares
    other: np.ndarray
    thresholds: np.ndarray
    leaves: np.ndarray  # (T * 16, 10)


def five_points(pixels: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """Finds the five landmarks of the face in a box, as dlib's `shape_predictor` does.

    The method is that of Kazemi and Sullivan (2014): a shape is moved by the leaves of 15 x 500 trees, which compare
    the brightness of pixels near the landmarks found so far. There is always an answer, also where there is no face.

    Args:
        pixels: `(H, W, 3)` RGB or `(H, W)` gray, uint8.
        box: Left, top, width and height of the face, in pixels; it may reach beyond the picture.

    Returns:
        `(5, 2)`, float64, x and y of each in whole pixels, as dlib rounds them: the outer and the inner corner of the
        eye on the right of the picture, the outer and the inner one on the left, and the base of the nose.

    Raises:
        DataError: the pixels have another shape or type, or the box is none.
        AdapterFileError: the bundled trees are missing or damaged.

    Example:
        >>> import numpy as np
        >>> five_points(np.full((100, 100, 3), 128, np.uint8), (10, 10, 80, 80)).shape
        (5, 2)
    """
    import numpy as np

    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)) or not pixels.size:
        raise DataError(f"Landmarks need (H, W, 3) or (H, W) of uint8; got {pixels.shape} of {pixels.dtype}.")
    if len(box) != 4 or not all(is_number(value, float, -1e6, 1e6) for value in box) or min(box[2:]) < 2:
        raise DataError(
            f"A face's box is left, top, width and height in pixels, the last two from 2; got {shortened(repr(box))}."
        )
    start, cascades = _trees()
    # dlib's right and lower edges are the last pixels inside.
    corner = np.array([[box[0] + 0.5], [box[1] + 0.5]])
    size = np.array([[box[2] - 1.0], [box[3] - 1.0]])
    height, width = pixels.shape[:2]
    limits, flat = np.array([[width], [height]], np.uint64), pixels.reshape(height * width, -1)
    # As `similarity` of the first shape and the present one; the sums over the first one are taken once.
    center = start.astype(np.float64)
    center -= center.mean(axis=0)
    turning = np.stack([center.ravel(), np.stack([-center[:, 1], center[:, 0]], axis=1).ravel()]) / (center**2).sum()
    shape = start.reshape(1, 10)
    for cascade in cascades:
        a, b = (turning @ shape[0].astype(np.float64)).astype(np.float32)
        x, y = cascade.deltas
        # Not as a product of matrices, which is rounded in another way than dlib's sums.
        places = np.stack([a * x - b * y, b * x + a * y])
        places += shape.reshape(5, 2).T.take(cascade.anchors, axis=1)
        at = np.floor(places * size + corner).astype(np.int64)
        seen = flat.take(at[1] * width + at[0], axis=0, mode="clip")
        values = seen[:, 0].astype(np.int16)
        if seen.shape[1] == 3:
            values += seen[:, 1]
            values += seen[:, 2]
            values //= 3
        outside = at.view(np.uint64) >= limits  # a negative place is a huge one
        if outside.any():
            values[outside.any(axis=0)] = 0
        above = values.take(cascade.one) - values.take(cascade.other) > cascade.thresholds
        codes = np.packbits(above, bitorder="little").view("<u2")  # one for each tree: its splits, bit by bit
        ends = _leaf_of_code().take(codes)
        ends += _first_leaves(len(ends))
        # One after the other in single precision, as dlib adds them: the sum of 500 numbers depends on that.
        shape = np.concatenate([shape, cascade.leaves.take(ends, axis=0)]).sum(axis=0, keepdims=True)
    return np.floor(shape.reshape(5, 2) * size.T + corner.T)


def similarity(points: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""The turn, scale and shift that bring points closest to others, by least squares.

    $$q \approx A p + t, \quad A = \begin{pmatrix} a & -b \\ b & a \end{pmatrix}$$

    Args:
        points: `(N, 2)`, not all at one place.
        targets: `(N, 2)`.

    Returns:
        `A` and `t` in float64.

    Example:
        >>> import numpy as np
        >>> matrix, shift = similarity(np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([[2.0, 3.0], [2.0, 5.0]]))
        >>> matrix.tolist(), shift.tolist()  # a quarter turn, twice as large
        ([[0.0, -2.0], [2.0, 0.0]], [2.0, 3.0])
    """
    import numpy as np

    points, targets = points.astype(np.float64), targets.astype(np.float64)
    center, target = points.mean(axis=0), targets.mean(axis=0)
    p, q = points - center, targets - target
    spread = float((p * p).sum())
    a = float((p * q).sum()) / spread
    b = float((p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).sum()) / spread
    matrix = np.array([[a, -b], [b, a]])
    return matrix, target - matrix @ center


def landmark_trees() -> dict[str, np.ndarray]:
    """The bundled trees, as arrays of numbers.

    Raises:
        AdapterFileError: they are missing or damaged.

    Example:
        >>> landmark_trees()["leaves"].shape  # rounds, trees, leaves, five times x and y
        (15, 500, 16, 10)
    """
    from safetensors.numpy import load

    return unpacked(load(packaged_bytes(TREES, TREES_SHA256, "that it was made with")))


@functools.cache
def _trees() -> tuple[np.ndarray, list[_Cascade]]:
    """The shape to begin with `(5, 2)`, and the cascades."""
    import numpy as np

    trees = landmark_trees()
    cascades = []
    for k in range(len(trees["leaves"])):
        # A sixteenth split that is never above its threshold makes the splits of a tree two bytes.
        pixels = np.pad(trees["pixels"][k], ((0, 0), (0, 1), (0, 0)))
        thresholds = np.pad(trees["thresholds"][k], ((0, 0), (0, 1)))
        cascades.append(
            _Cascade(
                anchors=trees["anchors"][k].astype(np.int64),
                deltas=np.ascontiguousarray(trees["deltas"][k].T),
                one=np.ascontiguousarray(pixels[:, :, 0].astype(np.int64).ravel()),
                other=np.ascontiguousarray(pixels[:, :, 1].astype(np.int64).ravel()),
                thresholds=thresholds.astype(np.int16).ravel(),
                leaves=trees["leaves"][k].reshape(-1, 2 * POINTS),
            )
        )
    return trees["shape"].reshape(-1, 2), cascades


@functools.cache
def _leaf_of_code() -> np.ndarray:
    """In which of its 16 leaves a tree ends, by the bits of its splits: bit 0 for the first, its children 1 and 2."""
    import numpy as np

    codes, node = np.arange(2**16), np.zeros(2**16, np.int64)
    for _ in range(4):
        node = 2 * node + 2 - (codes >> node & 1)
    return node - SPLITS


@functools.cache
def _first_leaves(trees: int) -> np.ndarray:
    import numpy as np

    return np.arange(0, trees * (SPLITS + 1), SPLITS + 1)
