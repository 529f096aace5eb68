"""Faces drawn with whole numbers alone: the same bytes with every version of every library."""

from __future__ import annotations

import numpy as np


def drawn_face(size: int, seed: int = 0) -> np.ndarray:
    """`(size, size, 3)`, uint8: a face with eyes, nose and mouth, a little to one side and turned by seed."""
    y, x = np.mgrid[:size, :size].astype(np.int64)
    # In thousandths of the side, from the middle of the face; turned by a shear, which needs no fractions.
    u = (x * 1000) // size - 500 - 17 * (seed % 5 - 2)
    v = (y * 1000) // size - 500 - 11 * (seed % 3 - 1)
    u, v = u + v * (seed % 7 - 3) // 16, v - u * (seed % 7 - 3) // 16

    def ellipse(center: tuple[int, int], width: int, height: int) -> np.ndarray:
        return ((u - center[0]) * height) ** 2 + ((v - center[1]) * width) ** 2 < (width * height) ** 2

    picture = np.stack([60 + x * 50 // size, 70 + y * 40 // size, 90 + (x + y) * 20 // size], axis=2)
    parts = [((0, 0), 330, 430, (205 + v // 40, 160 + v // 50, 135 + u // 60))]
    for side in (-1, 1):
        parts += [((side * 140, -180), 80, 16, (90, 60, 45)), ((side * 140, -110), 70, 30, (240, 238, 235))]
        parts += [((side * 140, -110), 26, 28, (50, 40, 35))]
    parts += [
        ((0, 30), 34, 90, (190, 140, 118)),
        ((0, 105), 55, 22, (150, 100, 85)),
        ((0, 220), 120, 36, (165, 70, 75)),
    ]
    for center, width, height, colour in parts:
        inside = ellipse(center, width, height)
        for channel, value in enumerate(colour):
            picture[:, :, channel] = np.where(inside, value, picture[:, :, channel])
    noise = ((x * 73856093) ^ (y * 19349663) ^ ((seed + 1) * 83492791)) // 32 % 9 - 4
    return (picture + noise[:, :, None]).clip(0, 255).astype(np.uint8)
