"""One update: gradients of its micro-batches, then a step; run as it is, compiled, or replayed from a CUDA graph."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..config import CIAOConfig
from ..errors import ConfigError, TrainingError, shortened
from ..losses import Losses, total_loss
from .arguments import CIAOTrainingArguments
from .job import Job, LogitsAndEmbeddings
from .loader import Batch
from .optimizer import batch_losses, make_optimizer, rates_on
from .replay import CudaGraphs, Replayed
from .running_loss import RunningLoss
from .seeds import seed_of, seed_torch
from .unlabelled import Unlabelled

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Updates", "check_compile"]

BACKEND = "inductor"
"""Of `torch.compile`."""


def check_compile(job: Job) -> None:
    """Refuses `compile` where nothing can be compiled.

    Args:
        job: Its arguments, processes and device count.

    Raises:
        ConfigError: a graph was asked for without a GPU.
        TrainingError: several processes, or a training of another kind than an adapter's.
    """
    if not job.args.compile:
        return
    device = job.accelerator.device
    if job.args.compile == "cuda-graphs" and device.type != "cuda":
        raise ConfigError(
            f"compile='cuda-graphs' needs a GPU; this training runs on {device.type}. `compile=True` works here."
        )
    if job.args.compile == "cuda-graphs" and job.accelerator.num_processes > 1:
        raise TrainingError(
            "compile='cuda-graphs' trains in one process; `compile=True` works in several. Take that, or start one."
        )
    if not isinstance(job.reader, LogitsAndEmbeddings) or job.before_update is not None:
        raise TrainingError(
            f"The training of {job.name!r} is none of an adapter and cannot be compiled; leave out `compile`."
        )


class Updates:
    """The part of a `TrainingLoop` that makes an update; nothing in it waits for the device."""

    job: Job
    args: CIAOTrainingArguments
    accelerator: Accelerator
    optimizer: Any  # a torch.optim.Optimizer, or Accelerate's wrapper of one
    trained: list[nn.Parameter]
    step: int
    total_steps: int
    losses: RunningLoss
    grad_norm: Tensor | float | None
    unlabelled: Unlabelled | None

    def __init__(self, job: Job, total_steps: int, unlabelled: Unlabelled | None = None):
        self.unlabelled = unlabelled
        self.job, self.args, self.accelerator = job, job.args, job.accelerator
        device = self.accelerator.device
        job.reader.to(device)
        with self._in_training():
            self.optimizer = make_optimizer(job.parameter_groups, self.args, self.config.tuning, job.name)
        if (before_update := job.before_update) is not None:
            self.optimizer.register_step_pre_hook(lambda *_: before_update())
        self.trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.step, self.total_steps = 0, total_steps
        self.losses = RunningLoss(device)
        self.grad_norm = None
        self._in_update = False
        self._draws = torch.Generator(device)
        self._total_loss: Callable[..., Losses] = total_loss
        self._micro: Callable[[nn.Module, Batch, int], Tensor] = self._micro_batch
        self._apply: Callable[[], None] = self._apply_gradients
        self._replayed: dict[Any, Replayed] = {}
        self._rate: Tensor | None = None  # of the peak rates, where a graph reads it
        how = self.args.compile
        if how == "cuda-graphs":
            self._rate = rates_on(self.optimizer, device)
            graphs = self._graphs(device)
            self._apply = Replayed(self._apply_gradients, graphs)
            self._micro = lambda wrapped, batch, count: self._replayed_micro_batch(graphs, wrapped, batch, count)
        elif how and isinstance(self.job.reader, LogitsAndEmbeddings):
            self.job.reader.compile_model(BACKEND)
            self._total_loss = torch.compile(total_loss, backend=BACKEND, dynamic=False)
            self._micro = self._compiled_micro_batch

    @property
    def config(self) -> CIAOConfig:
        """Settings of the losses, as they are now: calibration notes in them where `a` starts."""
        return self.job.config

    def _in_training(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.job.around_update is None else self.job.around_update()

    def _scale_gradients(self, state: dict[str, Any] | None) -> None:
        """Lets the accelerator scale gradients where the precision needs it, from where a checkpoint left off."""
        scaler = self.accelerator.scaler
        if scaler is not None:
            self.optimizer = self.accelerator.prepare(self.optimizer)
            if state:
                scaler.load_state_dict(state)

    def _end_updates(self) -> None:
        """Lets go of what graphs hold."""
        if self._rate is not None:
            self.optimizer.zero_grad(set_to_none=True)
            self._replayed, self._apply = {}, self._apply_gradients

    def _graphs(self, device: torch.device) -> CudaGraphs:
        return CudaGraphs(device, self._draws)

    def _seed(self, seed: int) -> None:
        seed_torch(seed)  # for modules of other people
        self._draws.manual_seed(seed)

    def _update(self, wrapped: nn.Module, stream: Iterator[Batch], seeds: list[int]) -> None:
        losses = self.losses.zeros()
        for index, seed in enumerate(seeds):
            batch = next(stream)
            self._seed(seed_of(seed, 1))
            last = index == len(seeds) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(wrapped):
                losses += self._micro(wrapped, batch, len(seeds))
        self._step()
        self.losses.add(losses)

    def _micro_batch(self, wrapped: nn.Module, batch: Batch, count: int) -> Tensor:
        """Adds the gradients of one of `count` micro-batches; its share of the three losses, `(3,)`."""
        if self.unlabelled is not None:
            losses = self.unlabelled.losses(wrapped, batch, self.config, self.step / self.total_steps)
        else:
            losses = batch_losses(wrapped, batch, self.config, self.accelerator.autocast(), self._total_loss)
        self.accelerator.backward(losses.loss / count)
        return torch.stack(losses).detach() / count

    def _replayed_micro_batch(self, graphs: CudaGraphs, wrapped: nn.Module, batch: Batch, count: int) -> Tensor:
        key = (batch.shape, count)
        if key not in self._replayed:

            def gradients(*tensors: Tensor) -> Tensor:
                return self._micro_batch(wrapped, batch.with_tensors(tensors), count)

            self._replayed[key] = Replayed(gradients, graphs)
        return self._replayed[key](*batch.tensors())

    def _compiled_micro_batch(self, wrapped: nn.Module, batch: Batch, count: int) -> Tensor:
        from torch._dynamo.exc import TorchDynamoException

        try:
            return self._micro_batch(wrapped, batch, count)
        except TorchDynamoException as error:
            said = " ".join(str(error).partition("Set TORCHDYNAMO_VERBOSE")[0].split())
            raise TrainingError(
                f"`torch.compile` cannot compile this adapter here: {shortened(said)}. Train with compile=False."
            ) from error

    def _update_in_two_steps(self, wrapped: nn.Module, stream: Iterator[Batch], seeds: list[int]) -> None:
        """The contrastive loss for all but the head, then the task loss for the head, which sees the new mask."""
        batches = [next(stream) for _ in seeds]
        head = {p for group in self.optimizer.param_groups if group["part"] == "head" for p in group["params"]}
        weight = self.config.contrastive_weight
        losses = self.losses.zeros()
        for step, compares in enumerate((True, False), start=1):
            for batch, seed in zip(batches, seeds, strict=True):
                self._seed(seed_of(seed, step))
                _, task, contrastive = batch_losses(wrapped, batch, self.config, self.accelerator.autocast())
                loss = weight * contrastive if compares else task
                self.accelerator.backward(loss / len(seeds))
                losses[0] += loss.detach() / len(seeds)
                losses[2 if compares else 1] += (contrastive if compares else task).detach() / len(seeds)
            for parameter in self.trained:
                if (parameter in head) == compares:
                    parameter.grad = None  # the optimiser leaves alone what has no gradient
            self._step()
        self.losses.add(losses)

    def _step(self) -> None:
        factor = self.args.rate_factor(self.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["rate"] = group["peak"] * factor
            if self._rate is None:
                group["lr"] = group["rate"]
        if self._rate is not None:
            self._rate.fill_(factor)
        self._in_update = True  # from here on the adapter may hold a part of this update
        self._apply()

    def _apply_gradients(self) -> None:
        if self.args.max_grad_norm > 0:
            if self.accelerator.scaler is not None:
                self.accelerator.unscale_gradients(self.optimizer)
            self.grad_norm = torch.nn.utils.clip_grad_norm_(self.trained, self.args.max_grad_norm)
        if self._rate is not None:
            for group in self.optimizer.param_groups:
                group["lr"].copy_(self._rate * group["peak"])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=self._rate is None)  # a graph knows gradients by their place
