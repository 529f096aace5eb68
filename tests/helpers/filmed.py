"""Scenes of which a detector knows where the faces are, and videos of them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from ciao_peft import CIAOConfig, Preprocessing, get_ciao_model

from .fakes import tiny_backbone

PLAIN = Preprocessing(size=(16, 16), mean=(0.0,) * 3, std=(1.0,) * 3)
RED, BLUE = (250, 20, 20), (20, 20, 250)


def model_of_two_worlds(**changes):
    """A model with the classes "sad", "glad" and "calm" in the world "moods", and a value in the world "light"."""
    moods = {"num_labels": 3, "id2label": {0: "sad", 1: "glad", 2: "calm"}}
    config = CIAOConfig(problem_type="single_label_classification", **moods)
    model = get_ciao_model(tiny_backbone(), config, "moods", preprocessing=PLAIN.replace(**changes))
    model.add_adapter("light", CIAOConfig(problem_type="regression", num_labels=1, id2label={0: "light"}))
    return model.eval()


def scene(*places, size=(320, 240), side=48):
    """A grey picture with a square of one colour for each `(x, y, colour)`."""
    picture = Image.new("RGB", size, (110, 110, 110))
    for x, y, colour in places:
        picture.paste(colour, (x, y, x + side, y + side))
    return picture


def squares(image):
    """A detector that takes the red and the blue square for faces, the blue one first."""
    found = []
    for channel in (2, 0):
        rows, columns = np.nonzero((image[..., channel] > 180) & (image[..., 1] < 90) & (image[..., 2 - channel] < 90))
        if len(rows) > 16:
            x, y = columns.min(), rows.min()
            found.append((x, y, columns.max() - x + 1, rows.max() - y + 1, 0.5))
    return found


def film(path, pictures, times=None, codec="mpeg4"):
    """A video of pictures, each shown at its time, in seconds; 25 a second when left out."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = pictures[0].size
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_image(picture)
            frame.pts = round(1000 * (number / 25 if times is None else times[number]))
            frame.time_base = Fraction(1, 1000)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path
