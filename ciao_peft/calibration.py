"""Where `a` of Eq. 1 starts: measured by how strongly the backbone responds to the data at hand."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ._shapes import Float
from .adapters.adapter import Adapter
from .errors import InputError, listed
from .inhibition import DECAY_START, InhibitoryLayer
from .model import CIAOModel

__all__ = [
    "ENOUGH_SAMPLES",
    "ExcitationSpread",
    "decay_start",
    "excitation_moments",
    "is_open",
    "start_decay",
]

ENOUGH_SAMPLES = 256
"""Number of samples that give the spread of u well enough for the round numbers at which `a` starts."""

_SPREADS = 9.0


def decay_start(spread: float) -> float:
    """Where `a` should start: about nine spreads of u, rounded to 1 or 3 times a power of ten.

    Whether an `a` is large depends on how strongly a backbone responds: with an `a` far above u, I hardly moves the
    mask and the head receives next to nothing. A few spreads more or less matter little (docs/results.md has the
    measurements), hence the round number, which other samples or another machine hardly ever change.

    Args:
        spread: Standard deviation of u over samples, channels and positions, in the units of the activation.

    Returns:
        From 1e-4 to 1e4; `DECAY_START` where the spread is not finite, or 0.

    Example:
        >>> decay_start(0.33), decay_start(0.04), decay_start(5.0)
        (3.0, 0.3, 30.0)
    """
    if not 0 < spread < math.inf:
        return DECAY_START
    target = math.log10(_SPREADS * spread)
    starts = [float(f"{digit}e{power}") for power in range(-4, 5) for digit in (1, 3)][:-1]
    return min(starts, key=lambda start: abs(math.log10(start) - target))


class ExcitationSpread:
    """A context that measures the excitation u of all of an adapter's masked convolutions together.

    Every pass of this thread through the adapter inside the `with` block counts.

    Args:
        adapter: Adapter to measure; it is not changed.

    Attributes:
        moments: Number of values of u so far, their sum and the sum of their squares. Moments of several processes may
            be added up.

    Shapes:
        - moments: `(3,)`, float64, on the CPU.

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

    moments: Float[Tensor, " 3"]

    def __init__(self, adapter: Adapter):
        self._layers = _masks_of(adapter)
        self._hooks: list[Any] = []
        self.moments = torch.zeros(3, dtype=torch.float64, device="cpu")

    def __enter__(self) -> ExcitationSpread:
        self._thread = threading.get_ident()
        self._hooks = [layer.register_forward_pre_hook(self._see) for layer in self._layers]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _see(self, layer: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
        if threading.get_ident() != self._thread:  # somebody else reads with the adapter
            return
        variance, mean = torch.stack(torch.var_mean(inputs[1].float(), correction=0)).cpu().double()
        self.moments += inputs[1].numel() * torch.stack([torch.ones_like(mean), mean, variance + mean**2])

    @staticmethod
    def spread(moments: Float[Tensor, " 3"]) -> float:
        """The standard deviation that belongs to some moments.

        Args:
            moments: `(3,)`, as the attribute `moments`.

        Returns:
            In the units of the activation, 0 or more; NaN where nothing was measured.

        Example:
            >>> ExcitationSpread.spread(torch.tensor([2.0, 4.0, 10.0]))  # of the values 1 and 3
            1.0
        """
        count, first, second = moments.tolist()
        return max(second / count - (first / count) ** 2, 0.0) ** 0.5 if count else float("nan")


def is_open(adapter: Adapter) -> bool:
    """Whether `a` of an adapter is neither set by its config nor moved by a training yet.

    Args:
        adapter: Any adapter.

    Returns:
        False also for an adapter without a mask.

    Example:
        >>> from ciao_peft import CIAOConfig, get_ciao_model
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        >>> model = get_ciao_model(net, CIAOConfig(problem_type="regression", num_labels=1), input_size=(3, 16, 16))
        >>> before = is_open(model.adapters["default"])
        >>> _ = start_decay(model, [{"pixel_values": torch.rand(8, 3, 16, 16)}])
        >>> before, is_open(model.adapters["default"])
        (True, False)
    """
    if not adapter.config.inhibition or adapter.config.decay_init is not None:
        return False
    return all(torch.equal(layer.raw_decay, _fresh(layer)) for layer in _masks_of(adapter))


def _masks_of(adapter: Adapter) -> list[InhibitoryLayer]:
    return [layer for layer in adapter.inhibition if isinstance(layer, InhibitoryLayer)]


def _fresh(layer: InhibitoryLayer) -> Tensor:
    return layer.raw_of(DECAY_START).to(layer.raw_decay)


def start_decay(model: CIAOModel, batches: Iterable[Mapping[str, Any]], adapter_name: str | None = None) -> float:
    """Sets `a` of an adapter before its training, to `decay_start` of the spread of u over some samples.

    Call it in a training loop of your own. `CIAOTrainer` does the same before the first update where `decay_init` was
    left out. The value of `a` before the call is lost. The adapter's config then has the new one as `decay_init`.

    Args:
        model: Model that holds the adapter.
        batches: Batches as for the training, with `pixel_values` `(B, C, H, W)` or `features` of the active adapter.
            They are read until there are `ENOUGH_SAMPLES` samples, or to the end.
        adapter_name: Name of the adapter; the active one when left out.

    Returns:
        The value of every entry of `a`, in the units of the activation.

    Raises:
        AdapterNotFoundError: the model has no adapter of that name.
        NoActiveAdapterError: no name was given, and no adapter is active.
        InputError: the adapter has no mask, there are no samples, or they do not fit. Nothing is changed then.

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
) -> Float[Tensor, " 3"]:
    """Measures the excitation u over batches: `ExcitationSpread.moments` of all of them.

    The adapter reads in eval mode and without gradients, and is put back into its mode after each batch. The batches
    are fetched outside of both, as in a training.

    Args:
        model: Model that holds the adapter.
        batches: Arguments of `CIAOModel.forward`: `pixel_values` or `features`.
        adapter_name: Name of an adapter with a mask.
        around: Makes the context in which each batch is read, such as mixed precision.

    Returns:
        `(3,)`, float64: number of values of u, their sum and the sum of their squares.

    Example:
        >>> from ciao_peft import CIAOConfig, get_ciao_model
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        >>> model = get_ciao_model(net, CIAOConfig(problem_type="regression", num_labels=1), input_size=(3, 16, 16))
        >>> count, _, _ = excitation_moments(model, [{"pixel_values": torch.rand(8, 3, 16, 16)}], "default")
        >>> int(count) == 8 * 4 * 14 * 14
        True
    """
    adapter = model.adapters[model.resolve_adapter(adapter_name)]
    with ExcitationSpread(adapter) as seen:
        for inputs in batches:
            with adapter.held(training=False), model.reading_with(adapter_name), torch.no_grad(), around():
                model(**inputs)
    return seen.moments


def _enough(batches: Iterable[Mapping[str, Any]], model: CIAOModel, frames: int) -> Iterator[dict[str, Any]]:
    """The arguments of `CIAOModel.read` in each batch, until there are `ENOUGH_SAMPLES`."""
    device, count = next(model.backbone.parameters()).device, 0
    for batch in batches:
        inputs = _on_device(batch, device)
        yield inputs
        count += len(inputs["pixel_values"]) if "pixel_values" in inputs else len(inputs["features"][0]) // frames
        if count >= ENOUGH_SAMPLES:
            return


def _on_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The arguments of `CIAOModel.read` in a batch, on the model's device."""
    if batch.get("features") is not None:
        return {"features": [tensor.to(device) for tensor in batch["features"]]}
    if batch.get("pixel_values") is not None:
        return {"pixel_values": batch["pixel_values"].to(device)}
    raise InputError(f"A batch needs `pixel_values` or `features`; this one has {listed(batch)}.")
