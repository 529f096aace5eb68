"""What an encoder is fed: any kind of picture, the same numbers as from Pillow, torchvision, timm and transformers."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from ciao_peft import Preprocessing
from ciao_peft.errors import ConfigError, DataError, DataNotFoundError
from ciao_peft.preprocessing import RESAMPLES, as_mode

PLAIN = Preprocessing(size=(4, 6), mean=(0.0,) * 3, std=(1.0,) * 3)
GRAY = Preprocessing(size=(4, 6), mode="L", mean=(0.0,), std=(1.0,))


def noise(height=50, width=40, channels=3, seed=0):
    """A random picture, smooth enough to be photographed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (7, 6, channels), dtype=np.uint8)
    image = Image.fromarray(coarse if channels > 1 else coarse[:, :, 0])
    return image.resize((width, height), Image.Resampling.BICUBIC)


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


# -- resizing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize("size", [(20, 30), (64, 64)], ids=["smaller", "larger"])
def test_resizing_is_pillows(resample, size):
    picture = noise()
    expected = picture.resize(size[::-1], Image.Resampling[resample.upper()])
    values = PLAIN.replace(size=size, resample=resample)(picture)
    assert torch.equal((values[0] * 255).round().byte(), torch.tensor(np.array(expected)).permute(2, 0, 1))


@pytest.mark.parametrize("source", [(50, 40), (40, 50), (31, 97), (64, 64)])
@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_center_and_squash_are_torchvisions(source, resample):
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    picture, mean, std = noise(*source), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    for crop_mode, resize in (("center", 36), ("squash", (36, 36))):
        reference = Compose(
            [Resize(resize, InterpolationMode(resample)), CenterCrop((32, 32)), ToTensor(), Normalize(mean, std)]
        )
        ours = Preprocessing(
            size=(32, 32), mean=mean, std=std, resample=resample, crop_pct=32 / 36, crop_mode=crop_mode
        )
        torch.testing.assert_close(ours(picture)[0], reference(picture), rtol=0, atol=1e-6)


def test_border_keeps_all_of_the_picture_and_fills_with_the_mean():
    preprocessing = Preprocessing(size=(4, 4), mean=(0.2, 0.4, 0.6), std=(1.0,) * 3, crop_mode="border")
    values = preprocessing(Image.new("RGB", (8, 4), "white"))[0]
    assert torch.equal(values[:, 1:3], (1 - torch.tensor([0.2, 0.4, 0.6])).view(3, 1, 1).expand(3, 2, 4))
    torch.testing.assert_close(values[:, [0, 3]], torch.zeros(3, 2, 4), atol=1e-6, rtol=0)


# -- as plain data -----------------------------------------------------------------------------------------------------

SETTINGS = [
    Preprocessing(),
    Preprocessing(size=(96, 48), mode="L", mean=(0.5,), std=(0.1,), resample="lanczos", crop_pct=0.9),
    Preprocessing(mode="BGR", mean=(0.36, 0.41, 0.51), std=(1 / 255,) * 3, crop_mode="center"),
]


@pytest.mark.parametrize("preprocessing", SETTINGS)
def test_what_is_written_as_json_reads_back_equal(preprocessing):
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


