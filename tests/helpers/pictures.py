"""Pictures of noise, as arrays and as files."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ciao_peft import Preprocessing

PLAIN = Preprocessing(size=(4, 6), mean=(0.0,) * 3, std=(1.0,) * 3)
GRAY = Preprocessing(size=(4, 6), mode="L", mean=(0.0,), std=(1.0,))


def noise(height=50, width=40, channels=3, seed=0):
    """A random picture, smooth enough to be photographed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (7, 6, channels), dtype=np.uint8)
    image = Image.fromarray(coarse if channels > 1 else coarse[:, :, 0])
    return image.resize((width, height), Image.Resampling.BICUBIC)
