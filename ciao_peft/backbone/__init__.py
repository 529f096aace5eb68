"""Find the last convolutions of a network and open it there."""

from __future__ import annotations

from .cut import CutBackbone, Mask, Request
from .frozen import BorrowedBackbone
from .hooked import HookedBackbone
from .identity import (
    backbone_name,
    backbone_revision,
    backbone_signature,
    check_same_backbone,
    example_pixels,
    find_input_size,
    same_backbone,
)
from .opening import open_backbone
from .tracing import Rooted, first_tensor
from .units import UnitSpec

__all__ = [
    "BorrowedBackbone",
    "CutBackbone",
    "HookedBackbone",
    "Mask",
    "Request",
    "Rooted",
    "UnitSpec",
    "backbone_name",
    "backbone_revision",
    "backbone_signature",
    "check_same_backbone",
    "example_pixels",
    "find_input_size",
    "first_tensor",
    "open_backbone",
    "same_backbone",
]