def test_an_unknown_a_missing_and_a_foreign_value_are_refused():
    data = Preprocessing().to_dict()
    with pytest.raises(ConfigError, match="unknown keys 'do_flip'; it has exactly these: 'crop_mode', 'crop_pct'"):
        Preprocessing.from_dict(data | {"do_flip": True})
    with pytest.raises(ConfigError, match="The preprocessing has no 'mode'"):
        Preprocessing.from_dict({key: value for key, value in data.items() if key != "mode"})
    with pytest.raises(ConfigError, match=r"`do_normalize` is always True here; got False"):
        Preprocessing.from_dict(data | {"do_normalize": False})
    with pytest.raises(ConfigError, match=r"`size` must be {'height': \.\.\., 'width': \.\.\.}; got 64"):
        Preprocessing.from_dict(data | {"size": 64})
    with pytest.raises(ConfigError, match=r"`resample` must be Pillow's number of a filter, 0 to 5; got 9"):
        Preprocessing.from_dict(data | {"resample": 9})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "RGBA"}, r"`mode` must be one of 'BGR', 'L', 'RGB'; got 'RGBA'"),
        ({"resample": "sharp"}, r"`resample` must be one of .*'nearest'; got 'sharp'"),
        ({"crop_mode": "left"}, r"`crop_mode` must be one of 'border', 'center', 'squash'; got 'left'"),
        ({"size": 64}, r"`size` must be height and width, two whole numbers from 1 up; got 64"),
        ({"size": (64, 0)}, r"`size` must be .*; got \(64, 0\)"),
        ({"size": (64.0, 64)}, r"`size` must be .*; got \(64\.0, 64\)"),
        ({"mean": (0.5,)}, r"`mean` must have 3 numbers for mode 'RGB'; got \(0\.5,\)"),
        ({"std": (0.5, 0.5, "x")}, "`std` must have 3 numbers"),
        ({"std": (0.5, 0.5, float("nan"))}, "`std` must have 3 numbers"),
        ({"std": (0.5, 0.0, 0.5)}, r"`std` must be above 0; got \(0\.5, 0\.0, 0\.5\)"),
        ({"mode": "L"}, r"`mean` must have 1 numbers for mode 'L'"),
        ({"crop_pct": 0}, r"`crop_pct` must be above 0; got 0"),
        ({"crop_pct": float("nan")}, r"`crop_pct` must be above 0; got nan"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Preprocessing(**changes)


def test_importing_it_brings_in_neither_pillow_nor_torch():
    code = (
        "import sys; from ciao_peft import Preprocessing; p = Preprocessing(); p.to_dict()\n"
        "assert not {'PIL', 'torch', 'numpy', 'timm', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- of timm and transformers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "nf_resnet26", "mobilenetv3_small_050", "ghostnet_050"])
def test_a_timm_model_is_fed_as_timms_own_transform_feeds_it(name):
    import timm

    model = timm.create_model(name, pretrained=False)
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model), is_training=False)
    for source in ((300, 200), (100, 130)):
        picture = noise(*source)
        values = Preprocessing.for_backbone(model)(picture)[0]
        torch.testing.assert_close(values, transform(picture), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"crop_mode": "border", "crop_pct": 0.9},
        {"crop_mode": "squash", "crop_pct": 0.95},
        {"crop_mode": "center", "crop_pct": 1.0},
        {"input_size": (3, 48, 80)},
        {"interpolation": "lanczos", "mean": (0.5,) * 3, "std": (0.5,) * 3},
    ],
)
@pytest.mark.parametrize("source", [(300, 200), (57, 130)])
def test_every_crop_of_timm_is_done(changes, source):
    from timm.data import create_transform, resolve_data_config

    config = resolve_data_config({"input_size": (3, 64, 64)} | changes)
    picture = noise(*source)
    values = Preprocessing.from_timm(config)(picture)[0]
    torch.testing.assert_close(values, create_transform(**config)(picture), rtol=0, atol=1e-5)


def test_a_timm_model_for_gray_pictures_is_fed_gray_ones():
    import timm

    model = timm.create_model("resnet18", pretrained=False, in_chans=1)
    preprocessing = Preprocessing.for_backbone(model)
    assert preprocessing.mode == "L"
    assert preprocessing.mean == pytest.approx([(0.485 + 0.456 + 0.406) / 3])
    assert model.eval()(preprocessing.replace(size=(32, 32))(noise())).shape == (1, 1000)


@pytest.mark.parametrize(
    ("name", "settings", "size"),
    [
        ("resnet18", {"stem_type": "deep"}, (3, 224, 224)),
        ("resnet18", {"stem_type": "deep", "in_chans": 1}, (1, 224, 224)),
        ("tresnet_m", {}, (3, 224, 224)),
        ("test_convnext", {"features_only": True}, (3, 160, 160)),
        ("test_maxvit", {"img_size": 64}, (3, 64, 64)),
    ],
)
def test_a_timm_model_is_fed_pixels_of_the_channels_and_sides_it_was_made_with(name, settings, size):
    import timm

    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False, **settings)
    assert Preprocessing.for_backbone(model).input_size == size


