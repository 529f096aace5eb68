"""Encoders by name: the bundled one as it is shipped, timm's, and names nobody has."""

from __future__ import annotations

import copy
import itertools
import json
import subprocess
import sys

import pytest
import torch
from torch import fx, nn

from ciao_peft import Preprocessing, list_encoders, load_encoder
from ciao_peft.encoders import SmallFace, save_encoder, small_face
from ciao_peft.errors import (
    AdapterConfigError,
    AdapterFileError,
    ConfigError,
    EncoderNotFoundError,
    HubNotFoundError,
    HubOfflineError,
)
from helpers.fakes import sealed


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("small-face")


def painted(number, size=96):
    """Some pictures of circles and bars, the same ones every time."""
    generator = torch.Generator().manual_seed(number)
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    pictures = []
    for _ in range(number):
        a, b, c = torch.rand(3, generator=generator)
        picture = 128 + 100 * torch.sin((3 + 5 * a) * x + 6 * b * y) * torch.cos((2 + 8 * c) * (x * x + y * y))
        pictures.append(picture.clamp(0, 255).byte().numpy())
    return pictures


# -- small-face --------------------------------------------------------------------------------------------------------


def test_it_is_small(encoder):
    # 3x3 weights of the seven convolutions, two numbers of normalisation per channel, 4x4 maps of 192 to 128 numbers.
    channels = [3, 24, 24, 64, 64, 128, 128, 192]
    convolutions = sum(9 * a * b for a, b in itertools.pairwise(channels))
    expected = convolutions + 2 * sum(channels[1:]) + 16 * 192 * 128 + 2 * 128
    assert sum(p.numel() for p in encoder.parameters()) == expected < 1_500_000
    assert small_face.WEIGHTS.stat().st_size <= 3_000_000


def test_one_face_costs_less_than_60_million_multiplications(encoder):
    macs = []

    def count(module, inputs, output):
        weights = module.weight.numel()
        macs.append(weights * output.shape[2] * output.shape[3] if isinstance(module, nn.Conv2d) else weights)

    network = copy.deepcopy(encoder)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    network(torch.zeros(1, 3, 64, 64))
    assert len(macs) == 8
    assert sum(macs) < 60_000_000


def test_its_last_unit_answers_on_an_8x8_map(encoder):
    maps = encoder.chain(torch.zeros(1, 3, 64, 64))
    assert maps.shape == (1, 192, 8, 8)
    assert [type(module) for module in encoder.chain[-3:]] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert encoder.chain[-3].in_channels == 128
    assert encoder(torch.zeros(2, 3, 64, 64)).shape == (2, 128)


def test_it_comes_ready_to_use(encoder):
    assert not encoder.training
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert encoder.name == "small-face"
    assert encoder.input_size == (3, 64, 64)
    assert isinstance(encoder.preprocessing, Preprocessing)
    assert encoder.preprocessing.size == (64, 64)
    assert Preprocessing.for_backbone(encoder) is encoder.preprocessing


def test_the_same_weights_come_every_time_and_each_call_has_its_own(encoder):
    other = load_encoder("small-face")
    assert other.revision == encoder.revision
    for key, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[key])
        assert tensor.data_ptr() != other.state_dict()[key].data_ptr()


def test_its_weights_are_the_files_and_not_random(encoder):
    from safetensors.torch import load_file

    stored = load_file(small_face.WEIGHTS)
    assert {t.dtype for t in stored.values() if t.is_floating_point()} == {torch.float16}
    random = load_encoder("small-face", pretrained=False)
    assert random.revision == "random"
    for key, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, stored[key].to(tensor.dtype))
        if tensor.ndim > 1:
            assert not torch.allclose(tensor, random.state_dict()[key])


def test_it_traces(encoder):
    pixel_values = torch.rand(2, 3, 64, 64)
    traced = fx.symbolic_trace(encoder)
    with torch.no_grad():
        assert torch.equal(traced(pixel_values), encoder(pixel_values))


def test_tinted_light_changes_an_embedding_less_than_another_picture_does(encoder):
    import numpy as np

    pictures = [np.stack([picture] * 3, axis=-1) for picture in painted(6)]
    tinted = [(picture * np.array([1.0, 0.92, 0.85])).astype(np.uint8) for picture in pictures]
    with torch.no_grad():
        plain, other = encoder(encoder.preprocessing(pictures)), encoder(encoder.preprocessing(tinted))
    likeness = nn.functional.normalize(plain) @ nn.functional.normalize(other).T
    assert torch.equal(likeness.argmax(dim=1), torch.arange(6))


def test_the_card_says_what_it_was_trained_on_and_how_well_it_does():
    card = small_face.training_card()
    assert card["verification_auc"] > 0.9 > card["verification_auc_of_random_weights"]
    assert card["parameters"] == sum(p.numel() for p in SmallFace(**card["architecture"]).parameters())
    assert Preprocessing.from_dict(card["preprocessing"]) == SmallFace.preprocessing
    assert card["weights_bytes"] == small_face.WEIGHTS.stat().st_size
    assert card["people"]["training_people"] == 3296
    assert card["people"]["people_left_out_because_in_both_splits"] == 25
    assert "examples/pretrain_encoder.py" in card["command"]
    assert card["settings"]["seed"] == 0


