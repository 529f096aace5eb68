"""Small favours: numbers of NumPy, columns of pictures, a broken picture's row."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image

from ciao_peft import CIAOConfig, CIAOTrainer, CIAOTrainingArguments, Preprocessing, get_ciao_model
from ciao_peft.data import inspect_faces, paint_face
from ciao_peft.errors import ConfigError, DataError
from ciao_peft.features import Augmentation
from helpers.fakes import tiny_backbone


def model():
    config = CIAOConfig(problem_type="single_label_classification", num_labels=2, hidden_sizes=())
    return get_ciao_model(tiny_backbone(), config, preprocessing=Preprocessing(size=(16, 16)))


def table(count=6, broken=()):
    def content(index):
        file = io.BytesIO()
        paint_face(seed=index, size=24).save(file, "PNG")
        return file.getvalue()[:60] if index in broken else file.getvalue()

    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    rows = {
        "image": [{"bytes": content(i), "path": None} for i in range(count)],
        "label": [i % 2 for i in range(count)],
    }
    return Dataset.from_dict(rows, features=features)


def test_numbers_of_numpy_become_pythons():
    config = CIAOConfig(
        problem_type="regression",
        num_labels=np.int64(2),
        temperature=np.float32(0.5),
        hidden_sizes=(np.int32(8),),
        label_range=np.array([1.0, 9.0]).tolist(),
        dropout=np.float64(0.25),
    )
    assert type(config.num_labels) is int
    assert type(config.temperature) is type(config.dropout) is float
    assert type(config.hidden_sizes[0]) is int
    assert config == CIAOConfig(**(config.to_dict() | {"hidden_sizes": (8,)}))
    json.dumps(config.to_dict())
    args = CIAOTrainingArguments(seed=np.int64(7), num_train_epochs=np.float32(2), learning_rate=np.float32(0.5))
    assert (args.seed, args.num_train_epochs, args.learning_rate) == (7, 2.0, 0.5)
    json.dumps(args.to_dict())
    json.dumps(Preprocessing(size=(np.int64(16), np.int64(16)), mean=tuple(np.float32([0.5] * 3))).to_dict())
    json.dumps(Augmentation(seed=np.int64(3)).to_dict())


@pytest.mark.parametrize("value", [np.bool_(True), np.float32("nan"), np.int64(0), np.array([2]), np.str_("2")])
def test_other_things_of_numpy_are_still_refused(value):
    with pytest.raises(ConfigError, match="num_labels"):
        CIAOConfig(problem_type="regression", num_labels=value)


def test_a_column_of_pictures_is_predicted():
    faces, reader = table(), model()
    expected = reader.predict([faces[i]["image"] for i in range(6)])
    assert len(expected) == 6
    assert reader.predict(faces["image"]) == expected
    assert reader.predict(faces["image"], batch_size=4) == expected
    assert reader.predict(face for face in faces["image"]) == expected
    assert isinstance(reader.predict(faces[0]["image"]), dict)


@pytest.mark.parametrize("stored", ["never", "auto"])
def test_a_broken_picture_is_named_by_its_row(stored):
    faces = table(12, broken=(9,))
    args = CIAOTrainingArguments(report_to="none", per_device_eval_batch_size=4, feature_cache=stored)
    trainer = CIAOTrainer(model(), args)
    for use in (trainer.evaluate, trainer.train):
        with pytest.raises(DataError, match="The picture in row 9 of "):
            use(faces)


def test_a_small_folder_is_shown(tmp_path):
    for mood in ("happy", "sad"):
        (tmp_path / mood).mkdir()
        paint_face(size=24).save(tmp_path / mood / "a.png")
    inspection = inspect_faces("imagefolder", tmp_path)
    assert inspection.splits["train"].labels == {"happy": 1, "sad": 1}
    with pytest.raises(DataError, match="fewer than 5 training images"):
        inspect_faces("imagefolder", tmp_path, min_images_per_class=5)
