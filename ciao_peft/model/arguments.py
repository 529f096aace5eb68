"""What a model is made of, checked at the door: each mistake says what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..checking import is_number
from ..config import CIAOConfig
from ..errors import BackboneError, ConfigError, listed, quoted
from ..preprocessing import Preprocessing
from .active_config import ActiveConfig

__all__ = ["check_backbone", "check_config", "check_input"]

_WRAPPERS = ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel")
_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized", "bitsandbytes")


def check_backbone(backbone: Any) -> None:
    """Refuses what is no network that can be read and copied as it is.

    Args:
        backbone: What was given as backbone; one that `torch.compile` made is taken out of its wrapper before.

    Raises:
        BackboneError: a name, a class, a wrapper for several devices, or a network with quantized layers.

    Example:
        >>> check_backbone("resnet18")
        Traceback (most recent call last):
        ...
        ciao_peft.errors.BackboneError: A backbone is an nn.Module without adapters; got 'resnet18'. ...
    """
    if isinstance(backbone, nn.Module):
        kind = type(backbone).__name__
        if kind in _WRAPPERS:
            raise BackboneError(
                f"The backbone is wrapped in {kind}; give the network inside, `backbone.module`. For several devices, "
                "start one process each, `torchrun --nproc_per_node 2 train.py`: CIAOTrainer shares the work."
            )
        quantized = [
            name
            for name, module in backbone.named_modules()
            if type(module).__module__.startswith(_QUANTIZED)
            or any(getattr(p, "is_quantized", False) for p in (*module.parameters(False), *module.buffers(False)))
        ]
        if quantized:
            raise BackboneError(
                f"The backbone has quantized layers ({listed(quantized[:5])}), which carry no gradient and cannot be "
                "told from others by their weights. Give the network as it was before; `.half()` and `.bfloat16()` "
                "save memory too."
            )
        return
    text = "A backbone is an nn.Module without adapters; got "
    if isinstance(backbone, str):
        raise BackboneError(
            f"{text}{backbone!r}. Load the network first, `timm.create_model({backbone!r}, pretrained=True)` or one of "
            "ours, `ciao_peft.load_encoder('small-face')`; `AutoCIAOModel.from_pretrained` finds an adapter's own."
        )
    if isinstance(backbone, type):
        raise BackboneError(f"{text}the class {backbone.__name__}. Make one first: `{backbone.__name__}(...)`.")
    if isinstance(backbone, CIAOConfig):
        raise BackboneError(f"{text}a CIAOConfig. The backbone comes first: `get_ciao_model(backbone, config)`.")
    raise BackboneError(f"{text}{type(backbone).__name__}. timm, transformers and torchvision have some.")


def check_config(config: Any) -> CIAOConfig:
    """Refuses what is no `CIAOConfig`.

    Args:
        config: What was given as config.

    Raises:
        ConfigError: it is something else; the message says how to make one.

    Example:
        >>> check_config({"problem_type": "regression", "num_labels": 2})
        Traceback (most recent call last):
        ...
        ciao_peft.errors.ConfigError: `config` must be a CIAOConfig; got a dict. Write `CIAOConfig(**config)`.
    """
    if isinstance(config, CIAOConfig):
        return config
    kind = type(config).__name__
    if isinstance(config, Mapping):
        raise ConfigError(f"`config` must be a CIAOConfig; got a {kind}. Write `CIAOConfig(**config)`.")
    hint = "`CIAOConfig(problem_type='single_label_classification', num_labels=7)`"
    if isinstance(config, ActiveConfig):
        hint = "An adapter's own is `model.peft_config[NAME]`; `model.config` is what transformers reads"
    elif hasattr(config, "peft_type"):
        hint = f"Adapters of other kinds, such as those of peft, go onto other models; CIAO's has {hint}"
    else:
        hint = f"Write {hint}"
    raise ConfigError(f"`config` must be a CIAOConfig; got {kind}. {hint}.")


def check_input(input_size: Any, preprocessing: Any) -> None:
    """Refuses a size that is not three whole numbers, and a preprocessing of another library.

    Args:
        input_size: What was given as size of the pixels; None where it was left out.
        preprocessing: What was given as preprocessing; None where it was left out.

    Raises:
        ConfigError: one of them is something else; the message says what to write.

    Example:
        >>> check_input(224, None)
        Traceback (most recent call last):
        ...
        ciao_peft.errors.ConfigError: `input_size` must be (channels, height, width); got 224. Write \
`input_size=(3, 224, 224)`.
    """
    if input_size is not None:
        try:
            numbers = [int(n) for n in input_size if is_number(n, int, 1)]
            complete = len(numbers) == len(input_size)
        except TypeError:
            numbers, complete = ([int(input_size)] if is_number(input_size, int, 1) else []), False
        if not complete or len(numbers) != 3:
            sides = {1: numbers * 2, 2: numbers}.get(len(numbers), [224, 224])
            raise ConfigError(
                f"`input_size` must be (channels, height, width); got {quoted(input_size)}. Write "
                f"`input_size=(3, {sides[0]}, {sides[1]})`."
            )
    if preprocessing is not None and not isinstance(preprocessing, Preprocessing):
        raise ConfigError(
            f"`preprocessing` must be a ciao_peft.Preprocessing; got {type(preprocessing).__name__}. Write "
            "`Preprocessing(size=(224, 224), mean=..., std=...)` with the values of that one."
        )
