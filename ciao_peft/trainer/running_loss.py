"""Losses of the updates so far: means for the log, kept on the device until they are asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import DivergenceError
from ..labels import widest_dtype


class RunningLoss:
    """Sums of the losses of all updates, since the last entry of the log and in all.

    Nothing waits for the device before `take` or `state` is called.

    Args:
        device: Where losses are computed; sums have its widest floating point.

    Attributes:
        window: `(4,)`: loss, task loss, contrastive loss and number of updates since the last `take`.
        sums: `(4,)`: the same of the whole training.

    Shapes:
        losses: `(3,)`.

    Example:
        >>> running = RunningLoss(torch.device("cpu"))
        >>> for loss in (1.0, 2.0):
        ...     running.add(torch.tensor([loss, loss, 0.0]))
        >>> running.take(step=2)
        {'loss': 1.5, 'task_loss': 1.5, 'contrastive_loss': 0.0}
        >>> running.mean()
        1.5
    """

    window: Tensor
    sums: Tensor

    def __init__(self, device: torch.device):
        self._both = torch.zeros(2, 4, dtype=widest_dtype(device), device=device)
        self.window, self.sums = self._both
        self._told = torch.zeros_like(self.sums)

    def zeros(self) -> Tensor:
        """`(3,)` zeros to sum the losses of one update in: loss, task loss and contrastive loss."""
        return torch.zeros_like(self.window[:3])

    def add(self, losses: Tensor) -> None:
        """Counts one update.

        Args:
            losses: `(3,)`: its loss, task loss and contrastive loss.
        """
        self._both[:, :3] += losses
        self._both[:, 3] += 1

    def take(self, step: int) -> dict[str, float]:
        """Mean losses since the last call, and begins a new window.

        Args:
            step: Updates made, for the message.

        Raises:
            DivergenceError: the loss is NaN or infinite.
        """
        loss, task, contrastive, count = self.window.tolist()
        self.window.zero_()
        if not math.isfinite(loss):
            first = step - int(count) + 1
            when = f"at update {step}" if first == step else f"between updates {first} and {step}"
            raise DivergenceError(
                f"The loss became {loss / count} {when}: training has diverged. Lower the learning rates (the mask's "
                "first), or raise the temperature of the contrastive loss."
            )
        return {"loss": loss / count, "task_loss": task / count, "contrastive_loss": contrastive / count}

    def mean(self) -> float:
        """Mean loss of all updates; 0 before the first one."""
        return self.sums[0].item() / max(self.sums[3].item(), 1)

    def mean_since(self) -> float | None:
        """Mean loss since the last call, or since `restore`; None where there was no update.

        Example:
            >>> running = RunningLoss(torch.device("cpu"))
            >>> running.add(torch.tensor([1.0, 1.0, 0.0]))
            >>> running.mean_since(), running.mean_since()
            (1.0, None)
        """
        loss, _, _, count = (self.sums - self._told).tolist()
        self._told.copy_(self.sums)
        return loss / count if count else None

    def state(self) -> dict[str, list[float]]:
        """Plain data for a checkpoint."""
        return {"window": self.window.tolist(), "sums": self.sums.tolist()}

    def restore(self, window: Sequence[float], sums: Sequence[float]) -> None:
        """Puts back what `state` gave.

        Example:
            >>> running = RunningLoss(torch.device("cpu"))
            >>> running.restore([0.0, 0.0, 0.0, 0.0], [6.0, 6.0, 0.0, 2.0])
            >>> running.mean()
            3.0
        """
        self.window.copy_(torch.tensor(window, dtype=self.window.dtype, device="cpu"))
        self.sums.copy_(torch.tensor(sums, dtype=self.sums.dtype, device="cpu"))
        self._told.copy_(self.sums)
