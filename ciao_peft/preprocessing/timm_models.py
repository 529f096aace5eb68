"""What models of timm are fed, their own and those that transformers wraps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_of_timm(model: Any) -> bool:
    """Whether it comes with timm's word on its weights."""
    return bool(_told(model))


def data_config_of(model: Any) -> dict[str, Any] | None:
    """timm's data config for the pixels that a model takes, whatever its weights were trained with.

    Returns:
        What `Preprocessing.from_timm` reads, or None where pixels have neither one channel nor three.
    """
    from timm.data import resolve_data_config
    from timm.models import get_model_traits

    config = resolve_data_config(pretrained_cfg=dict(_told(model)))
    traits = get_model_traits(getattr(model, "timm_model", model))
    channels = traits.get("in_chans", config["input_size"][0])
    if channels not in (1, 3):
        return None
    if channels != len(config["mean"]):
        # timm adds up the weights of the colours, so that one channel stands for all three.
        config |= {key: (sum(config[key]) / len(config[key]),) * channels for key in ("mean", "std")}
    return config | {"input_size": (channels, *(traits.get("img_size") or config["input_size"][1:]))}


def _told(model: Any) -> Mapping[str, Any] | None:
    told = getattr(model, "pretrained_cfg", None)
    config = getattr(model, "config", None)
    if told is None and getattr(config, "model_type", None) == "timm_wrapper":
        told = getattr(config, "pretrained_cfg", None)
    return told
