"""The accelerator: precision, processes and trackers as the arguments and the launcher say; rows of all processes."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..config import CIAOConfig
from ..errors import CIAOError, ConfigError, LaunchError, listed
from ..features import check_launch
from ..features.peers import named, those_that_are_silent
from ..features.processes import waiting_is_said
from ..installed import check_installed
from .arguments import CIAOTrainingArguments
from .precision import precision_of, warn_of_slow_bf16

if TYPE_CHECKING:
    from accelerate import Accelerator
    from tqdm import tqdm


_TIME_TO_START = timedelta(minutes=30)
"""Processes that are started together need not come at once: each imports its libraries, perhaps from a slow disk."""


def make_accelerator(args: CIAOTrainingArguments) -> Accelerator:
    """An accelerator that one training after another may use.

    Accelerate holds one precision for all accelerators of a process; this call sets it to that of the arguments.

    Args:
        args: `bf16` and `fp16` choose the precision (with neither, the launcher does), `report_to` the trackers, and
            `output_dir` where trackers write; `ddp_timeout` how long processes wait for one another. With
            `bf16="auto"`, the device decides.

    Returns:
        Its `gradient_accumulation_steps` is 1, whatever the launcher says: the training loop divides losses itself.

    Raises:
        ConfigError: fp16 without a GPU, or a tracker that is not installed.
        LaunchError: several processes were started that do not see one another, or parallelism that does not apply.
        OutdatedPackageError: accelerate is older than the bound of this library.

    Example:
        >>> accelerator = make_accelerator(CIAOTrainingArguments(report_to="none"))
        >>> accelerator.num_processes, accelerator.mixed_precision
        (1, 'no')
    """
    check_installed("accelerate")
    from accelerate import Accelerator, PartialState
    from accelerate.state import AcceleratorState
    from accelerate.utils import (
        DistributedType,
        InitProcessGroupKwargs,
        ProjectConfiguration,
        parse_flag_from_env,
    )

    device = None
    if args.bf16 == "auto":  # the device before the accelerator, which takes over this state
        device = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).device
    precision = precision_of(args, device or torch.device("cpu"))
    precision_to_have = precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision_to_have:
        AcceleratorState._reset_state()  # an earlier training's precision; the processes stay as they are
    trackers: list[Any] = _installed_trackers(args)
    folders: dict[str, Any] = {}
    if args.output_dir is not None:
        folders = {"project_dir": args.output_dir, "logging_dir": str(Path(args.output_dir) / "runs")}
    timeout = timedelta(seconds=args.ddp_timeout)
    accelerator = Accelerator(
        mixed_precision=precision,
        log_with=trackers or None,
        project_config=ProjectConfiguration(**folders),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=max(timeout, _TIME_TO_START))],
    )
    if accelerator.num_processes > 1:
        _set_timeout(timeout)
    if accelerator.mixed_precision == "fp16" and accelerator.scaler is None:  # Accelerate would ignore it
        raise ConfigError(f"`fp16` needs a GPU; this training runs on {accelerator.device.type}. Use `bf16=True`.")
    warn_of_slow_bf16(args, accelerator.device)
    check_launch(accelerator.num_processes)
    kind = accelerator.distributed_type
    if kind != DistributedType.NO and not kind.startswith("MULTI_"):
        raise LaunchError(
            f"The launcher asks for {kind.value}, which shards what an adapter does not have. Launch with plain data "
            "parallelism: `accelerate launch --multi_gpu`."
        )
    accelerator.gradient_accumulation_steps = 1  # the launcher's would divide the loss a second time
    return accelerator


def _set_timeout(timeout: timedelta) -> None:
    """Of the group of processes, which may be there for long, as after features were stored."""
    from torch.distributed import distributed_c10d

    # It was private before torch 2.14.
    set_timeout = getattr(dist, "set_timeout", None) or getattr(distributed_c10d, "_set_pg_timeout", None)
    if set_timeout is not None:
        set_timeout(timeout, dist.group.WORLD)


def wait_for_all(accelerator: Accelerator) -> None:
    """Blocks until every process is here; says on stderr that it waits, once it has waited for long.

    Example:
        >>> wait_for_all(make_accelerator(CIAOTrainingArguments(report_to="none")))
    """
    with waiting_is_said(f"process {accelerator.process_index} of {accelerator.num_processes}"):
        accelerator.wait_for_everyone()


@contextmanager
def others_answering(accelerator: Accelerator, seconds: float) -> Iterator[None]:
    """A `with` block in which a process that no longer answers is a `LaunchError`.

    Args:
        accelerator: Says which processes there are.
        seconds: How long this one waits, for the message.

    Raises:
        LaunchError: another process hangs, or has ended.

    Example:
        >>> with others_answering(make_accelerator(CIAOTrainingArguments(report_to="none")), 1800):
        ...     pass
    """
    try:
        yield
    except RuntimeError as error:  # what torch raises for all of it
        said = str(error).lower()
        lost = any(sign in said for sign in ("timed out", "timeout", "closed by peer", "reset by peer", "broken pipe"))
        if accelerator.num_processes == 1 or isinstance(error, CIAOError) or not lost:
            raise
        silent = named(those_that_are_silent(accelerator.process_index, accelerator.num_processes))
        raise LaunchError(
            f"Process {accelerator.process_index} of {accelerator.num_processes} has waited in vain for {silent}: "
            f"ended, or without an answer within {seconds:g} s (`ddp_timeout`). What was printed last there may say "
            "why. Start all of them again; with checkpoints, `resume_from_checkpoint='auto'` goes on."
        ) from error


def make_apart(args: CIAOTrainingArguments) -> tuple[Accelerator, dict[str, Any]]:
    """An accelerator as `make_accelerator` makes it, which changes nothing for accelerators that are there already.

    Args:
        args: As for `make_accelerator`.

    Returns:
        The accelerator, and what Accelerate shares between accelerators as this one needs it, for `precision_shared`.

    Raises:
        ConfigError, LaunchError: as for `make_accelerator`; the state is as it was.

    Example:
        >>> theirs = make_accelerator(CIAOTrainingArguments(report_to="none"))
        >>> _, state = make_apart(CIAOTrainingArguments(report_to="none"))
        >>> theirs.mixed_precision, state["_mixed_precision"]
        ('no', 'no')
    """
    from accelerate.state import AcceleratorState

    shared = AcceleratorState._shared_state
    before = dict(shared)
    try:
        accelerator = make_accelerator(args)
        return accelerator, dict(shared)
    finally:
        if before:
            shared.update(before)


@contextmanager
def precision_shared(precision: str, state: Mapping[str, Any] | None = None) -> Iterator[None]:
    """A context in which Accelerate computes in this precision, whatever accelerators were made since.

    Accelerate holds one precision for all accelerators of a process. Without this context, making a second trainer
    would change the precision of the first one.

    Args:
        precision: `"no"`, `"bf16"` or `"fp16"`. The value from before comes back at the end.
        state: As `make_apart` gives it, to be shared where nothing is: transformers' `TrainingArguments` clears all.

    Example:
        >>> accelerator = make_accelerator(CIAOTrainingArguments(report_to="none"))
        >>> with precision_shared("bf16"):
        ...     accelerator.mixed_precision
        'bf16'
        >>> accelerator.mixed_precision
        'no'
    """
    from accelerate.state import AcceleratorState

    shared = AcceleratorState._shared_state
    if not shared:
        shared.update(state or {})
    before = shared.get("_mixed_precision")
    shared["_mixed_precision"] = precision
    try:
        yield
    finally:
        shared["_mixed_precision"] = before


def _installed_trackers(args: CIAOTrainingArguments) -> list[str]:
    """The trackers of `report_to` that Accelerate runs; a ConfigError for one that is not installed."""
    trackers = [name for name in args.trackers if name not in ("none", "jsonl")]
    if trackers:
        from accelerate.tracking import get_available_trackers

        installed = [str(name) for name in get_available_trackers()]
        for name in trackers:
            if name not in installed:  # Accelerate would only warn, and log nothing
                raise ConfigError(
                    f"`report_to` names {name!r}, which is not installed or not known. There is: "
                    f"{listed([*installed, 'jsonl', 'none'])}. "
                    "TensorBoard comes with `pip install 'ciao_peft[tracking]'`, trackio with `pip install trackio`."
                )
    return trackers


def start_trackers(accelerator: Accelerator, name: str, args: CIAOTrainingArguments, config: CIAOConfig) -> None:
    """Tells the trackers of an accelerator which settings a training has; does nothing without trackers.

    Args:
        accelerator: As `make_accelerator` makes it.
        name: What trackers call the project.
        args: Settings of the training.
        config: Settings of the adapter; trackers see each as `adapter.<name>`.

    Example:
        >>> args = CIAOTrainingArguments(report_to="none")
        >>> accelerator = make_accelerator(args)
        >>> start_trackers(accelerator, "faces", args, CIAOConfig(problem_type="regression", num_labels=1))
        >>> accelerator.trackers
        []
    """
    if accelerator.log_with:
        settings = args.to_dict() | {f"adapter.{key}": value for key, value in config.to_dict().items()}
        kinds = (int, float, str, bool)
        settings = {key: value if isinstance(value, kinds) else str(value) for key, value in settings.items()}
        folder = None if args.output_dir is None else Path(args.output_dir)
        alone = [str(getattr(kind, "value", kind)) for kind in accelerator.log_with] == ["tensorboard"]
        if folder is not None and folder.parent.name == "runs" and (alone or folder.name == name):
            # TensorBoard makes `runs/<name>`, and the folder is one already: no runs/mine/runs/mine.
            accelerator.project_configuration.logging_dir, name = str(folder.parent), folder.name
        elif folder is not None and folder.name == "runs":
            accelerator.project_configuration.logging_dir = str(folder)
        accelerator.init_trackers(name, config=settings)


def progress_bar(name: str, step: int, total_steps: int, disable: bool) -> tqdm[Any]:
    """A bar of updates on stderr.

    Args:
        name: What is trained.
        step: Updates that were made before.
        total_steps: Updates of the whole training.
        disable: Whether to show nothing.

    Example:
        >>> with progress_bar("faces", 10, 30, disable=True) as bar:
        ...     bar.total
        30
    """
    from tqdm.auto import tqdm

    return tqdm(total=total_steps, initial=step, desc=f"training {name}", unit="update", disable=disable)


def data_parallel(module: nn.Module, accelerator: Accelerator, sync_buffers: bool) -> nn.Module:
    """Wraps a module so that its gradients are averaged over the processes.

    Args:
        module: On its device already.
        accelerator: Says which processes there are.
        sync_buffers: Whether every pass starts from the first process's buffers. Frozen ones are the same everywhere.

    Returns:
        A `DistributedDataParallel` around the module; with one process, the module itself.

    Example:
        >>> accelerator = make_accelerator(CIAOTrainingArguments(report_to="none"))
        >>> module = nn.Linear(2, 1)
        >>> data_parallel(module, accelerator, sync_buffers=False) is module
        True
    """
    if accelerator.num_processes == 1:
        return module
    wrapper = nn.parallel.DistributedDataParallel
    # It was `broadcast_buffers` before torch 2.14.
    has_new_name = "forward_sync_buffers" in inspect.signature(wrapper).parameters
    setting: dict[str, Any] = {"forward_sync_buffers" if has_new_name else "broadcast_buffers": sync_buffers}
    devices = None if accelerator.device.type == "cpu" else [accelerator.device]
    return wrapper(module, device_ids=devices, **setting)


def rows_per_process(num_rows: int, num_processes: int) -> list[int]:
    """How many rows of a batch each process gets.

    Args:
        num_rows: Rows of the batch over all processes.
        num_processes: At least 1.

    Returns:
        One count per process, in the order of their ranks; counts differ by 1 at most, and the first ones are larger.

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
        with waiting_is_said(f"process {rank} of {len(counts)}"):
            dist.all_gather(gathered, padded)
        return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        # Every process has a loss of all rows: the gradient of a row is the sum over all processes.
        grad = grad_outputs[0].contiguous().clone()
        with waiting_is_said(f"process {dist.get_rank()} of {dist.get_world_size()}"):
            dist.all_reduce(grad)
        return grad[ctx.first : ctx.last], None


def gather_rows(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Joins the rows that all processes hold, in the order of the processes; gradients flow back to each.

    Every process takes the same loss of the result, and `DistributedDataParallel` then averages gradients over the
    processes. The backward pass sums gradients over processes, which is too large by their number; the average makes
    up for that, so each parameter gets the gradient that one process would have computed on all rows.

    Args:
        rows: `(b, ...)`, what this process has, of the same dtype and trailing shape on every process.
        counts: Rows of each process; they may differ. `b` is the count at this process's rank.

    Returns:
        `(sum(counts), ...)`; with one process, the very tensor that came in.

    Example:
        >>> gather_rows(torch.tensor([[1.0], [2.0]]), [2])
        tensor([[1.],
                [2.]])
    """
    return rows if len(counts) == 1 else _GatherRows.apply(rows, tuple(counts))
