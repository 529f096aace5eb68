"""What a model is made of, in the dataclasses that peft's `get_model_status` and `get_layer_status` return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..adapters import Adapter

__all__ = ["LayerStatus", "ModelStatus", "devices_by_name", "layer_status", "trainable_by_name"]

YesOrNo = bool | Literal["irregular"]
"""Of several parameters: all, none, or some of them."""


@dataclass
class LayerStatus:
    """One masked convolution.

    Args:
        name: Its path on the model.
        module_type: What masks it.
        enabled: False inside `disable_adapter()`.
        active_adapters: The active adapter, where it masks this convolution.
        merged_adapters: Empty: an adapter cannot be merged.
        requires_grad: Whether it is trained, by adapter.
        available_adapters: Adapters that mask it.
        devices: Where they are, by adapter.
        quantization_backend: None.

    Example:
        >>> LayerStatus("backbone.conv", "ciao.Adapter", True, [], [], {}, [], {}).quantization_backend is None
        True
    """

    name: str
    module_type: str
    enabled: bool
    active_adapters: list[str]
    merged_adapters: list[str]
    requires_grad: dict[str, YesOrNo]
    available_adapters: list[str]
    devices: dict[str, list[str]]
    quantization_backend: str | None = None


@dataclass
class ModelStatus:
    """The whole model.

    Args:
        base_model_type, adapter_model_type: Names of the classes of backbone and model.
        peft_types: `"CIAO"`, by adapter.
        trainable_params, total_params: Numbers that training changes, and all.
        num_adapter_layers: Masked convolutions.
        enabled: False inside `disable_adapter()`.
        active_adapters: The active adapter, or none.
        merged_adapters: Empty: an adapter cannot be merged.
        requires_grad: Whether it is trained, by adapter; `"irregular"` where parts of it are.
        available_adapters: Names of all adapters.
        devices: Where they are, by adapter.
        quantization_backend: None.

    Example:
        >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
        >>> model = get_ciao_model(load_encoder("small-face"), CIAOConfig(problem_type="regression", num_labels=2))
        >>> model.get_model_status().devices
        {'default': ['cpu']}
    """

    base_model_type: str
    adapter_model_type: str
    peft_types: dict[str, str]
    trainable_params: int
    total_params: int
    num_adapter_layers: int
    enabled: bool
    active_adapters: list[str]
    merged_adapters: list[str]
    requires_grad: dict[str, YesOrNo]
    available_adapters: list[str]
    devices: dict[str, list[str]]
    quantization_backend: str | None = None


def trainable_by_name(adapters: Mapping[str, Adapter]) -> dict[str, YesOrNo]:
    """Whether the parameters of each adapter that may be trained require gradients.

    Args:
        adapters: By name.

    Example:
        >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
        >>> model = get_ciao_model(load_encoder("small-face"), CIAOConfig(problem_type="regression", num_labels=2))
        >>> trainable_by_name(model.adapters)
        {'default': True}
    """
    found: dict[str, YesOrNo] = {}
    for name, adapter in adapters.items():
        flags = {p.requires_grad for key, p in adapter.named_parameters() if key in adapter.trainable}
        found[name] = "irregular" if len(flags) > 1 else flags == {True}
    return found


def devices_by_name(adapters: Mapping[str, Adapter]) -> dict[str, list[str]]:
    """The devices on which each adapter is.

    Args:
        adapters: By name.

    Example:
        >>> devices_by_name({})
        {}
    """
    return {name: sorted({p.device.type for p in adapter.parameters()}) for name, adapter in adapters.items()}


def layer_status(adapters: Mapping[str, Adapter], active: Sequence[str], enabled: bool) -> list[LayerStatus]:
    """One entry for each convolution that an adapter masks, in the order of their paths.

    Args:
        adapters: By name.
        active: The adapters that read.
        enabled: Whether adapters read at all.

    Example:
        >>> layer_status({}, [], True)
        []
    """
    masked: dict[str, dict[str, Adapter]] = {}
    for name, adapter in adapters.items():
        for target in adapter.config.target_modules or ():
            masked.setdefault(target, {})[name] = adapter
    return [
        LayerStatus(
            name=f"backbone.{target}",
            module_type="ciao.Adapter",
            enabled=enabled,
            active_adapters=[name for name in active if name in own],
            merged_adapters=[],
            requires_grad=trainable_by_name(own),
            available_adapters=sorted(own),
            devices=devices_by_name(own),
        )
        for target, own in sorted(masked.items())
    ]
