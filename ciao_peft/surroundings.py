"""What a process shares between its threads and libraries: kept as it was, or kept out."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["RANDOM_STATE", "CopiedLock", "as_tensor", "outside_inference", "random_state_kept", "set_num_threads"]

RANDOM_STATE = threading.RLock()
"""Held while numbers are drawn from the generators of the process, so that no other thread of ours moves them."""


@contextmanager
def random_state_kept() -> Iterator[None]:
    """A context after which the generators of Python, NumPy and torch are where they were before it.

    Other threads may draw meanwhile. Who needs numbers that nobody disturbs holds `RANDOM_STATE` as well.

    Example:
        >>> before = torch.get_rng_state()
        >>> with random_state_kept():
        ...     noise = torch.randn(3)
        >>> torch.equal(before, torch.get_rng_state())
        True
    """
    with RANDOM_STATE:
        python, numpy, own = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        with RANDOM_STATE:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
            torch.set_rng_state(own)
            if devices:
                torch.cuda.set_rng_state_all(devices)


def as_tensor(values: Any) -> Tensor:
    """A tensor as it is; all else on the CPU, whatever the default device, and floats of Python in float32.

    Args:
        values: A tensor, an array, a number or nested lists of numbers.

    Returns:
        A tensor of the same shape.

    Example:
        >>> with torch.device("meta"):
        ...     numbers = as_tensor([[0.5, 1.0]])
        >>> numbers
        tensor([[0.5000, 1.0000]])
    """
    if isinstance(values, Tensor):
        return values
    tensor = torch.as_tensor(values, device="cpu")
    return tensor.float() if tensor.is_floating_point() and not hasattr(values, "dtype") else tensor


@contextmanager
def outside_inference(gradients: bool | None = None) -> Iterator[None]:
    """A context in which tensors can be trained and saved for gradients later, also inside `torch.inference_mode()`.

    Args:
        gradients: Whether operations are recorded inside; as the caller has it when left out.

    Example:
        >>> with torch.inference_mode(), outside_inference():
        ...     made, recording = torch.zeros(2), torch.is_grad_enabled()
        >>> made.is_inference(), recording
        (False, False)
    """
    records = torch.is_grad_enabled() if gradients is None else gradients
    # Leaving inference mode would switch gradients on.
    leaves = torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()
    with leaves, torch.set_grad_enabled(records):
        yield


class CopiedLock:
    """A lock for one thread at a time, which may take it several times. A copy or a pickle of it is a new, open lock.

    Example:
        >>> import copy
        >>> lock = CopiedLock()
        >>> with lock, copy.deepcopy(lock), lock:
        ...     print("inside")
        inside
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> CopiedLock:
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[Any, ...]:
        return CopiedLock, ()


def set_num_threads(count: int | None) -> None:
    """Sets how many threads torch computes with.

    Args:
        count: How many; as many as it takes by itself when left out.

    Example:
        >>> set_num_threads(torch.get_num_threads())
    """
    if count is not None:
        torch.set_num_threads(count)