def test_unseen_people_are_told_apart_as_the_card_says(encoder, real_faces):
    import csv

    from sklearn.metrics import roc_auc_score

    def people_of(split):
        with (real_faces / split / "metadata.csv").open(encoding="utf-8") as file:
            return {row["file_name"]: row["identity"] for row in csv.DictReader(file)}

    test, known = people_of("test"), set(people_of("train").values())
    images = [name for name, person in test.items() if person not in known]
    images = [name for name in images if sum(test[name] == test[other] for other in images) > 1]
    paths = [real_faces / "test" / name for name in images]
    card = small_face.training_card()
    assert len(images) == card["people"]["verification_faces"]
    with torch.no_grad():
        parts = [encoder(encoder.preprocessing(paths[i : i + 256])) for i in range(0, len(paths), 256)]
    embeddings = nn.functional.normalize(torch.cat(parts))
    first, second = torch.triu_indices(len(images), len(images), offset=1)
    likeness = (embeddings @ embeddings.T)[first, second]
    same = [test[a] == test[b] for a, b in itertools.combinations(images, 2)]
    # Shrunk here by Pillow in 8 bits, in training by torch in floating point: a little apart.
    assert roc_auc_score(same, likeness.numpy()) == pytest.approx(card["verification_auc"], abs=0.003)


def test_another_architecture_has_no_trained_weights():
    with pytest.raises(ConfigError, match=r"with another 'embedding_size' pass `pretrained=False`"):
        load_encoder("small-face", embedding_size=64)
    wider = load_encoder("small-face", pretrained=False, channels=[8, "pool", 16, "pool", 32], embedding_size=64)
    assert wider(torch.zeros(2, 3, 64, 64)).shape == (2, 64)
    assert wider.chain(torch.zeros(2, 3, 64, 64)).shape == (2, 32, 8, 8)


def test_damaged_bundled_files_are_refused(tmp_path, monkeypatch):
    weights = tmp_path / "small_face.safetensors"
    monkeypatch.setattr(small_face, "WEIGHTS", weights)
    with pytest.raises(AdapterFileError, match=r"small_face\.json' cannot be read: .* Install ciao_peft again"):
        load_encoder("small-face")
    content = (small_face.Path(small_face.__file__).parent / "weights" / "small_face.safetensors").read_bytes()
    card = (small_face.Path(small_face.__file__).parent / "weights" / "small_face.json").read_text()
    weights.with_suffix(".json").write_text(card)
    with pytest.raises(AdapterFileError, match=r"small_face\.safetensors' cannot be read"):
        load_encoder("small-face")
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(AdapterFileError, match="does not have the checksum in its card"):
        load_encoder("small-face")


# -- names -------------------------------------------------------------------------------------------------------------


def test_an_unknown_name_is_answered_with_the_list():
    assert list_encoders() == ["dlib-face", "prior_knowledge", "small-face", "vggface2"]
    with pytest.raises(
        EncoderNotFoundError, match=r"No encoder is named 'small_face'.*: 'dlib-face', 'prior_knowledge'.*'timm/NAME'"
    ):
        load_encoder("small_face")


