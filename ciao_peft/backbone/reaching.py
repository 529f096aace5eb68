"""Which parameters of a network its final map depends on."""

from __future__ import annotations

import torch
from torch import nn

from .cut import Request
from .identity import example_pixels
from .opening import OpenedBackbone
from .tracing import Rooted

__all__ = ["parameters_reaching_the_map"]


def parameters_reaching_the_map(opened: OpenedBackbone, backbone: nn.Module) -> frozenset[str]:
    """Names of the parameters that the final map depends on: not those of an old classifier.

    Args:
        opened: A network, opened at its last convolutions.
        backbone: A copy of it in floating point. Its parameters keep their `requires_grad`; their gradients are None
            afterwards.

    Example:
        >>> from ciao_peft.backbone import open_backbone
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 196, 5)).eval()
        >>> sorted(parameters_reaching_the_map(open_backbone(net, (3, 16, 16)), net))
        ['0.bias', '0.weight']
    """
    parameters = dict(backbone.named_parameters())
    required = {name: parameter.requires_grad for name, parameter in parameters.items()}
    backbone.requires_grad_(True)
    try:
        with torch.enable_grad():
            requests: list[Request] = [(None, lambda index, features, excitation: excitation())]
            pixels = example_pixels(backbone, opened.input_size)
            opened.run(Rooted(backbone), requests, pixel_values=pixels, train_encoder=True)[0].sum().backward()
        return frozenset(name for name, parameter in parameters.items() if parameter.grad is not None)
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(required[name])
            parameter.grad = None
