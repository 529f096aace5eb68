"""An image processor of transformers is followed to the same numbers, or refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ciao_peft import Preprocessing
from ciao_peft.errors import ConfigError
from helpers.pictures import GRAY, noise

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
