"""Rows of all processes in one batch, with a gradient that finds its way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rows_per_process(num_rows: int, num_processes: int) -> list[int]:
    """How many rows of a batch each process gets: as equal as can be, the first ones more.

    Example:
        >>> rows_per_process(8, 3)
        [3, 3, 2]
    """
    return [num_rows // num_processes + (rank < num_rows % num_processes) for rank in range(num_processes)]


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: Sequence[int]) -> Tensor:
        rank = dist.get_rank()
        ctx.first, ctx.last = sum(counts[:rank]), sum(counts[: rank + 1])
        largest = max(counts)
        padded = rows.new_zeros((largest, *rows.shape[1:]))
        padded[: len(rows)] = rows
        gathered = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(gathered, padded)
        return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # Every process has a loss of all rows: its gradient to a row is the sum of what all of them say.
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad[ctx.first : ctx.last], None


def gather_rows(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """The rows of all processes, in the order of the processes.

    Where every process takes the same loss of the result, and `DistributedDataParallel` then averages gradients over
    the
    processes, each parameter gets the gradient that one process would have computed on all rows: the sum over processes
    made here is the processes' number times too large, and the average makes up for it.

    Args:
        rows: `(b, ...)`, what this process has.
        counts: Rows of each process; may differ.

    Returns:
        `(sum(counts), ...)`; the very tensor that came in where there is one process.

    Example:
        >>> gather_rows(torch.tensor([[1.0], [2.0]]), [2])
        tensor([[1.],
                [2.]])
    """
    return rows if len(counts) == 1 else _GatherRows.apply(rows, tuple(counts))
