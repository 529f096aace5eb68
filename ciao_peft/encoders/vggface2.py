"""`vggface2`: the paper's first encoder, VGG16 up to conv5_3 on 96x96 faces. Users bring the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from ..errors import ConfigError
from ..preprocessing import Preprocessing
from .own import OwnEncoder

__all__ = ["POOL", "VGG16", "VGGFace2", "build", "load"]

POOL = "pool"
"""Stands for a pooling of 2x2 maxima between convolutions."""

VGG16 = (64, 64, POOL, 128, 128, POOL, 256, 256, 256, POOL, 512, 512, 512, POOL, 512, 512, 512)
"""Output channels of VGG16's thirteen convolutions, with the poolings between them."""


class VGGFace2(OwnEncoder):
    """The encoder `vggface2`: VGG16 without its dense layers, and a last pooling after conv5_3.

    The places in `chain` are those of torchvision's `vgg16().features`: conv5_3 is `chain.28`.

    Args:
        channels: Output channels of each convolution, with `"pool"` between them where 2x2 maxima are taken.

    Attributes:
        chain: The convolutions, with their ReLUs and pooling.
        name: `"vggface2"`, or the folder or repository that it was loaded from.
        revision: Identifies the weights; `"random"` if they are untrained.
        preprocessing: How its pictures must be prepared.
        architecture: The settings that build this network again, as plain data.

    Shapes:
        pixel_values: `(B, 3, 96, 96)`; output: `(B, 4608)`, the pooled map of 512x3x3, flattened.

    Example:
        >>> import torch
        >>> encoder = VGGFace2(channels=[8, "pool", 8, "pool", 16, "pool", 16, "pool", 32])
        >>> encoder(torch.rand(2, 3, 96, 96)).shape  # 32 * 3 * 3
        torch.Size([2, 288])
    """

    name: str = "vggface2"
    encoder_type: str = "vggface2"
    revision: str = "random"
    # The mean of VGGFace2. Converted weights come with the values they were trained with.
    preprocessing: Preprocessing = Preprocessing(
        size=(96, 96), mode="RGB", mean=(131.0912 / 255, 103.8827 / 255, 91.4953 / 255), std=(0.25,) * 3
    )
    architecture: dict[str, Any]
    chain: nn.Sequential
    pool: nn.Module

    def __init__(self, channels: Sequence[int | str] = VGG16):
        super().__init__()
        self.chain, last = nn.Sequential(), 3
        for step in channels:
            if step == POOL:
                self.chain.append(nn.MaxPool2d(2))
                continue
            width = cast("int", step)
            convolution = nn.Conv2d(last, width, 3, padding=1)
            # Without normalisation, torch's default initialisation would let the signal fade over thirteen layers.
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
            self.chain.extend([convolution, nn.ReLU()])
            last = width
        self.pool = nn.MaxPool2d(2)
        self.architecture = {"channels": list(channels)}

    def forward(self, pixel_values: Tensor) -> Tensor:
        """The pooled map of conv5_3, flattened: `(B, 4608)`."""
        return self.pool(self.chain(pixel_values)).flatten(1)


def load(*, pretrained: bool = True, weights: Any = None, **settings: Any) -> nn.Module:
    """Loads `vggface2` with weights from a folder or repository; with `pretrained=False`, with random ones.

    Args:
        pretrained: Whether the weights must be trained ones.
        weights: A folder that `ciao convert-encoder` or `save_encoder` wrote, or `user/name` on the Hub.
        settings: `revision`, `token` and the like with `weights`; the settings of `VGGFace2` without.

    Raises:
        ConfigError: trained weights are needed and none were given.
        AdapterFileError: the folder or repository has no `vggface2`.

    Example:
        >>> load(pretrained=False, channels=[8, "pool", 16]).architecture
        {'channels': [8, 'pool', 16]}
    """
    if weights is not None:
        from .folder import load_weights

        return load_weights("vggface2", weights, pretrained=pretrained, **settings)
    if pretrained:
        raise ConfigError(
            "vggface2 comes without weights. Convert a file of VGG16 or VGGFace weights with `ciao convert-encoder "
            "SOURCE FOLDER`, or train them with `examples/pretrain_encoder.py --encoder vggface2`; then "
            '`load_encoder("vggface2", weights=FOLDER)`. Random weights: `pretrained=False`.'
        )
    return VGGFace2(**settings)


build = VGGFace2
"""Builds the encoder from the `architecture` in a folder's config."""
