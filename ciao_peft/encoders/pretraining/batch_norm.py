"""Batch normalisation during training only: added behind convolutions, and folded into their weights afterwards."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from ...errors import ConfigError


class ConvBatchNorm(nn.Sequential):
    """A convolution with the batch norm that `add_batch_norm` put behind it; networks have none of this class."""


def add_batch_norm(network: nn.Module) -> int:
    """Puts batch normalisation behind each convolution of a chain that goes straight into a ReLU, in place.

    VGG16 hardly learns from random weights without it. A convolution is found where it and its ReLU follow each other
    in an `nn.Sequential`.

    Returns:
        How many were added.

    Raises:
        ConfigError: there is no such convolution, or one has no bias, which could not take over the shift afterwards.
            Nothing was changed then.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        >>> add_batch_norm(network)
        2
        >>> [type(part).__name__ for part in network[0]]
        ['Conv2d', 'BatchNorm2d']
    """
    found = []
    for name, chain in network.named_modules():
        if isinstance(chain, nn.Sequential):
            for place, (part, after) in enumerate(itertools.pairwise(chain)):
                if isinstance(part, nn.Conv2d) and isinstance(after, nn.ReLU):
                    found.append((chain, place))
                    if part.bias is None:
                        raise ConfigError(
                            f"The convolution {place} of '{name}' goes straight into a ReLU and has no bias, so that "
                            "no normalisation could be worked into it. Make it with `bias=True`."
                        )
    if not found:
        raise ConfigError(
            f"{type(network).__name__} has no convolution that goes straight into a ReLU within an `nn.Sequential`; "
            "it needs no batch normalisation put in, or cannot take it."
        )
    for chain, place in found:
        convolution = chain[place]
        norm = nn.BatchNorm2d(
            convolution.out_channels, device=convolution.weight.device, dtype=convolution.weight.dtype
        )
        chain[place] = ConvBatchNorm(convolution, norm).train(convolution.training)
    return len(found)


@torch.no_grad()
def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Removes what `add_batch_norm` added, in place: the convolutions' weights and biases take over its effect.

    In eval mode the network answers as before, up to rounding. Normalisation that a network has of its own stays.

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
                convolution, norm = part
                gain = norm.weight * (norm.running_var + norm.eps).rsqrt()
                convolution.weight.mul_(gain.view(-1, 1, 1, 1))
                convolution.bias.copy_((convolution.bias - norm.running_mean) * gain + norm.bias)
                chain[place] = convolution
    return network
