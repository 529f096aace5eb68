"""Encoders and whole models by name: what one person publishes, another rebuilds from the name alone."""

from __future__ import annotations

import copy
import hashlib
import json

import pytest
import torch
import yaml
from huggingface_hub import constants

from ciao_peft import AutoCIAOModel, CIAOConfig, get_ciao_model, load_encoder
from ciao_peft.encoders import publish_encoder, push_encoder, save_encoder
from ciao_peft.errors import AdapterFileError, BackboneError, BackboneMismatchError, HubNotFoundError, HubTokenError
from ciao_peft.hub.adapters import publish_adapter
from helpers.fakes import SIZE, tiny_backbone

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

CONFIG = CIAOConfig(problem_type="regression", num_labels=2, id2label={0: "arousal", 1: "valence"})
FACES = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(1))


def small_encoder(seed=0):
    """Of the bundled kind, small, and with weights of its own."""
    torch.manual_seed(seed)
    return load_encoder("small-face", pretrained=False, channels=[4, "pool", 8], embedding_size=6)


def test_an_encoder_comes_back_bit_for_bit(hub):
    encoder = small_encoder()
    commit = push_encoder(encoder, "ann/encoder", token="hf_ann", training={"dataset": "painted_faces"})
    assert set(hub.files("ann/encoder")) == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "README.md",
    }
    loaded = load_encoder("ann/encoder")
    assert torch.equal(loaded(FACES), encoder(FACES))
    assert loaded.preprocessing == encoder.preprocessing
    assert (loaded.name, loaded.revision) == ("ann/encoder", commit.oid)
    assert "painted_faces" in hub.files("ann/encoder")["README.md"].decode()


def test_an_encoder_is_refused_like_an_adapter(hub):
    with pytest.raises(HubNotFoundError, match="'ann/encoder' is not on the Hub"):
        load_encoder("ann/encoder")
    push_encoder(small_encoder(), "ann/encoder", token="hf_ann")
    with pytest.raises(HubTokenError, match="the token lacks the right"):
        push_encoder(small_encoder(1), "ann/encoder", token="hf_bob")
    altered = hub.failing("GET /objects", replace=lambda content: content[:-1] + b"!")
    with altered, pytest.raises(AdapterFileError, match="checksum"):
        load_encoder("ann/encoder")


def test_an_adapter_alone_brings_its_published_encoder(hub):
    push_encoder(small_encoder(), "ann/encoder", token="hf_ann")
    model = get_ciao_model(load_encoder("ann/encoder"), CONFIG).eval()
    model.push_to_hub("bob/affect", token="hf_bob")
    push_encoder(small_encoder(1), "ann/encoder", token="hf_ann")  # the adapter names the commit it was trained on
    again = AutoCIAOModel.from_pretrained("bob/affect")
    assert again.active_adapter == "affect"
    assert not again.training
    assert torch.equal(again(FACES).logits, model(FACES).logits)
    head = yaml.safe_load(hub.files("bob/affect")["README.md"].decode().split("---")[1])
    assert (head["base_model"], head["base_model_relation"]) == ("ann/encoder", "adapter")


def test_once_loaded_the_whole_model_loads_offline(hub, monkeypatch):
    push_encoder(small_encoder(), "ann/encoder", token="hf_ann")
    model = get_ciao_model(load_encoder("ann/encoder"), CONFIG).eval()
    model.push_to_hub("bob/affect", token="hf_bob")
    AutoCIAOModel.from_pretrained("bob/affect")
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(AutoCIAOModel.from_pretrained("bob/affect")(FACES).logits, model(FACES).logits)
    assert not hub.requests


def test_an_adapter_of_the_bundled_encoder_needs_no_name(tmp_path):
    model = get_ciao_model(load_encoder("small-face"), CONFIG).eval()
    folder = model.save_pretrained(tmp_path / "affect")
    assert torch.equal(AutoCIAOModel.from_pretrained(folder)(FACES).logits, model(FACES).logits)


def test_a_backbone_without_a_name_must_be_given(tmp_path):
    folder = get_ciao_model(tiny_backbone(), CONFIG, input_size=SIZE).save_pretrained(tmp_path / "affect")
    with pytest.raises(BackboneError, match="trained on 'Sequential', which is neither an encoder of this library"):
        AutoCIAOModel.from_pretrained(folder)


def test_another_persons_path_is_not_looked_at(hub, tmp_path):
    path = save_encoder(small_encoder(), tmp_path / "encoder")
    get_ciao_model(load_encoder(path), CONFIG).push_to_hub("ann/affect", token="hf_ann")
    with pytest.raises(BackboneError, match="neither an encoder of this library"):
        AutoCIAOModel.from_pretrained("ann/affect")


def test_a_folder_named_like_a_repository_is_not_looked_for_on_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    push_encoder(small_encoder(1), "ann/encoder", token="hf_ann")  # a stranger's
    path = save_encoder(small_encoder(), "ann/encoder")
    model = get_ciao_model(load_encoder("ann/encoder"), CONFIG).eval()
    folder = model.save_pretrained(tmp_path / "affect")
    hub.requests.clear()
    assert torch.equal(AutoCIAOModel.from_pretrained(folder)(FACES).logits, model(FACES).logits)
    path.rename("elsewhere")
    with pytest.raises(BackboneError, match="trained on 'ann/encoder', which is neither"):
        AutoCIAOModel.from_pretrained(folder)
    assert not hub.requests


def head(text):
    return yaml.safe_load(text.split("---")[1])


