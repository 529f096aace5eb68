"""What transformers needs to know our folders and models: importing this module tells it.

`AutoConfig`, `AutoImageProcessor`, `AutoModelForImageClassification` and `pipeline("image-classification", ...)` then
read a folder that `save_pretrained` wrote. Nothing that a folder names is imported or run.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..installed import check_installed

try:
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModelForImageClassification,
        PreTrainedConfig,
    )
    from transformers.image_processing_base import BatchFeature
    from transformers.image_processing_utils import BaseImageProcessor
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
except ImportError:
    check_installed("transformers")
    raise

from ..auto import AutoCIAOModel
from ..errors import ConfigError, InputError, listed, quoted
from ..model import CIAOModel, CIAOOutput
from ..preprocessing import Preprocessing
from ..preprocessing.processors import PROCESSOR_TYPE
from ..saving import PREPROCESSOR_FILE, read_json, to_json

__all__ = ["CIAOForImageClassification", "CIAOHubConfig", "CIAOImageProcessor", "processor_of"]

_HUB = ("subfolder", "revision", "token", "cache_dir", "local_files_only", "force_download")
# What `pipeline` and the `Auto` classes pass along; it says nothing to a model that runs no code of a repository.
_SAYS_NOTHING = ("trust_remote_code", "adapter_kwargs", "code_revision", "_commit_hash", "_from_auto", "_from_pipeline")


class CIAOHubConfig(PreTrainedConfig):
    """The `config.json` of an adapter's folder: labels and problem, in transformers' words.

    Args:
        **settings: As for `transformers.PreTrainedConfig`: `id2label`, `label2id`, `problem_type` and the like.

    Example:
        >>> import tempfile
        >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
        >>> config = CIAOConfig(problem_type="regression", num_labels=2, id2label={0: "arousal", 1: "valence"})
        >>> folder = get_ciao_model(load_encoder("small-face"), config).save_pretrained(tempfile.mkdtemp() + "/fer")
        >>> AutoConfig.from_pretrained(folder).id2label
        {0: 'arousal', 1: 'valence'}
    """

    model_type = "ciao"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["embeddings", "task_loss", "contrastive_loss"]


class CIAOImageProcessor(BaseImageProcessor):
    """A `Preprocessing` in the place of an image processor of transformers.

    Args:
        preprocessing: What prepares the pictures; or its settings by name, as `Preprocessing.to_dict` gives them.
        **settings: Those settings, where `preprocessing` is left out.

    Shapes:
        Pictures of any sizes become `pixel_values` `(B, C, height, width)`.

    Raises:
        ConfigError: settings that `Preprocessing.from_dict` refuses.

    Example:
        >>> processor = CIAOImageProcessor(Preprocessing(size=(32, 32)))
        >>> processor(np.zeros((48, 40, 3), dtype=np.uint8), return_tensors="pt")["pixel_values"].shape
        torch.Size([1, 3, 32, 32])
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values"]
    preprocessing: Preprocessing

    def __init__(self, preprocessing: Preprocessing | Mapping[str, Any] | None = None, **settings: Any) -> None:
        super().__init__()
        if not isinstance(preprocessing, Preprocessing):
            settings = {key: value for key, value in (preprocessing or settings).items() if key != "processor_class"}
            preprocessing = Preprocessing.from_dict(settings)
        self.preprocessing = preprocessing

    @property
    def size(self) -> dict[str, int]:
        """Height and width of the pixel values."""
        return {"height": self.preprocessing.size[0], "width": self.preprocessing.size[1]}

    @property
    def image_mean(self) -> list[float]:
        """The mean of each channel, of pixels between 0 and 1."""
        return list(self.preprocessing.mean)

    @property
    def image_std(self) -> list[float]:
        """The deviation of each channel."""
        return list(self.preprocessing.std)

    def __call__(self, images: Any, **kwargs: Any) -> BatchFeature:
        """As `preprocess`."""
        return self.preprocess(images, **kwargs)

    def preprocess(self, images: Any, *, return_tensors: Any = None, **settings: Any) -> BatchFeature:
        """Makes the pixel values of one picture or several.

        Args:
            images: What `Preprocessing` takes.
            return_tensors: `"pt"`, `"np"`, or None for a list of arrays.
            **settings: None: the adapter was trained on exactly this preprocessing.

        Returns:
            `pixel_values` `(B, C, height, width)`.

        Raises:
            ConfigError: a setting that would change the pixels, or another kind of tensors.
            DataError: a picture cannot be read.

        Example:
            >>> processor = CIAOImageProcessor(Preprocessing(size=(8, 8)))
            >>> processor.preprocess([np.zeros((9, 9), dtype=np.uint8)] * 2, return_tensors="np")["pixel_values"].shape
            (2, 3, 8, 8)
        """
        if changes := [name for name, value in settings.items() if value is not None]:
            raise ConfigError(
                f"The adapter was trained on one preprocessing; {listed(changes)} cannot be changed. "
                "`Preprocessing.replace` makes another one."
            )
        if return_tensors not in ("pt", "np", None):
            raise ConfigError(f"`return_tensors` must be 'pt', 'np' or None; got {quoted(return_tensors)}.")
        several = list(images) if isinstance(images, np.ndarray) and images.ndim == 4 else images
        pixels: Any = self.preprocessing(several)
        if return_tensors != "pt":
            pixels = pixels.numpy() if return_tensors == "np" else list(pixels.numpy())
        return BatchFeature({"pixel_values": pixels})

    def to_dict(self) -> dict[str, Any]:
        """The content of a `preprocessor_config.json`, as an adapter's folder has it.

        Example:
            >>> CIAOImageProcessor(Preprocessing(size=(8, 8))).to_dict()["image_processor_type"]
            'CIAOImageProcessor'
        """
        return self.preprocessing.to_dict() | PROCESSOR_TYPE

    def to_json_string(self) -> str:
        """The same as the file of an adapter's folder has it, so that a folder into which it is saved stays whole.

        Example:
            >>> CIAOImageProcessor(Preprocessing(size=(8, 8))).to_json_string()[-1:]
            '\\n'
        """
        return to_json(self.to_dict()).decode()

    @classmethod
    def from_dict(cls, image_processor_dict: Mapping[str, Any], **kwargs: Any) -> Any:
        """Makes one of what `to_dict` returned.

        Args:
            image_processor_dict: Exactly the keys that `to_dict` writes.
            **kwargs: `return_unused_kwargs`, and what transformers passes along.

        Raises:
            ConfigError: as `Preprocessing.from_dict` says.

        Example:
            >>> processor = CIAOImageProcessor(Preprocessing(size=(8, 8)))
            >>> CIAOImageProcessor.from_dict(processor.to_dict()).preprocessing == processor.preprocessing
            True
        """
        unused = kwargs.pop("return_unused_kwargs", False)
        processor = cls(image_processor_dict)
        return (processor, kwargs) if unused else processor


