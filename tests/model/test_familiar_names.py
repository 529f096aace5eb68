"""peft's names on a model: each works, or says in a sentence what does."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from ciao_peft import CIAOConfig, CIAOModel, get_ciao_model, load_encoder
from ciao_peft.errors import (
    AdapterConfigError,
    AdapterNameError,
    AdapterNotFoundError,
    BackboneError,
    ConfigError,
    InputError,
    MergeError,
)
from helpers.processes import environment

NAMES = {"id2label": {0: "sad", 1: "glad"}}
CLASSES = {"problem_type": "single_label_classification", "num_labels": 2, **NAMES}


def made(**settings: object) -> CIAOModel:
    return get_ciao_model(load_encoder("small-face"), CIAOConfig(**{**CLASSES, **settings})).eval()


@pytest.fixture
def face() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)


def test_the_backbone_has_pefts_names():
    model = made()
    assert model.get_base_model() is model.base_model is model.backbone


def test_active_adapters_is_a_list():
    model = made()
    assert model.active_adapters == ["default"]
    model.delete_adapter("default")
    assert model.active_adapters == []


def test_set_adapter_takes_a_list_of_one():
    model = made()
    model.add_adapter("other", CIAOConfig(**CLASSES))
    model.set_adapter(["other"])
    assert model.active_adapter == "other"
    for names in (["default", "other"], [], ()):
        with pytest.raises(AdapterNameError, match="One adapter reads at a time"):
            model.set_adapter(names)
    with pytest.raises(AdapterNotFoundError):
        model.set_adapter(["nobody"])
    assert model.active_adapter == "other"


@pytest.mark.parametrize("is_trainable", [False, True])
def test_a_loaded_adapter_is_trainable_where_it_is_asked_for(is_trainable, tmp_path):
    folder = made().save_pretrained(tmp_path / "fer")
    model = made()
    model.load_adapter(folder, is_trainable=is_trainable)
    assert {p.requires_grad for p in model.adapters["fer"].parameters()} == {is_trainable}
    assert model.active_adapter == "default"


def test_status_has_pefts_fields():
    from peft.peft_model import TunerLayerStatus, TunerModelStatus

    model = made()
    model.add_adapter("other", CIAOConfig(**CLASSES))
    status, layers = model.get_model_status(), model.get_layer_status()
    assert {f.name for f in dataclasses.fields(status)} == {f.name for f in dataclasses.fields(TunerModelStatus)}
    assert {f.name for f in dataclasses.fields(layers[0])} == {f.name for f in dataclasses.fields(TunerLayerStatus)}
    assert status.requires_grad == {"default": True, "other": False}
    assert (status.trainable_params, status.total_params) == model.get_nb_trainable_parameters()
    assert status.available_adapters == layers[0].available_adapters == ["default", "other"]
    assert layers[0].name in dict(model.named_modules()) and layers[0].active_adapters == ["default"]
    with model.disable_adapter():
        assert not model.get_model_status().enabled and not model.get_layer_status()[0].enabled
    model.adapters["default"].head.requires_grad_(False)
    assert model.get_model_status().requires_grad["default"] == "irregular"


def test_answers_are_averaged(face):
    model = made()
    model.add_adapter("other", CIAOConfig(**CLASSES, init_seed=5))
    one, other = model.predict(face), model.predict(face, adapter_names=["other"])["other"]
    together = model.predict_together(face, ["default", "other"], weights=[3, 1])
    assert together == pytest.approx({name: 0.75 * one[name] + 0.25 * other[name] for name in one}, abs=2e-6)
    assert list(together.values()) == sorted(together.values(), reverse=True)
    assert model.predict_together([face, face], ["default", "other"])[1] == pytest.approx(
        {name: (one[name] + other[name]) / 2 for name in one}, abs=2e-6
    )


def test_a_folder_of_pictures_is_averaged(face, tmp_path):
    from PIL import Image

    Image.fromarray(face).save(tmp_path / "a.png")
    model = made()
    model.add_adapter("other", CIAOConfig(**CLASSES, init_seed=5))
    answer = model.predict_together(tmp_path, ["default", "other"])
    assert answer == {str(tmp_path / "a.png"): model.predict_together(face, ["default", "other"])}


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (["default"], None),
        (["default", "default"], None),
        (["default", "other"], [1]),
        (["default", "other"], [0, 0]),
        (["default", "other"], [1, float("nan")]),
        (["default", "other"], [1, -1]),
        (["default", "affect"], None),
    ],
)
def test_what_has_no_average_is_refused(names, weights, face):
    model = made()
    model.add_adapter("other", CIAOConfig(**CLASSES))
    model.add_adapter("affect", CIAOConfig(problem_type="regression", num_labels=2, **NAMES))
    with pytest.raises(InputError):
        model.predict_together(face, names, weights)


def test_weights_are_not_averaged():
    with pytest.raises(MergeError, match="predict_together"):
        made().add_weighted_adapter(["default"], [1.0], "both")


@pytest.mark.parametrize("name", ["merge_and_unload", "merge_adapter"])
def test_nothing_is_merged(name):
    model = made()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(MergeError, match=r"no convolution.*`unload\(\)` gives the backbone back"):
        getattr(model, name)()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_several_worlds_are_read_at_once(face):
    """As the sentence says with which `set_adapter` refuses a list of several."""
    model = made()
    model.add_adapter("other", CIAOConfig(**CLASSES, init_seed=5))
    names, pixels = ["default", "other"], model.preprocessing(face)
    read = model.read(pixels, adapter_names=names)
    for name in names:
        with model.reading_with(name):
            assert torch.equal(read[name], model(pixels).logits)
    assert model.predict(face, adapter_names=names)["other"] == model.predict(face, adapter_names=["other"])["other"]


def test_peft_own_model_answers_the_same_questions_with_the_same_kinds_of_values():
    from peft import LoraConfig, get_peft_model

    model = made()
    layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    lora = get_peft_model(layers, LoraConfig(target_modules=["0"]))
    lora.add_adapter("other", LoraConfig(target_modules=["0"]))
    model.add_adapter("other", CIAOConfig(**CLASSES))
    for ask in (
        lambda m: m.active_adapters,
        lambda m: m.active_adapter,
        lambda m: [*m.peft_config],
        lambda m: {name: type(value) for name, value in dataclasses.asdict(m.get_model_status()).items()},
        lambda m: {name: type(value) for name, value in dataclasses.asdict(m.get_layer_status()[0]).items()},
        lambda m: [type(count) for count in m.get_nb_trainable_parameters()],
        lambda m: m.set_adapter("other"),
        lambda m: m.active_adapters,
        lambda m: m.delete_adapter("default"),
        lambda m: [*m.peft_config],
        lambda m: m.get_model_status().available_adapters,
    ):
        assert ask(model) == ask(lora)
    assert lora.get_base_model() is layers and model.get_base_model() is model.backbone


def test_an_adapter_is_swapped_in_place(tmp_path):
    model, source = made(), made(init_seed=7, id2label={0: "low", 1: "high"})
    faces = torch.rand(2, *model.input_size)
    folder = source.save_pretrained(tmp_path / "fer")
    adapter, parameters = model.adapters["default"], list(model.adapters["default"].parameters())
    assert not torch.equal(model(faces).logits, source(faces).logits)
    model.hotswap_adapter(folder)
    assert model.adapters["default"] is adapter
    assert all(a is b for a, b in zip(adapter.parameters(), parameters, strict=True))
    assert all(p.requires_grad for p in parameters)
    assert torch.equal(model(faces).logits, source(faces).logits)
    assert model.config.id2label == {0: "low", 1: "high"}


@pytest.mark.parametrize("other", [{"pooling": "max"}, {"hidden_sizes": (8,)}, {"inhibition_form": "gain"}])
def test_an_adapter_of_another_kind_is_not_swapped_in(other, tmp_path):
    model = made()
    before = {name: value.clone() for name, value in model.adapters["default"].state_dict().items()}
    folder = made(**other).save_pretrained(tmp_path / "fer")
    with pytest.raises(AdapterConfigError, match=f"another `{next(iter(other))}`"):
        model.hotswap_adapter(folder)
    assert all(torch.equal(value, before[name]) for name, value in model.adapters["default"].state_dict().items())


def test_a_config_is_read_from_a_folder_without_torch(tmp_path):
    model = made(dropout=0.25)
    folder = model.save_pretrained(tmp_path / "fer")
    assert CIAOConfig.from_pretrained(folder) == model.peft_config["default"]
    code = f"from ciao_peft import CIAOConfig; CIAOConfig.from_pretrained({str(folder)!r}); import sys; "
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True)


@pytest.mark.parametrize("content", ['{"peft_type": "LORA"}', "[]", "3", '{"peft_type": "CIAO"}', "no json"])
def test_what_is_no_config_of_ours_is_refused(content, tmp_path):
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(ConfigError):
        CIAOConfig.from_pretrained(tmp_path)


def test_a_config_alone_is_neither_on_the_hub_nor_saved(tmp_path):
    with pytest.raises(ConfigError, match="read_adapter"):
        CIAOConfig.from_pretrained("user/ciao-fer")
    config = CIAOConfig(**CLASSES)
    with pytest.raises(ConfigError, match=r"model\.save_pretrained"):
        config.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"model\.push_to_hub"):
        config.push_to_hub("user/ciao-fer")
    assert not list(tmp_path.iterdir())
    assert CIAOConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config  # as the sentence says


def test_peft_says_what_our_folder_is(tmp_path):
    from peft import PeftConfig, PeftModel

    import ciao_peft.integrations.peft  # noqa: F401

    folder = str(made().save_pretrained(tmp_path / "fer"))
    said = PeftConfig.from_pretrained(folder)
    assert (said.peft_type, said.base_model_name_or_path) == ("CIAO", "small-face")
    with pytest.raises(BackboneError, match=r"AutoCIAOModel\.from_pretrained"):
        PeftModel.from_pretrained(torch.nn.Linear(2, 2), folder)
