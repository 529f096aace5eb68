"""The accelerator: precision, processes and trackers as the arguments and the launcher say; rows of all processes."""

from __future__ import annotations

import inspect
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import ConfigError, LaunchError, listed
from ..features import check_launch
from .arguments import CIAOTrainingArguments

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_accelerator(args: CIAOTrainingArguments) -> Accelerator:
    """An accelerator for one training after another.

    Raises:
        ConfigError: fp16 without a GPU, or a tracker that is not installed.
        LaunchError: several processes were started that do not see one another, or parallelism that does not apply.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType, ProjectConfiguration

    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else None
    wanted = precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != wanted:
        AcceleratorState._reset_state()  # an earlier training's precision; the processes stay as they are
    trackers = _known_trackers(args)
    folder = args.output_dir
    accelerator = Accelerator(
        mixed_precision=precision,
        log_with=trackers or None,
        project_config=ProjectConfiguration(project_dir=folder, logging_dir=folder and str(Path(folder) / "runs")),
    )
    if accelerator.mixed_precision == "fp16" and accelerator.scaler is None:  # Accelerate would ignore it
        raise ConfigError(f"`fp16` needs a GPU; this training runs on {accelerator.device.type}. Use `bf16=True`.")
    check_launch(accelerator.num_processes)
    kind = accelerator.distributed_type
    if kind != DistributedType.NO and not kind.startswith("MULTI_"):
        raise LaunchError(
            f"The launcher asks for {kind.value}, which shards what an adapter does not have. Launch with plain data "
            "parallelism: `accelerate launch --multi_gpu`."
        )
    accelerator.gradient_accumulation_steps = 1  # the launcher's would divide the loss a second time
    return accelerator


@contextmanager
def precision_shared(precision: str) -> Iterator[None]:
    """Inside, Accelerate computes in this precision, of which it has one for all accelerators of a process.

    Without it, a trainer that is made meanwhile would change the precision of those that are there.
    """
    from accelerate.state import AcceleratorState

    shared = AcceleratorState._shared_state
    before = shared.get("_mixed_precision")
    shared["_mixed_precision"] = precision
    try:
        yield
    finally:
        shared["_mixed_precision"] = before


def _known_trackers(args: CIAOTrainingArguments) -> list[str]:
    wanted = [name for name in args.trackers if name not in ("none", "jsonl")]
    if wanted:
        from accelerate.tracking import get_available_trackers

        there = [str(name) for name in get_available_trackers()]
        for name in wanted:
            if name not in there:  # Accelerate would only warn, and log nothing
                raise ConfigError(
                    f"`report_to` names {name!r}, which is not installed or not known. There is: "
                    f"{listed([*there, 'jsonl', 'none'])}. TensorBoard comes with `pip install 'ciao_peft[tracking]'`."
                )
    return wanted


def data_parallel(module: nn.Module, accelerator: Accelerator, sync_buffers: bool) -> nn.Module:
    """The module with gradients averaged over the processes; itself where there is one process.

    Args:
        module: On its device already.
        accelerator: Says which processes there are.
        sync_buffers: Whether every pass starts from the first process's buffers. Frozen ones are the same everywhere.
    """
    if accelerator.num_processes == 1:
        return module
    wrapper = nn.parallel.DistributedDataParallel
    known = inspect.signature(wrapper).parameters
    # It was `broadcast_buffers` before torch 2.14.
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    devices = None if accelerator.device.type == "cpu" else [accelerator.device]
    return wrapper(module, device_ids=devices, **{name: sync_buffers})


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Leaves the generators of Python, NumPy and torch as they were found."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=list(devices)):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


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

    Every process takes the same loss of the result, and `DistributedDataParallel` then averages gradients over the
    processes. The backward pass sums gradients over processes, which is too large by their number; the average makes
    up for that, so each parameter gets the gradient that one process would have computed on all rows.

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
