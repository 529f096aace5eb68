"""The preprocessing of timm's models, used directly or wrapped by transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..installed import check_installed

__all__ = ["data_config_of", "is_of_timm"]


def is_of_timm(model: Any) -> bool:
    """Whether a model comes with timm's description of its weights, `pretrained_cfg`.

    Args:
        model: Any network; it may be wrapped by transformers' `TimmWrapperModel`.

    Example:
        >>> import timm, torch
        >>> is_of_timm(timm.create_model("test_resnet", pretrained=False)), is_of_timm(torch.nn.Conv2d(3, 8, 3))
        (True, False)
    """
    return bool(_pretrained_cfg_of(model))


def data_config_of(model: Any) -> dict[str, Any] | None:
    """timm's data config for the pixels that a model takes, even if its weights were trained with others.

    Args:
        model: A model of timm, see `is_of_timm`.

    Returns:
        What `Preprocessing.from_timm` reads, or None where pixels have neither one channel nor three.

    Raises:
        OutdatedPackageError: timm is older than the bound of this library.

    Example:
        >>> import timm
        >>> config = data_config_of(timm.create_model("test_resnet", pretrained=False, in_chans=1))
        >>> config["input_size"], len(config["mean"])
        ((1, 160, 160), 1)
    """
    check_installed("timm")
    from timm.data.config import resolve_data_config
    from timm.models import get_model_traits

    config = resolve_data_config(pretrained_cfg=dict(_pretrained_cfg_of(model) or {}))
    traits = get_model_traits(getattr(model, "timm_model", model))
    channels = traits.get("in_chans", config["input_size"][0])
    if channels not in (1, 3):
        return None
    if channels != len(config["mean"]):
        # timm adds up the weights of the colours, so that one channel stands for all three.
        config |= {key: (sum(config[key]) / len(config[key]),) * channels for key in ("mean", "std")}
    return config | {"input_size": (channels, *(traits.get("img_size") or config["input_size"][1:]))}


def _pretrained_cfg_of(model: Any) -> Mapping[str, Any] | None:
    cfg = getattr(model, "pretrained_cfg", None)
    config = getattr(model, "config", None)
    if cfg is None and getattr(config, "model_type", None) == "timm_wrapper":
        cfg = getattr(config, "pretrained_cfg", None)
    return cfg