def test_a_timm_model_of_four_channels_is_fed_no_pictures():
    import timm

    with torch.device("meta"):
        model = timm.create_model("test_resnet", pretrained=False, in_chans=4)
    assert Preprocessing.for_backbone(model) is None


PROCESSORS = {
    "ViT": {"size": {"height": 48, "width": 32}},
    "BiT": {"size": {"shortest_edge": 40}, "crop_size": {"height": 36, "width": 36}},
    "ConvNext": {"size": {"shortest_edge": 56}},
    "ConvNext384": {"size": {"shortest_edge": 384}},
    "MobileNetV1": {},
    "MobileNetV2": {"size": {"shortest_edge": 73}, "crop_size": {"height": 64, "width": 64}},
    "EfficientNet": {},
    "EfficientNetCropped": {"do_center_crop": True, "rescale_offset": True, "include_top": False},
    "Levit": {},
    "PoolFormer": {},
    "MobileViT": {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}},
    "Segformer": {"size": {"height": 40, "width": 40}, "do_normalize": False},
}


@pytest.mark.parametrize("source", [(120, 90), (80, 200)])
@pytest.mark.parametrize("kind", PROCESSORS)
def test_a_processor_of_transformers_is_followed(kind, source):
    import transformers

    stem = {"BiT": "Bit"}.get(kind, kind.removesuffix("384").removesuffix("Cropped"))
    processor = getattr(transformers, f"{stem}ImageProcessorPil")(**PROCESSORS[kind])
    picture = noise(*source)
    expected = torch.tensor(np.array(processor(picture)["pixel_values"][0]))
    preprocessing = Preprocessing.from_image_processor(processor)
    values = preprocessing(picture)[0]
    assert values.shape == expected.shape
    torch.testing.assert_close(values, expected.float(), rtol=0, atol=1e-5)


# What older files, and some of today's, leave out is up to the class.
LEAVING_OUT = {
    "Beit": {"size": 48},
    "Bit": {"size": {"shortest_edge": 56}, "crop_size": 48},
    "CLIP": {"size": 56, "crop_size": 48, "do_center_crop": True},
    "ConvNext": {"size": 56},
    "DPT": {"size": 48},
    "DeiT": {"size": 256},
    "EfficientNet": {"size": 48},
    "Levit": {"size": 224, "do_center_crop": True},
    "MobileNetV1": {"size": {"shortest_edge": 256}},
    "MobileNetV2": {"size": 256, "do_center_crop": True},
    "MobileViT": {"size": 288, "do_normalize": True},
    "PoolFormer": {"size": 224, "do_resize_and_center_crop": True, "crop_pct": 0.9},
    "Pvt": {"size": 48},
    "Segformer": {"size": 48},
    "Siglip": {"size": {"height": 48, "width": 40}},
    "ViT": {"size": 48},
}


@pytest.mark.parametrize("kind", LEAVING_OUT)
def test_what_a_processors_file_leaves_out_is_what_its_class_does(kind):
    import transformers

    data = LEAVING_OUT[kind] | {"feature_extractor_type": f"{kind}FeatureExtractor"}
    processor, picture = getattr(transformers, f"{kind}ImageProcessorPil").from_dict({**data}), noise(120, 90)
    expected = torch.tensor(np.array(processor(picture)["pixel_values"][0]))
    values = Preprocessing.from_image_processor(data)(picture)[0]
    assert values.shape == expected.shape
    torch.testing.assert_close(values, expected.float(), rtol=0, atol=1e-5)


def test_levit_and_poolformer_cut_out_their_size_where_they_name_no_crop():
    # Shorter edges of int(256 / 224 * 112) and int(112 / 0.9); each file means 112.
    for kind, edge in (("Levit", 128), ("PoolFormer", 124)):
        data = {"size": 112, "do_center_crop": True, "feature_extractor_type": f"{kind}FeatureExtractor"}
        preprocessing = Preprocessing.from_image_processor(data)
        assert (preprocessing.size, preprocessing.crop_pct) == ((112, 112), pytest.approx(112 / edge))