@pytest.mark.parametrize("there", [False, True], ids=["new", "published before"])
@pytest.mark.parametrize("kind", ["adapter", "encoder"])
def test_metadata_written_into_the_folders_card_is_published_beside_that_of_the_repository(hub, tmp_path, kind, there):
    training = {"dataset": "painted_faces", "license": "mit"}
    if kind == "adapter":
        folder = get_ciao_model(small_encoder(), CONFIG).save_pretrained(tmp_path / "a", training=training)
        publish = publish_adapter
    else:
        folder, publish = save_encoder(small_encoder(), tmp_path / "a", training=training), publish_encoder
    card = folder / "README.md"
    if there:
        publish(folder, "ann/a", token="hf_ann")
        theirs = hub.files("ann/a")["README.md"].decode()
        theirs = theirs.replace("license: mit", "license: gpl-3.0\nthumbnail: theirs.png\nlanguage: en") + "Theirs.\n"
        hub.repos["ann/a"].commit({"README.md": theirs.encode()})
        publish(folder, "ann/a", token="hf_ann")
        assert hub.files("ann/a")["README.md"].decode().endswith("Theirs.\n")
        assert head(hub.files("ann/a")["README.md"].decode())["license"] == "gpl-3.0"  # recorded goes after written
    card.write_text(card.read_text().replace("license: mit", "license: cc-by-nc-4.0\nlanguage: de\ntags_of: mine"))
    publish(folder, "ann/a", token="hf_ann")
    text = hub.files("ann/a")["README.md"].decode()
    assert (head(text)["license"], head(text)["language"], head(text)["tags_of"]) == ("cc-by-nc-4.0", "de", "mine")
    assert head(text).get("thumbnail") == ("theirs.png" if there else None)
    assert text.endswith("Theirs.\n") == there
    card.write_text(card.read_text() + "Mine.\n")
    publish(folder, "ann/a", token="hf_ann")
    text = hub.files("ann/a")["README.md"].decode()
    assert text.endswith("Mine.\n")
    assert "Theirs." not in text
    assert head(text).get("thumbnail") == ("theirs.png" if there else None)


def test_what_the_last_push_recorded_goes_with_its_record(hub):
    model = get_ciao_model(small_encoder(), CONFIG)
    data = {"name": "Painted faces", "id": "ann/painted"}
    model.push_to_hub("ann/a", training={"dataset": data, "license": "mit"}, token="hf_ann")
    assert {"license", "datasets"} <= set(head(hub.files("ann/a")["README.md"].decode()))
    model.push_to_hub("ann/a", training={"dataset": "another"}, token="hf_ann")
    assert not {"license", "datasets"} & set(head(hub.files("ann/a")["README.md"].decode()))


def test_other_weights_under_the_same_name_are_refused(hub):
    encoder = small_encoder()
    push_encoder(encoder, "ann/encoder", token="hf_ann")
    encoder = copy.deepcopy(load_encoder("ann/encoder"))
    del encoder.revision
    get_ciao_model(encoder, CONFIG).push_to_hub("ann/affect", token="hf_ann")
    push_encoder(small_encoder(1), "ann/encoder", token="hf_ann")
    with pytest.raises(BackboneMismatchError, match="'ann/encoder', has other weights"):
        AutoCIAOModel.from_pretrained("ann/affect")


@pytest.mark.parametrize("classes", [0, 1000])
def test_a_backbone_of_timm_is_made_with_or_without_its_classifier(tmp_path, monkeypatch, classes):
    import timm

    def create(name, pretrained=False, **settings):  # the weights that timm would fetch
        torch.manual_seed(0)
        return real(name, pretrained=False, **settings)

    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", create)
    backbone = timm.create_model("test_resnet", num_classes=classes).eval()
    model = get_ciao_model(backbone, CONFIG).eval()
    folder = model.save_pretrained(tmp_path / "affect")
    pixels = torch.rand((2, *model.input_size))
    again = AutoCIAOModel.from_pretrained(folder)
    assert torch.equal(again(pixels).logits, model(pixels).logits)


def test_a_backbone_of_transformers_is_fetched_by_its_repository(hub, tmp_path, monkeypatch):
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", image_size=32)
    backbone = ResNetModel(config)
    backbone.save_pretrained(tmp_path / "resnet")
    files = {path.name: path.read_bytes() for path in (tmp_path / "resnet").iterdir()}
    hub.add("ann/resnet", files)
    cache = tmp_path / "cache"
    backbone = ResNetModel.from_pretrained("ann/resnet", cache_dir=cache)
    model = get_ciao_model(backbone, CONFIG).eval()
    model.push_to_hub("ann/affect", token="hf_ann")
    again = AutoCIAOModel.from_pretrained("ann/affect", cache_dir=cache)
    pixels = torch.rand((2, *model.input_size))
    assert torch.equal(again(pixels).logits, model(pixels).logits)


def test_no_name_in_a_config_is_imported(hub, tmp_path):
    model = get_ciao_model(small_encoder(), CONFIG)
    model.push_to_hub("ann/affect", token="hf_ann")
    files = hub.files("ann/affect")
    record = json.loads(files["adapter_config.json"]) | {"base_model_name_or_path": "ann/evil", "format_version": 1}
    del record["digest"]  # whoever means it can leave it out
    hub.repos["ann/affect"].commit({"adapter_config.json": json.dumps(record).encode()})
    marker = tmp_path / "ran"
    code = f"open({str(marker)!r}, 'w')"
    config = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    hub.add("ann/evil", {"config.json": json.dumps(config).encode(), "evil.py": code.encode()})
    with pytest.raises(BackboneError, match="'ann/evil' cannot be loaded"):
        AutoCIAOModel.from_pretrained("ann/affect")
    assert not marker.exists()
    assert hashlib.sha256(files["adapter_model.safetensors"]).hexdigest() == record["weights_sha256"]
