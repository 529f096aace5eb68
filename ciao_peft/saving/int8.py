"""Weights as whole numbers of eight bits: a quarter of the size, with a bound on what that changes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..checking import all_finite
from ..errors import AdapterFileError, listed, quoted

__all__ = ["SCALE", "from_int8", "in_int8"]

SCALE = ".int8_scale"
"""What follows the name of a weight in the name of its scales."""

_LARGEST = 127


def in_int8(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""Rounds weights to whole numbers of a step for each output channel; vectors and numbers stay as they are.

    $$q_c = \mathrm{round}(w_c / s_c) \qquad s_c = \max |w_c| / 127$$

    so that `s_c q_c` is off by at most half a step, `max |w_c| / 254`, but for the rounding of float32. A channel of
    zeros has the step 0.

    Args:
        tensors: Everything an adapter owns.

    Returns:
        Every tensor of more than one dimension in int8, whose first is that of the output channels, and its steps as
        `<name>.int8_scale`, `(C,)` in float32; the others as they are.

    Raises:
        AdapterFileError: a tensor of more than one dimension is in int8 already, of an adapter's own.

    Example:
        >>> small = in_int8({"0.weight": torch.tensor([[1.0, 0.25], [0.0, 0.0]]), "0.bias": torch.ones(2)})
        >>> small["0.weight"].tolist(), small["0.bias"].tolist()
        ([[127, 32], [0, 0]], [1.0, 1.0])
    """
    if own := [name for name, tensor in tensors.items() if tensor.dtype == torch.int8 and tensor.ndim > 1]:
        raise AdapterFileError(
            f"The adapter holds whole numbers of eight bits of its own in {listed(own)}, which nobody could tell from "
            "rounded weights. Save it without `dtype`."
        )
    result = dict(tensors)
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.ndim <= 1 or not tensor.numel() or not all_finite(tensor):
            continue  # what is not finite is refused, by its name, where the folder is written
        rows = tensor.detach().to(torch.float32).flatten(1)
        step = rows.abs().amax(dim=1) / _LARGEST
        steps = torch.where(step > 0, step, 1.0)[:, None]
        result[name] = (rows / steps).round().clamp(-_LARGEST, _LARGEST).to(torch.int8).view(tensor.shape)
        result[name + SCALE] = step
    return result


def from_int8(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Turns what `in_int8` gave back into weights in float32.

    Args:
        tensors: Of a file.
        path: Of the file, for the messages.

    Raises:
        AdapterFileError: a weight without steps, steps without a weight, steps of another shape or dtype, or one that
            is negative or not finite.

    Example:
        >>> weight = torch.tensor([[1.0, 0.25], [0.5, -0.1]])
        >>> again = from_int8(in_int8({"0.weight": weight}), Path("adapter_model.safetensors"))["0.weight"]
        >>> bool(((again - weight).abs() <= weight.abs().amax(dim=1, keepdim=True) / 254 * 1.0001).all())
        True
    """

    def refuse(what: str) -> None:
        raise AdapterFileError(f"'{path}' is damaged: {what}. Nothing was loaded; save the adapter anew.")

    rounded = {name for name, tensor in tensors.items() if tensor.dtype == torch.int8 and tensor.ndim > 1}
    scales = {name.removesuffix(SCALE) for name in tensors if name.endswith(SCALE)}
    if lone := rounded - scales:
        refuse(f"the steps of {listed(lone)} are missing")
    if lone := scales - rounded:
        refuse(f"it has steps of {listed(lone)}, which are no weights in int8")
    whole = {name: tensor for name, tensor in tensors.items() if not name.endswith(SCALE)}
    for name in rounded:
        weight, step = tensors[name], tensors[name + SCALE]
        if step.shape != weight.shape[:1] or step.dtype != torch.float32:
            refuse(
                f"the steps of {quoted(name)} are {tuple(step.shape)} in {step.dtype} for ({len(weight)},) in float32"
            )
        if not all_finite(step) or bool((step < 0).any()):
            refuse(f"a step of {quoted(name)} is negative, infinite or NaN")
        value = weight.to(torch.float32) * step.view(-1, *[1] * (weight.ndim - 1))
        if not all_finite(value):
            refuse(f"the weights of {quoted(name)} are beyond what float32 holds")
        whole[name] = value
    return whole
