"""`CIAOTrainer`: one adapter, its data, and Accelerate."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from ..adapters import Adapter
from ..config import CIAOConfig
from ..errors import TrainingError
from ..features import FeatureDataset
from ..features.workers import deaths_told
from ..losses import task_loss
from ..metrics import compute_metrics
from ..model import CIAOModel
from ..probabilities import check_has_probabilities, fit_temperature
from ..surroundings import outside_inference, random_state_kept
from .accelerator import gather_rows, make_apart, others_answering, precision_shared, wait_for_all
from .arguments import CIAOTrainingArguments
from .calibrate import calibrate_decay, note_class_prior
from .callbacks import Callbacks
from .checkpoint import AdapterCheckpoints, refuse_unwritable
from .course import batch_size_of
from .cross_fitting import cross_fitted_logits
from .history import plain
from .job import Job, LogitsAndEmbeddings
from .loader import BatchDataset, BatchLoader
from .loop import TrainingLoop
from .outputs import PredictionOutput, TrainOutput, checked_scores
from .sources import Sources, check_training_data
from .unlabelled import Unlabelled, check_unlabelled

if TYPE_CHECKING:
    from accelerate import Accelerator


class CIAOTrainer:
    """Trains one adapter of a model, and evaluates it; the backbone and all other adapters stay as they are.

    Every method is called by all processes alike. `train` makes the adapter the active one. It leaves modes and
    `requires_grad` as others set them, and the global random state where it was. Other threads, and `on_log`, may use
    the model meanwhile, choose, train or evaluate other adapters: the result is the same.

    With several processes, a micro-batch is spread over them, and each computes the losses of the whole of it:
    gradients equal those of one process with the whole batch. Only statistics of batch norm that follow the data
    (`train_batch_norm=True`) are computed per process.

    Args:
        model: With at least one adapter.
        args: Settings; those of `CIAOTrainingArguments()` when left out.
        adapter_name: Which adapter; the active one when left out.
        compute_metrics: From logits and labels of a whole dataset to scores by name; when left out, all of
            `ciao_peft.metrics` that fit the problem.
        on_log: Called with every entry of the log. What it raises ends the training.
        callbacks: Objects with some of the methods of transformers' `TrainerCallback`, such as `on_epoch_end(args,
            state, control, **more)`; `control.should_training_stop = True` ends the training. See
            `ciao_peft.trainer.callbacks.Callbacks`.

    Attributes:
        model: The model.
        adapter_name: Name of the adapter that is trained.
        args: Settings.
        accelerator: Device, processes and precision.
        log_history: Entries of the last training's log, as dicts.

    Shapes:
        Samples hold `pixel_values` `(C, H, W)`, or `(T, C, H, W)` for clips, and labels: a class id or
        `(num_labels,)`.

    Raises:
        TrainingError: `model` or `args` are of another type.
        AdapterNotFoundError: the model has no adapter of this name.
        NoActiveAdapterError: no name is given and no adapter is active.
        ConfigError, LaunchError: the accelerator cannot do what arguments or launcher ask for.

    Example:
        >>> from ciao_peft import CIAOConfig, get_ciao_model
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU())
        >>> model = get_ciao_model(net, CIAOConfig(problem_type="regression", num_labels=1), input_size=(3, 16, 16))
        >>> faces = [{"pixel_values": torch.full((3, 16, 16), n / 8), "labels": [n / 8]} for n in range(8)]
        >>> trainer = CIAOTrainer(model, CIAOTrainingArguments(num_train_epochs=2, per_device_train_batch_size=4))
        >>> trainer.train(faces).global_step
        4
        >>> sorted(trainer.evaluate(faces))[:2]
        ['eval_concordance', 'eval_concordance_LABEL_0']
    """

    model: CIAOModel
    adapter_name: str
    args: CIAOTrainingArguments
    callbacks: list[Any]
    compute_metrics: Callable[[Tensor, Tensor], dict[str, float]] | None
    on_log: Callable[[dict[str, Any]], None] | None
    log_history: list[dict[str, Any]]

    def __init__(
        self,
        model: CIAOModel,
        args: CIAOTrainingArguments | None = None,
        adapter_name: str | None = None,
        *,
        compute_metrics: Callable[[Tensor, Tensor], dict[str, float]] | None = None,
        on_log: Callable[[dict[str, Any]], None] | None = None,
        callbacks: Sequence[Any] = (),
    ):
        if not isinstance(model, CIAOModel):
            inside = any(isinstance(part, CIAOModel) for part in getattr(model, "children", list)())
            hint = " Give the model inside, `model.module`: the trainer shares the work of processes." if inside else ""
            raise TrainingError(
                f"`model` must be a CIAOModel, as get_ciao_model makes it; got {type(model).__name__}.{hint}"
            )
        if args is not None and not isinstance(args, CIAOTrainingArguments):
            raise TrainingError(f"`args` must be CIAOTrainingArguments; got {type(args).__name__}.")
        self.adapter_name = model.resolve_adapter(adapter_name)
        self.model = model
        self.args = CIAOTrainingArguments() if args is None else args
        self.compute_metrics = compute_metrics
        self.on_log = on_log
        self.callbacks = list(callbacks)
        Callbacks(self.callbacks, self.args)  # refuses what is none
        self._accelerator, self._shared = make_apart(self.args)
        self._precision = str(self._shared["_mixed_precision"])
        self.log_history = []
        self._last: TrainOutput | None = None
        self._completed = self.args  # those of the last training, with what was left out
        self._of_unlabelled: dict[str, Any] = {}  # settings of the last training, if it had such pictures
        self._newest_scores: dict[str, float] = {}
        self._sources = Sources(self.model, self.adapter_name, self.args, self.accelerator)

    @property
    def config(self) -> CIAOConfig:
        """Config of the adapter that currently has this name."""
        return self._adapter.config

    @property
    def _adapter(self) -> Adapter:
        return self.model.adapters[self.model.resolve_adapter(self.adapter_name)]

    # -- public ------------------------------------------------------------------------------------------------------

    def train(self, train_dataset: Any, eval_dataset: Any = None, *, unlabelled: Any = None) -> TrainOutput:
        """Trains the adapter.

        Args:
            train_dataset: A `datasets.Dataset` with `image` and `label`; a map-style dataset of `{"pixel_values": (C,
                H, W), "labels": label}`; what `cache_features` returned; or, for an adapter that reads clips, the
                `clips` of rows of frames.
            eval_dataset: The same, for evaluation during training.
            unlabelled: The same, of which no label is looked at: what the adapter is sure of becomes a label, and
                views of one picture stay together. docs/howto/unlabelled.md says when that pays.

        Returns:
            Updates, mean loss, and speed; see `TrainOutput`. The adapter in the model is trained.

        Raises:
            DataError, InputError: an empty dataset, or labels that this adapter cannot learn.
            TrainingError: arguments, data and adapter do not go together, training diverges, or there is nothing to
                resume from.
            FeatureCacheError: stored features that are not of this model.
            LaunchError: another process has ended, or has not answered within `ddp_timeout` seconds.
            KeyboardInterrupt: on Ctrl-C, after a checkpoint was saved in `output_dir`.
        """
        self.check_evaluations(eval_dataset)
        if self.args.output_dir is not None and self.accelerator.is_main_process:
            refuse_unwritable(Path(self.args.output_dir))
        with self._in_training(), random_state_kept():
            self.model.set_adapter(self.adapter_name)
            several = self.args.max_steps > 0 or (self.args.num_train_epochs or 2) > 1
            evaluates = eval_dataset is not None and (self.args.eval_strategy != "no" or bool(self.callbacks))
            source = self._source(train_dataset, "train_dataset", several, views=self.args.views)
            eval_source = self._source(eval_dataset, "eval_dataset", several) if evaluates else None
            args = self.args.completed(len(source), source.views)
            check_training_data(source, self.config, batch_size_of(args), self.accelerator)
            others = self._unlabelled(unlabelled, source, args)
            loop = TrainingLoop(self._job(args), source, eval_source, others)
            output: TrainOutput | None = None
            try:
                with others_answering(self.accelerator, self.args.ddp_timeout), deaths_told():
                    output = loop.run()
            finally:
                self.log_history = loop.history.entries
                if output is not None or loop.step:  # the adapter is no longer that of the training before
                    self._completed, self._last, self._newest_scores = args, output, {}
                    self._of_unlabelled = {} if others is None else others.settings
            self._newest_scores = loop.scores_of_the_result()
        return cast("TrainOutput", output)  # or an error is on its way

    def evaluate(self, dataset: Any) -> dict[str, float]:
        """Scores of the adapter on a dataset, with `eval_` before their names.

        Where the dataset names its labels, they are the adapter's labels of the same names, whatever their ids.

        `eval_loss` is the task loss over the whole dataset: like every score, it does not depend on the batch size.

        Args:
            dataset: What `train` takes, with labels.

        Returns:
            Each score by its name, such as `eval_loss` and `eval_accuracy`.

        Raises:
            DataError, InputError, TrainingError, FeatureCacheError: as for `train`.
        """
        with precision_shared(self._precision, self._shared):
            return self._metrics(self._source(dataset, "dataset", False), "eval_")

    def predict(self, dataset: Any) -> PredictionOutput:
        """Logits for a dataset, in its order; scores too, if it has labels, which come back as the adapter's ids.

        Args:
            dataset: What `train` takes, with or without labels.

        Raises:
            DataError, InputError, TrainingError, FeatureCacheError: as for `train`.
        """
        with precision_shared(self._precision, self._shared):
            source = self._source(dataset, "dataset", False, needs_labels=False)
            logits = self._logits(source)
        metrics = {} if source.labels is None else self._scores(logits, source.labels, "test_")
        return PredictionOutput(logits, source.labels, metrics)

    def calibrate(self, dataset: Any, folds: Iterable[tuple[str, np.ndarray]] | None = None) -> float:
        """Fits the adapter's `probability_temperature` to answers about samples that were not in the training.

        The answers stay in their order; how sure they are comes to what they deserve there (`fit_temperature` in
        `ciao_peft.probabilities`). The value stands in the adapter's config, and is saved with it.

        Args:
            dataset: What `train` takes, with labels: held-out samples, some hundred or more; with `folds`, those that
                the adapter was trained on.
            folds: Where nothing is held out, name and samples `(N,)` of each fold, as `ciao_peft.data.subject_folds`
                deals them; another adapter is trained without it and answers for it (`cross_fitted_logits`).

        Returns:
            The temperature, 0.01 to 100; above 1 where the adapter was too sure of itself.

        Raises:
            ConfigError: the adapter is of regression, which has no probabilities.
            DataError, InputError, TrainingError, FeatureCacheError: as for `train`.
        """
        adapter = self._adapter
        check_has_probabilities(adapter.config)
        with precision_shared(self._precision, self._shared):
            source = self._source(dataset, "dataset", False)
            logits = self._logits(source) if folds is None else self._cross_fitted_logits(dataset, folds)
        temperature = fit_temperature(logits, source.known_labels, adapter.config)
        adapter.config = dataclasses.replace(adapter.config, probability_temperature=temperature)
        if not 0.1 < temperature < 10:
            warnings.warn(
                f"The temperature of {self.adapter_name!r} came to {temperature:.3g}: these samples do not tell how "
                "sure it may be. Give some hundred, of all classes, to an adapter that has learned.",
                stacklevel=2,
            )
        if folds is None:  # or they are answers of other adapters
            self._newest_scores |= self._scores(logits, source.known_labels, "eval_")
        return temperature

    def training_record(self) -> dict[str, Any]:
        """How the adapter was made, as plain data for `save_pretrained` and `push_to_hub`.

        It holds the settings that decide the weights, the number of updates, and the newest scores of the adapter as
        it is, by `eval_NAME` and `test_NAME`. No path of this machine is in it.
        """
        arguments = self._completed.weight_settings() | self._of_unlabelled
        record: dict[str, Any] = {"seed": self.args.seed, "arguments": arguments}
        if self._last is not None:
            record |= {"global_step": self._last.global_step, "train_loss": self._last.training_loss}
        return plain(record | self._newest_scores)

    def save_adapter(
        self, folder: str | os.PathLike[str], training: dict[str, Any] | None = None, dtype: str | None = None
    ) -> Path:
        """Saves the adapter as `CIAOModel.save_pretrained` does, once for all processes.

        Args:
            folder: Where to; an adapter that is there already is replaced.
            training: What to record in addition to `training_record`, such as the dataset and its licence.
            dtype: `"float16"` or `"int8"` for half or a quarter of the size, as `CIAOModel.save_pretrained` says.

        Returns:
            The folder; for a URL, the same in the cache, which the main process knows.
        """
        saved = None
        if self.accelerator.is_main_process:
            record = self.training_record() | (training or {})
            saved = self.model.save_pretrained(folder, self.adapter_name, training=record, dtype=dtype)
        wait_for_all(self.accelerator)
        return Path(folder) if saved is None else Path(saved)

    def print(self, *values: Any, **options: Any) -> None:
        """Prints once, however many processes run.

        Args:
            values, options: What the built-in `print` takes.
        """
        self.accelerator.print(*values, **options)

    def end_training(self) -> None:
        """Waits for all processes, frees what they share, and ends their group: the last call of a script.

        Without it, a script of several processes may abort at its exit, when all work is done.
        """
        wait_for_all(self.accelerator)
        self._sources.clear()
        self.accelerator.free_memory()
        self.accelerator.end_training()

    def check_evaluations(self, eval_dataset: Any) -> None:
        """Refuses to train without evaluations where the arguments need them.

        Args:
            eval_dataset: As for `train`.

        Raises:
            TrainingError: there is none, and arguments need it.
        """
        if eval_dataset is None and (self.args.load_best_model_at_end or self.args.early_stopping_patience is not None):
            what = "load_best_model_at_end" if self.args.load_best_model_at_end else "early_stopping_patience"
            raise TrainingError(f"`{what}` needs evaluations: give `train` an `eval_dataset`.")

    def adopt(self, output: TrainOutput | None, log_history: list[dict[str, Any]], scores: dict[str, float]) -> None:
        """Takes a training of the adapter that ran elsewhere, by `train_adapters`, as its own last one.

        Args:
            output: What `train` would have returned; None where it would have raised.
            log_history: Entries of its log.
            scores: Of the adapter that it ended with, by `eval_NAME`.
        """
        self._last = self._last if output is None else output
        self._completed = self.args
        self.log_history, self._newest_scores = log_history, dict(scores)

    def _job(self, args: CIAOTrainingArguments) -> Job:
        model, name, adapter = self.model, self.adapter_name, self._adapter
        return Job(
            name=name,
            module=adapter,
            reader=LogitsAndEmbeddings(model, name),
            parameter_groups=adapter.parameter_groups(),
            args=args,
            accelerator=self.accelerator,
            evaluate=lambda source: self._metrics(source, "eval_"),
            on_log=self.on_log,
            callbacks=self.callbacks,
            around_update=lambda: adapter.held(training=True),
            before_first_update=self._before_first_update,
            checkpoints=AdapterCheckpoints(model, name),
        )

    def _before_first_update(self, source: BatchDataset, batch_size: int) -> None:
        balance = self.args.class_balance if self.args.class_balanced_batches else 0.0
        note_class_prior(self._adapter, source.known_labels, balance)
        calibrate_decay(self.model, self.adapter_name, source, batch_size, self.args.seed, self.accelerator)

    @property
    def accelerator(self) -> Accelerator:
        """Device, processes and precision of Accelerate."""
        with precision_shared(self._precision, self._shared):  # other libraries clear what accelerators share
            return self._accelerator

    # -- reading -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _in_training(self) -> Iterator[None]:
        """A whole training: its own adapter belongs to it, and nothing that others chose is changed for good."""
        own, others = self._adapter, []
        if self.accelerator.num_processes > 1:  # `DistributedDataParallel` would wait for the gradients of all
            others = [adapter for adapter in self.model.adapters.values() if adapter is not own]
        grads = {p: p.requires_grad for adapter in others for p in adapter.parameters()}
        with own.hold.for_training(self.adapter_name), outside_inference(gradients=True):
            for parameter in grads:
                parameter.requires_grad_(False)
            try:
                with precision_shared(self._precision, self._shared):
                    yield
            finally:
                for parameter, requires_grad in grads.items():
                    parameter.requires_grad_(requires_grad)

    def _source(
        self, dataset: Any, name: str, several_passes: bool, needs_labels: bool | None = True, views: int | None = 0
    ) -> BatchDataset:
        with self.model.reading_with(self.adapter_name):
            return self._sources.source(dataset, name, several_passes, needs_labels, views)

    def _unlabelled(self, dataset: Any, labelled: BatchDataset, args: CIAOTrainingArguments) -> Unlabelled | None:
        if dataset is None:
            return None
        stored = labelled.kind != "pixels"  # or given so: both must be read in one way
        source = self._source(dataset, "unlabelled", stored, needs_labels=None, views=self.args.views)
        check_unlabelled(source, labelled, args, self.config, self.accelerator.num_processes)
        in_evaluation = partial(self._adapter.held, training=False)
        return Unlabelled(source, args, self.config, self.accelerator, in_evaluation)

    @torch.no_grad()
    def _logits(self, source: BatchDataset) -> Tensor:
        """Logits of the whole dataset, in its order, on every process."""
        rank, count = self.accelerator.process_index, self.accelerator.num_processes
        device = self.accelerator.device
        self.model.to(device)
        bounds = [len(source) * r // count for r in range(count + 1)]
        step = self.args.per_device_eval_batch_size
        plan = [np.arange(i, min(i + step, bounds[rank + 1])) for i in range(bounds[rank], bounds[rank + 1], step)]
        batches = BatchLoader(source, 0, 1, self.args.dataloader_num_workers, device)
        logits = [torch.zeros(0, self.config.num_labels, dtype=torch.float32, device=device)]
        with (
            self._adapter.held(training=False),
            self.model.reading_with(self.adapter_name),
            self.accelerator.autocast(),
        ):
            logits += [self.model(**batch.inputs).logits.float() for batch in batches.read(plan, [None] * len(plan))]
        with others_answering(self.accelerator, self.args.ddp_timeout):
            return gather_rows(torch.cat(logits), [b - a for a, b in pairwise(bounds)]).cpu()

    def _cross_fitted_logits(self, dataset: Any, folds: Iterable[tuple[str, np.ndarray]]) -> Tensor:
        def answers(name: str, args: CIAOTrainingArguments, rest: Any, held_out: Any) -> Tensor:
            other = type(self)(self.model, args, name)
            other.train(rest)
            return other.predict(held_out).logits

        say: Callable[[str], None] = (lambda line: None) if self.args.disable_tqdm else self.print
        source = self._source(dataset, "dataset", True, views=self.args.views)
        data = source.data if isinstance(source.data, FeatureDataset) else dataset
        args = self.args.completed(len(source), source.views)  # as of all samples, in each fold
        return cross_fitted_logits(self.model, self.adapter_name, args, data, folds, answers, say)

    def _metrics(self, source: BatchDataset, prefix: str) -> dict[str, float]:
        return self._scores(self._logits(source), source.known_labels, prefix)

    def _scores(self, logits: Tensor, labels: Tensor, prefix: str) -> dict[str, float]:
        if self.compute_metrics is not None:
            scores = checked_scores(self.compute_metrics(logits, labels))
        else:
            scores = compute_metrics(logits, labels, self.config)
        loss = task_loss(logits, labels, self.config).item()
        named = {f"{prefix}loss": loss, **{f"{prefix}{name}": float(value) for name, value in scores.items()}}
        self._newest_scores = {k: v for k, v in self._newest_scores.items() if not k.startswith(prefix)} | named
        return named
