"""Batch normalisation for the time of training: put behind convolutions that have none, and worked into them after."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import ConfigError


def add_batch_norm(network: nn.Module) -> int:
    """Puts batch normalisation behind each convolution of a chain that goes straight into a ReLU, in place.

    VGG16 hardly learns from random weights without it. A convolution is found where it and its ReLU follow each other
    in an `nn.Sequential`.

    Returns:
        How many were put in.

    Raises:
        ConfigError: there is no such convolution.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        >>> add_batch_norm(network)
        2
        >>> network[0]
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
          (1): BatchNorm2d(8, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
        )
    """
    found = 0
    for chain in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for place in range(len(chain) - 1):
            convolution = chain[place]
            if isinstance(convolution, nn.Conv2d) and isinstance(chain[place + 1], nn.ReLU):
                chain[place] = nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels))
                found += 1
    if not found:
        raise ConfigError(
            f"{type(network).__name__} has no convolution that goes straight into a ReLU within an `nn.Sequential`; "
            "it needs no batch normalisation put in, or cannot take it."
        )
    return found


@torch.no_grad()
def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Takes out what `add_batch_norm` put in, in place: weights and biases of the convolutions take over its effect.

    In eval mode the network answers as before, up to rounding.

    Returns:
        The network, with the keys and shapes it had before `add_batch_norm`.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
        >>> add_batch_norm(network.eval())
        1
        >>> fold_batch_norm(network)
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
          (1): ReLU()
        )
    """
    for chain in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for place, pair in enumerate(chain):
            if isinstance(pair, nn.Sequential) and [*map(type, pair)] == [nn.Conv2d, nn.BatchNorm2d]:
                convolution, norm = pair
                gain = norm.weight * (norm.running_var + norm.eps).rsqrt()
                bias = 0.0 if convolution.bias is None else convolution.bias
                shifted = (bias - norm.running_mean) * gain + norm.bias
                convolution.weight.mul_(gain.view(-1, 1, 1, 1))
                convolution.bias = nn.Parameter(shifted)
                chain[place] = convolution
    return network
