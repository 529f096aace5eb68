"""Adapters as estimators of scikit-learn: `fit`, `predict`, `predict_proba` and `score`, in pipelines and searches."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..config import CIAOConfig
from ..encoders import load_encoder
from ..errors import DataError, MissingExtraError, quoted
from ..model import CIAOModel, get_ciao_model
from ..prediction import label_values
from ..trainer import CIAOTrainer, CIAOTrainingArguments

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils.validation import check_is_fitted
except ImportError as error:
    raise MissingExtraError("scikit-learn", "`ciao_peft.integrations.sklearn`", "sklearn") from error

__all__ = ["CIAOClassifier", "CIAORegressor"]


class _Estimator(BaseEstimator):
    """What both estimators share: settings, pixels, training, logits."""

    def __init__(
        self,
        encoder: str | nn.Module = "small-face",
        *,
        num_train_epochs: float | None = None,
        learning_rate: float = 1e-3,
        mask_learning_rate: float | None = None,
        weight_decay: float = 0.01,
        batch_size: int | None = None,
        tuning: str = "decision_layer",
        hidden_sizes: tuple[int, ...] = (256,),
        dropout: float = 0.5,
        contrastive_weight: float = 0.1,
        temperature: float = 0.1,
        seed: int = 42,
        settings: Mapping[str, Any] | None = None,
        arguments: Mapping[str, Any] | None = None,
    ):
        self.encoder = encoder
        self.num_train_epochs = num_train_epochs
        self.learning_rate = learning_rate
        self.mask_learning_rate = mask_learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.tuning = tuning
        self.hidden_sizes = hidden_sizes
        self.dropout = dropout
        self.contrastive_weight = contrastive_weight
        self.temperature = temperature
        self.seed = seed
        self.settings = settings
        self.arguments = arguments

    def __sklearn_tags__(self) -> Any:
        tags: Any = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False  # samples are pictures
        return tags

    def _config(self, **problem: Any) -> CIAOConfig:
        own = ("tuning", "hidden_sizes", "dropout", "contrastive_weight", "temperature")
        chosen: dict[str, Any] = {name: getattr(self, name) for name in own}
        return CIAOConfig(**{**chosen, "init_seed": self.seed, **(self.settings or {}), **problem})

    def _train(self, pictures: Any, labels: Any, config: CIAOConfig) -> None:
        encoder = load_encoder(self.encoder) if isinstance(self.encoder, str) else copy.deepcopy(self.encoder)
        prepared = _prepared(pictures)
        size: Any = tuple(prepared.shape[1:]) if prepared is not None and isinstance(self.encoder, nn.Module) else None
        model = get_ciao_model(encoder, config, input_size=size)
        pixels = _pixels(pictures, model)
        if len(pixels) != len(labels):
            raise DataError(f"There are {len(pixels)} pictures and {len(labels)} labels; each picture needs one.")
        own = ("num_train_epochs", "learning_rate", "mask_learning_rate", "weight_decay", "seed")
        chosen: dict[str, Any] = {name: getattr(self, name) for name in own}
        chosen |= {"per_device_train_batch_size": self.batch_size, "report_to": "none", "disable_tqdm": True}
        arguments = CIAOTrainingArguments(**{**chosen, **(self.arguments or {})})
        samples = [{"pixel_values": x, "labels": y} for x, y in zip(pixels, labels, strict=True)]
        CIAOTrainer(model, arguments).train(samples)
        self.model_ = model.eval()

    @torch.inference_mode()
    def _values(self, pictures: Any) -> np.ndarray:
        """Probabilities, or regressed values, `(N, num_labels)`."""
        check_is_fitted(self, "model_")
        model = self.model_
        config, rows = model.peft_config["default"], _pixels(pictures, model).split(max(int(self.batch_size or 128), 1))
        values = [label_values(model(part.to(model.device)).logits, config).cpu() for part in rows]
        return torch.cat(values).numpy().astype(np.float64)


class CIAOClassifier(ClassifierMixin, _Estimator):
    """An adapter that classifies pictures, as an estimator of scikit-learn.

    Args:
        encoder: The backbone: a name for `load_encoder`, or a network, of which every `fit` takes a copy.
        num_train_epochs, learning_rate, mask_learning_rate, weight_decay, seed: As in `CIAOTrainingArguments`.
        batch_size: Pictures of a batch, in training and prediction; when left out, the recipe's and 128.
        tuning, hidden_sizes, dropout, contrastive_weight, temperature: As in `CIAOConfig`.
        settings: Other settings of `CIAOConfig`, by name.
        arguments: Other settings of `CIAOTrainingArguments`, by name.

    Attributes:
        classes_: The classes, sorted.
        model_: The trained `CIAOModel`, to be saved with `save_pretrained`.

    Shapes:
        X: N pictures, as `Preprocessing` takes them (paths, PIL images, arrays `(H, W)` or `(H, W, 3)` of uint8), or
            prepared pixel values `(N, C, H, W)` in floating point. y: N classes.

    Raises:
        DataError: there are more or fewer labels than pictures, or a picture cannot be read.
        ConfigError: a setting is of the wrong type or out of range, when `fit` is called.

    Example:
        >>> faces = [np.full((64, 64, 3), shade, dtype=np.uint8) for shade in (10, 20, 30, 200, 210, 220)]
        >>> classifier = CIAOClassifier(num_train_epochs=40, learning_rate=1e-2, dropout=0.0)
        >>> classifier.fit(faces, ["night"] * 3 + ["day"] * 3).predict(faces[2:4])
        array(['night', 'day'], dtype='<U5')
        >>> classifier.predict_proba(faces).shape, classifier.score(faces, ["night"] * 3 + ["day"] * 3)
        ((6, 2), 1.0)
    """

    classes_: np.ndarray
    model_: CIAOModel

    def fit(self, X: Any, y: Any) -> CIAOClassifier:
        """Trains an adapter on a fresh copy of the encoder.

        Args:
            X: N pictures.
            y: N classes: numbers, texts, or the like, two or more different ones.

        Raises:
            DataError: one class alone, a class that is missing or of another kind, or another number of labels.
        """
        try:
            classes, ids = np.unique(np.asarray(y), return_inverse=True)
        except TypeError as error:
            raise DataError(f"Classes must be all numbers or all texts, to be sorted; got {quoted(y)}.") from error
        if len(classes) < 2:
            raise DataError(f"A classifier needs two classes or more; got {quoted(classes.tolist())}.")
        if missing := [name for name in classes.tolist() if name != name]:
            raise DataError(f"Each picture needs its class; some have {quoted(missing[0])}. Leave them out.")
        names = {index: str(name) for index, name in enumerate(classes)}
        problem = {"problem_type": "single_label_classification", "num_labels": len(names), "id2label": names}
        self._train(X, ids.reshape(-1).tolist(), self._config(**problem))
        self.classes_ = classes  # after the training: one that fails leaves the estimator as it was
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class of each picture, `(N,)`.

        Args:
            X: N pictures.
        """
        likeliest = self.predict_proba(X).argmax(axis=1)  # which says first if nothing was fitted
        return self.classes_[likeliest]

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class, `(N, classes)`, in the order of `classes_`.

        Args:
            X: N pictures.
        """
        return self._values(X)


class CIAORegressor(RegressorMixin, _Estimator):
    """An adapter that predicts values of pictures, as an estimator of scikit-learn.

    Args:
        encoder: The backbone: a name for `load_encoder`, or a network, of which every `fit` takes a copy.
        num_train_epochs, learning_rate, mask_learning_rate, weight_decay, seed: As in `CIAOTrainingArguments`.
        batch_size: Pictures of a batch, in training and prediction; when left out, the recipe's and 128.
        tuning, hidden_sizes, dropout, contrastive_weight, temperature: As in `CIAOConfig`.
        settings: Other settings of `CIAOConfig`, by name.
        arguments: Other settings of `CIAOTrainingArguments`, by name.

    Attributes:
        model_: The trained `CIAOModel`, to be saved with `save_pretrained`.

    Shapes:
        X: As for `CIAOClassifier`. y: `(N,)` or `(N, values)`.

    Raises:
        DataError, ConfigError: as for `CIAOClassifier`.

    Example:
        >>> faces = [np.full((64, 64, 3), shade, dtype=np.uint8) for shade in (10, 90, 170, 250)]
        >>> regressor = CIAORegressor(num_train_epochs=2).fit(faces, [-0.9, -0.3, 0.3, 0.9])
        >>> regressor.predict(faces).shape
        (4,)
    """

    model_: CIAOModel

    def fit(self, X: Any, y: Any) -> CIAORegressor:
        """Trains an adapter on a fresh copy of the encoder.

        Args:
            X: N pictures.
            y: `(N,)` or `(N, values)`.

        Raises:
            DataError: what is no such numbers, or another number of labels.
        """
        try:
            values = np.asarray(y, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise DataError(f"A regressor needs numbers; got {quoted(y)}.") from error
        if values.ndim not in (1, 2) or not values.size:
            raise DataError(f"Values must be (N,) or (N, values); got {values.shape}.")
        rows = values.reshape(len(values), -1)
        problem: dict[str, Any] = {"problem_type": "regression", "num_labels": rows.shape[1]}
        if "label_range" not in (self.settings or {}) and rows.size and rows.min() < rows.max():
            problem["label_range"] = (float(rows.min()), float(rows.max()))
        self._train(X, rows.tolist(), self._config(**problem))
        self._is_flat = values.ndim == 1
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The values of each picture, `(N,)` or `(N, values)` as in `fit`.

        Args:
            X: N pictures.
        """
        values = self._values(X)
        return values[:, 0] if self._is_flat else values