def test_loading_the_bundled_encoder_brings_in_nothing_heavy():
    code = (
        "import sys; from ciao_peft import load_encoder; load_encoder('small-face')\n"
        "heavy = {'transformers', 'timm', 'torchvision', 'datasets', 'accelerate', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_timm_model_comes_without_classifier_and_with_its_preprocessing():
    encoder = load_encoder("timm/resnet18", pretrained=False)
    assert encoder(torch.zeros(1, 3, 64, 64)).shape == (1, 512)
    assert not encoder.training
    assert encoder.input_size == (3, 224, 224)
    assert encoder.preprocessing.resample == "bicubic"
    assert (encoder.name, encoder.revision) == ("timm/resnet18", "random")
    assert load_encoder("timm/resnet18", pretrained=False, num_classes=7).num_classes == 7


def test_a_timm_model_that_cannot_be_had_or_made_is_an_error_of_ours():
    with pytest.raises(HubOfflineError, match=r"'resnet18' of timm is not in the cache, and HF_HUB_OFFLINE is set"):
        load_encoder("timm/resnet18")
    with pytest.raises(ConfigError, match=r"timm cannot make 'test_vit' with .*'img_size': \(1, 2, 3\)"):
        load_encoder("timm/test_vit", pretrained=False, img_size=(1, 2, 3))


def test_a_timm_model_of_four_channels_says_which_pixels_it_takes():
    assert load_encoder("timm/test_resnet", pretrained=False, in_chans=4).input_size == (4, 160, 160)


def test_unknown_timm_models_and_weights_are_answered_with_what_there_is():
    with pytest.raises(EncoderNotFoundError, match=r"timm has no model 'resnet81'\. Close to it: .*resnet18"):
        load_encoder("timm/resnet81")
    with pytest.raises(
        EncoderNotFoundError, match=r"timm has no weights 'nobody' of 'resnet18'; it has: .*resnet18\.a1"
    ):
        load_encoder("timm/resnet18.nobody")


# -- folders -----------------------------------------------------------------------------------------------------------


def random_encoder(kind):
    if kind == "timm":
        return load_encoder("timm/resnet10t", pretrained=False, in_chans=1, num_classes=3)
    return load_encoder("small-face", pretrained=False, channels=[8, "pool", 16, "pool", 8], embedding_size=16)


@pytest.mark.parametrize("kind", ["small-face", "timm"])
def test_a_saved_encoder_reads_back_equal(kind, tmp_path):
    encoder = random_encoder(kind)
    if kind == "small-face":
        encoder.preprocessing = encoder.preprocessing.replace(resample="bicubic")
    folder = save_encoder(encoder, tmp_path / "mine", training={"seed": 3})
    other = load_encoder(folder)
    assert {p.name for p in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "README.md",
    }
    assert json.loads((folder / "config.json").read_text())["training"] == {"seed": 3}
    assert encoder.state_dict().keys() == other.state_dict().keys()
    for key, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[key])
    assert other.preprocessing == encoder.preprocessing
    assert other.input_size == encoder.input_size
    assert not other.training
    assert other.name == str(folder)
    pixel_values = other.preprocessing(painted(2))
    with torch.no_grad():
        assert torch.equal(encoder(pixel_values), other(pixel_values))
    again = save_encoder(other, tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_other_weights_have_another_revision(tmp_path):
    one, two = (load_encoder(save_encoder(random_encoder("small-face"), tmp_path / name)) for name in ("one", "two"))
    assert one.revision != two.revision != "random"
    assert load_encoder(tmp_path / "one", pretrained=False).revision == "random"


def test_a_card_by_others_stays_when_an_encoder_is_saved_again(tmp_path):
    folder = save_encoder(random_encoder("small-face"), tmp_path)
    (folder / "README.md").write_text("mine")
    save_encoder(random_encoder("small-face"), folder)
    assert (folder / "README.md").read_text().endswith("\n\nmine")


@pytest.mark.parametrize("encoder", [nn.Conv2d(3, 8, 3), nn.Sequential(nn.Conv2d(3, 8, 3))])
def test_a_network_that_no_name_builds_again_is_not_saved(encoder, tmp_path):
    with pytest.raises(ConfigError, match="is no encoder that `load_encoder` made"):
        save_encoder(encoder, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


COVERED = ("model.safetensors", "preprocessor_config.json")


def changed(folder, **changes):
    path = folder / "config.json"
    record = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(sealed(record, folder, COVERED)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ciao_encoder": None}, r"is not of an encoder of this library\. Give a folder that `save_encoder` wrote"),
        ({"ciao_encoder": None, "model_type": "resnet"}, "It is a model of transformers"),
        ({"ciao_encoder": None, "architecture": "resnet18"}, "It is a model of timm"),
        (
            {"ciao_encoder": "os:system"},
            r"an encoder of type 'os:system' in format 2; this version reads 'dlib-face', 'prior_knowledge', 'small-",
        ),
        ({"format_version": 3}, "in format 3; .* up to format 2"),
        ({"colour": "red"}, "must have exactly 'architecture'.* it has .*'colour'"),
        ({"architecture": {"depth": 3}}, "No encoder can be built from"),
        ({"architecture": {"embedding_size": 17}}, "does not fit the encoder that its config describes"),
        ({"weights_sha256": "0"}, "not as it was saved: the digest of the folder is another one"),
    ],
)
def test_a_config_that_cannot_be_right_is_refused(changes, message, tmp_path):
    folder = save_encoder(random_encoder("small-face"), tmp_path / "mine")
    changed(folder, **changes)
    with pytest.raises(AdapterFileError, match=message):
        load_encoder(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_a_missing_file_is_named(name, tmp_path):
    folder = save_encoder(random_encoder("small-face"), tmp_path / "mine")
    (folder / name).unlink()
    with pytest.raises(AdapterFileError, match=name.replace(".", r"\.")):
        load_encoder(folder)


def test_a_preprocessing_with_an_unknown_key_is_refused(tmp_path):
    folder = save_encoder(random_encoder("small-face"), tmp_path / "mine")
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_flip": True}))
    changed(folder)
    with pytest.raises(AdapterConfigError, match="unknown keys 'do_flip'"):
        load_encoder(folder)


@pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")
def test_an_encoder_on_the_hub_is_loaded_by_its_repository(hub, tmp_path):
    from huggingface_hub import HfApi

    encoder = random_encoder("small-face")
    api = HfApi(endpoint=hub.url, token="hf_ann")
    api.create_repo("ann/encoder")
    commit = api.upload_folder(repo_id="ann/encoder", folder_path=save_encoder(encoder, tmp_path / "mine")).oid
    other = load_encoder("ann/encoder", token="hf_ann", revision=commit)
    assert (other.name, other.revision) == ("ann/encoder", commit)
    for key, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[key])
    with pytest.raises(HubNotFoundError):
        load_encoder("ann/nothing", token="hf_ann")
