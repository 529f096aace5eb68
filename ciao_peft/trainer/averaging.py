"""The mean of the weights over the last updates of a training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_swa_multi_avg_fn

from ..errors import TrainingError, quoted

__all__ = ["WeightAverage"]


class WeightAverage:
    r"""Averages what training changes, update by update (Izmailov et al. 2018, with every update counted once).

    $$\bar w = \frac{1}{n} \sum_{s = S - n + 1}^{S} w_s$$

    for the weights w after update s, of which the last n count so far.

    Args:
        module: The adapter that is trained.
        trained: The parameters that training changes. Running statistics in floating point are averaged as well.
        share: Of the updates at the end, 0 to 1; with 0, nothing is averaged.
        total_steps: Updates of the whole training.

    Attributes:
        count: Updates that are in the mean.
        tensors: The mean by name; empty before the first of them.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> average = WeightAverage(layer, [layer.weight], share=0.5, total_steps=4)
        >>> for step, value in enumerate((1.0, 2.0, 3.0, 5.0), start=1):
        ...     _ = layer.weight.data.fill_(value)
        ...     average.add(step)
        >>> with average.in_place():
        ...     layer.weight.item()
        4.0
        >>> layer.weight.item()
        5.0
    """

    count: int
    tensors: dict[str, Tensor]

    def __init__(self, module: nn.Module, trained: list[nn.Parameter], share: float, total_steps: int):
        names = {parameter: name for name, parameter in module.named_parameters()}
        own: dict[str, Tensor] = {names[parameter]: parameter for parameter in trained if parameter in names}
        own |= {name: buffer for name, buffer in module.named_buffers() if buffer.is_floating_point()}
        self._own = own
        self._first = total_steps - math.ceil(share * total_steps)
        self._average = get_swa_multi_avg_fn()
        self.count, self.tensors = 0, {}

    @torch.no_grad()
    def add(self, step: int) -> None:
        """Takes the weights after an update in, where it is one of those that count.

        Args:
            step: Updates made, this one included.
        """
        if step <= self._first:
            return
        if not self.count:
            self.tensors = {name: tensor.detach().clone() for name, tensor in self._own.items()}
        else:
            self._average([*self.tensors.values()], [tensor.detach() for tensor in self._own.values()], self.count)
        self.count += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """A context in which the module has the mean, if there is one; afterwards its own weights again, to the bit."""
        if not self.count:
            yield
            return
        kept = {name: tensor.detach().clone() for name, tensor in self._own.items()}
        self._put(self.tensors)
        try:
            yield
        finally:
            self._put(kept)

    def keep_in_place(self) -> None:
        """Gives the module the mean for good, if there is one."""
        if self.count:
            self._put(self.tensors)

    @torch.no_grad()
    def _put(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in self._own.items():
            tensor.copy_(tensors[name])  # in place, where a graph knows it

    def check(self, tensors: Mapping[str, Tensor], where: Path) -> None:
        """Refuses what a checkpoint holds where it is no mean of these weights.

        Args:
            tensors: By name.
            where: The checkpoint, for the message.

        Raises:
            TrainingError: a tensor is missing, one more, or of another shape or dtype.
        """
        wrong = sorted(set(tensors) ^ set(self._own))
        wrong += [n for n, own in self._own.items() if n in tensors and not _is_like(tensors[n], own)]
        if wrong:
            raise TrainingError(
                f"The averaged weights in '{where}' are not those of this training: {quoted(wrong[0])} is missing, one "
                "more, or another. Resume from another checkpoint, or start anew."
            )

    def restore(self, tensors: Mapping[str, Tensor], count: int) -> None:
        """Goes on from a mean that a checkpoint holds.

        Args:
            tensors: The mean, checked.
            count: Updates in it.
        """
        self.tensors = {name: tensors[name].to(own.device, copy=True) for name, own in self._own.items() if count}
        self.count = count


def _is_like(tensor: Tensor, own: Tensor) -> bool:
    return tensor.shape == own.shape and tensor.dtype == own.dtype and bool(tensor.isfinite().all())
