"""Converts dlib's file of five-point landmark trees into the small one of this package."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from ..door import read_file
from ..errors import AdapterFileError
from .dlib_format import DlibReader

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FILE", "POINTS", "SHA256", "SPLITS", "convert_landmarks", "packed", "parse_landmarks", "unpacked"]

FILE = "shape_predictor_5_face_landmarks.dat"
"""What dlib calls the file; dlib's author gave it to the public domain."""

SHA256 = "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888"
"""Of the file, which has 9,150,489 bytes."""

_MAX_BYTES = 32 * 2**20
POINTS, SPLITS = 5, 15
"""Landmarks, and splits of each tree."""

_MOST_CASCADES, _MOST_TREES, _MOST_PIXELS = 64, 1024, 4096


def convert_landmarks(source: str | os.PathLike[str]) -> bytes:
    """The content of this package's file of landmark trees, made from dlib's.

    It finds the same landmarks in 5.5 MB in place of 9.2, and in 4.6 MB inside a wheel.

    Args:
        source: dlib's file.

    Returns:
        A safetensors file's bytes.

    Raises:
        AdapterFileError: the file is missing, damaged or another one.

    Example:
        >>> try:
        ...     convert_landmarks("no/such/file.dat")
        ... except AdapterFileError as error:
        ...     print(error)
        'no/such/file.dat' is missing.
    """
    from safetensors.numpy import save

    content = read_file(source, _MAX_BYTES, error=AdapterFileError)
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256:
        raise AdapterFileError(
            f"'{os.fspath(source)}' is not {FILE}: its SHA-256 begins with {digest[:8]}, must with {SHA256[:8]}."
        )
    return save(packed(parse_landmarks(content, os.fspath(source))))


def parse_landmarks(content: bytes, name: str) -> dict[str, np.ndarray]:
    """Reads dlib's trees as they are: `shape`, `anchors`, `deltas`, `pixels`, `thresholds`, `leaves`.

    Args:
        content: The whole file.
        name: The file, for messages.

    Returns:
        Arrays whose first axis is the cascade: the shape that a face begins with `(10,)`; for each pixel that is looked
        at, its nearest landmark `(K, P)` and its way from there `(K, P, 2)`; for each split of each tree, which two
        pixels are compared `(K, T, 15, 2)` and with which threshold `(K, T, 15)`; what each leaf adds `(K, T, 16, 10)`.

    Raises:
        AdapterFileError: the file is damaged, or of another number of landmarks.

    Example:
        >>> parse_landmarks(b"", "trees.dat")
        Traceback (most recent call last):
        ...
        ciao_peft.errors.AdapterFileError: 'trees.dat' is cut off, or no file of dlib's of this kind (at byte 0). ...
    """
    import numpy as np

    reader = DlibReader(content, name)
    size = 2 * POINTS

    def vector() -> list[float]:
        reader.expect(-size, "length of a shape")  # dlib marks the sides of a matrix with a minus
        reader.expect(-1, "width of a shape")
        return [reader.real() for _ in range(size)]

    reader.expect(1, "version")
    shape = vector()
    pixels, thresholds, leaves = [], [], []
    cascades, trees = reader.count(_MOST_CASCADES, "cascades"), 0
    for _ in range(cascades):
        trees = _the_same(reader, "trees", reader.count(_MOST_TREES, "trees"), trees)
        for _ in range(trees):
            reader.expect(SPLITS, "number of splits")
            for _ in range(SPLITS):
                pixels.append((reader.count(_MOST_PIXELS, "pixels"), reader.count(_MOST_PIXELS, "pixels")))
                thresholds.append(reader.real())
            reader.expect(SPLITS + 1, "number of leaves")
            leaves += [vector() for _ in range(SPLITS + 1)]
    anchors, deltas, count = [], [], 0
    reader.expect(cascades, "number of cascades")
    for _ in range(cascades):
        count = _the_same(reader, "pixels", reader.count(_MOST_PIXELS, "pixels"), count)
        anchors.append([reader.count(POINTS - 1, "landmarks before it") for _ in range(count)])
    reader.expect(cascades, "number of cascades")
    for _ in range(cascades):
        reader.expect(count, "number of pixels")
        deltas.append([(reader.real(), reader.real()) for _ in range(count)])
    reader.end()
    places = np.array(pixels, np.int64).reshape(cascades, trees, SPLITS, 2)
    if places.max() >= count:
        raise reader.fail(f"compares pixel {places.max():,} of {count:,}")
    return {
        "shape": np.array(shape, np.float32),
        "anchors": np.array(anchors, np.int64),
        "deltas": np.array(deltas, np.float32),
        "pixels": places,
        "thresholds": np.array(thresholds, np.float32).reshape(cascades, trees, SPLITS),
        "leaves": np.array(leaves, np.float32).reshape(cascades, trees, SPLITS + 1, size),
    }


def _the_same(reader: DlibReader, what: str, found: int, before: int) -> int:
    if found < 1 or before not in (0, found):
        raise reader.fail(f"has {found} {what} where {before or 'some'} must be")
    return found


def packed(trees: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same trees in fewer bytes, and laid out so that archives compress them.

    Thresholds become whole numbers, which changes no answer: they are compared with whole numbers. Of the real numbers
    in the leaves every bit counts: a rounded one moves a pixel that is looked at now and then, and with it a landmark.

    Args:
        trees: As `parse_landmarks` returns them.

    Example:
        >>> import numpy as np
        >>> one = {"shape": np.zeros(10, "f4"), "anchors": np.zeros((1, 2), int), "deltas": np.zeros((1, 2, 2), "f4"),
        ...        "pixels": np.full((1, 1, 15, 2), 799), "thresholds": np.full((1, 1, 15), 3.7, "f4"),
        ...        "leaves": np.full((1, 1, 16, 10), 0.1, "f4")}
        >>> again = unpacked(packed(one))
        >>> again["thresholds"].max(), np.array_equal(again["leaves"], one["leaves"]), again["pixels"].max()
        (np.int8(3), True, np.int16(799))
    """
    import numpy as np

    return {
        "shape": trees["shape"].astype(np.float32),
        "anchors": trees["anchors"].astype(np.uint8),
        "deltas": trees["deltas"].astype(np.float32),
        "pixels": _planes(trees["pixels"].astype("<i2")),
        # A whole number is above 3.7 where it is above 3.
        "thresholds": np.floor(trees["thresholds"]).astype(np.int8),
        "leaves": _planes(trees["leaves"].astype("<f4")),
    }


def unpacked(file: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What `packed` made small, as arrays of numbers.

    Args:
        file: The tensors of the file.

    Returns:
        Arrays as those of `parse_landmarks`, with whole thresholds.
    """
    return {
        **file,
        "pixels": _numbers(file["pixels"], "<i2"),
        "leaves": _numbers(file["leaves"], "<f4"),
    }


def _planes(values: np.ndarray) -> np.ndarray:
    """The bytes of numbers, all first ones, then all second ones: `(bytes of a number, ...)`, uint8."""
    import numpy as np

    return np.ascontiguousarray(np.moveaxis(values[..., None].view(np.uint8), -1, 0))


def _numbers(planes: np.ndarray, kind: str) -> np.ndarray:
    import numpy as np

    return np.ascontiguousarray(np.moveaxis(planes, 0, -1)).view(kind)[..., 0]
