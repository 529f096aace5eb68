"""LoRA (Hu et al. 2022) on convolutions, through peft."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from ...backbone import CutBackbone, HookedBackbone
from ...config import CIAOConfig
from ...errors import ConfigError, MissingExtraError
from .rival import Rival, check_cut, convolutions


def build_lora(
    cut: CutBackbone | HookedBackbone, config: CIAOConfig, *, rank: int = 16, everywhere: bool = False
) -> Rival:
    """Low-rank changes of convolutions, `W + B A`, under CIAO's decision head.

    peft makes them: A is a convolution of the kernel's size to `rank` channels, B one of 1x1 that starts at zero, so
    that training starts from the frozen encoder; `lora_alpha` is the rank, a scaling of one. Convolutions in groups,
    which peft adapts for some ranks only, are left as they are.

    Args:
        cut: The encoder, opened where CIAO masks it.
        config: Kind of problem and settings of the head.
        rank: `r`, 1 or more.
        everywhere: All convolutions on the way to the final map, from pixels; otherwise those that CIAO masks, from
            features.

    Raises:
        ConfigError: a rank below 1, or nothing but convolutions in groups.
        MissingExtraError: peft is not installed.
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ConfigError(f"`rank` must be a whole number of 1 or more; got {rank!r}.")
    backbone = check_cut(cut).rooted.backbone
    paths = [path for path in convolutions(cut, everywhere) if backbone.get_submodule(path).groups == 1]
    if not paths:
        raise ConfigError(
            f"{type(backbone).__name__} has only convolutions in groups where LoRA was to go; peft cannot adapt them "
            "at every rank."
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

    return Rival(cut, config, adapt)


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError("peft", "LoRA", "rivals") from error
    return peft
