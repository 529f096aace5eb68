"""Brings faces to lie in the same way, as `ciao_peft.preprocessing.Alignment` does: for `runner.py`, with NumPy alone.

Landmarks by dlib's regression trees (Kazemi and Sullivan 2014), which `landmarks.npz` holds; chips as dlib cuts them.
"""

from __future__ import annotations

import io
import math

import numpy as np

__all__ = ["Aligner"]

_MEAN_FACE = (  # from the corner of a face's box, in its sides: dlib's means over many faces
    (0.8595674595992, 0.2134981538014),
    (0.6460604764104, 0.2289674387677),
    (0.1205750620789, 0.2137274526848),
    (0.3340850613712, 0.2290642403242),
    (0.4901123135679, 0.6277975316475),
)


class Aligner:
    """Aligns the face in a picture.

    Args:
        trees: Content of `landmarks.npz`.
        size: Side of a chip, in pixels.
        padding: Around the box of the mean face, in sides of the box.
        missing: `"whole"` leaves a picture without landmarks as it is, `"error"` refuses it.
    """

    def __init__(self, trees: bytes, size: int, padding: float, missing: str) -> None:
        with np.load(io.BytesIO(trees), allow_pickle=False) as file:
            self._trees = {name: file[name] for name in file.files}
        self._size, self._padding, self._missing = size, padding, missing

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """From `(H, W, 3)`, uint8, to a chip `(size, size, 3)`."""
        points = self.landmarks(pixels) if min(pixels.shape[:2]) > 1 else None
        chip = None if points is None else _chip(pixels, points, self._size, self._padding)
        if chip is None and self._missing == "error":
            raise ValueError("No landmarks of a face were found in the picture.")
        return pixels if chip is None else chip

    def landmarks(self, pixels: np.ndarray) -> np.ndarray:
        """Five landmarks of the face that fills a picture, `(5, 2)`, x and y in whole pixels."""
        trees, (height, width) = self._trees, pixels.shape[:2]
        size, corner = np.array([width - 1.0, height - 1.0]), np.array([0.5, 0.5])
        start = trees["shape"].reshape(5, 2)
        center = start.astype(np.float64)
        center -= center.mean(axis=0)
        turning = np.stack([center.ravel(), np.stack([-center[:, 1], center[:, 0]], axis=1).ravel()])
        turning /= (center**2).sum()
        shape = start.reshape(1, 10)
        for anchors, deltas, pairs, thresholds, leaves in zip(
            *(trees[name] for name in ("anchors", "deltas", "pixels", "thresholds", "leaves")), strict=True
        ):
            a, b = (turning @ shape[0].astype(np.float64)).astype(np.float32)
            x, y = np.ascontiguousarray(deltas.T)
            places = np.stack([a * x - b * y, b * x + a * y], axis=1) + shape.reshape(5, 2)[anchors.astype(np.int64)]
            at = np.floor(places * size + corner).astype(np.int64)
            outside = ((at < 0) | (at >= (width, height))).any(axis=1)
            at = np.clip(at, 0, (width - 1, height - 1))
            values = pixels[at[:, 1], at[:, 0]].astype(np.int16).sum(axis=1, dtype=np.int16) // 3
            values[outside] = 0
            first, second = (values[pairs[:, :, k].astype(np.int64)] for k in (0, 1))
            above = first - second > thresholds
            each, node = np.arange(len(pairs)), np.zeros(len(pairs), np.int64)
            for _ in range(4):
                node = 2 * node + 2 - above[each, node]
            ends = leaves.reshape(len(pairs), -1, 10)[each, node - 15]
            # One after the other in single precision, as dlib adds them: the sum of 500 numbers depends on that.
            shape = np.concatenate([shape, ends]).sum(axis=0, keepdims=True)
        return np.floor(shape.reshape(5, 2) * size + corner)


