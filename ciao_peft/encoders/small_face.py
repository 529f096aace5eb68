"""`small-face`: the bundled encoder, a short VGG-style network on 64x64 faces that was trained to recognise people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from ..errors import ConfigError, listed
from ..packaged import packaged_bytes, packaged_json
from ..preprocessing import Preprocessing
from .own import OwnEncoder

__all__ = ["POOL", "WEIGHTS", "SmallFace", "build", "load", "training_card"]

POOL = "pool"
"""Stands for a pooling of 2x2 maxima between convolutions."""

WEIGHTS = Path(__file__).parent / "weights" / "small_face.safetensors"
"""The bundled weights, in float16."""


class SmallFace(OwnEncoder):
    """The encoder `small-face`: 3x3 convolutions with batch normalisation and ReLU, pooling, and one linear layer.

    The first convolution has stride 2; otherwise half of all the work would be at the full resolution. The last unit
    gives an 8x8 map, which is pooled to 4x4 as VGG pools conv5_3. The embedding after it is for recognising people;
    adapters do not use it.

    Args:
        channels: Output channels of each convolution, with `"pool"` between them where 2x2 maxima are taken.
        embedding_size: Length of the embedding.
        dropout: Share of the pooled map zeroed in training.

    Attributes:
        chain: The convolutions, with their ReLUs, batch normalisation and pooling.
        name: `"small-face"`, or the folder or repository that it was loaded from.
        revision: Identifies the weights; `"random"` if they are untrained.
        preprocessing: How its pictures must be prepared.
        architecture: The settings that build this network again, as plain data.

    Shapes:
        pixel_values: `(B, 3, 64, 64)`; output: `(B, embedding_size)`.

    Example:
        >>> import torch
        >>> SmallFace()(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 128])
    """

    name: str = "small-face"
    encoder_type: str = "small-face"
    revision: str = "random"
    preprocessing: Preprocessing = Preprocessing(size=(64, 64), mode="RGB", mean=(0.5,) * 3, std=(0.25,) * 3)
    architecture: dict[str, Any]
    chain: nn.Sequential
    pool: nn.Module
    embedding: nn.Sequential

    def __init__(
        self,
        channels: Sequence[int | str] = (24, 24, POOL, 64, 64, POOL, 128, 128, 192),
        embedding_size: int = 128,
        dropout: float = 0.3,
    ):
        super().__init__()
        self.chain, last, stride, side = nn.Sequential(), 3, 2, self.preprocessing.size[0]
        for step in channels:
            if step == POOL:
                self.chain.append(nn.MaxPool2d(2))
                side //= 2
                continue
            width = cast("int", step)
            self.chain.append(nn.Conv2d(last, width, 3, stride=stride, padding=1, bias=False))
            self.chain.append(nn.BatchNorm2d(width))
            self.chain.append(nn.ReLU())
            last, stride, side = width, 1, side // stride
        self.pool = nn.MaxPool2d(2)
        self.embedding = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(last * (side // 2) ** 2, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size),
        )
        self.architecture = {"channels": list(channels), "embedding_size": embedding_size, "dropout": dropout}

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Embeddings `(B, embedding_size)`: the larger the cosine of two, the likelier they show one person."""
        return self.embedding(self.pool(self.chain(pixel_values)))


def training_card() -> dict[str, Any]:
    """Reads how the bundled weights were trained, on which data, and how well they distinguish unseen people.

    Raises:
        AdapterFileError: the bundled file is missing or damaged.

    Example:
        >>> training_card()["name"]
        'small-face'
    """
    return packaged_json(WEIGHTS.with_suffix(".json"))


def load(*, pretrained: bool = True, **architecture: Any) -> SmallFace:
    """Loads the bundled encoder; with `pretrained=False`, makes one with random weights and any architecture.

    Args:
        pretrained: Whether to load the bundled weights.
        architecture: Settings of `SmallFace`, for random weights only.

    Raises:
        ConfigError: the trained weights do not have the architecture that was asked for.
        AdapterFileError: a bundled file is missing or damaged.

    Example:
        >>> load(pretrained=False, embedding_size=16).architecture["embedding_size"]
        16
    """
    if not pretrained:
        return SmallFace(**architecture)
    if architecture:
        raise ConfigError(
            f"The trained weights of small-face are for its own architecture; with another {listed(architecture)} pass "
            "`pretrained=False`."
        )
    from safetensors.torch import load as parse

    card = training_card()
    content = packaged_bytes(WEIGHTS, card["weights_sha256"])
    encoder = SmallFace(**card["architecture"])
    # Copied into float32 parameters: the file holds half the bytes, but nothing is computed in float16.
    encoder.load_state_dict(parse(content))
    encoder.revision = card["weights_sha256"][:16]
    return encoder


build = SmallFace
"""Builds the encoder from the `architecture` in a folder's config."""
