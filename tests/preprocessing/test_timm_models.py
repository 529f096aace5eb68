"""A timm model is fed as timm's own transform feeds it."""

from __future__ import annotations

import pytest
import torch

from ciao_peft import Preprocessing
from helpers.pictures import noise


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "nf_resnet26", "mobilenetv3_small_050", "ghostnet_050"])
def test_a_timm_model_is_fed_as_timms_own_transform_feeds_it(name):
    import timm

    model = timm.create_model(name, pretrained=False)
    preprocessing = Preprocessing.for_backbone(model)
    assert preprocessing is not None
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model), is_training=False)
    for source in ((300, 200), (100, 130)):
        picture = noise(*source)
        torch.testing.assert_close(preprocessing(picture)[0], transform(picture), rtol=0, atol=1e-5)


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
    from timm.data.config import resolve_data_config
    from timm.data.transforms_factory import create_transform

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
