"""From what was read from a folder to an adapter on a backbone, or a refusal that leaves everything as it was."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch

from ..backbone import FrozenBackbone, OpenedBackbone, check_same_backbone
from ..errors import AdapterFileError, BackboneMismatchError, TargetModulesError, quoted, shortened
from ..heads import head_width, pool_map
from ..preprocessing import Preprocessing
from ..saving import SavedAdapter, check_tensors
from ..saving.int8 import from_int8
from .adapter import Adapter

__all__ = ["restore_adapter"]


def restore_adapter(
    saved: SavedAdapter,
    where: str,
    frozen: FrozenBackbone,
    preprocessing: Preprocessing | None,
    check_backbone: bool = True,
    check_preprocessing: bool = True,
) -> tuple[Adapter, Preprocessing | None]:
    """Puts a saved adapter on a backbone, after checking that it belongs there.

    Args:
        saved: The adapter as `ciao_peft.saving.load_adapter` read it. Its tensors become the adapter's own.
        where: Its folder, for the messages.
        frozen: The backbone it is put on.
        preprocessing: What the model is fed; the adapter's own where it is None.
        check_backbone: When `False`, another backbone than the adapter's own only draws a warning.
        check_preprocessing: When `False`, pixels may be prepared in another way.

    Returns:
        The adapter, in eval mode and without gradients, and the preprocessing for the model from now on.

    Raises:
        BackboneMismatchError: another backbone, pixels of another size or prepared in another way, or convolutions of
            another geometry.
        AdapterFileError: tensors that are not those of the config.

    Example:
        >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
        >>> model = get_ciao_model(load_encoder("small-face"), CIAOConfig(problem_type="regression", num_labels=2))
        >>> adapter, _ = restore_adapter(model.saved_adapter(), "fer", FrozenBackbone(load_encoder("small-face")), None)
        >>> adapter.config.num_labels, any(parameter.requires_grad for parameter in adapter.parameters())
        (2, False)
    """
    try:
        check_same_backbone(saved.backbone_signature, saved.backbone_name, frozen.backbone)
    except BackboneMismatchError as error:
        if check_backbone:
            raise
        warnings.warn(f"Loading all the same: {error}", stacklevel=_level_of_the_caller())
    if saved.input_size != frozen.input_size:
        raise BackboneMismatchError(
            f"The adapter in '{where}' takes pixels of {saved.input_size}; this model {frozen.input_size}. Wrap the "
            f"backbone with `input_size={saved.input_size}`."
        )
    if check_preprocessing:
        _check_same_preprocessing(saved, where, preprocessing)
    try:
        opened = frozen.open(saved.config.target_modules)
        depths = opened.find_depths(saved.config.depths, saved.config.depth_grid)
    except TargetModulesError as error:
        raise BackboneMismatchError(f"The adapter in '{where}' has no place on this backbone: {error}") from error
    geometry = [spec.geometry(frozen.backbone) for spec in opened.units_spec]
    if geometry != saved.convolutions and check_backbone:
        raise BackboneMismatchError(
            f"The adapter in '{where}' sits on convolutions of another geometry: {quoted(saved.convolutions, 600)} "
            f"there, {quoted(geometry, 600)} here."
        )
    if saved.weights_dtype is not None:
        saved = replace(saved, tensors=from_int8(saved.tensors, Path(where)), weights_dtype=None)
    _check_head_fits(saved, where, opened, sum(opened.depth_sizes(depths)))
    adapter = Adapter(saved.config, opened, empty=True)
    check_tensors(saved.tensors, adapter.state_dict(), where)
    adapter.load_tensors(saved.tensors)
    if preprocessing is None and saved.preprocessing is not None:
        preprocessing = Preprocessing.from_dict(saved.preprocessing)
        if preprocessing.input_size != frozen.input_size:
            raise AdapterFileError(
                f"The preprocessing in '{where}' makes pixels of {preprocessing.input_size}, not its own."
            )
    adapter.set_trainable(False)
    return adapter, preprocessing


def _check_same_preprocessing(saved: SavedAdapter, where: str, preprocessing: Preprocessing | None) -> None:
    mine, theirs = None if preprocessing is None else preprocessing.to_dict(), saved.preprocessing
    if mine is None or theirs is None or mine == theirs:
        return
    keys = [key for key in sorted({*mine, *theirs}) if mine.get(key) != theirs.get(key)]
    changed = shortened("; ".join(f"{key}: {theirs.get(key)!r} there, {mine.get(key)!r} here" for key in keys), 2000)
    raise BackboneMismatchError(
        f"The adapter in '{where}' was trained on pixels prepared in another way ({changed}). Give what it was "
        "trained on as `preprocessing=` where the model is made, by `get_ciao_model` or `from_pretrained`, or pass "
        "`check_preprocessing=False` to feed it the model's own."
    )


def _check_head_fits(saved: SavedAdapter, where: str, opened: OpenedBackbone, of_depths: int) -> None:
    """Compares the config's sizes with the tensors before memory is taken for them: a few bytes could ask for all."""
    pooled = pool_map(torch.empty(1, *opened.map_shape, device="meta"), saved.config.pooling)
    config, units = saved.config, saved.config.recurrent_size or 0
    width = head_width(pooled.shape[1], pooled.shape[1] // opened.map_shape[0], config) + of_depths
    widths = (units or width, *config.hidden_sizes, config.num_labels)
    recurrent = 4 * units * (width + units)
    if recurrent + sum(a * b for a, b in pairwise(widths)) > sum(tensor.numel() for tensor in saved.tensors.values()):
        raise AdapterFileError(f"The adapter in '{where}' lacks numbers for a head of widths {widths}, its config's.")


def _level_of_the_caller() -> int:
    """The `stacklevel` at which a warning shows the line that called this library."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("ciao_peft."):
        level, frame = level + 1, frame.f_back
    return level
