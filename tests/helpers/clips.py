"""Clips of noise, and adapters that read them."""

from __future__ import annotations

import torch

from ciao_peft import (
    get_ciao_model,
)

from .fakes import SIZE, small_config, tiny_backbone

T = 3


def recurrent(**changes):
    return small_config(**{"frames": T, "recurrent_size": 7} | changes)


def wrapped(backbone=None, **changes):
    return get_ciao_model(tiny_backbone() if backbone is None else backbone, recurrent(**changes))


def videos(count=4, frames=T, seed=1):
    return torch.rand((count, frames, *SIZE), generator=torch.Generator().manual_seed(seed))
