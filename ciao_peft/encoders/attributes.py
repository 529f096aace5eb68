"""Attributes of encoders: each carries its preprocessing, its name and the settings that build it again."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..preprocessing import Preprocessing

__all__ = ["ORIGIN", "set_attributes", "with_preprocessing"]

ORIGIN = ("license", "trained_by", "trained_for", "trained_on", "terms", "converted_from")
"""What a folder's config keeps of where the weights came from, however often the encoder is saved again."""


def set_attributes(encoder: nn.Module, **attributes: Any) -> nn.Module:
    """Sets attributes of a network that are neither tensors nor modules.

    Args:
        encoder: The network to change.
        attributes: Values by name: `name`, `revision`, `encoder_type`, `architecture`.

    Returns:
        The encoder.

    Example:
        >>> set_attributes(nn.Conv2d(3, 8, 3), revision="random").revision
        'random'
    """
    for name, value in attributes.items():
        setattr(encoder, name, value)
    return encoder


def with_preprocessing(encoder: nn.Module, preprocessing: Preprocessing) -> nn.Module:
    """Sets the encoder's `preprocessing`, and the `input_size` that follows from it.

    Args:
        encoder: The network to change.
        preprocessing: How its pictures must be prepared.

    Returns:
        The encoder.

    Example:
        >>> with_preprocessing(nn.Conv2d(3, 8, 3), Preprocessing(size=(48, 40))).input_size
        (3, 48, 40)
    """
    set_attributes(encoder, preprocessing=preprocessing)
    if not isinstance(getattr(type(encoder), "input_size", None), property):  # ours compute it from their preprocessing
        set_attributes(encoder, input_size=preprocessing.input_size)
    return encoder
