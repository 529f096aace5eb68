"""One training from its first update to its last."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import DivergenceError, TrainingError
from ..heads import dropout_from
from ..surroundings import RANDOM_STATE
from .accelerator import data_parallel, start_trackers, wait_for_all
from .averaging import WeightAverage
from .best import Best
from .callbacks import Callbacks
from .checkpoint import (
    AdapterCheckpoints,
    checkpoint_folders,
    clean_up,
    find_checkpoint,
    place_in_order,
    refuse_old_checkpoints,
)
from .checkpoint_state import CheckpointState
from .course import batch_size_of, count_updates, is_due
from .finite import LastFinite, all_finite_there
from .history import CURVE_FILE, History, draw_learning_curve, plain
from .interrupts import Interrupts
from .job import Job, check_what_trains_the_mask, what_it_is_made_of
from .loader import BatchDataset, BatchLoader
from .optimizer import rate_name
from .optimizer_state import checked_moments, optimizer_tensors, restore_optimizer
from .outputs import TrainOutput, summed_up
from .sampler import plan_epoch, positive_groups
from .seeds import seed_of
from .speaking import Speaker
from .unlabelled import Unlabelled
from .updates import Updates, check_compile

if TYPE_CHECKING:
    pass


class TrainingLoop(Updates):
    """The state of one training: model, optimiser, place in the data, best evaluation so far.

    Nothing random is left over between updates: every micro-batch sets the generators from its number. Hence adapter,
    optimiser and the number of the update are all that a checkpoint needs to go on bit for bit.

    Args:
        job: What to train, and with what.
        source: Training data, with labels.
        eval_source: Evaluation data, if any.
        unlabelled: What is learned from pictures without labels, if any.

    Attributes:
        total_steps, steps_per_epoch: Updates of the whole training and of one epoch.
        batch_size: Samples of a micro-batch over all processes, at most.
        groups: `(N,)`, what makes two samples a positive pair.
        step: Updates made so far.
        best: The best evaluation so far.
        history: The log.
        losses: The losses of all updates.
        average: The mean of the weights over the last updates.

    Shapes:
        Batches are as in `ciao_peft.trainer.loader.Batch`; the reader returns logits `(B, num_labels)` and z `(B, D)`.

    Raises:
        TrainingError: settings under which nothing would be trained, or data without labels.

    Example:
        >>> from ciao_peft import CIAOConfig, CIAOTrainingArguments, get_ciao_model
        >>> from ciao_peft.features import samples_of
        >>> from ciao_peft.trainer import make_accelerator
        >>> from ciao_peft.trainer.job import LogitsAndEmbeddings
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
        >>> model = get_ciao_model(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), config, input_size=(3, 8, 8))
        >>> model.train_adapter("default")
        >>> args = CIAOTrainingArguments(max_steps=3, per_device_train_batch_size=4, report_to="none")
        >>> job = Job(
        ...     name="faces",
        ...     module=model.adapters["default"],
        ...     reader=LogitsAndEmbeddings(model),
        ...     parameter_groups=model.adapter_parameters("default"),
        ...     args=args,
        ...     accelerator=make_accelerator(args),
        ... )
        >>> data = samples_of([{"pixel_values": torch.rand(3, 8, 8), "labels": n % 2} for n in range(8)], None)
        >>> loop = TrainingLoop(job, BatchDataset(data, data.labels()))
        >>> loop.steps_per_epoch, loop.run().global_step
        (2, 3)
    """

    step: int
    callbacks: Callbacks
    source: BatchDataset
    eval_source: BatchDataset | None
    output_dir: Path | None
    groups: np.ndarray
    batch_size: int
    steps_per_epoch: int
    best: Best
    names: dict[Tensor, str]
    num_checkpoints: int | None
    history: History
    average: WeightAverage

    def __init__(
        self,
        job: Job,
        source: BatchDataset,
        eval_source: BatchDataset | None = None,
        unlabelled: Unlabelled | None = None,
    ):
        args = job.args.completed(len(source), source.views)
        job = replace(job, args=args)
        self.source, self.eval_source = source, eval_source
        self.output_dir = None if args.output_dir is None else Path(args.output_dir)
        self.groups = positive_groups(source.known_labels, job.config)
        self.batch_size = batch_size_of(args) * job.accelerator.num_processes
        self.steps_per_epoch, total_steps = count_updates(args, len(source), job.accelerator.num_processes)
        check_what_trains_the_mask(job)
        check_compile(job)
        self.best = Best(args, job.config.problem_type)
        super().__init__(job, total_steps, unlabelled)
        self.names = {parameter: name for name, parameter in job.module.named_parameters()}
        self.average = WeightAverage(job.module, self.trained, args.average_last, total_steps)
        self.num_checkpoints = None
        self._record: dict[str, Any] | None = None
        self.history = History(None)
        more = {"model": getattr(job.reader, "model", job.reader), "optimizer": self.optimizer}
        self.callbacks = Callbacks(job.callbacks, args, **more)
        is_main = job.accelerator.is_main_process
        self._speaker = Speaker(job.name, total_steps, args.disable_tqdm, is_main)

    # -- the whole ---------------------------------------------------------------------------------------------------

    def run(self) -> TrainOutput:
        """Trains, and leaves the adapter as it is after the last update, or at its best.

        Raises:
            TrainingError: there is nothing to resume from, or `output_dir` holds another training's checkpoints.
            DivergenceError: loss or adapter became NaN or infinite; the best or last finite one is in memory.
            KeyboardInterrupt: on Ctrl-C, after a checkpoint was saved in `output_dir`.
        """
        resumed = self._resume()
        if resumed is None:
            if self.output_dir is not None and self.args.save_strategy != "no":
                refuse_old_checkpoints(self.output_dir)
            if self.job.before_first_update is not None:
                self.job.before_first_update(self.source, self.batch_size)
        writes_log = self.accelerator.is_main_process and "none" not in self.args.trackers
        self.history = History(self.output_dir if writes_log else None, self.history.entries)
        if self.output_dir is not None and self.accelerator.is_main_process:
            clean_up(self.output_dir, None)
        self._speaker.begins(self.source, self.args, self.accelerator.num_processes)
        self.optimizer.zero_grad()  # drops what a training that broke off has left
        with self._in_training():
            wrapped = data_parallel(self.job.reader, self.accelerator, self.config.train_batch_norm)
        self._scale_gradients(None if resumed is None else resumed.scaler)
        start_trackers(self.accelerator, self.job.name, self.args, self.config)
        started, first = time.perf_counter(), self.step
        if self.job.around_update is None:
            self.job.reader.train()
        finite = LastFinite(self.job.module)
        finite.keep(self.step)
        try:
            with Interrupts() as interrupts, self._speaker.bar(self.step) as bar:
                try:
                    self._call("on_train_begin")
                    for _ in self._updates(wrapped):
                        bar.update()
                        if self.step % self.steps_per_epoch == 0:
                            finite.keep(self.step)
                        if interrupts.asked:
                            raise KeyboardInterrupt
                except DivergenceError as error:
                    raise finite.put_back(error, self.best.tensors, self.best.step) from error
                except BaseException as error:
                    if isinstance(error, KeyboardInterrupt) or interrupts.asked:
                        raise KeyboardInterrupt(self._save_what_there_is()) from error
                    raise
            output = self._finish(time.perf_counter() - started, first)
            self._call("on_train_end")
            return output
        finally:
            del wrapped
            self._end_updates()
            for tracker in self.accelerator.trackers:
                tracker.finish()
            self.accelerator.trackers = []
            if self.accelerator.num_processes > 1 or self.accelerator.scaler is not None:
                self.accelerator.free_memory()

    def _updates(self, wrapped: nn.Module) -> Iterator[None]:
        args, rank = self.args, self.accelerator.process_index
        batches = BatchLoader(
            self.source, rank, self.accelerator.num_processes, args.dataloader_num_workers, self.accelerator.device
        )
        balance = args.class_balance if args.class_balanced_batches else None
        group_size = args.gradient_accumulation_steps
        while not self._is_over:
            epoch, done = divmod(self.step, self.steps_per_epoch)
            plan = plan_epoch(self.groups, self.batch_size, seed=args.seed, epoch=epoch, balance=balance)
            first = done * group_size
            seeds = [seed_of(args.seed, epoch, index, 0) for index in range(first, len(plan))]
            stream = batches.read(plan[first:], seeds)
            if self.unlabelled is not None:
                self.unlabelled.begin(epoch, [len(rows) for rows in plan], first)
            update = self._update_in_two_steps if args.two_steps else self._update
            if first == 0:
                self._call("on_epoch_begin")
            for start in range(first, len(plan), group_size):
                self._call("on_step_begin")
                count = min(group_size, len(plan) - start)
                with self._in_training(), RANDOM_STATE, dropout_from(self._draws):
                    update(wrapped, stream, [seeds[start - first + k] for k in range(count)])
                self.step += 1
                self.average.add(self.step)
                self._in_update = False
                self._after_update()
                yield
                if self._is_over:
                    break

    @property
    def _is_over(self) -> bool:
        stopped = self.callbacks.control.should_training_stop
        return self.step >= self.total_steps or self.best.ends_training or stopped

    def _call(self, event: str, **more: Any) -> None:
        """Calls the callbacks, which see how far the training is."""
        state = self.callbacks.state
        state.global_step, state.max_steps = self.step, self.total_steps
        state.epoch, state.num_train_epochs = self._epoch, self.total_steps / self.steps_per_epoch
        state.log_history = self.history.entries
        state.best_metric, state.best_global_step = self.best.value, self.best.step
        state.is_world_process_zero = state.is_local_process_zero = self.accelerator.is_main_process
        self.callbacks.call(event, **more)

    @property
    def _epoch(self) -> float:
        return round(self.step / self.steps_per_epoch, 4)

    def _after_update(self) -> None:
        last = self.step == self.total_steps
        self._call("on_step_end")
        asked = self.callbacks.asked
        if asked("should_log") or self.step % self.args.logging_steps == 0 or last:
            self._log_losses()
        evaluates = asked("should_evaluate") or self._is_due(self.args.eval_strategy, self.args.eval_steps)
        if self.eval_source is not None and evaluates:
            self._check_finite()
            with self.average.in_place():
                self._evaluate(self.eval_source)
        elif last and self.best.to_return_to is None:
            self._check_finite()
        if asked("should_save") or self._is_due(self.args.save_strategy, self.args.save_steps):
            self._save(self.accelerator.is_main_process)
            wait_for_all(self.accelerator)
            self._call("on_save")
        if self.step % self.steps_per_epoch == 0:
            self._call("on_epoch_end")
        if self.eval_source is None and (last or self.step % self.steps_per_epoch == 0):
            self._speaker.epoch_ended(self.step, self._epoch, self.losses)

    def _is_due(self, strategy: str, steps: int | None) -> bool:
        return is_due(strategy, steps, self.step, self.steps_per_epoch, self.total_steps)

    # -- log ---------------------------------------------------------------------------------------------------------

    def _log_losses(self) -> None:
        entry: dict[str, Any] = dict(self.losses.take(self.step))
        if self.grad_norm is not None:
            entry["grad_norm"] = float(self.grad_norm)
        for group in self.optimizer.param_groups:
            entry[rate_name(group["part"])] = group["rate"]
        if self.unlabelled is not None:
            entry["pseudo_labels_counted"] = float(self.unlabelled.seen.share)
        self._log(entry)

    def _log(self, values: dict[str, Any]) -> None:
        place = {"step": self.step, "epoch": self._epoch}
        entry = self.history.add(place | values)
        if self.accelerator.trackers:
            numbers = {name: value for name, value in entry.items() if name != "step" and value is not None}
            self.accelerator.log(numbers, step=self.step)
        if self.job.on_log is not None:
            self.job.on_log(dict(entry))
        self._speaker.logged(entry, self.best)
        self._call("on_log", logs=dict(entry))

    # -- evaluation --------------------------------------------------------------------------------------------------

    def _evaluate(self, source: BatchDataset) -> None:
        self._same_buffers()
        if self.job.evaluate is None:
            raise TrainingError("The job has no `evaluate`, so there is no way to score the evaluation data.")
        metrics = self.job.evaluate(source)
        self._log(metrics)
        self._call("on_evaluate", metrics=dict(metrics))  # which sees the best before this one, as in transformers
        if self.best.judge(metrics, self.step) and self.args.load_best_model_at_end:
            self._check_finite()
            self.best.keep(self.job.module.state_dict())
            self._save_best(metrics)
        self._speaker.evaluated(self.history.entries[-1], self.best, self.losses)

    def scores_of_the_result(self) -> dict[str, float]:
        """Scores of the adapter that training ended with, by `eval_NAME`; empty if no evaluation saw that adapter."""
        return self.history.scores_at(self.step if self.best.to_return_to is None else self.best.step)

    def _check_finite(self) -> None:
        """Refuses NaN and infinity, which are no result and in no file of ours; one look at the device for all."""
        tensors = (*self.trained, *self.job.module.buffers(), self.losses.window, self.losses.sums)
        if not bool(all_finite_there(tensors)):
            raise DivergenceError(
                f"At update {self.step} the adapter or its loss holds NaN or infinite values: training has diverged, "
                "and nothing was saved. Lower the learning rates (the mask's first)."
            )

    def _save_best(self, metrics: dict[str, Any]) -> None:
        if self.output_dir is not None and self.accelerator.is_main_process:
            record = plain({"global_step": self.best.step, **metrics})
            self._checkpoints.save_best(self.output_dir, record)
        self.best.is_on_disk = True

    def _same_buffers(self) -> None:
        """Gives every process the first one's statistics of batch norm that follow the data, as training steps do."""
        if self.accelerator.num_processes > 1 and self.config.train_batch_norm:
            for buffer in self.job.module.buffers():
                torch.distributed.broadcast(buffer, src=0)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    @property
    def _checkpoints(self) -> AdapterCheckpoints:
        if self.job.checkpoints is None:
            raise TrainingError("The job has no `checkpoints`, so nothing can be saved in `output_dir` or resumed.")
        return self.job.checkpoints

    @property
    def _made_of(self) -> dict[str, Any]:
        """What decides the result, looked up once: the backbone stays as it is meanwhile."""
        if self._record is None:
            self._record = what_it_is_made_of(self.job, self.source, self.unlabelled)
        return self._record

    def _save(self, writes: bool = True) -> Path | None:
        """Saves a checkpoint of this moment and returns its folder; only the process that writes does so."""
        self._same_buffers()
        if not writes or self.output_dir is None:
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
            "record": self._made_of,
            **self.best.state(),
            **self.losses.state(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "log_history": self.history.entries,
        }
        averaged = self.average.count
        if averaged:
            state["averaged"] = averaged
        if self.unlabelled is not None:
            state["unlabelled"] = self.unlabelled.seen.state()
        folder = self.output_dir / f"checkpoint-{self.step}"
        is_this_one = self.best.step == self.step and not averaged
        best = None if self.best.step is None or is_this_one else self.best.tensors
        moments, mean = optimizer_tensors(self.optimizer, self.names), self.average.tensors if averaged else None
        self._checkpoints.save(folder, moments, best, state, mean)
        clean_up(self.output_dir, self.args.save_total_limit)
        return folder

    def _resume(self) -> CheckpointState | None:
        folder = find_checkpoint(self.args.output_dir, self.args.resume_from_checkpoint)
        if folder is None:
            return None
        with_best = self.args.load_best_model_at_end
        check = partial(checked_moments, self.optimizer, self.names, where=folder)
        checks = check, partial(self.average.check, where=folder)
        loaded = self._checkpoints.load(folder, self._made_of, self.total_steps, with_best, *checks)
        state, tensors, best, average = loaded
        restore_optimizer(self.optimizer, self.names, tensors, folder)
        self.step = state.global_step
        self.best.restore(state, best)
        self.average.restore(average, state.averaged)
        self.losses.restore(state.window, state.sums)
        if self.unlabelled is not None and state.unlabelled is not None:
            self.unlabelled.seen.restore(state.unlabelled)
        self.history = History(None, state.log_history)
        longer = any(
            name in state.record["arguments"] and state.record["arguments"][name] != getattr(self.args, name)
            for name in ("num_train_epochs", "max_steps")
        )
        more = " It was to have another length; rates follow the schedule of this one." if longer else ""
        self.accelerator.print(f"Resuming from '{folder}', after update {self.step} of {self.total_steps}.{more}")
        return state

    def _save_what_there_is(self) -> str:
        """Saves a checkpoint on an interrupt and says so. No process waits for another one here, which may be gone."""
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
            "`CIAOTrainingArguments(resume_from_checkpoint=True)`."
        )
        print(message, file=sys.stderr)
        return message

    def _finish(self, seconds: float, first_step: int) -> TrainOutput:
        """Puts the best adapter back where that was asked for, and sums the training up."""
        if self.best.to_return_to is not None:
            self.job.module.load_state_dict(self.best.to_return_to)
            if not self.best.is_on_disk:  # it came from a checkpoint, maybe one in another folder
                self._save_best(self.scores_of_the_result())
        else:
            self.average.keep_in_place()
        self._same_buffers()
        made = self.step - first_step
        samples = made * len(self.source) / self.steps_per_epoch
        output = summed_up(self.losses, self.best, self.step, made, samples, seconds)
        self._log(output.metrics)
        self._speaker.advise(self.best, self.step)
        if self.output_dir is not None and self.accelerator.is_main_process:
            clean_up(self.output_dir, None if self.args.save_strategy == "no" else self.args.save_total_limit)
            if "none" not in self.args.trackers:
                draw_learning_curve(self.history.entries, f"eval_{self.best.metric}", self.output_dir / CURVE_FILE)
        return output