class CIAOForImageClassification(nn.Module):
    """A `CIAOModel` as transformers' `Auto` classes load it: softmax or sigmoid of its logits are what `predict` says.

    Its logits are those of the model divided by the adapter's `probability_temperature`; losses are those of the model.
    Everything else of the model is there under its own name, such as `predict`, `set_adapter` and `save_pretrained`.

    Args:
        model: The model.

    Attributes:
        model: The same, for `CIAOTrainer` and for raw logits.

    Shapes:
        As for `CIAOModel`.

    Raises:
        InputError: `model` is no `CIAOModel`.

    Example:
        >>> import tempfile
        >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
        >>> folder = get_ciao_model(load_encoder("small-face"), config).save_pretrained(tempfile.mkdtemp() + "/fer")
        >>> model = AutoModelForImageClassification.from_pretrained(folder)
        >>> model(pixel_values=torch.rand(1, *model.input_size)).logits.shape
        torch.Size([1, 2])
    """

    config_class = CIAOHubConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def __init__(self, model: CIAOModel) -> None:
        super().__init__()
        if not isinstance(model, CIAOModel):
            raise InputError(f"`model` must be a CIAOModel; got {type(model).__name__}.")
        self.model = model
        self.training = model.training

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or "model" not in self._modules:
                raise
            return getattr(self._modules["model"], name)

    def forward(  # no `**kwargs`: `Trainer` would take it for a model that divides its own loss
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        features: Tensor | Sequence[Tensor] | None = None,
        adapter_names: Sequence[str] | None = None,
    ) -> CIAOOutput:
        """Reads a batch with the active adapter.

        Args:
            pixel_values, labels, features, adapter_names: As for `CIAOModel.forward`; in a mixed batch, logits are
                those of the model.
        """
        output = self.model(pixel_values, labels, features=features, adapter_names=adapter_names)
        if not isinstance(output, CIAOOutput) or not isinstance(output.logits, Tensor):
            return output
        temperature = self.model.peft_config[self.model.resolve_adapter()].probability_temperature
        if temperature != 1:
            output.logits = output.logits / temperature
        return output

    def can_generate(self) -> bool:
        """False: it answers, and writes no text.

        Example:
            >>> CIAOForImageClassification.can_generate(None)
            False
        """
        return False

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, config: Any = None, **kwargs: Any
    ) -> CIAOForImageClassification:
        """Loads an adapter on its backbone, as `AutoCIAOModel.from_pretrained` does.

        Args:
            pretrained_model_name_or_path: A folder that `save_pretrained` wrote, or `user/name` on the Hub.
            *args: None.
            config: What `AutoConfig` read; the adapter's own config decides.
            **kwargs: `dtype`, `device_map` (one device), and `subfolder`, `revision`, `token`, `cache_dir`,
                `local_files_only` and `force_download`.

        Raises:
            ConfigError: an argument that this model does not have.
            CIAOError: as `AutoCIAOModel.from_pretrained` says.
        """
        adapter_of = dict(kwargs.get("adapter_kwargs") or {}).get("_adapter_model_path")
        source = adapter_of or pretrained_model_name_or_path  # with peft, transformers puts the backbone's name there
        dtype, device = kwargs.pop("dtype", None), kwargs.pop("device_map", None)
        hub = {key: kwargs.pop(key) for key in _HUB if kwargs.get(key) is not None}
        if unknown := [
            key for key, value in kwargs.items() if key not in (*_SAYS_NOTHING, *_HUB) and value is not None
        ]:
            raise ConfigError(f"A model of ciao_peft is loaded without {listed(unknown)}; it takes {listed(_HUB)}.")
        if isinstance(device, Mapping):
            raise ConfigError(f"A model of ciao_peft lies on one device; got device_map={quoted(dict(device))}.")
        if dtype == "auto":
            dtype = None
        kind: Any = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
        if dtype is not None and not (isinstance(kind, torch.dtype) and kind.is_floating_point):
            raise ConfigError(
                f"`dtype` must be 'auto' or a kind of floating point, such as 'float16'; got {quoted(dtype)}."
            )
        model = AutoCIAOModel.from_pretrained(source, **hub)
        if kind is not None:
            model.to(kind)
        if device is not None:
            cuda = "cuda" if torch.cuda.is_available() else "cpu"
            model.to(cuda if device in ("auto", "balanced", "sequential") else device)
        return cls(model).eval()

    def save_pretrained(self, folder: str | os.PathLike[str], **options: Any) -> None:
        """Saves the active adapter, as `CIAOModel.save_pretrained` does.

        Args:
            folder: Where.
            **options: `adapter_name`, `training`, `picture` and `dtype` of `CIAOModel.save_pretrained`; others are
                transformers' and say nothing here.
        """
        known = {key: options[key] for key in ("adapter_name", "training", "picture", "dtype") if key in options}
        self.model.save_pretrained(folder, **known)