def _chip(pixels: np.ndarray, points: np.ndarray, size: int, padding: float) -> np.ndarray | None:
    """The similarity transform of the landmarks; the picture halved while it stays larger; then interpolated."""
    mean_face = (padding + np.array(_MEAN_FACE)) / (2 * padding + 1) * size
    center, target = mean_face.mean(axis=0), points.mean(axis=0)
    p, q = mean_face - center, points - target
    spread = float((p * p).sum())
    a = float((p * q).sum()) / spread
    b = float((p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).sum()) / spread
    matrix = np.array([[a, -b], [b, a]])
    shift = target - matrix @ center
    scale = math.hypot(matrix[0, 0], matrix[1, 0])
    if not (np.isfinite(matrix).all() and np.isfinite(shift).all()) or not 1e-3 < scale * size < 1e5:
        return None
    turn = matrix / scale
    middle, reach = matrix @ np.array([size / 2, size / 2]) + shift, np.full(2, (scale * size - 1) / 2)
    corners = np.array([middle - reach, middle + reach])
    halvings, grow, smaller = 0, 2, _halved(corners)
    while _area(smaller) > size * size:
        smaller, halvings, grow = _halved(smaller), halvings + 1, 2 * grow + 2
    signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    turned = middle + (signs * reach) @ turn.T
    low = np.maximum(turned.min(axis=0) - grow, 0)
    high = np.minimum(turned.max(axis=0) + grow, np.array(pixels.shape[1::-1]) - 1)
    (left, top), (right, bottom) = np.floor(low + 0.5).astype(int), np.floor(high + 0.5).astype(int) + 1
    if not (low <= high).all() or right - left < 2 or bottom - top < 2:
        return None
    cut, corners = pixels[top:bottom, left:right], corners - np.array([left, top])
    for _ in range(halvings):
        if min(cut.shape[:2]) <= 8:
            return None
        cut, corners = _half(cut), _halved(corners)
    return _interpolated(cut, corners, turn, size)


def _halved(corners: np.ndarray) -> np.ndarray:
    return corners / 2 - np.array([1.25, 0.75])  # dlib's rule


def _area(corners: np.ndarray) -> float:
    width, height = corners[1] - corners[0] + 1
    return max(0.0, width) * max(0.0, height)


def _half(pixels: np.ndarray) -> np.ndarray:
    """Blurred with the weights 1 4 6 4 1 each way: every second row and column."""
    values = pixels.astype(np.int64)
    for axis in (0, 1):
        values, count = np.moveaxis(values, axis, 0), (pixels.shape[axis] - 3) // 2
        parts = [weight * values[k : k + 2 * count - 1 : 2] for k, weight in enumerate((1, 4, 6, 4, 1))]
        values = np.moveaxis(sum(parts[1:], parts[0]), 0, axis)
    return (values >> 8).astype(np.uint8)


def _interpolated(pixels: np.ndarray, corners: np.ndarray, turn: np.ndarray, size: int) -> np.ndarray:
    """The turned rectangle as a chip, by bilinear interpolation as Pillow does it; black outside the picture."""
    center = corners.mean(axis=0)
    step = turn * ((corners[1] - corners[0]) / (size - 1))
    start = center + turn @ (corners[0] - center)
    offset = start + 0.5 - step @ np.array([0.5, 0.5])
    line, (height, width) = np.arange(size), pixels.shape[:2]
    across, down = line + 0.5, (line + 0.5)[:, None]
    x, y = (step[axis, 0] * across + step[axis, 1] * down + offset[axis] - 0.5 for axis in (0, 1))
    inside = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
    for axis, limit in ((0, width - 1), (1, height - 1)):  # nearer to the edge than half a pixel, dlib has black
        place = start[axis] + step[axis, 0] * line + (step[axis, 1] * line)[:, None]
        inside &= (place >= 0) & (place < limit)
    column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    dx, dy = (x - column)[:, :, None], (y - row)[:, :, None]
    left, right = np.clip(column, 0, width - 1), np.clip(column + 1, 0, width - 1)
    upper, lower = np.clip(row, 0, height - 1), np.clip(row + 1, 0, height - 1)
    values = pixels.astype(np.float64)
    above = values[upper, left] + (values[upper, right] - values[upper, left]) * dx
    below = values[lower, left] + (values[lower, right] - values[lower, left]) * dx
    chip = (above + (below - above) * dy).astype(np.uint8)
    chip[~inside] = 0
    return chip
