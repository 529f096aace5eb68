"""Loads encoders of timm, which are named `timm/NAME`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ..checking import closest
from ..door import check_types
from ..errors import AdapterFileError, CIAOError, ConfigError, EncoderNotFoundError, listed, shortened
from ..hub.client import as_our_errors, open_client
from ..installed import check_installed
from ..preprocessing import Preprocessing
from ..saving.files import read_json
from .attributes import set_attributes, with_preprocessing
from .bounds import bounded_building, check_config, weights_budget

__all__ = ["build", "check_settings", "load", "read"]

# Keys of `pretrained_cfg` that describe the input and the first and last layers of the network. Those that say where
# weights could be downloaded, and how, are left out.
_DESCRIPTIVE = {
    *("input_size", "fixed_input_size", "min_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std"),
    *("num_classes", "label_offset", "pool_size", "first_conv", "classifier", "tag"),
}
# Arguments of `timm.create_model` that bring in other weights, in addition to those that start with "pretrained".
_ELSEWHERE = {"cache_dir", "checkpoint_path"}
_PARTS: dict[str, type | tuple[type, ...]] = {"model_args": dict, "pretrained_cfg": dict}


def load(name: str, *, pretrained: bool = True, **settings: Any) -> nn.Module:
    """Loads a model of timm without its classifier, with the attributes of an encoder.

    Args:
        name: A name of `timm.list_models()`, with or without a tag of pretrained weights: `resnet18.a1_in1k`.
        pretrained: Whether to load weights from the Hub; otherwise they are random.
        settings: Settings of `timm.create_model`.

    Returns:
        The model; its `revision` is the tag of its weights.

    Raises:
        EncoderNotFoundError: timm has no such model, or no such weights.
        ConfigError: timm cannot make the model with these settings.
        HubError: the Hub does not give the weights.
        OutdatedPackageError: timm is older than the bound of this library.

    Example:
        >>> encoder = load("resnet10t", pretrained=False)
        >>> encoder.name, encoder.input_size, encoder.revision
        ('timm/resnet10t', (3, 176, 176), 'random')
    """
    check_installed("timm")
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = closest(architecture, timm.list_models(), 3)
        hint = f" Close to it: {', '.join(close)}." if close else ""
        raise EncoderNotFoundError(f"timm has no model {architecture!r}.{hint} `timm.list_models()` has them all.")
    if tag and name not in (tagged := timm.list_pretrained(f"{architecture}.*")):
        raise EncoderNotFoundError(
            f"timm has no weights {tag!r} of {architecture!r}; it has: {', '.join(tagged) or 'none'}."
        )
    settings = {"num_classes": 0} | settings
    with as_our_errors(f"'{name}' of timm", open_client(None), f"timm/{name}"):
        try:
            encoder = timm.create_model(name, pretrained=pretrained, **settings)
        except ValueError as error:
            if isinstance(error, OSError):  # from the Hub's client
                raise
            raise ConfigError(f"timm cannot make {name!r} with {settings}: {error}") from error
    _with_attributes(encoder, name, {key: value for key, value in settings.items() if not _brings_weights(key)})
    # The full name of the weights that were chosen: without it, another version of timm may choose others.
    pretrained_cfg: Any = encoder.pretrained_cfg
    tag = pretrained_cfg.get("tag")
    full_name = f"timm/{architecture}.{tag}" if pretrained and tag else f"timm/{architecture}"
    return set_attributes(encoder, name=full_name, revision=tag or "default" if pretrained else "random")


def build(name: str, **settings: Any) -> nn.Module:
    """Builds the model that a file describes, with random weights, and its preprocessing.

    It has no classifier, unless `num_classes` asks for one.

    Args:
        name: A name of `timm.list_models()`.
        settings: Settings of `timm.create_model`.

    Raises:
        ConfigError: `check_settings` refuses the settings.

    Example:
        >>> build("resnet10t").num_classes
        0
    """
    check_installed("timm")
    import timm

    check_settings(name, settings)
    settings = {"num_classes": 0} | settings
    return _with_attributes(timm.create_model(name, **settings), name, settings)


def check_settings(name: Any, settings: Any) -> None:
    """Refuses settings in a file that would make timm take a model or weights from elsewhere.

    Args:
        name: The model's name.
        settings: Settings of `timm.create_model`.

    Raises:
        ConfigError: timm has no model of this name, or a setting says where weights come from.

    Example:
        >>> check_settings("resnet18.a1_in1k", {"num_classes": 7})
    """
    check_installed("timm")
    import timm

    if not isinstance(name, str) or not timm.is_model(name.partition(".")[0]):
        raise ConfigError(
            f"timm has no model {shortened(repr(name))}; a file names one of `timm.list_models()`, and no place."
        )
    if not isinstance(settings, dict):
        raise ConfigError(f"The settings of a model of timm must map names to values; got {shortened(repr(settings))}.")
    if refused := [key for key in settings if _brings_weights(key)]:
        raise ConfigError(
            f"A file says with {listed(refused)} where timm finds other weights, which may run code; weights are read "
            "from the folder itself. Make the model yourself if you trust it, and give it to `get_ciao_model`."
        )
    check_config(settings, f"the file of {name}")


def _brings_weights(setting: str) -> bool:
    return setting in _ELSEWHERE or setting.startswith("pretrained")


def read(folder: Path, *, pretrained: bool = True, preprocessing: Preprocessing | None = None) -> nn.Module:
    """Reads the model in a folder that `timm.models.push_to_hf_hub` wrote, without its classifier.

    Args:
        folder: A folder with `config.json` and `model.safetensors`.
        pretrained: Whether to load its weights; otherwise they are random.
        preprocessing: Replaces what `config.json` says.

    Returns:
        The model, with its `preprocessing`.

    Raises:
        AdapterFileError: timm does not know the model, or a file is damaged or does not fit.
    """
    check_installed("timm")
    import timm

    path, weights = folder / "config.json", folder / "model.safetensors"
    config = read_json(path)
    pretrained_cfg, settings = config.get("pretrained_cfg") or {}, config.get("model_args") or {}
    try:
        check_types({"model_args": settings, "pretrained_cfg": pretrained_cfg}, _PARTS, path, error=ConfigError)
        settings = dict(settings)
        check_settings(config["architecture"], settings)
        if settings.pop("features_only", False):
            raise ConfigError("timm lets weights be missing where `features_only` is asked for. Leave it out.")
        kept = {key: value for key, value in pretrained_cfg.items() if key in _DESCRIPTIVE}
        check_config(kept, str(path))
        # With the classes and channels of the file itself, every tensor must be there: timm fills missing tensors with
        # random numbers where the model differs from the file's.
        classes = [where["num_classes"] for where in (config, pretrained_cfg, settings) if "num_classes" in where]
        if classes:
            kept["num_classes"] = settings["num_classes"] = classes[0]
        if "in_chans" in settings and "input_size" in kept:
            kept["input_size"] = (settings["in_chans"], *kept["input_size"][1:])
        if pretrained:
            kept["file"] = str(weights)
        with bounded_building(weights_budget(weights), str(path)):
            encoder: Any = timm.create_model(
                config["architecture"], pretrained=pretrained, pretrained_cfg=kept, **settings
            )
        if encoder.num_classes:
            encoder.reset_classifier(0)
        return _with_attributes(encoder, config["architecture"], {**settings, "num_classes": 0}, preprocessing)
    except Exception as error:  # timm raises nearly anything at what it does not know
        said = shortened(str(error) if isinstance(error, CIAOError) else f"{type(error).__name__}: {error}", 2000)
        raise AdapterFileError(f"The model of timm in '{folder}' cannot be loaded: {said}") from error


def _with_attributes(
    encoder: nn.Module, name: str, settings: dict[str, Any], preprocessing: Preprocessing | None = None
) -> nn.Module:
    set_attributes(encoder, encoder_type="timm", architecture={"name": name, **settings}, revision="random")
    preprocessing = preprocessing or Preprocessing.for_backbone(encoder)
    if preprocessing is None:  # neither one channel nor three: no pictures
        from timm.models import get_model_input_config

        return set_attributes(encoder, input_size=get_model_input_config(encoder)["input_size"])
    return with_preprocessing(encoder, preprocessing)
