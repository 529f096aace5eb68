"""Finds the last convolutions of a network, and cuts it open there."""

from __future__ import annotations

from .cut import CutBackbone, Mask, Request
from .depths import Depth
from .frozen import FrozenBackbone
from .hooked import HookedBackbone
from .identity import (
    backbone_name,
    backbone_revision,
    backbone_signature,
    check_same_backbone,
    example_pixels,
    find_input_size,
    same_backbone,
    without_compiler,
)
from .inputs import check_features, check_pixels, frames_of_clips
from .maps import MapLayout, is_map
from .opening import OpenedBackbone, open_backbone
from .pieces import make_piece
from .places import conv_unit, find_places
from .reaching import parameters_reaching_the_map
from .skipped import refuse_patches
from .tracing import Rooted, first_tensor, is_normalisation, trace
from .units import UnitSpec

__all__ = [
    "CutBackbone",
    "Depth",
    "FrozenBackbone",
    "HookedBackbone",
    "MapLayout",
    "Mask",
    "OpenedBackbone",
    "Request",
    "Rooted",
    "UnitSpec",
    "backbone_name",
    "backbone_revision",
    "backbone_signature",
    "check_features",
    "check_pixels",
    "check_same_backbone",
    "conv_unit",
    "example_pixels",
    "find_input_size",
    "find_places",
    "first_tensor",
    "frames_of_clips",
    "is_map",
    "is_normalisation",
    "make_piece",
    "open_backbone",
    "parameters_reaching_the_map",
    "refuse_patches",
    "same_backbone",
    "trace",
    "without_compiler",
]
