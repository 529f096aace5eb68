"""LoRA (Hu et al. 2022) on convolutions, through peft."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from ...backbone import CutBackbone, HookedBackbone
from ...checking import check_number
from ...config import CIAOConfig
from ...errors import ConfigError, MissingExtraError, listed
from .base import Baseline, check_cut, convolutions


def build_lora(
    cut: CutBackbone | HookedBackbone, config: CIAOConfig, *, rank: int = 16, everywhere: bool = False
) -> Baseline:
    """Low-rank changes of convolutions, `W + B A`, under CIAO's decision head.

    peft makes them: A is a convolution of the kernel's size to `rank` channels, B one of 1x1 that starts at zero, so
    that training starts from the frozen encoder; `lora_alpha` is the rank, a scaling of one. Left as they are:
    convolutions in groups, which peft adapts for some ranks only, and those of a type of their own, whose answer is
    not that of W alone (weight-standardised ones, and those that pad while they run).

    Args:
        cut: The encoder, opened where CIAO masks it.
        config: Kind of problem and settings of the head.
        rank: `r`, 1 or more.
        everywhere: All convolutions on the way to the final map, from pixels; otherwise those that CIAO masks, from
            features.

    Raises:
        ConfigError: a rank below 1, or no convolution that can be adapted.
        MissingExtraError: peft is not installed.

    Example:
        >>> from ciao_peft.backbone import open_backbone
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()).eval()
        >>> cut = open_backbone(net, (3, 16, 16))
        >>> config = CIAOConfig(problem_type="regression", num_labels=1, hidden_sizes=())
        >>> baseline = build_lora(cut, config, rank=2)
        >>> sum(p.numel() for p in baseline.parts()["encoder"])  # A: 2 x 8 x 3 x 3; B: 16 x 2
        176
    """
    check_number("rank", rank, int, 1)
    opened = check_cut(cut)
    backbone = opened.rooted.backbone
    candidates = {path: backbone.get_submodule(path) for path in convolutions(opened, everywhere)}
    paths = [path for path, conv in candidates.items() if type(conv) is nn.Conv2d and conv.groups == 1]
    if not paths:
        raise ConfigError(
            f"{type(backbone).__name__} has no plain convolution where LoRA was to go, only such as are in groups or "
            f"of a type of their own: {listed(candidates)}."
        )

    def adapt(backbone: nn.Module) -> None:
        peft = _peft()
        # One pattern: a list of paths would also match modules whose paths end with them.
        pattern = "|".join(map(re.escape, paths))
        settings = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=pattern)
        devices = {p.device for p in backbone.parameters() if p.is_cuda}
        with torch.random.fork_rng(devices=list(devices)):
            torch.manual_seed(config.init_seed)
            peft.inject_adapter_in_model(settings, backbone)
        for path in paths:  # peft leaves these two at their defaults
            conv: Any = backbone.get_submodule(path)  # peft's layer around the convolution
            for below in conv.lora_A.values():
                below.dilation, below.padding_mode = conv.base_layer.dilation, conv.base_layer.padding_mode
                below._reversed_padding_repeated_twice = conv.base_layer._reversed_padding_repeated_twice

    return Baseline(cut, config, adapt)


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError("peft", "LoRA", "rivals") from error
    return peft
