"""Anybody's backbone: its preprocessing comes with it, is stored with the adapter and kept to."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ciao_peft import (
    AutoCIAOModel,
    CIAOModel,
    Preprocessing,
    cache_features,
    get_ciao_model,
    load_encoder,
)
from ciao_peft.encoders import save_encoder
from ciao_peft.errors import BackboneMismatchError, ConfigError, InputError
from helpers.anybodys import CONFIG, EXPECTED, PROCESSOR, of_timm, of_transformers, written

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


def of_torchvision():
    from torchvision.models import squeezenet1_1

    return squeezenet1_1(weights=None).features.eval()


def plain():
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2), nn.ReLU()).eval()


def loaded_by_transformers(tmp_path):
    from transformers import ResNetModel

    return ResNetModel.from_pretrained(written(of_transformers(), tmp_path / "theirs"))


def with_its_processor(tmp_path):
    model = of_transformers()
    model.image_processor = PROCESSOR
    return model


# How to get a backbone, and what `get_ciao_model` is told beside it.
WAYS = {
    "timm by name": lambda folder: (load_encoder("timm/test_resnet", pretrained=False), {}),
    "timm's model": lambda folder: (of_timm(), {}),
    "timm's model of gray pictures": lambda folder: (of_timm(in_chans=1), {}),
    "our encoder's folder": lambda folder: (
        load_encoder(save_encoder(load_encoder("small-face", pretrained=False), folder / "ours")),
        {},
    ),
    "transformers' folder": lambda folder: (load_encoder(written(of_transformers(), folder / "theirs")), {}),
    "transformers' model": lambda folder: (loaded_by_transformers(folder), {}),
    "transformers' model with its processor": lambda folder: (with_its_processor(folder), {}),
    "torchvision's model": lambda folder: (of_torchvision(), {"preprocessing": EXPECTED}),
    "a plain module": lambda folder: (plain(), {"preprocessing": EXPECTED.replace(mode="BGR", size=(32, 24))}),
}


def pictures(folder):
    """One gray face as files of every kind: gray, RGB, RGBA, palette, 16 bits, and lying on its side by EXIF."""
    gray = np.random.default_rng(0).integers(0, 256, (60, 50), dtype=np.uint8)
    face, exif = Image.fromarray(gray), Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    kinds = {
        "gray": face,
        "rgb": face.convert("RGB"),
        "rgba": face.convert("RGBA"),
        "palette": face.convert("P"),
        "sixteen": Image.fromarray(gray.astype(np.uint16) * 257),
        "turned": face.transpose(Image.Transpose.ROTATE_90),
    }
    folder.mkdir()
    for name, picture in kinds.items():
        picture.save(folder / f"{name}.png", **({"exif": exif} if name == "turned" else {}))
    return sorted(folder.iterdir())


@pytest.mark.parametrize("way", WAYS)
def test_its_preprocessing_comes_with_it_and_is_used_wherever_pictures_are_read(way, tmp_path):
    backbone, told = WAYS[way](tmp_path)
    model = get_ciao_model(backbone, CONFIG, **told).eval()
    assert model.preprocessing.input_size == model.input_size
    paths = pictures(tmp_path / "faces")
    pixel_values = model.preprocessing(paths)
    assert pixel_values.shape == (6, *model.input_size)
    for other in pixel_values[1:]:  # however the face was stored
        torch.testing.assert_close(other, pixel_values[0], rtol=0, atol=1e-5)
    with torch.no_grad():
        expected = model(pixel_values).logits.softmax(dim=1)
    found = torch.tensor([[answer[name] for name in CONFIG.id2label.values()] for answer in model.predict(paths)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    if model.traceable:
        import datasets

        rows = datasets.Dataset.from_dict({"image": [*map(str, paths)], "label": [0, 1, 2] * 2})
        rows = rows.cast_column("image", datasets.Image())
        features = cache_features(model, rows, dtype="float32")
        with torch.no_grad():
            again = model(features=stored(features)).logits.softmax(dim=1)
        torch.testing.assert_close(again, expected, rtol=0, atol=1e-5)


def stored(features):
    rows = [features[index]["features"] for index in range(len(features))]
    return [torch.stack(crossing) for crossing in zip(*rows, strict=True)]


@pytest.mark.parametrize("way", WAYS)
def test_its_preprocessing_is_stored_with_the_adapter_and_another_one_is_refused(way, tmp_path):
    backbone, told = WAYS[way](tmp_path)
    model = get_ciao_model(backbone, CONFIG, **told).eval()
    folder, mine = model.save_pretrained(tmp_path / "adapter"), model.preprocessing
    assert Preprocessing.from_dict(json.loads((folder / "preprocessor_config.json").read_text())) == mine
    backbone = model.unload()
    assert CIAOModel.from_pretrained(backbone, folder).preprocessing == mine
    backbone.preprocessing = mine.replace(resample="box")
    with pytest.raises(BackboneMismatchError, match=r"prepared in another way \(resample: \d there, 4 here\)"):
        CIAOModel.from_pretrained(backbone, folder)
    assert CIAOModel.from_pretrained(backbone, folder, check_preprocessing=False).preprocessing.resample == "box"


@pytest.mark.parametrize("alone", [True, False], ids=["by the adapter alone", "onto a backbone"])
def test_an_adapter_trained_on_a_preprocessing_of_ones_own_is_loaded_with_it(alone, tmp_path):
    encoder = load_encoder("small-face")
    mine, own = encoder.preprocessing.replace(resample="bicubic"), encoder.preprocessing
    model = get_ciao_model(encoder, CONFIG, preprocessing=mine).eval()
    folder, face = model.save_pretrained(tmp_path / "adapter"), pictures(tmp_path / "faces")[0]

    def load(**told):
        if alone:
            return AutoCIAOModel.from_pretrained(folder, **told)
        return CIAOModel.from_pretrained(load_encoder("small-face"), folder, **told).eval()

    again = load(preprocessing=mine)
    assert again.preprocessing == mine != own
    assert again.predict(face) == model.predict(face)
    if alone:  # the adapter knows what it was trained on
        assert load().preprocessing == mine
    else:
        with pytest.raises(BackboneMismatchError, match=r"\(resample: 3 there, 2 here\)\. Give .* `preprocessing=`"):
            load()
    with pytest.raises(BackboneMismatchError, match=r"\(resample: 3 there, 2 here\)"):
        load(preprocessing=own)
    assert load(preprocessing=own, check_preprocessing=False).preprocessing == own
    with pytest.raises(BackboneMismatchError, match=r"takes pixels of \(3, 64, 64\); .* makes some of \(3, 80, 80\)"):
        load(preprocessing=mine.replace(size=(80, 80)))


def test_an_adapter_on_a_model_whose_processor_cannot_be_followed_is_loaded_again(tmp_path):
    from transformers import ResNetModel

    theirs = written(of_transformers(), tmp_path / "theirs")
    path = theirs / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_pad": True}))
    model = get_ciao_model(load_encoder(theirs, preprocessing=EXPECTED), CONFIG)
    folder = model.save_pretrained(tmp_path / "adapter")
    assert AutoCIAOModel.from_pretrained(folder).preprocessing == EXPECTED
    backbone = ResNetModel.from_pretrained(theirs)
    assert CIAOModel.from_pretrained(backbone, folder, preprocessing=EXPECTED).preprocessing == EXPECTED


def test_a_backbone_that_does_not_say_what_it_is_fed_reads_pixels_and_no_pictures(tmp_path):
    model = get_ciao_model(plain(), CONFIG, input_size=(3, 32, 32)).eval()
    assert model(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 3)
    with pytest.raises(InputError, match=r"does not say how pictures must be prepared.*`preprocessing=`"):
        model.predict(Image.new("RGB", (9, 9)))
    assert not (model.save_pretrained(tmp_path / "adapter") / "preprocessor_config.json").exists()


# -- size and preprocessing --------------------------------------------------------------------------------------------


def test_the_preprocessing_says_the_size_of_the_pixels():
    assert get_ciao_model(plain(), CONFIG, preprocessing=EXPECTED).input_size == (3, 48, 40)


def test_the_backbones_own_preprocessing_makes_pixels_of_the_size_asked_for():
    model = get_ciao_model(load_encoder("timm/test_resnet", pretrained=False), CONFIG, input_size=(3, 64, 56)).eval()
    own = load_encoder("timm/test_resnet", pretrained=False).preprocessing
    assert model.preprocessing == own.replace(size=(64, 56)) != own
    assert len(model.predict(Image.new("RGB", (90, 90)))) == 3


def test_size_and_preprocessing_that_contradict_each_other_are_refused_and_the_backbone_stays_as_it_was():
    backbone = plain().train()
    with pytest.raises(ConfigError, match=r"makes pixels of \(3, 48, 40\), `input_size` is \(3, 64, 64\)"):
        get_ciao_model(backbone, CONFIG, input_size=(3, 64, 64), preprocessing=EXPECTED)
    assert backbone.training
    assert all(parameter.requires_grad for parameter in backbone.parameters())
