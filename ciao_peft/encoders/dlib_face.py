"""`dlib-face`: the first levels of dlib's face recognition network, bundled; the others come from its own file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from ..checking import is_number
from ..errors import ConfigError, listed
from ..packaged import packaged_bytes, packaged_json
from ..preprocessing import Preprocessing
from .attributes import ORIGIN, set_attributes
from .own import OwnEncoder

__all__ = [
    "BLOCKS",
    "BUNDLED_LEVELS",
    "ORIGIN",
    "WEIGHTS",
    "WIDTHS",
    "DlibFace",
    "build",
    "cut_behind",
    "load",
    "provenance",
]

WIDTHS, BLOCKS = (32, 64, 128, 256, 256), (3, 4, 3, 3, 1)
"""Channels and residual blocks of dlib's five levels, counted from the input."""

BUNDLED_LEVELS = 3
"""How many levels are in the package. Deeper ones forget what identity does not need."""

WEIGHTS = Path(__file__).parent / "weights" / "dlib_face.safetensors"
"""The bundled weights, in float16."""


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; where it halves the map, the shortcut is averaged over 2x2 pixels.

    The two sides differ in channels where a level begins, and by one row and column where an odd side is halved: dlib
    takes zeros for what is missing.
    """

    def __init__(self, channels: int, width: int, halves: bool):
        super().__init__()
        self.halves, self.missing_channels = halves, width - channels
        stride, padding = (2, 0) if halves else (1, 1)
        self.first = nn.Conv2d(channels, width, 3, stride=stride, padding=padding)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.shrink = nn.AvgPool2d(2) if halves else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        branch, shortcut = self.second(F.relu(self.first(x))), self.shrink(x)
        if self.halves:
            rows, columns = shortcut.shape[2] - branch.shape[2], shortcut.shape[3] - branch.shape[3]
            if rows or columns:
                branch = F.pad(branch, (0, columns, 0, rows))
            shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.missing_channels))
        return F.relu(branch + shortcut)


class DlibFace(OwnEncoder):
    """The encoder `dlib-face`: a residual network of Davis King's dlib, trained to recognise people, cut at a level.

    A 7x7 convolution of stride 2 and 3x3 maxima, then levels of residual blocks; each level after the first halves the
    map. dlib's normalisations (one factor and one offset per channel) are worked into the convolutions.

    Args:
        levels: How many levels there are, 1 to as many as `widths` has. With 3 the last map is 128x8x8, with 4 it is
            256x4x4, with all 5 it is 256x2x2.
        widths: Channels of each level; none is narrower than the one before.
        blocks: Residual blocks of each level.
        embedding_size: Length of the embedding behind the last level.

    Attributes:
        stem: The first convolution, with its ReLU and the maxima.
        levels: The levels, each with its residual blocks.
        embedding: The linear layer behind the mean of the last level's map; None where levels are left out.
        name: `"dlib-face"`, or the folder or repository that it was loaded from.
        revision: Identifies the weights; `"random"` if they are untrained.
        preprocessing: How its pictures must be prepared.
        architecture: The settings that build this network again, as plain data.
        origin: Who trained the weights, on what, and under which terms they may be used; empty for random ones.

    Raises:
        ConfigError: there are not that many levels, or the widths and blocks do not fit each other.

    Shapes:
        pixel_values: `(B, 3, 150, 150)`; output: the last map, `(B, C, H, W)`, or with all levels `(B, 128)`.

    Example:
        >>> import torch
        >>> DlibFace(levels=2, widths=[8, 16], blocks=[1, 1])(torch.rand(2, 3, 150, 150)).shape
        torch.Size([2, 128])
        >>> DlibFace()(torch.rand(2, 3, 150, 150)).shape
        torch.Size([2, 128, 8, 8])
    """

    name: str = "dlib-face"
    encoder_type: str = "dlib-face"
    revision: str = "random"
    # (p - mean) / 256 with dlib's mean of pixels from 0 to 255.
    preprocessing: Preprocessing = Preprocessing(
        size=(150, 150), mode="RGB", mean=(122.782 / 255, 117.001 / 255, 104.298 / 255), std=(256 / 255,) * 3
    )
    architecture: dict[str, Any]
    origin: dict[str, Any] = {}  # where trained weights came from, and under which terms
    stem: nn.Sequential
    levels: nn.ModuleList
    embedding: nn.Linear | None

    def __init__(
        self,
        levels: int = BUNDLED_LEVELS,
        widths: Sequence[int] = WIDTHS,
        blocks: Sequence[int] = BLOCKS,
        embedding_size: int = 128,
    ):
        super().__init__()
        if len(widths) != len(blocks) or list(widths) != sorted(widths):
            raise ConfigError(
                f"`widths` and `blocks` must be of one length, and no level narrower than the one before; got "
                f"{list(widths)} and {list(blocks)}."
            )
        if not is_number(levels, int, 1, len(widths)):
            raise ConfigError(f"`levels` must be a whole number from 1 to {len(widths)}; got {levels!r}.")
        self.stem = nn.Sequential(nn.Conv2d(3, widths[0], 7, stride=2), nn.ReLU(), nn.MaxPool2d(3, stride=2))
        self.levels, last = nn.ModuleList(), widths[0]
        for index, (width, count) in enumerate(zip(widths[:levels], blocks, strict=False)):
            level = nn.Sequential()
            for place in range(count):
                level.append(_Block(last, width, halves=index > 0 and place == 0))
                last = width
            self.levels.append(level)
        whole = levels == len(widths)
        self.embedding = nn.Linear(last, embedding_size, bias=False) if whole else None
        self.architecture = {
            "levels": levels,
            "widths": list(widths),
            "blocks": list(blocks),
            "embedding_size": embedding_size,
        }

    def forward(self, pixel_values: Tensor) -> Tensor:
        """The map of the last level; with all levels, embeddings: of one person where two are less than 0.6 apart."""
        x = self.stem(pixel_values)
        for level in self.levels:
            x = level(x)
        return x if self.embedding is None else self.embedding(x.mean(dim=(2, 3)))


def provenance() -> dict[str, Any]:
    """Reads where the bundled weights come from, under which terms, and what making them small changed.

    Raises:
        AdapterFileError: the bundled file is missing or damaged.

    Example:
        >>> provenance()["license"]
        'cc0-1.0'
    """
    return packaged_json(WEIGHTS.with_suffix(".json"))


def load(
    *,
    pretrained: bool = True,
    levels: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> nn.Module:
    """Loads `dlib-face`, cut behind a level.

    Args:
        pretrained: Whether to load trained weights: the bundled ones, or those of `weights`.
        levels: How many levels are kept, 1 to 5; 3 when left out. The package holds the first three.
        weights: A folder that `ciao convert-encoder --from dlib` or `save_encoder` wrote, or `user/name` on the Hub,
            which may hold more levels.
        settings: `revision`, `token` and the like with `weights`; the settings of `DlibFace` for random ones.

    Raises:
        ConfigError: there are not that many levels, or the package does not hold them.
        AdapterFileError: the folder or repository has no `dlib-face`, or a bundled file is damaged.

    Example:
        >>> load(levels=2).architecture["levels"]
        2
        >>> load(levels=4)
        Traceback (most recent call last):
        ...
        ciao_peft.errors.ConfigError: The package holds levels 1 to 3 of dlib-face, not 4. ...
    """
    if weights is not None:
        from .folder import load_weights

        whole = load_weights("dlib-face", weights, pretrained=pretrained, **settings)
        return cut_behind(whole, levels, os.fspath(weights))
    if not pretrained:
        return DlibFace(BUNDLED_LEVELS if levels is None else levels, **settings)
    if settings:
        raise ConfigError(
            f"The trained weights of dlib-face are for its own architecture; with another {listed(settings)} pass "
            "`pretrained=False`."
        )
    if levels is not None and not is_number(levels, int, 1, len(WIDTHS)):
        raise ConfigError(f"`levels` must be a whole number from 1 to {len(WIDTHS)}; got {levels!r}.")
    if levels is not None and levels > BUNDLED_LEVELS:
        raise ConfigError(
            f"The package holds levels 1 to {BUNDLED_LEVELS} of dlib-face, not {levels}. Write all five with `ciao "
            f'convert-encoder --from dlib FOLDER`, then `load_encoder("dlib-face", levels={levels}, weights=FOLDER)`.'
        )
    from safetensors.torch import load as parse

    card = provenance()
    content = packaged_bytes(WEIGHTS, card["weights_sha256"])
    encoder = DlibFace(BUNDLED_LEVELS)
    # Copied into float32 parameters: the file holds half the bytes, but nothing is computed in float16.
    encoder.load_state_dict(parse(content))
    encoder.revision, encoder.origin = card["weights_sha256"][:16], {key: card[key] for key in ORIGIN}
    return cut_behind(encoder, levels, "the package")


def cut_behind(encoder: nn.Module, levels: int | None, where: str) -> nn.Module:
    """The encoder without the levels behind this one, with the same weights.

    Args:
        encoder: A `DlibFace`.
        levels: How many levels are kept; all when None.
        where: Where the encoder came from, for the message.

    Raises:
        ConfigError: it does not have that many levels.

    Example:
        >>> cut_behind(DlibFace(3, widths=[8, 8, 8], blocks=[1, 1, 1]), 2, "a test").architecture["levels"]
        2
    """
    whole = cast("DlibFace", encoder)
    has = whole.architecture["levels"]
    if levels is None or levels == has:
        return encoder
    if not is_number(levels, int, 1, has):
        raise ConfigError(f"'{where}' holds levels 1 to {has} of dlib-face; got `levels={levels!r}`.")
    part = DlibFace(**{**whole.architecture, "levels": levels})
    state = whole.state_dict()
    part.load_state_dict({name: state[name] for name in part.state_dict()})
    set_attributes(
        part, name=whole.name, revision=whole.revision, preprocessing=whole.preprocessing, origin=whole.origin
    )
    return part


build = DlibFace
"""Builds the encoder from the `architecture` in a folder's config."""
