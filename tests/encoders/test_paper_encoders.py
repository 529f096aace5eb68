"""`vggface2` and `prior_knowledge`: their sizes are the paper's, and their weights come from where the user says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
from ciao_peft.encoders import save_encoder
from ciao_peft.errors import AdapterConfigError, AdapterFileError, ConfigError

TINY = {
    "vggface2": {"channels": [4, "pool", 4, "pool", 4, "pool", 4, "pool", 8]},
    "prior_knowledge": {"channels": [4, 4, 4, 8]},
}


def tiny(name):
    return load_encoder(name, pretrained=False, **TINY[name])


def test_vggface2_is_vgg16_up_to_conv5_3_and_one_more_pooling():
    encoder = load_encoder("vggface2", pretrained=False)
    widths = [3, 64, 64, 128, 128, 256, 256, 256, *[512] * 6]
    expected = sum(9 * a * b + b for a, b in itertools.pairwise(widths))
    assert sum(p.numel() for p in encoder.parameters()) == expected == 14_714_688
    assert sum(p.numel() for p in encoder.chain[28].parameters()) == 2_359_808  # conv5_3
    pixel_values = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        assert encoder.chain(pixel_values).shape == (1, 512, 6, 6)
        assert encoder(pixel_values).shape == (1, 4608)


def test_vggface2_computes_what_torchvisions_vgg16_computes():
    from torchvision.models import vgg16

    encoder, other = load_encoder("vggface2", pretrained=False), vgg16(weights=None).features.eval()
    other.load_state_dict({key.removeprefix("chain."): value for key, value in encoder.state_dict().items()})
    pixel_values = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(encoder(pixel_values), other(pixel_values).flatten(1))


def test_prior_knowledge_is_four_strided_convolutions():
    encoder = load_encoder("prior_knowledge", pretrained=False)
    widths = [3, 64, 128, 256, 512]
    expected = sum(25 * a * b + b for a, b in itertools.pairwise(widths))
    assert sum(p.numel() for p in encoder.parameters()) == expected == 4_306_560
    assert sum(p.numel() for p in encoder.chain[-2].parameters()) == 3_277_312
    with torch.no_grad():
        assert encoder.chain(torch.rand(1, 3, 96, 96)).shape == (1, 512, 6, 6)
        assert encoder(torch.rand(1, 3, 96, 96)).shape == (1, 18432)


def test_prior_knowledge_written_out_layer_by_layer():
    encoder, values = tiny("prior_knowledge"), torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        answer = encoder(values)
        for layer in encoder.chain[::2]:
            padded = F.pad(values, (2, 2, 2, 2))
            side = values.shape[-1] // 2
            windows = padded.unfold(2, 5, 2).unfold(3, 5, 2)[:, :, :side, :side]  # (B, C, y, x, 5, 5)
            values = torch.einsum("bcyxij,ocij->boyx", windows, layer.weight) + layer.bias.view(-1, 1, 1)
            values = values.clamp(min=0)
    torch.testing.assert_close(answer, values.flatten(1))


def test_prior_knowledge_is_fed_minus_one_to_one():
    preprocessing = load_encoder("prior_knowledge", pretrained=False).preprocessing
    black, white = (preprocessing(np.full((96, 96, 3), value, np.uint8)) for value in (0, 255))
    assert black.shape == (1, 3, 96, 96)
    assert (black == -1).all()
    assert (white == 1).all()


def test_vggface2_sees_the_mean_face_as_zero():
    preprocessing = load_encoder("vggface2", pretrained=False).preprocessing
    assert preprocessing.input_size == (3, 96, 96)
    mean = np.broadcast_to(np.array([131, 104, 91], np.uint8), (96, 96, 3))
    assert preprocessing(mean).abs().max() < 0.01  # rounding of the mean: half a level of 255, over 0.25


@pytest.mark.parametrize("name", TINY)
def test_random_weights_keep_the_signal(name):
    encoder = load_encoder(name, pretrained=False)
    with torch.no_grad():
        one, two = (encoder(torch.randn(1, 3, 96, 96)) for _ in range(2))
    assert (one - two).abs().max() > 1e-3
    assert encoder.revision == "random"
    assert not encoder.training


@pytest.mark.parametrize("name", TINY)
def test_without_weights_the_message_says_where_to_get_some(name):
    with pytest.raises(ConfigError, match=rf"{name} comes without weights.*examples/pretrain_.*pretrained=False"):
        load_encoder(name)


@pytest.mark.parametrize("name", TINY)
def test_weights_come_from_a_folder_and_the_adapter_remembers_it(name, tmp_path):
    encoder = tiny(name)
    encoder.preprocessing = encoder.preprocessing.replace(resample="bicubic")
    folder = save_encoder(encoder, tmp_path / "mine")
    other = load_encoder(name, weights=folder)
    assert other.encoder_type == name
    assert other.name == str(folder)
    assert other.preprocessing == encoder.preprocessing
    for key, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[key])
    assert save_encoder(load_encoder(folder), tmp_path / "again").exists()
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("mine", "again"))
    assert first == second


def test_weights_of_another_encoder_are_refused(tmp_path):
    folder = save_encoder(tiny("prior_knowledge"), tmp_path / "pk")
    with pytest.raises(AdapterConfigError, match=r"holds an encoder of type 'prior_knowledge', not 'vggface2'"):
        load_encoder("vggface2", weights=folder)


def test_a_file_of_weights_is_to_be_converted_first(tmp_path):
    (tmp_path / "vgg.pth").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"vgg\.pth' is a file\. .*ciao convert-encoder SOURCE FOLDER"):
        load_encoder("vggface2", weights=tmp_path / "vgg.pth")
    with pytest.raises(ConfigError, match="is neither a folder nor `user/name`"):
        load_encoder("vggface2", weights=str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(AdapterFileError, match=r"config\.json"):
        load_encoder("vggface2", weights=tmp_path / "empty")


@pytest.mark.parametrize(("name", "conv_unit"), [("vggface2", "chain.12"), ("prior_knowledge", "chain.6")])
def test_an_adapter_masks_the_last_convolution_and_its_features_can_be_cached(name, conv_unit):
    config = CIAOConfig(problem_type="single_label_classification", num_labels=3)
    model = get_ciao_model(tiny(name), config).eval()
    assert list(model.peft_config["default"].target_modules) == [conv_unit]
    assert model.traceable
    pixel_values = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        logits = model(pixel_values).logits
        again = model(features=model.extract_features(pixel_values)).logits
    assert logits.shape == (2, 3)
    assert torch.equal(logits, again)
