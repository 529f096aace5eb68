"""Scale and shift (SSF, Lian et al. 2022): a gain and a shift per channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...backbone import CutBackbone, HookedBackbone
from ...config import CIAOConfig
from .base import Baseline, check_cut, conv2d, convolutions, normalisations


class ScaleAndShift(nn.Module):
    """A layer whose answer is scaled and shifted by channel: `gain * y + shift`, at first `y` itself.

    Args:
        layer: A convolution or normalisation; stays as it is.
        channels: Of its answer.
        dim: Dimension of the channels.

    Shapes:
        Takes what the layer takes and returns the shape that it returns; gain and shift: `(channels,)`.

    Example:
        >>> layer = ScaleAndShift(nn.Conv2d(3, 8, 3), 8)
        >>> pixels = torch.rand(2, 3, 6, 6)
        >>> torch.equal(layer(pixels), layer.layer(pixels))
        True
    """

    layer: nn.Module
    dim: int
    gain: nn.Parameter
    shift: nn.Parameter

    def __init__(self, layer: nn.Module, channels: int, dim: int = 1):
        super().__init__()
        self.layer = layer
        self.dim = dim
        device = next(layer.parameters()).device
        self.gain = nn.Parameter(torch.ones(channels, device=device))
        self.shift = nn.Parameter(torch.zeros(channels, device=device))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        shape = [1] * y.ndim
        shape[self.dim] = -1
        return y * self.gain.view(shape) + self.shift.view(shape)


def build_scale_and_shift(
    cut: CutBackbone | HookedBackbone, config: CIAOConfig, *, everywhere: bool = False
) -> Baseline:
    """A gain and a shift per channel after each convolution and each normalisation, under CIAO's decision head.

    All gains start at one and all shifts at zero, so that training starts from the frozen encoder.

    Args:
        cut: The encoder, opened where CIAO masks it.
        config: Kind of problem and settings of the head.
        everywhere: On the whole way to the final map, from pixels; otherwise in the conv units that CIAO masks, from
            features.

    Example:
        >>> from ciao_peft.backbone import open_backbone
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()).eval()
        >>> cut = open_backbone(net, (3, 16, 16))
        >>> config = CIAOConfig(problem_type="regression", num_labels=1, hidden_sizes=())
        >>> baseline = build_scale_and_shift(cut, config, everywhere=True)
        >>> sum(p.numel() for p in baseline.parts()["encoder"])  # gain and shift of 8 and of 16 channels
        48
    """
    opened = check_cut(cut)
    backbone = opened.rooted.backbone
    layers = {path: conv2d(backbone, path).out_channels for path in convolutions(opened, everywhere)}
    for path in normalisations(opened, everywhere):
        layers[path] = backbone.get_parameter(f"{path}.weight").numel()

    def adapt(backbone: nn.Module) -> None:
        for path, channels in layers.items():
            layer = backbone.get_submodule(path)
            backbone.set_submodule(path, ScaleAndShift(layer, channels, _channel_dim(layer)))

    return Baseline(cut, config, adapt)


def _channel_dim(layer: nn.Module) -> int:
    """Normalisations over the channels alone have these last, if their name or `data_format` says nothing else."""
    name = type(layer).__name__.lower()
    last = isinstance(layer, nn.LayerNorm) or "layernorm" in name or "rmsnorm" in name or "simplenorm" in name
    first = "2d" in name or getattr(layer, "data_format", None) == "channels_first"
    return -1 if last and not first else 1
