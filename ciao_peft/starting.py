"""Where `a` of Eq. 1 starts: by how strongly the backbone answers to the data at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .errors import AdapterNotFoundError, InputError
from .inhibition import decay_start
from .model import CIAOModel


@torch.no_grad()
def start_decay(
    model: CIAOModel,
    batches: Iterable[Mapping[str, Any]],
    adapter_name: str,
    *,
    total: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> float:
    """Sets `a` of an adapter that is to be trained: `decay_start` of the spread that u has over some samples.

    `CIAOTrainer` does so before the first update where `decay_init` was left out; a loop of one's own calls it.
    Whatever `a` was before is lost. The adapter's config then has the value as `decay_init`.

    Args:
        model: Holds the adapter.
        batches: What `CIAOModel.read` takes: `{"pixel_values": ...}` or `{"features": ...}`. A few hundred samples will
            do.
        adapter_name: Which.
        total: From the sums of this process to those of all, where there are several.

    Returns:
        Where all of `a` starts, in the units of the activation.

    Raises:
        AdapterNotFoundError: there is no such adapter.
        InputError: it has no mask, there are no samples, or they do not fit. Nothing has changed then.

    Example:
        >>> from ciao_peft import CIAOConfig, get_ciao_model
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU())
        >>> model = get_ciao_model(net, CIAOConfig(problem_type="regression", num_labels=1), input_size=(3, 16, 16))
        >>> start = start_decay(model, [{"pixel_values": torch.rand(64, 3, 16, 16)}], "default")
        >>> model.peft_config["default"].decay_init == start
        True
    """
    if adapter_name not in model.adapters:
        raise AdapterNotFoundError(adapter_name, model.adapters)
    adapter = model.adapters[adapter_name]
    if len(adapter.inhibition) == 0:
        raise InputError(f"The adapter {adapter_name!r} has no mask (inhibition=False), so there is no `a` to start.")
    sums = torch.zeros(3, dtype=torch.float64)  # of u, of its square, and how many

    def add(layer: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
        u = inputs[1].float()
        found = torch.stack([u.mean(), u.square().mean(), u.new_tensor(1.0)]).cpu().double() * u.numel()
        sums.add_(found)

    hooks = [layer.register_forward_pre_hook(add) for layer in adapter.inhibition]
    mode = model.training
    model.eval()
    try:
        for inputs in batches:
            model.read(**inputs, adapter_names=[adapter_name])
    finally:
        model.train(mode)
        for hook in hooks:
            hook.remove()
    first, second, count = total(sums).tolist()
    if count == 0:
        raise InputError("There are no samples to find out how strongly the backbone answers.")
    start = decay_start(max(second / count - (first / count) ** 2, 0.0) ** 0.5)
    adapter.start_decay(start)
    return start
