"""What a backbone is fed, and the size of its pixels, where a user says one, both or none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import nn

__all__ = ["agreed_input", "aligned_as"]


def agreed_input(
    backbone: nn.Module, preprocessing: Preprocessing | None, input_size: tuple[int, int, int] | None
) -> tuple[Preprocessing | None, tuple[int, int, int] | None]:
    """Completes the preprocessing and the input size of a backbone, each from the other where only one is given.

    Args:
        backbone: Network whose own preprocessing is used where none is given, at the input size given.
        preprocessing: The user's preprocessing, or None.
        input_size: The user's input size `(C, H, W)`, or None.

    Returns:
        Preprocessing and input size; None for what is not known.

    Raises:
        ConfigError: both are given, and they contradict each other.

    Example:
        >>> from torch import nn
        >>> agreed_input(nn.Conv2d(3, 8, 3), Preprocessing(size=(96, 96)), None)[1]
        (3, 96, 96)
    """
    if preprocessing is None:
        own = Preprocessing.for_backbone(backbone)
        if own is None or input_size is None:
            return own, input_size if own is None else own.input_size
        channels, height, width = input_size
        # Pictures cannot be made into pixels of another number of channels than the preprocessing knows.
        return own.replace(size=(height, width)) if channels == len(own.mean) else None, input_size
    if input_size is not None and tuple(input_size) != preprocessing.input_size:
        raise ConfigError(
            f"`preprocessing` makes pixels of {preprocessing.input_size}, `input_size` is {tuple(input_size)}. Leave "
            "`input_size` out, or change the `size` of the preprocessing."
        )
    return preprocessing, preprocessing.input_size


def aligned_as(saved: Mapping[str, Any] | None, backbone: nn.Module) -> Preprocessing | None:
    """The preprocessing of an adapter, where it differs from its backbone's own in the alignment alone.

    How faces are aligned is the adapter's to say; everything else about pixels is the encoder's.

    Args:
        saved: The adapter's preprocessing, as `to_dict` returned it.
        backbone: The network under it.

    Returns:
        None where there is nothing to take over.

    Example:
        >>> from ciao_peft import load_encoder
        >>> encoder = load_encoder("dlib-face")
        >>> saved = encoder.preprocessing.replace(align="five-points").to_dict()
        >>> aligned_as(saved, encoder).align.landmarks, aligned_as(encoder.preprocessing.to_dict(), encoder)
        ('five-points', None)
    """
    own = Preprocessing.for_backbone(backbone)
    mine = {} if own is None else own.to_dict()
    if saved is None or {**mine, "align": None} != {**saved, "align": None} or mine.get("align") == saved.get("align"):
        return None
    return Preprocessing.from_dict(saved)
