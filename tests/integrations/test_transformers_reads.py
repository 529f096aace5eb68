"""transformers' own `Auto` classes and `pipeline` read our folders and models, and answer as `predict` does."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, pipeline

from ciao_peft import AutoCIAOModel, CIAOConfig, CIAOModel, Preprocessing, get_ciao_model, load_encoder
from ciao_peft.errors import ConfigError, DataError
from ciao_peft.integrations.transformers import CIAOForImageClassification, CIAOImageProcessor, processor_of
from helpers.processes import environment

PROBLEMS = {
    "classes": {"problem_type": "single_label_classification", "num_labels": 3},
    "calibrated": {
        "problem_type": "single_label_classification",
        "num_labels": 3,
        "probability_temperature": 0.05,
    },
    "labels": {"problem_type": "multi_label_classification", "num_labels": 2},
    "one_label": {"problem_type": "multi_label_classification", "num_labels": 1},
    "values": {"problem_type": "regression", "num_labels": 2},
    "one_value": {"problem_type": "regression", "num_labels": 1},
}


def made(problem: str = "classes") -> CIAOModel:
    names = {index: f"name {index}" for index in range(PROBLEMS[problem]["num_labels"])}
    return get_ciao_model(load_encoder("small-face"), CIAOConfig(**PROBLEMS[problem], id2label=names)).eval()


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 50, 3), dtype=np.uint8))


def as_dict(answer):
    return {entry["label"]: entry["score"] for entry in answer}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_pipeline_of_a_folder_answers_as_predict(problem, picture, tmp_path, caplog):
    model = made(problem)
    folder = str(model.save_pretrained(tmp_path / "fer"))
    with caplog.at_level(logging.WARNING, logger="transformers"):
        classify = pipeline("image-classification", model=folder)
    assert "not supported" not in caplog.text
    expected = pytest.approx(model.predict(picture), abs=2e-6)
    assert as_dict(classify(picture)) == expected
    assert [as_dict(each) for each in classify([picture, picture], batch_size=2)] == [expected, expected]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_pipeline_of_a_model_answers_as_predict(problem, picture):
    model = made(problem)
    given = CIAOForImageClassification(model) if problem == "calibrated" else model
    classify = pipeline("image-classification", model=given, image_processor=processor_of(given))
    assert as_dict(classify(picture)) == pytest.approx(model.predict(picture), abs=2e-6)


def test_a_calibrated_model_that_pipeline_would_misread_is_told():
    with pytest.warns(UserWarning, match="CIAOForImageClassification"):
        processor_of(made("calibrated"))


def test_the_active_adapter_names_the_answers(picture):
    model = made()
    model.add_adapter("affect", CIAOConfig(problem_type="regression", num_labels=1, id2label={0: "arousal"}))
    model.set_adapter("affect")
    classify = pipeline("image-classification", model=model, image_processor=processor_of(model))
    assert as_dict(classify(picture)) == pytest.approx(model.predict(picture), abs=2e-6)
    model.set_adapter("default")
    assert as_dict(classify(picture)) == pytest.approx(model.predict(picture), abs=2e-6)


def test_auto_classes_read_a_folder(picture, tmp_path):
    model = made("calibrated")
    folder = model.save_pretrained(tmp_path / "fer")
    config = AutoConfig.from_pretrained(folder)
    assert config.id2label == dict(model.peft_config["default"].id2label)
    assert (config.num_labels, config.problem_type) == (3, "single_label_classification")
    processor = AutoImageProcessor.from_pretrained(folder)
    assert isinstance(processor, CIAOImageProcessor) and processor.preprocessing == model.preprocessing
    assert torch.equal(processor(picture, return_tensors="pt").pixel_values, model.preprocessing(picture))
    read = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float64)
    assert isinstance(read, CIAOForImageClassification) and read.dtype == torch.float64
    pixels = model.preprocessing(picture)
    torch.testing.assert_close(read(pixels).logits, model(pixels).logits.double() / 0.05, rtol=1e-4, atol=1e-4)
    read.float().save_pretrained(tmp_path / "again")
    assert AutoCIAOModel.from_pretrained(tmp_path / "again").predict(picture) == model.predict(picture)


def test_a_folder_without_the_new_files_loads_as_before(picture, tmp_path):
    """As the versions before this one wrote it: no `config.json`, no `image_processor_type`."""
    from ciao_peft.hub.bundled import bundled_folder

    folder = bundled_folder("ciao/painted-seven")
    assert "image_processor_type" not in json.loads((folder / "preprocessor_config.json").read_text())
    model = AutoCIAOModel.from_pretrained("ciao/painted-seven")
    assert processor_of(folder).preprocessing == model.preprocessing
    copy = model.save_pretrained(tmp_path / "again")
    assert AutoImageProcessor.from_pretrained(copy).preprocessing == model.preprocessing
    assert AutoCIAOModel.from_pretrained(copy).predict(picture) == model.predict(picture)


def test_the_config_of_another_model_stays(tmp_path):
    folder = tmp_path / "fer"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "resnet"}')
    made().save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text()) == {"model_type": "resnet"}
    (folder / "config.json").unlink()
    made("values").save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["problem_type"] == "regression"
    made("labels").save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["problem_type"] == "multi_label_classification"


def test_this_library_reads_nothing_from_that_config(picture, tmp_path):
    model = made()
    folder = model.save_pretrained(tmp_path / "fer")
    (folder / "config.json").write_text('{"auto_map": {"AutoConfig": "evil.Config"}, "id2label": {"0": "x"}}')
    assert AutoCIAOModel.from_pretrained(folder).predict(picture) == model.predict(picture)


@pytest.mark.parametrize("value", ["ViTImageProcessor", "evil.module.Class", 3, None])
def test_only_our_own_kind_of_image_processor_is_read(value):
    data = Preprocessing().to_dict()
    assert Preprocessing.from_dict({**data, "image_processor_type": "CIAOImageProcessor"}) == Preprocessing()
    with pytest.raises(ConfigError, match="image_processor_type"):
        Preprocessing.from_dict({**data, "image_processor_type": value})


def test_a_processor_prepares_in_one_way_only(picture):
    processor = CIAOImageProcessor(Preprocessing(size=(8, 8)))
    assert isinstance(processor(picture, return_tensors="np")["pixel_values"], np.ndarray)
    pixels = processor(np.zeros((2, 9, 9, 3), dtype=np.uint8), return_tensors="pt").pixel_values
    assert pixels.shape == (2, 3, 8, 8)
    for wrong in ({"do_resize": False}, {"size": 3}, {"return_tensors": "jax"}):
        with pytest.raises(ConfigError):
            processor(picture, **wrong)
    with pytest.raises(DataError):
        processor("no/such/picture.png")


def test_a_processor_is_saved_and_read(tmp_path):
    CIAOImageProcessor(Preprocessing(size=(8, 9))).save_pretrained(tmp_path)
    assert AutoImageProcessor.from_pretrained(tmp_path).preprocessing == Preprocessing(size=(8, 9))


def test_a_folder_into_which_a_pipeline_or_a_processor_is_saved_stays_whole(picture, tmp_path):
    config = CIAOConfig(problem_type="single_label_classification", num_labels=3)
    model = get_ciao_model(load_encoder("small-face"), config).eval()
    model.save_pretrained(tmp_path / "first")
    pipe = pipeline("image-classification", model=str(tmp_path / "first"))
    pipe.save_pretrained(str(tmp_path / "second"))
    processor_of(model).save_pretrained(str(tmp_path / "first"))
    for name in ("first", "second"):
        assert AutoCIAOModel.from_pretrained(tmp_path / name).predict(picture) == model.predict(picture)


def test_unknown_arguments_are_refused(tmp_path):
    folder = made().save_pretrained(tmp_path / "fer")
    with pytest.raises(ConfigError, match="quantization_config"):
        CIAOForImageClassification.from_pretrained(folder, quantization_config={})
    with pytest.raises(ConfigError, match="one device"):
        CIAOForImageClassification.from_pretrained(folder, device_map={"": 0})
    for dtype in ("float17", "nn", "int8", torch.int64, 5):
        with pytest.raises(ConfigError, match="`dtype` must be 'auto' or a kind of floating point"):
            CIAOForImageClassification.from_pretrained(folder, dtype=dtype)
    assert CIAOForImageClassification.from_pretrained(folder, dtype="float16").dtype == torch.float16


@pytest.mark.parametrize(
    ("code", "known"),
    [
        ("from transformers import AutoModelForImageClassification; import ciao_peft", True),
        ("import ciao_peft; from transformers import AutoModelForImageClassification; ciao_peft.CIAOConfig", True),
        ("import ciao_peft.integrations.transformers", True),
        ("import transformers; import ciao_peft; from transformers import AutoConfig", False),
    ],
)
def test_importing_our_package_registers_where_the_auto_classes_are_there(code, known):
    code += "; from transformers.models.auto.configuration_auto import CONFIG_MAPPING as m; print('ciao' in m)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert ran.stdout.split()[-1] == str(known)
