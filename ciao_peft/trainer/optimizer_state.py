"""The optimiser's state as named tensors, and back: only what this optimiser keeps goes in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..checking import all_finite
from ..errors import TrainingError, listed, quoted, shortened


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """The optimiser's state as named tensors.

    Args:
        optimizer: Any torch optimiser whose state is tensors and numbers.
        names: Name of each parameter that it trains.

    Returns:
        Copies on the CPU by `<parameter>/<moment>`, such as `head.1.weight/exp_avg`.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> optimizer_tensors(optimizer, {weight: "weight"})
        {'weight/momentum_buffer': tensor([1., 1.])}
    """
    tensors: dict[str, Tensor] = {}
    for parameter, state in optimizer.state.items():
        for moment, value in state.items():
            if value is not None:
                tensor = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64, device="cpu")
                tensors[f"{names[parameter]}/{moment}"] = tensor.detach().cpu().contiguous().clone()
    return tensors


_MOMENTS = {"AdamW": {"step", "exp_avg", "exp_avg_sq"}, "SGD": {"momentum_buffer"}}


def checked_moments(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str], tensors: Mapping[str, Tensor], where: Path
) -> dict[Tensor, dict[str, Tensor]]:
    """The state of each parameter, if every tensor is what this optimiser keeps: it is used without another look.

    Args:
        optimizer: Of the same kind, over the same parameters.
        names: Name of each parameter that it trains.
        tensors: By `<parameter>/<moment>`.
        where: The checkpoint they came from, for the message.

    Raises:
        TrainingError: it is the state of other parameters or of another optimiser, or holds what none could hold.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = torch.optim.AdamW([weight])
        >>> moments = {f"weight/{name}": torch.tensor(1.0) for name in ("step", "exp_avg", "exp_avg_sq")}
        >>> checked_moments(optimizer, {weight: "weight"}, moments, Path("checkpoint-1"))
        Traceback (most recent call last):
        ...
        ciao_peft.errors.TrainingError: 'checkpoint-1' holds 'weight/exp_avg' as torch.float32 of [], not of [2].
    """
    trained = {names[p]: p for group in optimizer.param_groups for p in group["params"] if p in names}
    known = _MOMENTS.get(type(optimizer).__name__)
    fused = any(group.get("fused") for group in optimizer.param_groups)
    states: dict[Tensor, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, moment = key.rpartition("/")
        if name not in trained or (known is not None and moment not in known):
            raise TrainingError(
                f"'{where}' holds the optimiser's state of {shortened(repr(key))}, which this adapter does not train."
            )
        parameter = trained[name]
        if moment == "step":
            if tensor.ndim or not tensor.is_floating_point() or not 0 <= tensor.item() < math.inf:
                raise TrainingError(f"'{where}' holds {quoted(key)}, which is no finite number of 0 or more.")
            # Counters of steps stay on the CPU, as torch keeps them, unless the optimiser is a fused one on a GPU.
            value = tensor.to(parameter.device, torch.float32) if fused else tensor
        else:
            if (tensor.shape, tensor.dtype) != (parameter.shape, parameter.dtype):
                expected = "" if tensor.dtype == parameter.dtype else f"{parameter.dtype} "
                raise TrainingError(
                    f"'{where}' holds {quoted(key)} as {tensor.dtype} of {list(tensor.shape)}, not {expected}of "
                    f"{list(parameter.shape)}."
                )
            if not all_finite(tensor) or (moment == "exp_avg_sq" and bool((tensor < 0).any())):
                raise TrainingError(f"'{where}' holds {quoted(key)} with values that no optimiser has.")
            value = tensor.to(parameter.device)
        states.setdefault(parameter, {})[moment] = value
    for parameter, state in states.items():
        if known is not None and (missing := known - set(state)):
            raise TrainingError(f"'{where}' lacks {listed(missing)} of {names[parameter]!r}.")
    return states


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str], tensors: Mapping[str, Tensor], where: Path
) -> None:
    """Puts back what `optimizer_tensors` gave; the optimiser's present state is dropped.

    Args:
        optimizer: Of the same kind, over the same parameters.
        names: Name of each parameter that it trains.
        tensors: By `<parameter>/<moment>`.
        where: The checkpoint they came from, for the message.

    Raises:
        TrainingError: `checked_moments` refuses it; the optimiser is as it was.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
        >>> moments = {"weight/momentum_buffer": torch.tensor([1.0, 2.0])}
        >>> restore_optimizer(optimizer, {weight: "weight"}, moments, Path("checkpoint-1"))
        >>> optimizer.state[weight]
        {'momentum_buffer': tensor([1., 2.])}
    """
    states = checked_moments(optimizer, names, tensors, where)
    optimizer.state.clear()
    optimizer.state.update(states)
