"""Models of transformers by name: loaded, saved and refused."""

from __future__ import annotations

import json

import pytest
import torch

from ciao_peft import (
    AutoCIAOModel,
    Preprocessing,
    get_ciao_model,
    load_encoder,
)
from ciao_peft.encoders import publish_encoder, save_encoder
from ciao_peft.errors import AdapterConfigError, AdapterFileError, ConfigError
from helpers.anybodys import CONFIG, EXPECTED, in_repository, of_timm_in, of_transformers, written

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


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
