"""Adapters are estimators of scikit-learn: in searches, pipelines and pickles."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn

from ciao_peft import AutoCIAOModel
from ciao_peft.errors import ConfigError, DataError
from ciao_peft.integrations.sklearn import CIAOClassifier, CIAORegressor
from helpers.processes import environment

FAST = {"num_train_epochs": 24, "learning_rate": 3e-3, "dropout": 0.0, "hidden_sizes": ()}


@pytest.fixture
def faces() -> np.ndarray:
    rng = np.random.default_rng(0)
    shades = np.repeat([20, 120, 220], 6)
    return np.clip(rng.normal(shades[:, None, None, None], 8, (18, 64, 64, 3)), 0, 255).astype(np.uint8)


CLASSES = np.repeat(["dark", "gray", "light"], 6)


def test_it_fits_predicts_and_scores(faces):
    classifier = CIAOClassifier(**FAST)
    assert classifier.fit(faces, CLASSES) is classifier
    assert classifier.score(faces, CLASSES) > 0.9
    probabilities = classifier.predict_proba(faces)
    assert probabilities.shape == (18, 3) and np.allclose(probabilities.sum(axis=1), 1)
    assert (classifier.predict(faces) == classifier.classes_[probabilities.argmax(axis=1)]).all()
    answers = classifier.model_.predict(list(faces))
    assert answers[0] == pytest.approx(dict(zip(classifier.classes_, probabilities[0], strict=True)), abs=2e-6)


def test_every_kind_of_picture_is_the_same_picture(faces, tmp_path):
    classifier = CIAOClassifier(**{**FAST, "num_train_epochs": 1}).fit(list(faces), CLASSES)
    paths = []
    for index, face in enumerate(faces):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(face).save(paths[-1])
    expected = classifier.predict_proba(faces)
    pixels = classifier.model_.preprocessing(list(faces))
    for same in (paths, [Image.fromarray(face) for face in faces], pixels, pixels.numpy()):
        assert np.array_equal(classifier.predict_proba(same), expected)


def test_it_is_searched_and_cross_validated(faces):
    quick = CIAOClassifier(**{**FAST, "num_train_epochs": 2})
    grid = GridSearchCV(quick, {"contrastive_weight": [0.0, 1.0], "settings": [{"pooling": "max"}]}, cv=2)
    grid.fit(faces, CLASSES)
    assert set(grid.best_params_) == {"contrastive_weight", "settings"}
    assert grid.best_estimator_.model_.peft_config["default"].pooling == "max"
    assert len(cross_val_score(quick, list(faces), CLASSES, cv=2)) == 2
    assert cross_val_predict(quick, faces, CLASSES, cv=2, method="predict_proba").shape == (18, 3)


def test_it_is_the_last_step_of_a_pipeline(faces):
    steps = make_pipeline(FunctionTransformer(lambda x: x[:, ::-1]), CIAOClassifier(**{**FAST, "num_train_epochs": 1}))
    assert steps.fit(faces, CLASSES).predict(faces).shape == (18,)


def test_it_is_cloned_and_pickled(faces):
    classifier = CIAOClassifier(**FAST).fit(faces, CLASSES)
    twin = clone(classifier)
    assert twin.get_params() == classifier.get_params() and not hasattr(twin, "model_")
    again = pickle.loads(pickle.dumps(classifier))
    assert np.array_equal(again.predict_proba(faces), classifier.predict_proba(faces))
    assert np.array_equal(twin.fit(faces, CLASSES).predict_proba(faces), classifier.predict_proba(faces))


def test_its_model_is_saved_as_any_other(faces, tmp_path):
    classifier = CIAOClassifier(**FAST).fit(faces, CLASSES)
    model = AutoCIAOModel.from_pretrained(classifier.model_.save_pretrained(tmp_path / "shade"))
    assert model.predict(faces[0]) == classifier.model_.predict(faces[0])


def test_a_network_of_ones_own_stays_as_it_is():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    pixels = torch.rand(8, 3, 16, 16).numpy()
    classifier = CIAOClassifier(net, num_train_epochs=1).fit(pixels, [0, 1] * 4)
    assert classifier.predict(pixels).dtype == np.int64
    assert net.training and all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    with pytest.raises(DataError, match="prepared pixel values"):
        classifier.predict(np.zeros((1, 16, 16, 3), dtype=np.uint8))


def test_values_are_regressed(faces):
    y = np.repeat([-0.8, 0.0, 0.8], 6)
    regressor = CIAORegressor(**{**FAST, "num_train_epochs": 80}).fit(faces, y)
    assert regressor.predict(faces).shape == (18,) and regressor.score(faces, y) > 0.5
    both = CIAORegressor(**{**FAST, "num_train_epochs": 1}).fit(faces, np.stack([y, 100 * y], axis=1))
    assert both.predict(faces).shape == (18, 2)
    assert both.model_.peft_config["default"].label_range == (-80, 80)


@pytest.mark.parametrize(
    ("y", "settings", "error"),
    [
        (CLASSES[:5], {}, DataError),
        (["same"] * 18, {}, DataError),
        (CLASSES, {"dropout": 2}, ConfigError),
        (CLASSES, {"arguments": {"learning_rate": -1}}, ConfigError),
        (CLASSES, {"settings": {"poling": "max"}}, TypeError),
    ],
)
def test_what_cannot_be_fitted_is_told(y, settings, error, faces):
    with pytest.raises(error):
        CIAOClassifier(**{**FAST, **settings}).fit(faces, y)


def test_it_says_that_it_is_not_fitted(faces):
    with pytest.raises(NotFittedError):
        CIAOClassifier().predict(faces)


def test_without_sklearn_the_extra_is_named():
    code = "import sys; sys.modules['sklearn'] = None\nimport ciao_peft.integrations.sklearn"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert "pip install 'ciao_peft[sklearn]'" in ran.stderr


def test_a_training_that_fails_leaves_the_estimator_as_it_was(faces):
    classifier = CIAOClassifier(**FAST).fit(faces, CLASSES)
    with pytest.raises(DataError):
        classifier.fit(faces, ["x", "y", "z"])
    assert list(classifier.classes_) == ["dark", "gray", "light"] and classifier.score(faces, CLASSES) > 0.9
    regressor = CIAORegressor(**FAST).fit(faces, np.zeros((18, 2)))
    with pytest.raises(DataError):
        regressor.fit(faces, [1, 2])
    assert regressor.predict(faces).shape == (18, 2)


@pytest.mark.parametrize(
    ("make", "labels", "message"),
    [
        (CIAOClassifier, [float("nan"), *[1.0] * 17], "needs its class"),
        (CIAOClassifier, np.array([None, *["a"] * 17], dtype=object), "all numbers or all texts"),
        (CIAORegressor, ["a"] * 18, "needs numbers"),
        (CIAORegressor, 3.0, r"must be \(N,\) or \(N, values\)"),
        (CIAORegressor, np.zeros((18, 2, 2)), r"must be \(N,\) or \(N, values\)"),
    ],
)
def test_labels_that_are_none_are_refused(faces, make, labels, message):
    with pytest.raises(DataError, match=message):
        make(**FAST).fit(faces, labels)


def test_whole_numbers_in_a_tensor_are_no_prepared_pixels(faces):
    with pytest.raises(DataError, match="prepared pixel values in floating point"):
        CIAOClassifier(**FAST).fit(torch.from_numpy(faces).permute(0, 3, 1, 2), CLASSES)


ONE = ["face.jpg", b"\xff\xd8", Path("face.jpg"), Image.new("RGB", (8, 8)), np.zeros((8, 8, 3), np.uint8)]


@pytest.mark.parametrize("picture", [*ONE, np.zeros((8, 8), np.uint8)], ids=lambda one: type(one).__name__)
def test_one_picture_alone_is_told_to_stand_in_a_list(faces, picture):
    classifier = CIAOClassifier(**FAST).fit(faces, CLASSES)
    with pytest.raises(DataError, match=r"`X` must be a list of pictures; got one .*\[picture\]"):
        classifier.predict(picture)


@pytest.mark.parametrize("pictures", [None, 3, {"image": "face.jpg"}], ids=str)
def test_what_is_no_list_of_pictures_is_told(faces, pictures):
    classifier = CIAOClassifier(**FAST).fit(faces, CLASSES)
    with pytest.raises(DataError, match="`X` must be a list or an array of pictures; got"):
        classifier.predict(pictures)
