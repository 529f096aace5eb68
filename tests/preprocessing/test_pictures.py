"""Any kind of picture as values: its colours, depth and direction, and what is no picture."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from ciao_peft import Preprocessing
from ciao_peft.errors import DataError, DataNotFoundError
from ciao_peft.preprocessing import as_mode
from helpers.pictures import GRAY, PLAIN, noise


def saved(picture, form="PNG", **options):
    """The picture as it comes back from a file."""
    file = io.BytesIO()
    picture.save(file, form, **options)
    return Image.open(file)


# -- kinds of pictures -------------------------------------------------------------------------------------------------


def test_values_are_those_of_the_formula():
    preprocessing = Preprocessing(size=(1, 1), mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    values = preprocessing(np.array([[[0, 51, 255]]], dtype=np.uint8))
    expected = [(0 - 0.1) / 0.5, (0.2 - 0.2) / 0.25, (1 - 0.3) / 2]
    assert values.dtype == torch.float32
    assert values.flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_bgr_turns_the_channels_around_before_the_mean():
    pixel = np.array([[[0, 51, 255]]], dtype=np.uint8)
    values = Preprocessing(size=(1, 1), mode="BGR", mean=(1.0, 0.2, 0.0), std=(1.0,) * 3)(pixel)
    assert values.flatten().tolist() == pytest.approx([0, 0, 0], abs=1e-6)


def test_gray_becomes_three_equal_channels_and_colour_one_channel():
    gray = PLAIN(Image.new("L", (6, 4), 51))
    assert torch.equal(gray, torch.full((1, 3, 4, 6), 0.2))
    # Pillow's luma of pure green: (19595 * 0 + 38470 * 255 + 7471 * 0 + 32768) >> 16
    assert GRAY(Image.new("RGB", (6, 4), (0, 255, 0))).unique().item() == pytest.approx(150 / 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_parts_are_white_whatever_colour_hides_there(mode):
    picture = Image.new("RGBA", (6, 4), (0, 0, 0, 0))
    picture = picture.convert("P").convert("PA") if mode == "PA" else picture.convert(mode)
    if mode == "PA":
        picture.putalpha(Image.new("L", (6, 4), 0))
    assert picture.mode == mode
    assert torch.equal(PLAIN(picture), torch.ones(1, 3, 4, 6))


def test_half_transparent_black_is_gray():
    values = PLAIN(Image.new("RGBA", (6, 4), (0, 0, 0, 51)))
    assert values.unique().tolist() == pytest.approx([204 / 255])


def test_a_palette_is_looked_up_and_its_transparent_colour_is_white():
    picture = Image.new("P", (6, 4), 1)
    picture.putpalette([9, 9, 9, 255, 0, 51])
    assert PLAIN(saved(picture))[0, :, 0, 0].tolist() == pytest.approx([1, 0, 0.2])
    assert torch.equal(PLAIN(saved(picture, transparency=1)), torch.ones(1, 3, 4, 6))


def test_one_colour_marked_transparent_is_white():
    picture = saved(Image.new("RGB", (6, 4), (1, 2, 3)), transparency=(1, 2, 3))
    assert picture.mode == "RGB"
    assert torch.equal(PLAIN(picture), torch.ones(1, 3, 4, 6))


@pytest.mark.parametrize("as_file", [False, True], ids=["array", "png"])
def test_sixteen_bits_are_scaled_not_clipped(as_file):
    ramp = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)
    picture = saved(Image.fromarray(ramp)) if as_file else ramp
    expected = np.round(ramp / 257) / 255
    for preprocessing in (PLAIN, GRAY):
        values = preprocessing(picture)[0, 0].numpy()
        np.testing.assert_allclose(values, expected, atol=1e-6)
        assert len(np.unique(values)) == 24


def test_sixteen_bits_in_32_bit_integers_are_scaled_and_anything_larger_is_refused():
    assert GRAY(Image.fromarray(np.full((4, 6), 65535, dtype=np.int32))).unique().item() == 1
    with pytest.raises(DataError, match=r"must hold 16-bit gray; it has 0 to 70000"):
        GRAY(Image.fromarray(np.array([[0, 70000]], dtype=np.int32)))


def test_a_floating_point_picture_is_refused():
    with pytest.raises(DataError, match="has no known white"):
        GRAY(Image.fromarray(np.ones((4, 6), dtype=np.float32)))


def test_black_and_white_is_black_and_white():
    picture = Image.fromarray(np.array([[True, False, True]]))
    assert picture.mode == "1"
    assert np.asarray(as_mode(picture, "L")).tolist() == [[255, 0, 255]]


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "LAB"])
def test_other_colour_spaces_are_converted_as_pillow_does(mode):
    picture = noise().convert("CMYK") if mode == "CMYK" else noise().convert(mode) if mode != "LAB" else None
    if picture is None:
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        picture = ImageCms.applyTransform(noise(), ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    expected = np.asarray(picture.convert("RGB"))
    assert np.array_equal(np.asarray(as_mode(picture, "RGB")), expected)


def test_a_cmyk_jpeg_shows_the_colours_it_was_made_from():
    flat = Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK")
    picture = saved(flat, "JPEG", quality=100)
    assert picture.mode == "CMYK"
    pixel = Preprocessing(size=(1, 1), mean=(0.0,) * 3, std=(1.0,) * 3)(picture).flatten() * 255
    assert pixel.tolist() == pytest.approx([200, 40, 90], abs=3)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, None),
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (6, Image.Transpose.ROTATE_270),
        (8, Image.Transpose.ROTATE_90),
    ],
)
def test_a_picture_is_turned_upright(orientation, turn, tmp_path):
    picture, exif = noise(20, 30), Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "face.png", exif=exif)
    upright = picture if turn is None else picture.transpose(turn)
    preprocessing = PLAIN.replace(size=upright.size[::-1])
    assert torch.equal(preprocessing(tmp_path / "face.png"), preprocessing(upright))


def test_the_callers_picture_stays_as_it_was():
    picture = noise()
    before = picture.tobytes()
    PLAIN(picture)
    assert picture.tobytes() == before
    assert picture.size == (40, 50)


# -- what goes in ------------------------------------------------------------------------------------------------------


def test_pictures_paths_and_arrays_give_the_same_values(tmp_path):
    picture = noise()
    picture.save(tmp_path / "face.png")
    array = np.asarray(picture)
    forms = [picture, str(tmp_path / "face.png"), tmp_path / "face.png", array, torch.tensor(array)]
    together = PLAIN(forms)
    assert together.shape == (5, 3, 4, 6)
    assert all(torch.equal(one, together[0]) for one in together)
    assert all(torch.equal(PLAIN(form)[0], one) for form, one in zip(forms, together, strict=True))


@pytest.mark.parametrize("channels", [0, 1, 2, 3, 4])
def test_arrays_may_have_no_one_two_three_or_four_channels(channels):
    shape = (5, 7, channels) if channels else (5, 7)
    values = PLAIN(np.full(shape, 255, dtype=np.uint8))
    assert torch.equal(values, torch.ones(1, 3, 4, 6))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.zeros((3, 5, 7), np.uint8),
            r"got shape \(3, 5, 7\)\. Channels come last: pass `array.transpose\(1, 2, 0\)`",
        ),
        (np.zeros((5, 7, 5), np.uint8), r"must be \(H, W\) or \(H, W, 1 to 4\); got shape \(5, 7, 5\)\.$"),
        (np.zeros((2, 5, 7, 3), np.uint8), r"got shape \(2, 5, 7, 3\)"),
        (np.zeros((0, 7, 3), np.uint8), r"got shape \(0, 7, 3\)"),
        (np.zeros(7, np.uint8), r"got shape \(7,\)"),
        (
            np.zeros((5, 7, 3), np.float32),
            r"must be uint8 \(0 to 255\) or uint16; got float32\. For values between 0 and 1",
        ),
        (np.full((5, 7, 3), np.nan), r"got float64 \(with NaN or infinite values\)"),
        (torch.full((5, 7), torch.inf), r"got float32 \(with NaN or infinite values\)"),
        (np.zeros((5, 7, 3), np.int64), "uint8 or uint16; got an array of int64"),
        (np.array([["a", "b"]]), "got an array of <U1"),
        (7, "got int"),
        (None, "got NoneType"),
        ({"image": 1}, "got dict"),
    ],
)
def test_anything_that_is_no_picture_is_refused(array, message):
    with pytest.raises(DataError, match=message):
        PLAIN(array)


def test_an_empty_list_is_refused():
    with pytest.raises(DataError, match="the list is empty"):
        PLAIN([])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"no picture at '.*nobody\.png'"):
        PLAIN(tmp_path / "nobody.png")
    with pytest.raises(DataNotFoundError, match=r"Picture 1 of 2: There is no picture"):
        PLAIN([noise(), tmp_path / "nobody.png"])


def part_of(form, share):
    file = io.BytesIO()
    noise(200, 200).save(file, form)
    return file.getvalue()[: int(len(file.getvalue()) * share)]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<!doctype html><html>not found</html>",
        *(part_of(form, share) for form in ("JPEG", "PNG") for share in (0.01, 0.5, 0.9)),
    ],
    ids=["empty", "web page", *(f"{share} of a {form}" for form in ("JPEG", "PNG") for share in (0.01, 0.5, 0.9))],
)
def test_a_damaged_file_is_named_and_closed(content, tmp_path):  # an open one would be a ResourceWarning
    path = tmp_path / "face.img"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"'.*face\.img' cannot be read as a picture"):
        PLAIN(path)


@pytest.mark.parametrize("tag", [0x0100, 0x011A], ids=["a whole number", "a fraction"])
def test_a_tag_that_holds_a_text_instead_of_a_number_is_a_damaged_file(tag, tmp_path):
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x010F], exif[0x0112] = "abc", 6  # who made the camera, and how it was held
    noise().save(file, "JPEG", exif=exif)
    damaged = file.getvalue().replace(b"\x01\x0f\x00\x02", tag.to_bytes(2, "big") + b"\x00\x02", 1)
    (tmp_path / "face.jpg").write_bytes(damaged)
    with pytest.raises(DataError, match=r"'.*face\.jpg' cannot be read as a picture"):
        PLAIN(tmp_path / "face.jpg")
    with Image.open(io.BytesIO(damaged)) as it, pytest.raises(DataError, match="The picture cannot be decoded"):
        PLAIN(it)


def test_a_truncated_picture_already_opened_is_refused(tmp_path):
    with (
        pytest.raises(DataError, match="The picture cannot be decoded"),
        Image.open(io.BytesIO(part_of("PNG", 0.5))) as it,
    ):
        PLAIN(it)


def test_a_folder_is_no_picture(tmp_path):
    with pytest.raises(DataError, match="cannot be read as a picture"):
        PLAIN(tmp_path)


def test_one_pixel_fills_the_whole_input():
    assert torch.equal(PLAIN(np.full((1, 1), 51, np.uint8)), torch.full((1, 3, 4, 6), 0.2))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_palette_without_the_colour_that_is_see_through_is_an_error_of_ours(mode):
    picture = Image.new("P", (4, 4), 1)
    picture.info["transparency"] = 300
    with pytest.raises(DataError, match="cannot be decoded: palette index out of range"):
        as_mode(picture, mode)
