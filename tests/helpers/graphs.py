"""CUDA graphs without a GPU: what a function did is noted, operation by operation, and done again on the same tensors.

As a graph does, a replay knows tensors by their place in memory, Python code and its numbers by what they were at the
capture; and no value may be looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

LOOKS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique", "_unique2", "unique_dim")
"""Operations whose result is known on the host only after the device has finished."""


class NoLooks(TorchDispatchMode):
    """Raises where the host would wait for a value."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masked = name == "index" and any(t is not None and t.dtype == torch.bool for t in args[1])
        if name in LOOKS or masked:
            raise RuntimeError(f"the host would wait for the device: {func}")
        return self.run(func, args, kwargs or {})

    def run(self, func, args, kwargs):
        return func(*args, **kwargs)


class Recorded(NoLooks):
    """Notes operations with the very tensors that they read and made."""

    def __init__(self):
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def run(self, func, args, kwargs):
        result = func(*args, **kwargs)
        self.operations.append((func, args, kwargs, result))
        return result

    def again(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, result in self.operations:
                for before, now in zip(tree_leaves(result), tree_leaves(func(*args, **kwargs)), strict=True):
                    if isinstance(before, torch.Tensor) and before.data_ptr() != now.data_ptr():
                        before.copy_(now)


class FakeGraphs:
    """Stands in for `ciao_peft.trainer.replay.CudaGraphs`, on the CPU."""

    captures = 0

    def aside(self) -> Any:
        return nullcontext()

    def capture(self, function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        type(self).captures += 1
        with Recorded() as recorded:
            result = function()  # unlike a GPU, this runs it: the first replay has been done
        first = [True]

        def replay() -> None:
            if not first or not first.pop():
                recorded.again()

        return result, replay