def test_a_processor_that_uses_torchvision_is_followed_to_a_step_of_256():
    from transformers import ViTImageProcessor

    processor, picture = ViTImageProcessor(size={"height": 40, "width": 40}), noise(90, 120)
    expected = processor(picture, return_tensors="pt")["pixel_values"]
    preprocessing = Preprocessing.from_image_processor(processor)
    assert (preprocessing(picture) - expected).abs().max() * 127.5 < 2.01


def test_a_processors_file_and_its_dict_say_the_same(tmp_path):
    from transformers import ConvNextImageProcessor

    processor = ConvNextImageProcessor(size={"shortest_edge": 224})
    processor.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "preprocessor_config.json").read_text())
    one, two = Preprocessing.from_image_processor(processor), Preprocessing.from_image_processor(stored)
    assert one == two
    assert (one.size, one.crop_mode, one.resample, one.crop_pct) == ((224, 224), "center", "bicubic", 0.875)


def test_a_model_of_transformers_finds_the_file_it_was_loaded_with(tmp_path):
    from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic")
    model = ResNetForImageClassification(config)
    assert Preprocessing.for_backbone(model) is None
    model.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 40, "width": 24}).save_pretrained(tmp_path)
    loaded = ResNetForImageClassification.from_pretrained(tmp_path)
    assert Preprocessing.for_backbone(loaded).size == (40, 24)
    (tmp_path / "preprocessor_config.json").unlink()
    assert Preprocessing.for_backbone(loaded) is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"size": {"shortest_edge": 640}, "do_center_crop": False}, "keeps the ratio of the picture and cuts nothing"),
        ({"size": {"longest_edge": 640}}, "must have 'height' and 'width' or 'shortest_edge'"),
        ({"size": {"shortest_edge": 64, "longest_edge": 96}}, "must have 'height' and 'width' or 'shortest_edge'"),
        ({"size": {"height": 8, "width": 8}, "do_pad": True}, "asks for `do_pad`, which `Preprocessing` does not do"),
        ({"size": {"height": 8, "width": 8}, "do_resize": False}, "does not resize; an encoder needs one size"),
        (
            {"size": {"height": 8, "width": 8}, "do_normalize": False, "resample": 17},
            "`resample` must be Pillow's number of a filter",
        ),
        ({"size": 8, "image_mean": [0.5], "image_std": [0.5]}, "must have three numbers"),
        ({"size": 8}, "The image processor normalises, and its file does not say with which `image_mean`"),
        (
            {"size": {"height": 8, "width": 8}, "image_mean": 0.5, "image_processor_type": "MineImageProcessor"},
            "Mine image processor normalises, and its file does not say",
        ),
        ({"size": 8, "image_processor_type": "DPTImageProcessor", "keep_aspect_ratio": True}, "`keep_aspect_ratio`"),
        ({"size": 8, "image_processor_type": "SiglipImageProcessor"}, "Siglip image processor keeps the ratio"),
        (
            {"size": {"shortest_edge": 8}, "do_center_crop": True, "crop_size": 9, "do_normalize": False},
            "with a black border around",
        ),
        (
            {"size": 8, "do_center_crop": True, "crop_size": {"height": 4, "width": 6}, "do_normalize": False},
            "not one share of both sides",
        ),
    ],
)
def test_a_processor_that_cannot_be_followed_is_refused(data, message):
    with pytest.raises(ConfigError, match=message):
        Preprocessing.from_image_processor(data)


def test_a_backbones_own_word_comes_first():
    import timm

    model = timm.create_model("resnet18", pretrained=False)
    model.preprocessing = GRAY
    assert Preprocessing.for_backbone(model) is GRAY
    model.preprocessing = GRAY.to_dict()
    assert Preprocessing.for_backbone(model) == GRAY


def test_an_image_processor_carried_by_the_backbone_is_followed():
    model = torch.nn.Conv2d(3, 8, 3)
    model.image_processor = {"size": {"height": 8, "width": 6}, "image_mean": 0.5, "image_std": 0.5}
    assert Preprocessing.for_backbone(model).size == (8, 6)
