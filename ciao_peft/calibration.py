"""Where `a` of Eq. 1 starts: by how strongly the backbone answers to the data at hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .adapters.adapter import Adapter
from .errors import InputError, listed
from .inhibition import DECAY_START, InhibitoryLayer
from .model import CIAOModel

ENOUGH_SAMPLES = 256
"""Samples that tell the spread of u well enough for the round numbers at which `a` starts."""

_SPREADS = 9.0


def decay_start(spread: float) -> float:
    """Where `a` should start: about nine spreads of u, to the nearest of 1 and 3 times a power of ten.

    What is a large `a` depends on how strongly a backbone answers: next to one far above u, I hardly moves the mask and
    the head is fed next to nothing. A few spreads more or less matter little (docs/results.md has the measurements),
    hence the round number, which other samples or another machine hardly ever change.

    Args:
        spread: Standard deviation of u over samples, channels and positions, in the units of the activation.

    Returns:
        From 1e-4 to 1e4; `DECAY_START` for a u that is not finite, or never moves.

    Example:
        >>> decay_start(0.33), decay_start(0.04), decay_start(5.0)
        (3.0, 0.3, 30.0)
    """
    if not 0 < spread < math.inf:
        return DECAY_START
    wanted = math.log10(_SPREADS * spread)
    starts = [float(f"{digit}e{power}") for power in range(-4, 5) for digit in (1, 3)][:-1]
    return min(starts, key=lambda start: abs(math.log10(start) - wanted))


class ExcitationSpread:
    """While it is open, looks at the u that an adapter's masks are given; of all its masked convolutions together.

    Args:
        adapter: Is not changed.

    Attributes:
        moments: `(3,)` in float64: how many values of u there were, their sum and the sum of their squares. Those of
            several processes add up.

    Example:
        >>> from ciao_peft import CIAOConfig, get_ciao_model
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        >>> model = get_ciao_model(net, CIAOConfig(problem_type="regression", num_labels=1), input_size=(3, 16, 16))
        >>> pixels = torch.rand(8, 3, 16, 16)
        >>> with ExcitationSpread(model.adapters["default"]) as seen:
        ...     output = model(pixels)
        >>> round(seen.spread(seen.moments), 4) == round(net(pixels).std(correction=0).item(), 4)
        True
    """

    def __init__(self, adapter: Adapter):
        self._layers = list(adapter.inhibition)
        self._hooks: list[Any] = []
        self.moments = torch.zeros(3, dtype=torch.float64)

    def __enter__(self) -> ExcitationSpread:
        self._hooks = [layer.register_forward_pre_hook(self._see) for layer in self._layers]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _see(self, layer: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
        variance, mean = (one.double() for one in torch.stack(torch.var_mean(inputs[1].float(), correction=0)).cpu())
        self.moments += inputs[1].numel() * torch.stack([torch.ones_like(mean), mean, variance + mean**2])

    @staticmethod
    def spread(moments: Tensor) -> float:
        """Their standard deviation; NaN where nothing was seen."""
        count, first, second = moments.tolist()
        return max(second / count - (first / count) ** 2, 0.0) ** 0.5 if count else float("nan")


def is_open(adapter: Adapter) -> bool:
    """Whether nothing has been said or learned yet about where `a` is."""
    if not adapter.config.inhibition or adapter.config.decay_init is not None:
        return False
    return all(torch.equal(layer.raw_decay, _fresh(layer)) for layer in adapter.inhibition)


def _fresh(layer: InhibitoryLayer) -> Tensor:
    return layer.raw_of(DECAY_START).to(layer.raw_decay)


def start_decay(model: CIAOModel, batches: Iterable[Mapping[str, Any]], adapter_name: str | None = None) -> float:
    """Sets `a` of an adapter that is to be trained: `decay_start` of the spread of u over some samples.

    For a training loop of your own; `CIAOTrainer` does it by itself before the first update, where `decay_init` was
    left out. Whatever `a` was before is lost. The adapter's config then has the value as `decay_init`.

    Args:
        model: Holds the adapter.
        batches: As for the training, with `pixel_values` or `features` of the active adapter; read until there are
            `ENOUGH_SAMPLES` or no more.
        adapter_name: Which adapter; the active one when left out.

    Returns:
        Where all of `a` starts, in the units of the activation.

    Raises:
        AdapterNotFoundError, NoActiveAdapterError: there is no such adapter.
        InputError: it has no mask, there are no samples, or they do not fit. Nothing has changed then.

    Example:
        >>> from ciao_peft import CIAOConfig, get_ciao_model
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU())
        >>> model = get_ciao_model(net, CIAOConfig(problem_type="regression", num_labels=1), input_size=(3, 16, 16))
        >>> start = start_decay(model, [{"pixel_values": torch.rand(64, 3, 16, 16), "labels": torch.rand(64, 1)}])
        >>> model.peft_config["default"].decay_init == start
        True
    """
    name = model.resolve_adapter(adapter_name)
    adapter = model.adapters[name]
    if len(adapter.inhibition) == 0:
        raise InputError(f"The adapter {name!r} has no mask (inhibition=False), so there is no `a` to start.")
    moments = excitation_moments(model, _enough(batches, model, adapter.config.frames or 1), name)
    if moments[0] == 0:
        raise InputError("There are no samples to see how strongly the backbone answers.")
    start = decay_start(ExcitationSpread.spread(moments))
    adapter.set_decay(start)
    return start


def excitation_moments(
    model: CIAOModel,
    batches: Iterable[Mapping[str, Any]],
    adapter_name: str,
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Tensor:
    """`ExcitationSpread.moments` over all of some batches; the modes of the model are those of before afterwards.

    Args:
        model: Holds the adapter, and reads in eval mode and without gradients.
        batches: What `CIAOModel.read` takes. Made outside of both, as for a training.
        adapter_name: Of an adapter with a mask.
        around: What each reading runs in, such as mixed precision.
    """
    mode = model.training
    model.eval()
    try:
        with ExcitationSpread(model.adapters[adapter_name]) as seen:
            for inputs in batches:
                with torch.no_grad(), around():
                    model.read(**inputs, adapter_names=[adapter_name])
    finally:
        model.train(mode)
    return seen.moments


def _enough(batches: Iterable[Mapping[str, Any]], model: CIAOModel, frames: int) -> Iterator[dict[str, Any]]:
    """What `CIAOModel.read` takes of each batch, until there are `ENOUGH_SAMPLES`."""
    device, count = next(model.backbone.parameters()).device, 0
    for batch in batches:
        inputs = _on_device(batch, device)
        yield inputs
        count += len(inputs["pixel_values"]) if "pixel_values" in inputs else len(inputs["features"][0]) // frames
        if count >= ENOUGH_SAMPLES:
            return


def _on_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """What `CIAOModel.read` takes of a batch."""
    if batch.get("features") is not None:
        return {"features": [tensor.to(device) for tensor in batch["features"]]}
    if batch.get("pixel_values") is not None:
        return {"pixel_values": batch["pixel_values"].to(device)}
    raise InputError(f"A batch needs `pixel_values` or `features`; this one has {listed(batch)}.")
