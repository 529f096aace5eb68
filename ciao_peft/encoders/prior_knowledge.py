"""`prior_knowledge` (PK): the paper's second encoder, trained as a conditional adversarial autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..errors import ConfigError
from ..preprocessing import Preprocessing
from .own import OwnEncoder

__all__ = ["PriorKnowledge", "build", "load"]


class PriorKnowledge(OwnEncoder):
    """The encoder `prior_knowledge`: 5x5 convolutions of stride 2 with ReLUs; the last map is the representation.

    Args:
        channels: Output channels of each convolution.

    Attributes:
        chain: The convolutions, with their ReLUs.
        name: `"prior_knowledge"`, or the folder or repository that it was loaded from.
        revision: Identifies the weights; `"random"` if they are untrained.
        preprocessing: How its pictures must be prepared.
        architecture: The settings that build this network again, as plain data.

    Shapes:
        pixel_values: `(B, 3, 96, 96)` in [-1, 1]; output: `(B, 18432)`, the map of 512x6x6, flattened.

    Example:
        >>> import torch
        >>> PriorKnowledge(channels=[4, 8, 16, 32])(torch.rand(2, 3, 96, 96)).shape  # 32 * 6 * 6
        torch.Size([2, 1152])
    """

    name: str = "prior_knowledge"
    encoder_type: str = "prior_knowledge"
    revision: str = "random"
    preprocessing: Preprocessing = Preprocessing(size=(96, 96), mode="RGB", mean=(0.5,) * 3, std=(0.5,) * 3)
    architecture: dict[str, Any]
    chain: nn.Sequential

    def __init__(self, channels: Sequence[int] = (64, 128, 256, 512)):
        super().__init__()
        self.chain, last = nn.Sequential(), 3
        for step in channels:
            convolution = nn.Conv2d(last, step, 5, stride=2, padding=2)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
            self.chain.extend([convolution, nn.ReLU()])
            last = step
        self.architecture = {"channels": list(channels)}

    def forward(self, pixel_values: Tensor) -> Tensor:
        """The last map, flattened: `(B, 18432)`."""
        return self.chain(pixel_values).flatten(1)


def load(*, pretrained: bool = True, weights: Any = None, **settings: Any) -> nn.Module:
    """Loads PK with weights from a folder or repository; with `pretrained=False`, with random ones.

    Args:
        pretrained: Whether the weights must be trained ones.
        weights: A folder that `examples/pretrain_pk.py` or `save_encoder` wrote, or `user/name` on the Hub.
        settings: `revision`, `token` and the like with `weights`; the settings of `PriorKnowledge` without.

    Raises:
        ConfigError: trained weights are needed and none were given.
        AdapterFileError: the folder or repository has no `prior_knowledge`.

    Example:
        >>> load(pretrained=False, channels=[4, 8, 16, 32]).input_size
        (3, 96, 96)
    """
    if weights is not None:
        from .folder import load_weights

        return load_weights("prior_knowledge", weights, pretrained=pretrained, **settings)
    if pretrained:
        raise ConfigError(
            "prior_knowledge comes without weights. Train them on any folder of faces with `examples/pretrain_pk.py`; "
            'then `load_encoder("prior_knowledge", weights=FOLDER)`. Random weights: `pretrained=False`.'
        )
    return PriorKnowledge(**settings)


build = PriorKnowledge
"""Builds the encoder from the `architecture` in a folder's config."""
