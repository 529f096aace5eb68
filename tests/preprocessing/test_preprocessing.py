"""Resizing and cropping as Pillow and torchvision do it, and a preprocessing as plain data."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ciao_peft import Preprocessing
from ciao_peft.errors import ConfigError
from ciao_peft.preprocessing import RESAMPLES
from helpers.pictures import PLAIN, noise

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


@pytest.mark.parametrize("key", ["input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std"])
def test_a_data_config_of_timm_without_one_of_its_keys_is_an_error_of_ours(key):
    config = {"input_size": (3, 8, 8), "interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center"}
    config |= {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    Preprocessing.from_timm(config)
    del config[key]
    with pytest.raises(ConfigError, match=key):
        Preprocessing.from_timm(config)


@pytest.mark.parametrize("crop_mode", ["center", "border", "squash"])
def test_a_share_above_a_tiny_size_still_leaves_a_pixel(crop_mode):
    preprocessing = Preprocessing(size=(1, 2), crop_pct=5.0, crop_mode=crop_mode)
    assert preprocessing(Image.new("RGB", (9, 7))).shape[-3:] == (3, 1, 2)
