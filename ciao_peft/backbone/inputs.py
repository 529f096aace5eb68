"""Pixels and features that a model can read, or a reason why not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from ..checking import all_finite, check_plain, values_at_hand
from ..errors import InputError

__all__ = ["check_features", "check_pixels", "frames_of_clips"]


def _check_device(tensor: Tensor, device: torch.device | None, name: str) -> None:
    if device is not None and tensor.device != device:
        raise InputError(
            f"`{name}` are on {tensor.device}, and the model is on {device}. Move one of them: "
            f"`{name}.to({str(device)!r})`, or `model.to({str(tensor.device)!r})`."
        )


def check_pixels(
    pixel_values: Tensor | None,
    input_size: tuple[int, int, int],
    dtype: torch.dtype,
    device: torch.device | None = None,
) -> Tensor:
    """Checks that a backbone can read these pixels, and casts them to its dtype.

    Args:
        pixel_values: `(B, C, H, W)`, floating point and finite. Values are looked at on the CPU alone: for those of a
            GPU, the host would have to wait.
        input_size: `(C, H, W)` of the backbone.
        dtype: Dtype of the backbone.
        device: Device of the backbone; not compared when left out.

    Returns:
        `(B, C, H, W)` in `dtype`.

    Raises:
        InputError: no tensor, another shape, kind of number or device, or NaN.

    Example:
        >>> check_pixels(torch.zeros(2, 1, 8, 8), (3, 8, 8), torch.float32)
        Traceback (most recent call last):
        ...
        ciao_peft.errors.InputError: `pixel_values` must be (B, 3, 8, 8) with B of 1 or more; got (2, 1, 8, 8). Gray \
pictures need three equal channels: `.expand(-1, 3, -1, -1)`.
    """
    channels, height, width = input_size
    if not isinstance(pixel_values, Tensor):
        kind = type(pixel_values).__name__
        raise InputError(f"`pixel_values` must be a tensor; got {kind}. `model.predict` takes files and images.")
    check_plain("pixel_values", pixel_values)
    # `shape[0]`, and never `len`, in all that `torch.export` goes through: a length is one number for good.
    if tuple(pixel_values.shape[1:]) != tuple(input_size) or pixel_values.shape[0] == 0:
        gray = pixel_values.ndim == 4 and pixel_values.shape[1] == 1 and channels == 3
        hint = " Gray pictures need three equal channels: `.expand(-1, 3, -1, -1)`." if gray else ""
        if pixel_values.ndim == 5:
            hint = " Clips are read by adapters with `frames` and `recurrent_size` in their config."
        raise InputError(
            f"`pixel_values` must be (B, {channels}, {height}, {width}) with B of 1 or more; got "
            f"{tuple(pixel_values.shape)}.{hint}"
        )
    if not pixel_values.is_floating_point():
        raise InputError(
            f"`pixel_values` must be floating point, as `model.preprocessing` makes them; got {pixel_values.dtype}."
        )
    _check_device(pixel_values, device, "pixel_values")
    if values_at_hand(pixel_values) and not all_finite(pixel_values):
        row = int((~pixel_values.isfinite()).flatten(1).any(dim=1).nonzero()[0, 0])
        raise InputError(f"`pixel_values` holds NaN or infinite values, first in row {row}. Check how it was prepared.")
    return pixel_values.to(dtype)


@overload
def frames_of_clips(values: Tensor, frames: int, name: str) -> Tensor: ...
@overload
def frames_of_clips(values: Tensor | None, frames: int, name: str) -> Tensor | None: ...
def frames_of_clips(values: Tensor | None, frames: int, name: str) -> Tensor | None:
    """Puts the frames of clips one after the other, for the trunk, which knows nothing of clips.

    Args:
        values: `(B, T, ...)`.
        frames: T.
        name: Name of the argument, for the message.

    Returns:
        `(B * T, ...)`. What is no tensor comes back as it is; the checks that follow refuse it.

    Raises:
        InputError: these are no clips of as many frames.

    Example:
        >>> frames_of_clips(torch.zeros(2, 10, 3, 8, 8), 10, "pixel_values").shape
        torch.Size([20, 3, 8, 8])
    """
    if not isinstance(values, Tensor):
        return values  # the checks that follow say what it should be
    if values.ndim < 3 or values.shape[1] != frames or (name == "pixel_values" and values.ndim != 5):
        raise InputError(
            f"`{name}` must be (B, {frames}, ...): the adapter reads clips of {frames} frames; got "
            f"{tuple(values.shape)}. `ciao_peft.data.clips` makes clips from rows of frames."
        )
    return values.flatten(0, 1)


def check_features(
    features: Tensor | Sequence[Tensor],
    shapes: Sequence[tuple[int, ...]],
    excitation_shapes: Sequence[tuple[int, ...]],
    dtype: torch.dtype,
    device: torch.device | None = None,
    depth_sizes: Sequence[int] = (),
) -> list[Tensor]:
    """Checks that these are the features that cross a backbone's cut, and casts them to its dtype.

    Args:
        features: One tensor per place where the cut is crossed, `(B, ...)` each, or the tensor where there is one;
            behind them one of each depth, and u of each conv unit, or none.
        shapes: What each must be after its batch dimension.
        excitation_shapes: The same for u.
        dtype: Dtype of the backbone.
        device: Device of the backbone; not compared when left out.
        depth_sizes: How many numbers each depth has.

    Returns:
        The tensors in `dtype`, `(B, ...)` each.

    Raises:
        InputError: another number of tensors, another shape, kind of number or device, or NaN; values are looked at
            on the CPU alone.

    Example:
        >>> features = check_features(torch.zeros(2, 8, 6, 6), [(8, 6, 6)], [(16, 4, 4)], torch.bfloat16)
        >>> [(tuple(tensor.shape), tensor.dtype) for tensor in features]
        [((2, 8, 6, 6), torch.bfloat16)]
    """
    features = [features] if isinstance(features, Tensor) else list(features)
    crossing, shapes = list(map(tuple, shapes)), [*shapes, *((size,) for size in depth_sizes)]
    expected = ", ".join(f"(B, {', '.join(map(str, shape))})" for shape in shapes)
    if not all(isinstance(f, Tensor) and f.is_floating_point() for f in features):
        raise InputError(f"`features` are the floating-point tensors that `extract_features` returns: {expected}.")
    for f in features:
        check_plain("features", f)
    got = [tuple(f.shape) for f in features]
    # No set, and no `in` over rows: while a model is exported, the number of rows is a symbol without a value.
    one_batch = all(shape and shape[0] == got[0][0] != 0 for shape in got)
    allowed = [list(map(tuple, shapes)), list(map(tuple, [*shapes, *excitation_shapes]))]
    if [shape[1:] for shape in got] not in allowed or not one_batch:
        u = ", ".join(f"(B, {', '.join(map(str, shape))})" for shape in excitation_shapes)
        without_depths = [crossing, [*crossing, *map(tuple, excitation_shapes)]]
        if depth_sizes and [shape[1:] for shape in got] in without_depths:
            raise InputError(
                f"`features` are without the depths that the adapter reads, {expected} with one B of 1 or more; got "
                f"{got}. Take them anew with `extract_features` or `cache_features` while this adapter is active."
            )
        raise InputError(
            f"`features` of this backbone are {expected} with one B of 1 or more, and behind them {u} if u is "
            f"included; got {got}."
        )
    for f in features:
        _check_device(f, device, "features")
    if not all(all_finite(f) for f in features if values_at_hand(f)):
        raise InputError("`features` hold NaN or infinite values. Check the pixels they were made from.")
    return [f.to(dtype) for f in features]
