"""Updates without the host: captured once in CUDA graphs, then replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import TrainingError, shortened

__all__ = ["CudaGraphs", "Replayed"]

WARM_UP = 2
"""Calls for each shape that run as they are: what is made once, such as an optimiser's state, is made then."""


class CudaGraphs:
    """Captures what functions do on a GPU. All captures share memory and run on one stream.

    Args:
        device: The GPU.
        generator: What functions draw random numbers from; seeds that it gets between replays count.

    Shapes:
        What a captured function reads and writes has the same shapes and places in memory at each replay.
    """

    def __init__(self, device: torch.device, generator: torch.Generator):
        self._device, self._generator = device, generator
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """A context on the stream of the captures, in order with what runs before and after it."""
        now = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(now)
        with torch.cuda.stream(self._stream):
            yield
        now.wait_stream(self._stream)

    def capture(self, function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """Captures a function, without running it.

        Args:
            function: Uses tensors of the device alone, and looks at no value.

        Returns:
            What the function returns, filled in by each replay, and the replay.
        """
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            result = function()
        return result, graph.replay


@dataclass
class _Captured:
    inputs: list[Tensor]
    result: Any
    replay: Callable[[], None]


class Replayed:
    """A function of tensors that is captured for each shape of them, and replayed from then on.

    The first calls for each shape run it as it is.

    Args:
        function: Takes tensors and returns tensors. What it changes besides must keep its place in memory.
        graphs: Captures it.

    Shapes:
        Arguments may have any shape; each new one is captured anew.

    Raises:
        TrainingError: the function cannot be captured.
    """

    def __init__(self, function: Callable[..., Any], graphs: CudaGraphs):
        self._function, self._graphs = function, graphs
        self._calls: dict[Any, int] = {}
        self._captured: dict[Any, _Captured] = {}

    def __call__(self, *tensors: Tensor) -> Any:
        key = tuple((tensor.shape, tensor.dtype, tensor.stride()) for tensor in tensors)
        with self._graphs.aside():
            captured = self._captured.get(key)
            if captured is None:
                self._calls[key] = self._calls.get(key, 0) + 1
                if self._calls[key] <= WARM_UP:
                    return self._function(*tensors)
        if captured is None:
            captured = self._captured[key] = self._capture(tensors)
        with self._graphs.aside():
            for place, tensor in zip(captured.inputs, tensors, strict=True):
                place.copy_(tensor, non_blocking=True)
            captured.replay()
        return captured.result

    def _capture(self, tensors: tuple[Tensor, ...]) -> _Captured:
        inputs = [tensor.clone() for tensor in tensors]
        try:
            result, replay = self._graphs.capture(lambda: self._function(*inputs))
        except RuntimeError as error:
            raise TrainingError(
                f"An update of this adapter cannot be captured in a CUDA graph: {shortened(str(error))}. Train with "
                "compile=False."
            ) from error
        return _Captured(inputs, result, replay)
