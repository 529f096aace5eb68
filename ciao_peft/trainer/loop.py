"""One training from its first update to its last."""

from __future__ import annotations

import contextlib
import math
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import DivergenceError, TrainingError
from ..labels import widest_dtype
from .accelerator import data_parallel
from .best import Best
from .checkpoint import (
    checkpoint_folders,
    clean_up,
    find_checkpoint,
    optimizer_tensors,
    place_in_order,
    restore_optimizer,
)
from .history import CURVE_FILE, History, draw_learning_curve, plain
from .interrupts import Interrupts
from .job import Job
from .loader import Batch, BatchDataset, BatchLoader
from .optimizer import batch_losses, make_optimizer
from .sampler import plan_epoch, positive_groups, seed_of, seed_torch


class TrainOutput(NamedTuple):
    """What `CIAOTrainer.train` returns, named as in transformers.

    Args:
        global_step: Updates made.
        training_loss: Mean loss over them.
        metrics: Seconds, speed, and the best evaluation, if there was one.
    """

    global_step: int
    training_loss: float
    metrics: dict[str, Any]


class TrainingLoop:
    """The state of one training: model, optimiser, place in the data, best evaluation so far.

    Nothing random is left over between updates: every micro-batch sets the generators from its number. Hence adapter,
    optimiser and the number of the update are all that a checkpoint needs to go on bit for bit.

    Args:
        job: What to train, and with what.
        source: Training data.
        eval_source: Evaluation data, if any.
    """

    def __init__(self, job: Job, source: BatchDataset, eval_source: BatchDataset | None = None):
        self.job, self.args, self.config, self.accelerator = job, job.args, job.config, job.accelerator
        self.source, self.eval_source = source, eval_source
        self.output_dir = None if self.args.output_dir is None else Path(self.args.output_dir)
        self.groups = positive_groups(source.labels, self.config)
        self.batch_size = self.args.per_device_train_batch_size * self.accelerator.num_processes
        num_batches = math.ceil(len(source) / self.batch_size)
        self.steps_per_epoch = math.ceil(num_batches / self.args.gradient_accumulation_steps)
        epochs = self.args.num_train_epochs
        self.total_steps = self.args.max_steps if self.args.max_steps > 0 else math.ceil(epochs * self.steps_per_epoch)
        self._check_what_trains_the_mask()
        self.best = Best(self.args, self.config.problem_type)
        device = self.accelerator.device
        job.reader.to(device)
        self.optimizer = make_optimizer(job.parameter_groups, self.args, self.config.tuning, job.name)
        if job.before_update is not None:
            self.optimizer.register_step_pre_hook(lambda *_: job.before_update())
        self.names = {parameter: name for name, parameter in job.module.named_parameters()}
        self.trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.step = 0
        self.num_checkpoints: int | None = None
        # Loss, task loss, contrastive loss and number of updates: since the last entry of the log, and in all.
        self.window = torch.zeros(4, dtype=widest_dtype(device), device=device)
        self.sums = torch.zeros_like(self.window)
        self.grad_norm: Tensor | float | None = None
        self._in_update = False
        self.history = History(None)

    # -- the whole ---------------------------------------------------------------------------------------------------

    def run(self) -> TrainOutput:
        """Trains, and leaves the adapter as it is after the last update, or at its best."""
        resumed = self._resume()
        if resumed is None:
            if self.output_dir is not None and self.args.save_strategy != "no":
                self._refuse_old_checkpoints()
            if self.job.before_first_update is not None:
                self.job.before_first_update(self.source, self.batch_size)
        self.config = self.job.config  # which may say by now where `a` started
        writes_log = self.accelerator.is_main_process and "none" not in self.args.trackers
        self.history = History(self.output_dir if writes_log else None, self.history.entries)
        if self.output_dir is not None and self.accelerator.is_main_process:
            clean_up(self.output_dir, None)
        self.optimizer.zero_grad()  # what somebody else, or a training that broke off, has left
        wrapped = data_parallel(self.job.reader, self.accelerator, self.config.train_batch_norm)
        if self.accelerator.scaler is not None:
            self.optimizer = self.accelerator.prepare(self.optimizer)
            if resumed is not None and resumed["scaler"]:
                self.accelerator.scaler.load_state_dict(resumed["scaler"])
        self._start_trackers()
        started, first = time.perf_counter(), self.step
        self.job.reader.train()
        try:
            with Interrupts() as interrupts, self._progress() as bar:
                try:
                    for _ in self._updates(wrapped):
                        bar.update()
                        if interrupts.asked:
                            raise KeyboardInterrupt
                except BaseException as error:
                    if isinstance(error, KeyboardInterrupt) or interrupts.asked:
                        raise KeyboardInterrupt(self._save_what_there_is()) from error
                    raise
            return self._finish(time.perf_counter() - started, first)
        finally:
            del wrapped
            for tracker in self.accelerator.trackers:
                tracker.finish()
            self.accelerator.trackers = []
            if self.accelerator.num_processes > 1 or self.accelerator.scaler is not None:
                self.accelerator.free_memory()

    def _check_what_trains_the_mask(self) -> None:
        nothing = self.config.tuning == "decision_layer" and not self.config.inhibition
        if self.config.task_loss_trains == "head" and self.config.contrastive_weight == 0 and not nothing:
            raise TrainingError(
                "With `task_loss_trains='head'` and a `contrastive_weight` of 0, nothing would train the mask or own "
                "copies of the encoder. Set one of the two to another value."
            )
        if not self.args.two_steps:
            return
        if self.config.contrastive_weight == 0 or nothing:
            raise TrainingError(
                "With `two_steps` the contrastive loss trains all but the head: that needs a `contrastive_weight` "
                "above 0, and a mask or own copies of the encoder."
            )
        if self.accelerator.num_processes > 1:
            raise TrainingError("`two_steps` trains in one process; leave it out, or start one.")

    def _refuse_old_checkpoints(self) -> None:
        """Checkpoints of two trainings in one folder: nobody could tell them apart."""
        if old := checkpoint_folders(self.output_dir):
            raise TrainingError(
                f"'{self.output_dir}' holds {old[-1].name} of an earlier training. Go on from it with "
                "`resume_from_checkpoint=True`, give another `output_dir`, or delete the checkpoints."
            )

    def _updates(self, wrapped: torch.nn.Module) -> Iterator[None]:
        args, rank = self.args, self.accelerator.process_index
        batches = BatchLoader(
            self.source, rank, self.accelerator.num_processes, args.dataloader_num_workers, self.accelerator.device
        )
        balance = args.class_balance if args.class_balanced_batches else None
        group_size = args.gradient_accumulation_steps
        while self.step < self.total_steps and not self.best.ends_training:
            epoch, done = divmod(self.step, self.steps_per_epoch)
            plan = plan_epoch(self.groups, self.batch_size, seed=args.seed, epoch=epoch, balance=balance)
            first = done * group_size
            seeds = [seed_of(args.seed, epoch, index, rank) for index in range(first, len(plan))]
            stream = batches.read(plan[first:], seeds)
            update = self._update_in_two_steps if args.two_steps else self._update
            for start in range(first, len(plan), group_size):
                count = min(group_size, len(plan) - start)
                update(wrapped, stream, [seeds[start - first + k] for k in range(count)])
                self.step += 1
                self._in_update = False
                self._after_update()
                yield
                if self.step >= self.total_steps or self.best.ends_training:
                    break

    def _update(self, wrapped: torch.nn.Module, stream: Iterator[Batch], seeds: list[int]) -> None:
        found = torch.zeros_like(self.window)
        for index, seed in enumerate(seeds):
            batch = next(stream)
            seed_torch(seed_of(seed, 1))
            last = index == len(seeds) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(wrapped):
                loss, task, contrastive = batch_losses(wrapped, batch, self.config, self.accelerator.autocast())
                self.accelerator.backward(loss / len(seeds))
            found[:3] += torch.stack([loss, task, contrastive]).detach() / len(seeds)
        self._step()
        self._count(found)

    def _update_in_two_steps(self, wrapped: torch.nn.Module, stream: Iterator[Batch], seeds: list[int]) -> None:
        """The contrastive loss for all but the head, then the task loss for the head, which sees the new mask."""
        batches = [next(stream) for _ in seeds]
        head = {p for group in self.optimizer.param_groups if group["part"] == "head" for p in group["params"]}
        weight = self.config.contrastive_weight
        found = torch.zeros_like(self.window)
        for step, compares in enumerate((True, False), start=1):
            for batch, seed in zip(batches, seeds, strict=True):
                seed_torch(seed_of(seed, step))
                _, task, contrastive = batch_losses(wrapped, batch, self.config, self.accelerator.autocast())
                loss = weight * contrastive if compares else task
                self.accelerator.backward(loss / len(seeds))
                found[0] += loss.detach() / len(seeds)
                found[2 if compares else 1] += (contrastive if compares else task).detach() / len(seeds)
            for parameter in self.trained:
                if (parameter in head) == compares:
                    parameter.grad = None  # the optimiser leaves alone what has no gradient
            self._step()
        self._count(found)

    def _count(self, found: Tensor) -> None:
        found[3] = 1
        self.window += found
        self.sums += found

    def _step(self) -> None:
        if self.args.max_grad_norm > 0:
            if self.accelerator.scaler is not None:
                self.accelerator.unscale_gradients(self.optimizer)
            self.grad_norm = torch.nn.utils.clip_grad_norm_(self.trained, self.args.max_grad_norm)
        factor = self.args.rate_factor(self.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        self._in_update = True  # from here on a part of it may be in the adapter
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _after_update(self) -> None:
        last = self.step == self.total_steps
        if self.step % self.args.logging_steps == 0 or last:
            self._log_window()
        if self.eval_source is not None and self._is_due(self.args.eval_strategy, self.args.eval_steps):
            self._evaluate()
        if self._is_due(self.args.save_strategy, self.args.save_steps):
            self._save(self.accelerator.is_main_process)
            self.accelerator.wait_for_everyone()

    def _is_due(self, strategy: str, steps: int | None) -> bool:
        if strategy == "no":
            return False
        every = steps if strategy == "steps" else self.steps_per_epoch
        return self.step % every == 0 or self.step == self.total_steps

    # -- log ---------------------------------------------------------------------------------------------------------

    def _log_window(self) -> None:
        loss, task, contrastive, count = self.window.tolist()
        self.window.zero_()
        if not math.isfinite(loss):
            raise DivergenceError(
                f"The loss became {loss / count} at or before update {self.step}: training has diverged. Lower the "
                "learning rates (the mask's first), or raise the temperature of the contrastive loss."
            )
        entry: dict[str, Any] = {
            "loss": loss / count,
            "task_loss": task / count,
            "contrastive_loss": contrastive / count,
        }
        if self.grad_norm is not None:
            entry["grad_norm"] = float(self.grad_norm)
        for group in self.optimizer.param_groups:
            entry["learning_rate" if group["part"] == "head" else f"{group['part']}_learning_rate"] = group["lr"]
        self._log(entry)

    def _log(self, values: dict[str, Any]) -> None:
        place = {"step": self.step, "epoch": round(self.step / self.steps_per_epoch, 4)}
        entry = self.history.add(place | values)
        if self.accelerator.trackers:
            numbers = {name: value for name, value in entry.items() if name != "step" and value is not None}
            self.accelerator.log(numbers, step=self.step)
        if self.job.on_log is not None:
            self.job.on_log(dict(entry))

    def _start_trackers(self) -> None:
        if self.accelerator.log_with:
            settings = self.args.to_dict() | {f"adapter.{k}": v for k, v in self.config.to_dict().items()}
            kinds = (int, float, str, bool)
            settings = {k: v if isinstance(v, kinds) else str(v) for k, v in settings.items()}
            self.accelerator.init_trackers(self.job.name, config=settings)

    def _progress(self) -> Any:
        from tqdm.auto import tqdm

        quiet = self.args.disable_tqdm if self.args.disable_tqdm is not None else not sys.stderr.isatty()
        quiet = quiet or not self.accelerator.is_main_process
        return tqdm(
            total=self.total_steps, initial=self.step, desc=f"training {self.job.name}", unit="update", disable=quiet
        )

    # -- evaluation --------------------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        self._same_buffers()
        metrics = self.job.evaluate(self.eval_source)
        self._log(metrics)
        if self.best.judge(metrics, self.step) and self.args.load_best_model_at_end:
            self._check_finite()
            self.best.keep(self.job.module.state_dict())
            self._save_best(metrics)

    def scores_of_the_result(self) -> dict[str, float]:
        """What the last evaluation said of the adapter that training ended with, if one did."""
        step = self.step if self.best.to_return_to is None else self.best.step
        found = [entry for entry in self.history.entries if entry["step"] == step and "eval_loss" in entry]
        return {name: value for name, value in found[-1].items() if name.startswith("eval_")} if found else {}

    def _check_finite(self) -> None:
        """What is saved can be read again: no file of ours holds NaN."""
        if not all(bool(tensor.isfinite().all()) for tensor in (*self.trained, self.window, self.sums)):
            raise DivergenceError(
                f"At update {self.step} the adapter or its loss holds NaN or infinite values: training has diverged, "
                "and nothing was saved. Lower the learning rates (the mask's first)."
            )

    def _save_best(self, metrics: dict[str, Any]) -> None:
        if self.output_dir is not None and self.accelerator.is_main_process:
            record = plain({"global_step": self.best.step, **metrics})
            self.job.checkpoints.save_best(self.output_dir, record)
        self.best.is_on_disk = True

    def _same_buffers(self) -> None:
        """Batch-norm statistics that follow the data: those of the first process count, as in the training steps."""
        if self.accelerator.num_processes > 1 and self.config.train_batch_norm:
            for buffer in self.job.module.buffers():
                torch.distributed.broadcast(buffer, src=0)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def _record(self) -> dict[str, Any]:
        return {
            "num_processes": self.accelerator.num_processes,
            "num_samples": len(self.source),
            "labels": zlib.crc32(self.source.labels.contiguous().numpy().tobytes()),
            "inputs": self.source.kind,
            "precision": str(self.accelerator.mixed_precision),
            "backbone": self.job.checkpoints.model.backbone_signature(),
            "arguments": self.args.weight_settings(),
        }

    def _save(self, really: bool = True) -> Path | None:
        """A checkpoint of this moment, written by one process."""
        self._same_buffers()
        if not really:
            return None
        self._check_finite()
        scaler = self.accelerator.scaler
        if self.num_checkpoints is None:
            self.num_checkpoints = max(map(place_in_order, checkpoint_folders(self.output_dir)), default=0)
        self.num_checkpoints += 1
        state = {
            "place_in_order": self.num_checkpoints,
            "global_step": self.step,
            "total_steps": self.total_steps,
            "record": self._record(),
            **self.best.state(),
            "window": self.window.tolist(),
            "sums": self.sums.tolist(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "log_history": self.history.entries,
        }
        folder = self.output_dir / f"checkpoint-{self.step}"
        best = None if self.best.step in (None, self.step) else self.best.tensors
        self.job.checkpoints.save(folder, optimizer_tensors(self.optimizer, self.names), best, state)
        clean_up(self.output_dir, self.args.save_total_limit)
        return folder

    def _resume(self) -> dict[str, Any] | None:
        folder = find_checkpoint(self.args.output_dir, self.args.resume_from_checkpoint)
        if folder is None:
            return None
        state, tensors, best = self.job.checkpoints.load(
            folder, self._record(), self.total_steps, self.args.load_best_model_at_end
        )
        restore_optimizer(self.optimizer, self.names, tensors, folder)
        self.step = state["global_step"]
        self.best.restore(state, best)
        self.window.copy_(torch.tensor(state["window"], dtype=self.window.dtype))
        self.sums.copy_(torch.tensor(state["sums"], dtype=self.sums.dtype))
        self.history = History(None, state["log_history"])
        self.accelerator.print(f"Resuming from '{folder}', after update {self.step} of {self.total_steps}.")
        return state

    def _save_what_there_is(self) -> str:
        """On an interrupt; no process waits for another one here, which may be gone."""
        if self.output_dir is None:
            return f"Stopped after update {self.step}; without `output_dir` there is no checkpoint."
        if self._in_update:
            return f"Stopped within update {self.step + 1}, half of which is in the adapter: no checkpoint was saved."
        if not self.accelerator.is_main_process:
            return f"Stopped after update {self.step}."
        if self.config.train_batch_norm and self.accelerator.num_processes > 1:
            return f"Stopped after update {self.step}; the last checkpoint is the one to resume from."
        message = (
            f"Stopped after update {self.step} of {self.total_steps}. Saved '{self._save()}'; go on from there with "
            "`resume_from_checkpoint=True`."
        )
        print(message, file=sys.stderr)
        return message

    def _finish(self, seconds: float, first_step: int) -> TrainOutput:
        if self.best.to_return_to is not None:
            self.job.module.load_state_dict(self.best.to_return_to)
            if not self.best.is_on_disk:  # of a checkpoint, which may be another folder's
                self._save_best(self.scores_of_the_result())
        self._same_buffers()
        made = self.step - first_step
        loss, _, _, count = self.sums.tolist()
        metrics: dict[str, Any] = {
            "train_loss": loss / max(count, 1),
            "train_runtime": round(seconds, 3),
            "train_steps_per_second": round(made / seconds, 3) if seconds > 0 else 0.0,
            "train_samples_per_second": round(made * len(self.source) / self.steps_per_epoch / max(seconds, 1e-9), 3),
        }
        if self.best.step is not None:
            metrics |= {f"best_{self.best.metric}": self.best.value, "best_step": self.best.step}
        self._log(metrics)
        if self.output_dir is not None and self.accelerator.is_main_process and "none" not in self.args.trackers:
            draw_learning_curve(self.history.entries, f"eval_{self.best.metric}", self.output_dir / CURVE_FILE)
        return TrainOutput(self.step, metrics["train_loss"], metrics)
