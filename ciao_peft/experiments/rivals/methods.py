"""The rivals by their names in tables."""

from __future__ import annotations

from typing import Any

from ..protocol import Method

# Each grid is as long as CIAO's: as much search for everybody.
HEAD_RATES = (3e-4, 1e-3, 3e-3, 1e-2)
POOLED_PROBE_RATES = (3e-3, 1e-2, 3e-2, 1e-1)  # few numbers to read; each has to weigh more
FLATTENED_PROBE_RATES = (3e-5, 1e-4, 3e-4, 1e-3)
ADDED_RATES = (1e-3, 3e-3, 1e-2, 3e-2)

_PROBE = {"inhibition": False, "contrastive_weight": 0.0, "hidden_sizes": ()}


def _head(name: str, rates: tuple[float, ...] = HEAD_RATES, **parts: Any) -> Method:
    return Method(name=name, kind="rival", rate="learning_rate", rates=rates, **parts)


def _added(name: str, rival: str, rates: tuple[float, ...] = ADDED_RATES, **settings: Any) -> Method:
    """A rival that puts something into the encoder; its search moves the learning rate of that."""
    return Method(
        name=name,
        kind="rival",
        rate="encoder_learning_rate",
        rates=rates,
        rival=rival,
        settings=settings,
        needs="pixels" if settings.get("everywhere") or rival == "norm_and_bias" else "features",
    )


RIVALS: tuple[Method, ...] = (
    _head("linear probe (pooled)", POOLED_PROBE_RATES, config={**_PROBE, "pooling": "avg"}),
    _head("linear probe (flattened)", FLATTENED_PROBE_RATES, config={**_PROBE, "pooling": "flatten"}),
    _head("MLP head", rival="wide_head"),
    _added("LoRA r=4", "lora", rank=4),
    _added("LoRA r=16", "lora", rank=16),
    _added("LoRA r=64", "lora", rank=64),
    _added("scale and shift", "scale_and_shift"),
    _added("residual adapters", "residual_adapters"),
    _head("Head2Toe", rival="head2toe", needs="pixels"),
    _added("LoRA everywhere r=16", "lora", rank=16, everywhere=True),
    _added("scale and shift everywhere", "scale_and_shift", everywhere=True),
    _added("norm and bias", "norm_and_bias"),
    _added("residual adapters everywhere", "residual_adapters", everywhere=True),
)
"""What people use instead, on the same encoder, features and budget: those from stored features first."""
