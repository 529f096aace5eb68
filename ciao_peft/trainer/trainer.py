"""`CIAOTrainer`: one adapter, its data, and Accelerate."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..config import CIAOConfig
from ..data.clip_rows import Clips
from ..errors import FeatureCacheError, TrainingError, listed
from ..features import (
    SHARE_OF_MEMORY,
    ClipSamples,
    FeatureDataset,
    Processes,
    Samples,
    check_labels_of,
    feature_bytes,
    fingerprint,
    free_memory,
    key_hash,
    model_key,
    samples_of,
    store_features,
)
from ..losses import task_loss
from ..metrics import compute_metrics
from ..model import CIAOModel
from .accelerator import gather_rows, make_accelerator, precision_shared, random_state_kept
from .arguments import CIAOTrainingArguments
from .calibrate import calibrate_decay
from .checkpoint import AdapterCheckpoints
from .history import plain
from .job import Job, LogitsAndEmbeddings
from .loader import BatchDataset, BatchLoader
from .loop import TrainingLoop, TrainOutput
from .sampler import smallest_batch


class PredictionOutput(NamedTuple):
    """What `CIAOTrainer.predict` returns.

    Args:
        logits: `(N, num_labels)` in float32, in the order of the dataset.
        labels: As the losses take them, or None.
        metrics: `test_loss` and all scores, given labels.
    """

    logits: Tensor
    labels: Tensor | None
    metrics: dict[str, float]


class CIAOTrainer:
    """Trains one adapter of a model, and evaluates it; the backbone and all other adapters stay as they are.

    Every method is called by all processes alike. The adapter becomes the model's active one. `train` leaves it in the
    modes and with the `requires_grad` it had, and the global random state where it was.

    With several processes, a micro-batch is spread over them, and each computes the losses of the whole of it:
    gradients are those of one process with a batch as large. Only statistics of batch norm that follow the data
    (`train_batch_norm=True`) are of one process.

    Args:
        model: With at least one adapter.
        args: Settings; those of `CIAOTrainingArguments()` when left out.
        adapter_name: Which adapter; the active one when left out.
        compute_metrics: From logits and labels of a whole dataset to scores by name; when left out, all of
            `ciao_peft.metrics` that fit the problem.
        on_log: Called with every entry of the log. What it raises ends the training.

    Attributes:
        log_history: Entries of the last training's log, as dicts.

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

    def __init__(
        self,
        model: CIAOModel,
        args: CIAOTrainingArguments | None = None,
        adapter_name: str | None = None,
        *,
        compute_metrics: Callable[[Tensor, Tensor], dict[str, float]] | None = None,
        on_log: Callable[[dict[str, Any]], None] | None = None,
    ):
        if not isinstance(model, CIAOModel):
            raise TrainingError(f"`model` must be a CIAOModel, as get_ciao_model makes it; got {type(model).__name__}.")
        if args is not None and not isinstance(args, CIAOTrainingArguments):
            raise TrainingError(f"`args` must be CIAOTrainingArguments; got {type(args).__name__}.")
        self.adapter_name = model.resolve_adapter(adapter_name)
        self.model = model
        self.args = CIAOTrainingArguments() if args is None else args
        self.compute_metrics = compute_metrics
        self.on_log = on_log
        self.accelerator = make_accelerator(self.args)
        self._precision = str(self.accelerator.mixed_precision)
        self.log_history: list[dict[str, Any]] = []
        self._last: TrainOutput | None = None
        self._newest_scores: dict[str, float] = {}
        self._stored: list[tuple[Any, FeatureDataset]] = []

    @property
    def config(self) -> CIAOConfig:
        """Settings of the adapter that goes by the name now."""
        return self.model.adapters[self.model.resolve_adapter(self.adapter_name)].config

    # -- public ------------------------------------------------------------------------------------------------------

    def train(self, train_dataset: Any, eval_dataset: Any = None) -> TrainOutput:
        """Trains the adapter.

        Args:
            train_dataset: A `datasets.Dataset` with `image` and `label`; a map-style dataset of `{"pixel_values": (C,
                H, W), "labels": label}`; what `cache_features` returned; or, for an adapter that reads clips, the
                `clips` of rows of frames.
            eval_dataset: The same, for evaluation during training.

        Raises:
            DataError, InputError: an empty dataset, or labels that this adapter cannot learn.
            TrainingError: arguments, data and adapter do not go together, training diverges, or there is nothing to
                resume from.
            FeatureCacheError: stored features that are not of this model.
            KeyboardInterrupt: on Ctrl-C, after a checkpoint was saved in `output_dir`.
        """
        if eval_dataset is None and (self.args.load_best_model_at_end or self.args.early_stopping_patience is not None):
            what = "load_best_model_at_end" if self.args.load_best_model_at_end else "early_stopping_patience"
            raise TrainingError(f"`{what}` needs evaluations: give `train` an `eval_dataset`.")
        with self._left_as_it_was(), random_state_kept():
            self.model.train_adapter(self.adapter_name)
            several = self.args.max_steps > 0 or self.args.num_train_epochs > 1
            evaluates = eval_dataset is not None and self.args.eval_strategy != "no"
            source = self._source(train_dataset, "train_dataset", several)
            eval_source = self._source(eval_dataset, "eval_dataset", several) if evaluates else None
            self._check_training_data(source)
            self._newest_scores = {}
            loop = TrainingLoop(self._job(), source, eval_source)
            try:
                self._last = loop.run()
                self._newest_scores = loop.scores_of_the_result()
            finally:
                self.log_history = loop.history.entries
        return self._last

    def evaluate(self, dataset: Any) -> dict[str, float]:
        """Scores of the adapter on a dataset, with `eval_` before their names.

        `eval_loss` is the task loss over the whole dataset: like every score, it does not depend on the batch size.
        """
        self.model.set_adapter(self.adapter_name)
        with self._left_as_it_was():
            return self._metrics(self._source(dataset, "dataset", False), "eval_")

    def predict(self, dataset: Any) -> PredictionOutput:
        """Logits for a dataset, with or without labels, in its order."""
        self.model.set_adapter(self.adapter_name)
        with self._left_as_it_was():
            source = self._source(dataset, "dataset", False, needs_labels=False)
            logits = self._logits(source)
        metrics = {} if source.labels is None else self._scores(logits, source.labels, "test_")
        return PredictionOutput(logits, source.labels, metrics)

    def training_record(self) -> dict[str, Any]:
        """How the adapter was made, as plain data for `save_pretrained` and `push_to_hub`.

        Settings that decide the weights, updates, and the newest scores of the adapter as it is, by `eval_NAME` and
        `test_NAME`. No path of this machine is in it.
        """
        record: dict[str, Any] = {"seed": self.args.seed, "arguments": self.args.weight_settings()}
        if self._last is not None:
            record |= {"global_step": self._last.global_step, "train_loss": self._last.training_loss}
        return plain(record | self._newest_scores)

    def save_adapter(self, folder: str | os.PathLike, training: dict[str, Any] | None = None) -> Path:
        """Saves the adapter as `CIAOModel.save_pretrained` does, once for all processes.

        Args:
            folder: Where.
            training: What to record beside `training_record`, such as the dataset and its licence.
        """
        if self.accelerator.is_main_process:
            self.model.save_pretrained(folder, self.adapter_name, training=self.training_record() | (training or {}))
        self.accelerator.wait_for_everyone()
        return Path(folder)

    def print(self, *values: Any, **options: Any) -> None:
        """Prints once, however many processes run."""
        self.accelerator.print(*values, **options)

    def end_training(self) -> None:
        """The last call of a script: waits for all processes, frees what they share, and parts them.

        Without it, a script of several processes may abort at its exit, when all work is done.
        """
        self.accelerator.wait_for_everyone()
        self._stored.clear()
        self.accelerator.free_memory()
        self.accelerator.end_training()

    def _job(self) -> Job:
        model, name = self.model, self.adapter_name
        return Job(
            name=name,
            module=model.adapters[name],
            reader=LogitsAndEmbeddings(model),
            parameter_groups=model.adapter_parameters(name),
            args=self.args,
            accelerator=self.accelerator,
            evaluate=lambda source: self._metrics(source, "eval_"),
            on_log=self.on_log,
            before_first_update=lambda source, batch_size: calibrate_decay(
                model, name, source, batch_size, self.args.seed, self.accelerator
            ),
            checkpoints=AdapterCheckpoints(model, name),
        )

    # -- data --------------------------------------------------------------------------------------------------------

    def _source(self, dataset: Any, name: str, several_passes: bool, needs_labels: bool = True) -> BatchDataset:
        data = self._data(dataset, name, several_passes)
        has_labels = (data.labels if isinstance(data, FeatureDataset) else data.label_key) is not None
        labels = check_labels_of(data, self.config, name) if has_labels or needs_labels else None
        return BatchDataset(data, labels, self._needs_excitation)

    def _data(self, dataset: Any, name: str, several_passes: bool) -> Samples | ClipSamples | FeatureDataset:
        self._check_frames(dataset, name)
        if isinstance(dataset, FeatureDataset):
            if self.config.tuning == "full":
                raise TrainingError(
                    f"The adapter {self.adapter_name!r} trains the whole encoder (tuning='full'), so stored features "
                    "of the frozen trunk mean nothing to it; give it the pictures."
                )
            dataset.check_belongs_to(model_key(self.model))
            if len(dataset) == 0:
                raise TrainingError(f"{name} is empty.")
            return dataset
        samples = samples_of(dataset, self.model.preprocessing, name)
        known = self._known(dataset, samples)
        if known is not None:
            return known
        stored = self._store(samples) if several_passes and self._may_store(samples) else None
        if stored is None:
            return samples
        self._stored.append((dataset, stored))
        return stored

    def _check_frames(self, dataset: Any, name: str) -> None:
        """Whether samples are clips is seen before the trunk runs over them."""
        if not isinstance(dataset, (Clips, FeatureDataset)) or dataset.frames == self.config.frames:
            return
        there, wanted = (
            f"clips of {n} frames" if n else "single pictures" for n in (dataset.frames, self.config.frames)
        )
        raise TrainingError(
            f"{name} has {there}, and the adapter {self.adapter_name!r} reads {wanted}. `ciao_peft.data.clips(faces, "
            "frames)` makes clips from rows of frames; `frames` in the adapter's config is how many it reads."
        )

    def _known(self, dataset: Any, samples: Samples | ClipSamples) -> FeatureDataset | None:
        """Features stored of this dataset before, if it still shows the same and the model still makes them."""
        for place, (known, stored) in enumerate(self._stored):
            if known is not dataset:
                continue
            now = {**model_key(self.model), "num_samples": len(samples.frames)}
            if not samples.is_fixed and len(samples) == len(stored):
                now["data"] = fingerprint(samples.frames, Processes())
            if stored.key == stored.key | now:
                return stored if samples.is_fixed else stored.with_labels(samples.labels())
            del self._stored[place]
            return None
        return None

    @property
    def _needs_excitation(self) -> bool:
        """Whether the frozen conv units are of use to the adapter: not where it has its own."""
        return self.config.tuning == "decision_layer"

    def _may_store(self, samples: Samples | ClipSamples) -> bool:
        choice = self.args.feature_cache
        if choice == "never":
            return False
        chosen = choice != "auto"
        if self.config.tuning == "full":
            if chosen:
                raise TrainingError(
                    "With tuning='full' there is no frozen trunk to store features of; set feature_cache='never'."
                )
            return False
        if chosen:
            model_key(self.model)  # says why, where there is no cut
        elif not self.model.opened.traceable:
            return False
        if chosen or samples.shows_the_same_twice():
            return True
        self.print(f"{samples.name} shows something else each time, so its features are computed anew in every epoch.")
        return False

    def _store(self, samples: Samples | ClipSamples) -> FeatureDataset | None:
        self.model.to(self.accelerator.device)
        root = None if self.args.output_dir is None else Path(self.args.output_dir) / "features"
        if self.args.feature_cache != "auto":
            root = Path(self.args.feature_cache)
        if root is None:
            processes = Processes()
            needed = feature_bytes(self.model) * len(samples.frames) * processes.count
            if any(processes.collect([needed > SHARE_OF_MEMORY * free_memory()])):
                self.print(
                    f"Features of {samples.name} are too large for memory; give `output_dir` to store them on disk."
                )
                return None
        try:
            return store_features(
                self.model,
                samples,
                (lambda key: None) if root is None else (lambda key: root / key_hash(key)),
                include_excitation=None if self._needs_excitation else False,
                disable_tqdm=self.args.disable_tqdm,
            )
        except FeatureCacheError as error:
            if self.args.feature_cache != "auto":
                raise
            self.print(f"Training without stored features: {error}")
            return None

    def _check_training_data(self, source: BatchDataset) -> None:
        processes = self.accelerator.num_processes
        if len(source) < processes:
            raise TrainingError(
                f"train_dataset has {len(source)} samples for {processes} processes; start no more than that."
            )
        size = self.args.per_device_train_batch_size
        smallest = smallest_batch(len(source), size * processes)
        if smallest < processes:  # a process without samples would keep the others waiting for ever
            raise TrainingError(
                f"With per_device_train_batch_size={size}, the {len(source)} samples of train_dataset make batches "
                f"down to {smallest}, too few for {processes} processes. Set it to {size + 1} or more."
            )
        labels = source.labels
        if self.config.problem_type != "single_label_classification":
            return
        counts = torch.bincount(labels if labels.ndim == 1 else labels.argmax(dim=1), minlength=self.config.num_labels)
        lone = [self.config.id2label[i] for i, count in enumerate(counts.tolist()) if count == 1]
        if lone and self.accelerator.is_main_process:
            warnings.warn(
                f"A single training sample each: {listed(lone)}. Such a sample has no positive pair; the contrastive "
                "loss only pushes the others away from it.",
                stacklevel=3,
            )

    # -- reading -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _left_as_it_was(self) -> Iterator[None]:
        mode = self.model.training
        grads = {p: p.requires_grad for adapter in self.model.adapters.values() for p in adapter.parameters()}
        try:
            with precision_shared(self._precision):
                yield
        finally:
            self.model.train(mode)
            for parameter, requires_grad in grads.items():
                parameter.requires_grad_(requires_grad)

    @torch.no_grad()
    def _logits(self, source: BatchDataset) -> Tensor:
        """Of the whole dataset, in its order, on every process."""
        rank, count = self.accelerator.process_index, self.accelerator.num_processes
        device = self.accelerator.device
        self.model.to(device)
        mode = self.model.training
        self.model.eval()
        bounds = [len(source) * r // count for r in range(count + 1)]
        step = self.args.per_device_eval_batch_size
        plan = [np.arange(i, min(i + step, bounds[rank + 1])) for i in range(bounds[rank], bounds[rank + 1], step)]
        batches = BatchLoader(source, 0, 1, self.args.dataloader_num_workers, device)
        found = [torch.zeros(0, self.config.num_labels, device=device)]
        with self.accelerator.autocast():
            found += [self.model(**batch.inputs).logits.float() for batch in batches.read(plan, [None] * len(plan))]
        self.model.train(mode)
        return gather_rows(torch.cat(found), [b - a for a, b in pairwise(bounds)]).cpu()

    def _metrics(self, source: BatchDataset, prefix: str) -> dict[str, float]:
        return self._scores(self._logits(source), source.labels, prefix)

    def _scores(self, logits: Tensor, labels: Tensor, prefix: str) -> dict[str, float]:
        if self.compute_metrics is not None:
            scores = self.compute_metrics(logits, labels)
        else:
            scores = compute_metrics(logits, labels, self.config)
        loss = task_loss(logits, labels, self.config).item()
        named = {f"{prefix}loss": loss, **{f"{prefix}{name}": float(value) for name, value in scores.items()}}
        self._newest_scores = {k: v for k, v in self._newest_scores.items() if not k.startswith(prefix)} | named
        return named
