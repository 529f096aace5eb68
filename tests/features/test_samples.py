"""What tells pictures apart: two that an encoder is fed differently never count as one."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
import torch
from PIL import Image

from ciao_peft import CIAOConfig, Preprocessing, cache_features, get_ciao_model
from ciao_peft.errors import DataError, FeatureCacheError
from ciao_peft.features import Samples, samples_of
from helpers.fakes import SIZE, tiny_backbone

SQUARE = Preprocessing(size=SIZE[1:], mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


def palette_picture(colour, **info):
    picture = Image.new("P", (18, 20))
    picture.putpalette([*colour, 0, 0, 0])
    picture.info |= info
    return picture


def held(orientation):
    """A picture as a camera writes it that was held this way."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.arange(18 * 18 * 3).reshape(18, 18, 3).astype(np.uint8)).save(file, "PNG", exif=exif)
    return Image.open(file)


def one_colour_see_through(colour):
    picture = Image.new("RGB", (18, 20), (9, 9, 9))
    picture.info["transparency"] = colour
    return picture


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: palette_picture((255, 0, 0)), lambda: palette_picture((0, 0, 255))),
        (lambda: palette_picture((255, 0, 0)), lambda: palette_picture((255, 0, 0), transparency=0)),
        (lambda: palette_picture((9, 0, 0)).convert("PA"), lambda: palette_picture((0, 9, 0)).convert("PA")),
        (lambda: one_colour_see_through((9, 9, 9)), lambda: one_colour_see_through((8, 9, 9))),
        (lambda: held(1), lambda: held(6)),
    ],
    ids=["palette", "transparent index", "palette with alpha", "transparent colour", "orientation"],
)
def test_pictures_of_the_same_numbers_that_are_fed_differently_are_other_pictures(one, other, tmp_path):
    config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
    model = get_ciao_model(tiny_backbone(), config, input_size=SIZE, preprocessing=SQUARE)
    assert np.array_equal(np.asarray(one()), np.asarray(other()))
    assert not torch.equal(SQUARE(one()), SQUARE(other()))
    cache_features(model, [{"image": one(), "label": 0}] * 2, tmp_path / "stored")
    cache_features(model, [{"image": one(), "label": 0}] * 2, tmp_path / "stored")
    with pytest.raises(FeatureCacheError, match="other pictures"):
        cache_features(model, [{"image": other(), "label": 0}] * 2, tmp_path / "stored")


@pytest.mark.parametrize(
    ("mode", "shape", "dtype"),
    [("RGB", (20, 18, 3), "u1"), ("L", (20, 18), "u1"), ("RGBA", (20, 18, 4), "u1"), ("I;16", (20, 18), "<u2")],
)
def test_what_was_stored_of_plain_pictures_is_still_found(mode, shape, dtype):
    array = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    picture = Image.fromarray(array)
    content = f"{mode}\0{array.dtype.str}\0{shape}\0".encode() + array.tobytes()
    assert picture.mode == mode
    assert Samples([{"image": picture}], SQUARE).digest(0) == hashlib.blake2b(content, digest_size=16).digest()


@pytest.mark.parametrize("error", [OSError("unrecognized data"), ValueError("bad"), SyntaxError("broken PNG")])
def test_a_damaged_picture_in_the_first_row_is_an_error_that_says_so(error):
    class Damaged:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            raise error

    with pytest.raises(DataError, match="Sample 0 of the dataset cannot be read"):
        samples_of(Damaged(), None)
