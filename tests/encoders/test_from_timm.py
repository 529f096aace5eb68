"""Repositories of timm, and timm's models in transformers' wrapper."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ciao_peft import (
    Preprocessing,
    load_encoder,
)
from ciao_peft.encoders import save_encoder
from ciao_peft.errors import AdapterFileError
from ciao_peft.saving.digest import DIGEST
from helpers.anybodys import in_repository, of_timm, of_timm_in
from helpers.fakes import sealed

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


# -- timm's repositories -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["folder", "repository"])
def test_a_repository_of_timm_comes_without_classifier_and_with_its_preprocessing(place, hub, tmp_path):
    theirs = of_timm(num_classes=4)
    source = of_timm_in(tmp_path, theirs)
    if place == "repository":
        source = in_repository(hub, "ann/timms", source)
    encoder = load_encoder(source)
    assert encoder.name == str(source)
    assert encoder.preprocessing.mean == (0.1, 0.2, 0.3)
    pixel_values = torch.rand((2, *tuple(encoder.input_size)))
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
    if DIGEST in config:
        config = sealed(config, folder, ("model.safetensors", "preprocessor_config.json"))
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
