"""A head with as many numbers as CIAO trains, on the frozen encoder."""

from __future__ import annotations

from dataclasses import replace

import torch

from ...adapters import Adapter
from ...backbone import CutBackbone, HookedBackbone
from ...config import CIAOConfig
from ...heads import pool_map
from .base import Baseline, check_cut


def build_wide_head(cut: CutBackbone | HookedBackbone, config: CIAOConfig) -> Baseline:
    """CIAO's decision head with its hidden layer widened until it has the numbers of the mask as well.

    With F pooled features, K answers and n numbers trained by "decision layer + CIAO" under the same settings, the
    hidden layer has `(n - K) / (F + 1 + K)` units, rounded.

    Args:
        cut: The encoder, opened where CIAO masks it.
        config: Kind of problem and settings of the head.

    Example:
        >>> from torch import nn
        >>> from ciao_peft.backbone import open_backbone
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()).eval()
        >>> cut = open_backbone(net, (3, 16, 16))
        >>> settings = {"pooling": "avg", "hidden_sizes": (32,), "excitation_rank": 0}
        >>> config = CIAOConfig(problem_type="regression", num_labels=1, **settings)
        >>> build_wide_head(cut, config).config.hidden_sizes  # n = 1184 of the mask + 577 of the head; 1760 / 18
        (98,)
    """
    opened = check_cut(cut)
    ciao = Adapter(replace(config, inhibition=True, tuning="decision_layer"), opened)
    count = sum(p.numel() for name, p in ciao.named_parameters() if name in ciao.trainable)
    in_features = pool_map(torch.empty(1, *opened.map_shape, device="meta"), config.pooling).shape[1]
    width = max(1, round((count - config.num_labels) / (in_features + 1 + config.num_labels)))
    return Baseline(cut, replace(config, hidden_sizes=(width,)))