def _prepared(pictures: Any) -> Tensor | None:
    """Pixel values that were given as such; None for pictures."""
    if isinstance(pictures, np.ndarray) and pictures.dtype.kind == "f":
        return torch.from_numpy(np.ascontiguousarray(pictures, dtype=np.float32))
    if isinstance(pictures, Tensor) and not pictures.is_floating_point():
        raise DataError(
            f"A tensor holds prepared pixel values in floating point; got {pictures.dtype}. Give pictures as an array: "
            "`tensor.permute(0, 2, 3, 1).numpy()`."
        )
    return pictures.float() if isinstance(pictures, Tensor) else None


def _pixels(pictures: Any, model: CIAOModel) -> Tensor:
    """Prepared pixel values, `(N, C, H, W)`; pictures are prepared as the model's backbone needs them."""
    prepared = _prepared(pictures)
    if prepared is not None:
        return prepared
    if model.preprocessing is None:
        raise DataError(
            "This encoder does not say how pictures must be prepared; give prepared pixel values `(N, C, H, W)` in "
            "floating point."
        )
    if isinstance(pictures, (str, bytes, os.PathLike, Image.Image)) or _is_one_picture(pictures):
        raise DataError(
            f"`X` must be a list of pictures; got one {type(pictures).__name__}. Write `[picture]` for a single one."
        )
    if not isinstance(pictures, Iterable) or isinstance(pictures, Mapping):
        raise DataError(f"`X` must be a list or an array of pictures; got {type(pictures).__name__}.")
    return model.preprocessing(list(cast("Sequence[Any]", pictures)))


def _is_one_picture(pictures: Any) -> bool:
    """Whether an array is a single picture: its rows would be read as grey pictures of a few pixels."""
    if not isinstance(pictures, np.ndarray) or pictures.dtype.kind not in "uib":
        return False
    return pictures.ndim < 3 or (pictures.ndim == 3 and pictures.shape[-1] in (3, 4))
