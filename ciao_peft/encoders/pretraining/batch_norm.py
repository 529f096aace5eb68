"""Batch normalisation during training only: added behind convolutions, and folded into their weights afterwards."""

from __future__ import annotations

import itertools
from typing import cast

import torch
from torch import Tensor, nn

from ...errors import ConfigError

__all__ = ["ConvBatchNorm", "add_batch_norm", "fold_batch_norm"]


class ConvBatchNorm(nn.Sequential):
    """A convolution with the batch norm that `add_batch_norm` put behind it; networks have none of this class.

    Args:
        convolution: A convolution with a bias.
        norm: Batch norm of its output channels.

    Shapes:
        input: `(B, C, H, W)`; output: `(B, C', H', W')`, as of the convolution.

    Example:
        >>> ConvBatchNorm(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))(torch.rand(2, 3, 6, 6)).shape
        torch.Size([2, 8, 4, 4])
    """


def add_batch_norm(network: nn.Module) -> int:
    """Puts batch normalisation behind each convolution of a chain that goes straight into a ReLU, in place.

    VGG16 hardly learns from random weights without it. A convolution is found where it and its ReLU follow each other
    in an `nn.Sequential`.

    Args:
        network: The network to change.

    Returns:
        Number of normalisations that were added.

    Raises:
        ConfigError: there is no such convolution, or one has no bias to take over the shift afterwards. Nothing is
            changed then.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        >>> add_batch_norm(network)
        2
        >>> [type(part).__name__ for part in network[0]]
        ['Conv2d', 'BatchNorm2d']
    """
    places: list[tuple[nn.Sequential, int, nn.Conv2d]] = []
    for name, chain in network.named_modules():
        if isinstance(chain, nn.Sequential):
            for place, (part, after) in enumerate(itertools.pairwise(chain)):
                if isinstance(part, nn.Conv2d) and isinstance(after, nn.ReLU):
                    places.append((chain, place, part))
                    if part.bias is None:
                        raise ConfigError(
                            f"The convolution {place} of '{name}' goes straight into a ReLU and has no bias, so that "
                            "no normalisation could be worked into it. Make it with `bias=True`."
                        )
    if not places:
        raise ConfigError(
            f"{type(network).__name__} has no convolution that goes straight into a ReLU within an `nn.Sequential`; "
            "it needs no batch normalisation put in, or cannot take it."
        )
    for chain, place, convolution in places:
        norm = nn.BatchNorm2d(
            convolution.out_channels, device=convolution.weight.device, dtype=convolution.weight.dtype
        )
        chain[place] = ConvBatchNorm(convolution, norm).train(convolution.training)
    return len(places)


@torch.no_grad()
def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Removes what `add_batch_norm` added, in place: the convolutions' weights and biases take over its effect.

    In eval mode the network's output stays the same, up to rounding. The network's own normalisation stays as well.

    With the statistics `m` and `v`, gain `g` and shift `b` of a normalisation, and the weight `W` and bias `c` of its
    convolution, `s = g / sqrt(v + eps)`, the new weight is `s W` and the new bias `(c - m) s + b`.

    Args:
        network: A network that `add_batch_norm` changed.

    Returns:
        The network, with the keys and shapes it had before `add_batch_norm`.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
        >>> add_batch_norm(network)
        1
        >>> fold_batch_norm(network)
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
          (1): ReLU()
        )
    """
    for chain in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for place, part in enumerate(chain):
            if isinstance(part, ConvBatchNorm):
                convolution, norm = cast("nn.Conv2d", part[0]), cast("nn.BatchNorm2d", part[1])
                mean, variance = cast("Tensor", norm.running_mean), cast("Tensor", norm.running_var)
                bias = cast("Tensor", convolution.bias)  # `add_batch_norm` refuses convolutions without one
                gain = norm.weight * (variance + norm.eps).rsqrt()
                convolution.weight.mul_(gain.view(-1, 1, 1, 1))
                bias.copy_((bias - mean) * gain + norm.bias)
                chain[place] = convolution
    return network
