"""Anybody's backbone: each way to get one, its preprocessing with it, stored with the adapter and kept to."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ciao_peft import (
    AutoCIAOModel,
    CIAOConfig,
    CIAOModel,
    Preprocessing,
    cache_features,
    get_ciao_model,
    load_encoder,
)
from ciao_peft.encoders import publish_encoder, save_encoder
from ciao_peft.errors import AdapterConfigError, AdapterFileError, BackboneMismatchError, ConfigError, InputError

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

CONFIG = CIAOConfig(problem_type="single_label_classification", num_labels=3, hidden_sizes=(8,))
PROCESSOR = {"size": {"height": 48, "width": 40}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
EXPECTED = Preprocessing(size=(48, 40), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def of_transformers(kind="ResNetModel", **changes):
    import transformers

    settings = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"} | changes
    return getattr(transformers, kind)(transformers.ResNetConfig(**settings)).eval()


def written(model, folder):
    """As transformers saves a model and its image processor."""
    from transformers import ViTImageProcessorPil

    model.save_pretrained(folder)
    ViTImageProcessorPil(**PROCESSOR).save_pretrained(folder)
    return folder


def in_repository(hub, name, folder):
    hub.add(name, {path.name: path.read_bytes() for path in folder.iterdir()})
    return name


def of_timm(**settings):
    import timm

    torch.manual_seed(3)
    model = timm.create_model("test_resnet", pretrained=False, **settings).eval()
    for parameter in model.parameters():  # fresh ones have last gains of zero
        nn.init.normal_(parameter, std=0.3) if parameter.ndim > 1 else nn.init.uniform_(parameter, 0.5, 1)
    return model


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


# -- transformers by name ----------------------------------------------------------------------------------------------


def test_a_model_of_transformers_on_the_hub_is_loaded_by_its_repository(hub, tmp_path):
    theirs = of_transformers("ResNetForImageClassification", num_labels=5)
    name = in_repository(hub, "ann/resnet", written(theirs, tmp_path / "theirs"))
    encoder = load_encoder(name)
    assert (encoder.name, len(encoder.revision)) == (name, 40)
    assert encoder.preprocessing == EXPECTED
    assert encoder.input_size == (3, 48, 40)
    assert not encoder.training
    pixel_values = torch.rand(2, 3, 48, 40)
    with torch.no_grad():
        expected = theirs.resnet(pixel_values).last_hidden_state
        assert torch.equal(encoder(pixel_values).last_hidden_state, expected)

    model = get_ciao_model(encoder, CONFIG).eval()
    folder = model.save_pretrained(tmp_path / "adapter")
    again = AutoCIAOModel.from_pretrained(folder)
    assert again.preprocessing == EXPECTED
    assert torch.equal(again(pixel_values).logits, model(pixel_values).logits)
    hub.requests.clear()
    assert load_encoder(name, revision=encoder.revision).revision == encoder.revision
    assert not hub.requests  # a commit that is in the cache needs no question


def test_weights_in_half_precision_are_read_in_float32(tmp_path):
    theirs = of_transformers().half()
    encoder = load_encoder(written(theirs, tmp_path / "theirs"))
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    for key, value in theirs.state_dict().items():
        assert torch.equal(encoder.state_dict()[key], value.float() if value.is_floating_point() else value)


def test_without_a_processor_nobody_knows_what_it_is_fed_unless_told(tmp_path):
    of_transformers().save_pretrained(tmp_path / "theirs")
    assert Preprocessing.for_backbone(load_encoder(tmp_path / "theirs")) is None
    encoder = load_encoder(tmp_path / "theirs", preprocessing=EXPECTED)
    assert get_ciao_model(encoder, CONFIG).preprocessing == EXPECTED


def test_a_processor_that_cannot_be_followed_is_refused_unless_another_preprocessing_is_given(tmp_path):
    folder = written(of_transformers(), tmp_path / "theirs")
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_pad": True}))
    with pytest.raises(ConfigError, match=r"asks for `do_pad`.*Give a `Preprocessing` of your own"):
        load_encoder(folder)
    assert load_encoder(folder, preprocessing=EXPECTED).preprocessing == EXPECTED


def test_random_weights_of_a_repository_are_random(tmp_path):
    folder = written(of_transformers(), tmp_path / "theirs")
    trained, random = load_encoder(folder), load_encoder(folder, pretrained=False)
    assert random.revision == "random" != trained.revision
    assert random.preprocessing == trained.preprocessing
    assert not torch.equal(next(random.parameters()), next(trained.parameters()))


def test_a_model_of_transformers_is_saved_as_an_encoder_and_reads_back_equal(tmp_path):
    encoder = load_encoder(written(of_transformers(), tmp_path / "theirs"))
    other = load_encoder(save_encoder(encoder, tmp_path / "ours"))
    assert other.preprocessing == encoder.preprocessing == EXPECTED
    assert other.input_size == encoder.input_size == (3, 48, 40)
    assert other.state_dict().keys() == encoder.state_dict().keys()
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in encoder.state_dict().items())
    pixel_values = torch.rand(2, 3, 48, 40)
    with torch.no_grad():
        assert torch.equal(encoder(pixel_values).last_hidden_state, other(pixel_values).last_hidden_state)


def test_the_size_of_the_pixels_is_that_of_the_preprocessing_whoever_gave_it(tmp_path):
    encoder = load_encoder("timm/test_resnet", pretrained=False)
    encoder.preprocessing = encoder.preprocessing.replace(size=(96, 96))
    folders = [save_encoder(encoder, tmp_path / "ours"), of_timm_in(tmp_path)]
    assert load_encoder(folders[0]).input_size == (3, 96, 96)
    for folder in [*folders, written(of_transformers(), tmp_path / "theirs")]:
        assert load_encoder(folder, preprocessing=EXPECTED).input_size == (3, 48, 40)


def test_a_repository_that_brings_code_is_refused_and_the_code_does_not_run(tmp_path):
    folder, marker = tmp_path / "evil", tmp_path / "ran"
    folder.mkdir()
    config = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(AdapterFileError, match=r"The model of transformers in '.*evil' cannot be loaded"):
        load_encoder(folder)
    assert not marker.exists()


@pytest.mark.parametrize("damage", ["cut short", "tensors missing", "gone", "pickle"])
@pytest.mark.parametrize("library", ["transformers", "timm"])
def test_damaged_or_missing_weights_are_refused(library, damage, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = of_timm_in(tmp_path) if library == "timm" else written(of_transformers(), tmp_path / "theirs")
    path = folder / "model.safetensors"
    if damage == "cut short":
        path.write_bytes(path.read_bytes()[:-9])
        message = "cannot be loaded"
    elif damage == "tensors missing":
        tensors = load_file(path)
        if library == "timm":
            tensors.pop("layer4.0.conv2.weight")
            message = r"cannot be loaded: .*Missing key.*layer4\.0\.conv2\.weight"
        else:
            tensors.pop("encoder.stages.0.layers.0.layer.0.convolution.weight")
            message = r"lack 'encoder\.stages\.0\.layers\.0\.layer\.0\.convolution\.weight'; .* random numbers"
        save_file(tensors, path, metadata={"format": "pt"})
    else:
        path.unlink()
        message = "has no model.safetensors.*may run code"
        if damage == "pickle":
            torch.save(of_transformers().state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(AdapterFileError, match=f"(?s){message}"):
        load_encoder(folder)


@pytest.mark.parametrize("name", ["transformers", "timm"])
def test_what_others_wrote_is_neither_published_nor_taken_as_weights_of_ours(name, tmp_path):
    folder = of_timm_in(tmp_path) if name == "timm" else written(of_transformers(), tmp_path / "theirs")
    for refused in (lambda: publish_encoder(folder, "ann/x"), lambda: load_encoder("vggface2", weights=folder)):
        with pytest.raises(AdapterConfigError, match=f"is not of an encoder of this library. It is a model of {name}"):
            refused()


# -- timm's repositories -----------------------------------------------------------------------------------------------


def of_timm_in(tmp_path, model=None):
    """As timm writes it for the Hub."""
    from timm.models import save_for_hf

    model = of_timm(num_classes=4) if model is None else model
    folder = tmp_path / "timms"
    save_for_hf(model, folder, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= {"mean": [0.1, 0.2, 0.3]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("place", ["folder", "repository"])
def test_a_repository_of_timm_comes_without_classifier_and_with_its_preprocessing(place, hub, tmp_path):
    theirs = of_timm(num_classes=4)
    source = of_timm_in(tmp_path, theirs)
    if place == "repository":
        source = in_repository(hub, "ann/timms", source)
    encoder = load_encoder(source)
    assert encoder.name == str(source)
    assert encoder.preprocessing.mean == (0.1, 0.2, 0.3)
    pixel_values = torch.rand(2, *encoder.input_size)
    theirs.reset_classifier(0)
    with torch.no_grad():
        assert torch.equal(encoder(pixel_values), theirs(pixel_values))
    other = load_encoder(save_encoder(encoder, tmp_path / "ours"))
    assert other.preprocessing == encoder.preprocessing
    with torch.no_grad():
        assert torch.equal(encoder(pixel_values), other(pixel_values))
    assert load_encoder(source, pretrained=False).revision == "random"


def test_a_repository_of_timm_cannot_say_where_else_weights_come_from(tmp_path):
    theirs = of_timm(num_classes=4)
    folder = of_timm_in(tmp_path, theirs)
    config = json.loads((folder / "config.json").read_text())
    others = {"url": "file:///nowhere", "file": "/nowhere.pth", "hf_hub_id": "ann/other", "custom_load": True}
    config["pretrained_cfg"] |= others
    (folder / "config.json").write_text(json.dumps(config))
    encoder = load_encoder(folder)
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in encoder.state_dict().items())
    (folder / "config.json").write_text(json.dumps(config | {"architecture": "resnet81"}))
    with pytest.raises(AdapterFileError, match=r"The model of timm in '.*timms' cannot be loaded: .*resnet81"):
        load_encoder(folder)


def pickled(tmp_path):
    """Weights that run code when they are unpickled, and what shows that it ran."""
    import pickle

    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    return str(tmp_path / "evil.pth"), tmp_path / "ran"


def with_settings(folder, key, settings):
    config = json.loads((folder / "config.json").read_text())
    config[key] = (config.get(key) or {}) | settings
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def wrapped(folder, **changes):
    """As transformers saves a model of timm in its wrapper."""
    import transformers

    config = transformers.TimmWrapperConfig(architecture="test_resnet", num_labels=4, **changes)
    transformers.TimmWrapperForImageClassification(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["ours", "timm", "transformers"])
@pytest.mark.parametrize(
    "setting", ["checkpoint_path", "pretrained_cfg_overlay", "pretrained_cfg", "pretrained", "cache_dir"]
)
def test_no_file_has_timm_take_weights_from_elsewhere(setting, kind, tmp_path):
    path, ran = pickled(tmp_path)
    settings = {setting: {"file": path} if "cfg" in setting else setting == "pretrained" or path}
    if kind == "ours":
        folder = save_encoder(load_encoder("timm/test_resnet", pretrained=False), tmp_path / "ours")
        with_settings(folder, "architecture", settings)
    else:
        folder = of_timm_in(tmp_path) if kind == "timm" else wrapped(tmp_path / "wrapped")
        with_settings(folder, "model_args", settings)
    with pytest.raises(AdapterFileError, match=f"A file says with '{setting}' where timm finds other weights"):
        load_encoder(folder)
    assert not ran.exists()


@pytest.mark.parametrize("kind", ["ours", "timm"])
def test_no_file_has_timm_take_a_model_from_elsewhere(kind, hub, tmp_path):
    if kind == "ours":
        folder = save_encoder(load_encoder("timm/test_resnet", pretrained=False), tmp_path / "ours")
        with_settings(folder, "architecture", {"name": "hf-hub:ann/evil"})
    else:
        folder = of_timm_in(tmp_path)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"architecture": "hf-hub:ann/evil"}))
    with pytest.raises(AdapterFileError, match="timm has no model 'hf-hub:ann/evil'"):
        load_encoder(folder)
    assert not hub.requests


def test_what_a_user_has_timm_take_from_elsewhere_is_not_asked_for_again(tmp_path):
    theirs = of_timm(num_classes=0)
    torch.save(theirs.state_dict(), tmp_path / "mine.pth")
    encoder = load_encoder("timm/test_resnet", pretrained=False, checkpoint_path=str(tmp_path / "mine.pth"))
    folder = save_encoder(encoder, tmp_path / "ours")
    (tmp_path / "mine.pth").unlink()
    other = load_encoder(folder)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in theirs.state_dict().items())


# -- timm's models in transformers' wrapper ----------------------------------------------------------------------------


def test_a_wrapped_model_of_timm_is_fed_as_its_config_says(tmp_path):
    import transformers

    told = {"input_size": [3, 96, 80], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear"}
    folder = wrapped(tmp_path / "wrapped", pretrained_cfg=told | {"crop_pct": 0.9, "crop_mode": "squash"})
    assert not (folder / "preprocessor_config.json").exists()
    encoder = load_encoder(folder)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 90, 3), dtype=np.uint8))
    expected = transformers.TimmWrapperImageProcessor.from_pretrained(folder)(picture)["pixel_values"]
    torch.testing.assert_close(encoder.preprocessing(picture), expected, rtol=0, atol=1e-6)
    assert encoder.input_size == (3, 96, 80)
    assert Preprocessing.for_backbone(transformers.TimmWrapperModel.from_pretrained(folder)) == encoder.preprocessing


def test_a_wrapped_model_of_timm_without_a_word_on_its_pixels_is_fed_what_nobody_knows(tmp_path):
    assert Preprocessing.for_backbone(load_encoder(wrapped(tmp_path / "wrapped"))) is None
