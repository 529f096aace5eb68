"""Pictures that claim more than a memory holds, or are not what a file should be."""

from __future__ import annotations

import io
import os
import resource
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ciao_peft import Preprocessing
from ciao_peft.errors import ConfigError, DataError
from ciao_peft.preprocessing.pictures import MAX_PIXELS, MAX_RATIO


def png_of(width, height, rows=b""):
    """A PNG whose header says anything."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "size", [(1, 60_000), (60_000, 1), (1, 10_000_000), (2**31 - 1, 2**31 - 1), (8001, 8001), (9500, 9500)]
)
@pytest.mark.parametrize("crop_mode", ["squash", "center", "border"])
def test_a_picture_that_claims_too_much_is_refused_before_it_is_decoded(size, crop_mode, tmp_path):
    path = tmp_path / "face.png"
    path.write_bytes(png_of(*size))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"face.png"):
        Preprocessing(crop_mode=crop_mode)(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize("size", [(1, MAX_RATIO + 1), (MAX_RATIO + 1, 1), (MAX_PIXELS, 1)])
def test_an_open_picture_and_an_array_have_the_same_limits(size):
    for picture in (Image.new("L", size), np.zeros(size[::-1], dtype=np.uint8)):
        with pytest.raises(DataError, match="one side may be at most 2,000 times the other"):
            Preprocessing()(picture)


@pytest.mark.parametrize("size", [(1, MAX_RATIO), (MAX_RATIO, 1), (3, 4000)])
@pytest.mark.parametrize("settings", [{}, {"crop_pct": 0.5}, {"crop_pct": 2.0}, {"size": (64, 96)}])
def test_a_thin_picture_is_cropped_before_it_is_made_large(size, settings):
    colour = Image.new("RGB", size, (10, 200, 30))
    preprocessing = Preprocessing(crop_mode="center", **{"size": (512, 512)} | settings)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pixels = preprocessing.fit(colour)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
    height, width = (side // 2 for side in preprocessing.size)
    assert pixels[height, width].tolist() == [10, 200, 30]


def test_the_middle_of_a_thin_picture_is_the_one_that_resizing_it_whole_gives():
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (900, 10), dtype=np.uint8))
    preprocessing = Preprocessing(size=(40, 40), mode="L", mean=(0.5,), std=(0.5,), crop_mode="center")
    whole = np.asarray(picture.resize((40, 3600), Image.Resampling.BILINEAR))[1780:1820, :, None]
    assert np.abs(preprocessing.fit(picture).astype(int) - whole).max() <= 1


@pytest.mark.parametrize("size", [(48, 48), (640, 480), (100, 390), (390, 100), (17, 31)])
@pytest.mark.parametrize("side", [48, 224])
def test_an_ordinary_picture_keeps_its_bits(size, side):
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    fitted = Preprocessing(size=(side, side), crop_mode="center", crop_pct=0.875).fit(picture)
    edge = int(side / 0.875)  # the written-out way
    shape = (edge, int(edge * size[1] / size[0])) if size[0] <= size[1] else (int(edge * size[0] / size[1]), edge)
    resized = picture.resize(shape, Image.Resampling.BILINEAR)
    left, top = (round((have - side) / 2) for have in shape)
    assert np.array_equal(fitted, np.asarray(resized.crop((left, top, left + side, top + side))))


def test_settings_that_would_make_gigabytes_are_refused():
    for changes in ({"size": (10**6, 10**6)}, {"size": (10**400, 1)}, {"crop_pct": 1e-9}, {"mean": (10**400,) * 3}):
        with pytest.raises(ConfigError) as caught:
            Preprocessing(**changes)
        assert len(str(caught.value)) < 600


def jpeg(side=64):
    packed = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).save(packed, "JPEG")
    return packed.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        jpeg()[:1000],
        jpeg()[:20],
        png_of(8, 8, bytes(range(72)))[:60],
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    ],
)
def test_a_picture_that_is_cut_off_or_a_program_is_named(content, tmp_path):
    path = tmp_path / "face.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"face\.png"):
        Preprocessing()(path)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.mkdir()])
def test_what_is_no_file_is_no_picture(make, tmp_path):
    make(tmp_path / "face.png")
    with pytest.raises(DataError, match="and a file was expected"):
        Preprocessing()(tmp_path / "face.png")