def processor_of(source: CIAOModel | CIAOForImageClassification | str | os.PathLike[str]) -> CIAOImageProcessor:
    """The image processor of a model, or of a folder, for `pipeline(..., image_processor=...)`.

    Args:
        source: The model; or a folder that `save_pretrained` wrote, also one by an older version. With a `CIAOModel`
            whose adapter was calibrated, `pipeline` would not answer as `predict`; a warning then says what to give it.

    Raises:
        InputError: the model has no preprocessing.

    Example:
        >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
        >>> model = get_ciao_model(load_encoder("small-face"), CIAOConfig(problem_type="regression", num_labels=2))
        >>> processor_of(model).size
        {'height': 64, 'width': 64}
    """
    if isinstance(source, (str, os.PathLike)):
        return CIAOImageProcessor(read_json(Path(source, PREPROCESSOR_FILE)))
    if source.preprocessing is None:
        raise InputError("This model does not say how pictures must be prepared; give get_ciao_model `preprocessing=`.")
    calibrated = (config for config in source.peft_config.values() if config.probability_temperature != 1)
    if isinstance(source, CIAOModel) and any(calibrated):
        warnings.warn(
            "The adapter was calibrated: its probabilities are those of `logits / probability_temperature`. Give "
            "`pipeline` the model as CIAOForImageClassification(model), whose logits are divided already.",
            stacklevel=2,
        )
    return CIAOImageProcessor(source.preprocessing)


def _register(names: Sequence[str] = ("CIAOForImageClassification", "CIAOModel")) -> None:
    AutoConfig.register("ciao", CIAOHubConfig, exist_ok=True)
    both = {"pil": CIAOImageProcessor, "torchvision": CIAOImageProcessor}
    AutoImageProcessor.register(CIAOHubConfig, image_processor_classes=both, exist_ok=True)
    AutoModelForImageClassification.register(CIAOHubConfig, CIAOForImageClassification, exist_ok=True)
    # Which classes `pipeline` takes for models that classify; of others it logs that they are not supported.
    cast("dict[str, Any]", MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES)["ciao"] = tuple(names)


_register()
