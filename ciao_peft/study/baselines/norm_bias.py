"""Tuning of normalisations and biases: BitFit (Ben Zaken et al. 2022) with the gains of normalisations."""

from __future__ import annotations

from torch import nn

from ...backbone import CutBackbone, HookedBackbone
from ...config import CIAOConfig
from ...errors import ConfigError
from .base import Baseline, check_cut, normalisations, reached_parameters


def build_norm_and_bias(cut: CutBackbone | HookedBackbone, config: CIAOConfig) -> Baseline:
    """Gains and biases of all normalisations and the biases of all other layers, under CIAO's decision head.

    Biases alone are BitFit (Ben Zaken et al. 2022; for convolutions Cai et al. 2020), normalisations alone the batch
    norm tuning of Frankle et al. 2021; most convolutional networks have biases only in their normalisations. Trained
    from pixels, on the whole way to the final map. The statistics of batch norm stay the encoder's.

    Args:
        cut: The encoder, opened where CIAO masks it.
        config: Kind of problem and settings of the head.

    Raises:
        ConfigError: there are no normalisations and no biases.

    Example:
        >>> from ciao_peft.backbone import open_backbone
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()).eval()
        >>> cut = open_backbone(net, (3, 16, 16))
        >>> config = CIAOConfig(problem_type="regression", num_labels=1, hidden_sizes=())
        >>> baseline = build_norm_and_bias(cut, config)
        >>> sum(p.numel() for p in baseline.parts()["encoder"])  # 8 and 16 biases
        24
    """
    opened = check_cut(cut)
    reached = reached_parameters(opened)
    gains = {f"{path}.weight" for path in normalisations(opened, everywhere=True)}
    chosen = {name for name in reached if name in gains or name.split(".")[-1] == "bias"}
    if not chosen:
        raise ConfigError(
            f"{type(opened.rooted.backbone).__name__} has neither normalisations nor biases on the way to its final "
            "map, so there is nothing to tune."
        )

    def adapt(backbone: nn.Module) -> None:
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(name in chosen)

    return Baseline(cut, config, adapt)
