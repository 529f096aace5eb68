"""What a trainer reads: which datasets go with an adapter, and which are read from stored features."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..config import CIAOConfig
from ..data.clip_rows import Clips
from ..errors import FeatureCacheError, TrainingError, listed
from ..features import (
    SHARE_OF_MEMORY,
    Augmentation,
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
from ..model import CIAOModel
from ..surroundings import random_state_kept
from .arguments import CIAOTrainingArguments
from .loader import BatchDataset
from .resident import resident_features
from .sampler import smallest_batch
from .seeds import seed_everything

if TYPE_CHECKING:
    from accelerate import Accelerator


class Sources:
    """Makes datasets readable for one adapter, and stores features of those that are read several times.

    Features are stored once per dataset, and used again while the dataset shows the same and the model still makes the
    same features of it.

    Args:
        model: Holds the adapter.
        adapter_name: Which adapter.
        args: `feature_cache` says whether to store features, `output_dir` where.
        accelerator: Its device runs the trunk, and it prints once for all processes.

    Shapes:
        Samples are pictures `(C, H, W)`, clips `(T, C, H, W)` or stored features.

    Example:
        >>> from ciao_peft import CIAOConfig, get_ciao_model
        >>> from ciao_peft.trainer import make_accelerator
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 3), torch.nn.ReLU())
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
        >>> model = get_ciao_model(net, config, input_size=(3, 16, 16))
        >>> args = CIAOTrainingArguments(report_to="none")
        >>> sources = Sources(model, "default", args, make_accelerator(args))
        >>> faces = [{"pixel_values": torch.rand(3, 16, 16), "labels": n % 2} for n in range(4)]
        >>> sources.source(faces, "train_dataset", several_passes=False).kind
        'pixels'
    """

    model: CIAOModel
    adapter_name: str
    args: CIAOTrainingArguments
    accelerator: Accelerator

    def __init__(self, model: CIAOModel, adapter_name: str, args: CIAOTrainingArguments, accelerator: Accelerator):
        self.model, self.adapter_name, self.args, self.accelerator = model, adapter_name, args, accelerator
        self._stored: list[tuple[Any, FeatureDataset]] = []

    def source(
        self, dataset: Any, name: str, several_passes: bool, needs_labels: bool | None = True, views: int | None = 0
    ) -> BatchDataset:
        """A dataset as the training loop reads it.

        Args:
            dataset: What `CIAOTrainer.train` takes.
            name: What to call it in messages.
            several_passes: Whether it is read more than once, so that storing features may pay.
            needs_labels: Whether a dataset without labels is refused; None where nobody looks at labels.
            views: Views of each picture; with 1, none but the first of stored ones. None: as many as stored features
                have, two of other samples that show the same each time, and one of those that do not. 0 where nobody
                looks at any but the first.

        Raises:
            DataError, InputError: an empty dataset, or labels that the adapter cannot learn.
            TrainingError: data and adapter do not go together.
            FeatureCacheError: stored features that are not of this model, or that cannot be stored where
                `feature_cache` asks for it.
        """
        data, views = self._data(dataset, name, several_passes, views)
        has_labels = (data.labels if isinstance(data, FeatureDataset) else data.label_key) is not None
        looks = needs_labels or (has_labels and needs_labels is not None)
        labels = check_labels_of(data, self._config, name) if looks else None
        resident, depths = None, self.model.adapters[self.model.resolve_adapter(self.adapter_name)].depths
        if several_passes and isinstance(data, FeatureDataset):
            resident = resident_features(data, self.accelerator.device, self.args, self._needs_excitation, depths)
        return BatchDataset(
            data, labels, self._needs_excitation, resident, views, Augmentation.of_views(max(views, 1)), depths
        )

    def clear(self) -> None:
        """Lets go of the stored features; those on disk stay there."""
        self._stored.clear()

    @property
    def _config(self) -> CIAOConfig:
        return self.model.adapters[self.model.resolve_adapter(self.adapter_name)].config

    @property
    def _needs_excitation(self) -> bool:
        """Whether the frozen conv units are of use to the adapter: not where it has its own."""
        return self._config.tuning == "decision_layer"

    def _data(
        self, dataset: Any, name: str, several_passes: bool, views: int | None
    ) -> tuple[Samples | ClipSamples | FeatureDataset, int]:
        """What the dataset is read from, and how many views it shows."""
        self._check_frames(dataset, name)
        if isinstance(dataset, FeatureDataset):
            if self._config.tuning == "full":
                raise TrainingError(
                    f"The adapter {self.adapter_name!r} trains the whole encoder (tuning='full'), so stored features "
                    "of the frozen trunk mean nothing to it; give it the pictures."
                )
            dataset.check_belongs_to(model_key(self.model))
            if len(dataset) == 0:
                raise TrainingError(f"{name} is empty.")
            if views not in (None, 0, 1, dataset.views):
                raise TrainingError(
                    f"{name} has {dataset.views} stored of the {views} views of each picture that `views` asks for. "
                    f"Store it with `cache_features(..., views={views}, augment=arguments.augmentation)`, or leave "
                    "`views` out, which takes what is stored."
                )
            return dataset, dataset.views if views is None else views
        samples = samples_of(dataset, self.model.preprocessing, name)
        fixed = functools.cache(lambda: shows_the_same_twice(samples, self.args.seed))
        if views is None:
            views = 2 if fixed() else 1
        stored = self._stored_before(dataset, samples, views)
        if stored is not None:
            return stored, views
        stored = (
            self._store(samples, max(views, 1)) if several_passes and self._may_store(samples.name, fixed) else None
        )
        if stored is None:
            return samples, views
        self._stored.append((dataset, stored))
        return stored, views

    def _check_frames(self, dataset: Any, name: str) -> None:
        """Refuses clips for an adapter of pictures, and the reverse, before the trunk runs over them."""
        frames = self._config.frames
        if not isinstance(dataset, (Clips, FeatureDataset)) or dataset.frames == frames:
            return
        shown, read = (f"clips of {n} frames" if n else "single pictures" for n in (dataset.frames, frames))
        raise TrainingError(
            f"{name} has {shown}, and the adapter {self.adapter_name!r} reads {read}. `ciao_peft.data.clips(faces, "
            "frames)` makes clips from rows of frames; `frames` in the adapter's config is how many it reads."
        )

    def _stored_before(self, dataset: Any, samples: Samples | ClipSamples, views: int) -> FeatureDataset | None:
        """Features stored of this dataset before, if it still shows the same and the model still makes them."""
        for place, (stored_dataset, stored) in enumerate(self._stored):
            if stored_dataset is not dataset or views not in (0, stored.views):
                continue
            now = {**model_key(self.model), "num_samples": len(samples.frames)}
            if not samples.is_fixed and len(samples) == len(stored):
                now["data"] = fingerprint(samples.frames, Processes())
            if stored.key == stored.key | now:
                return stored if samples.is_fixed else stored.with_labels(samples.labels())
            del self._stored[place]
            return None
        return None

    def _may_store(self, name: str, fixed: Callable[[], bool]) -> bool:
        choice = self.args.feature_cache
        if choice == "never":
            return False
        chosen = choice != "auto"
        if self._config.tuning == "full":
            if chosen:
                raise TrainingError(
                    "With tuning='full' there is no frozen trunk to store features of; set feature_cache='never'."
                )
            return False
        if chosen:
            model_key(self.model)  # says why, where there is no cut
        elif not self.model.opened.traceable:
            return False
        if chosen or fixed():
            return True
        self.accelerator.print(
            f"{name} shows something else each time, so its features are computed anew in every epoch."
        )
        return False

    def _store(self, samples: Samples | ClipSamples, views: int) -> FeatureDataset | None:
        """Runs the trunk over the samples; None, with a printed reason, where features cannot be kept."""
        self.model.to(self.accelerator.device)
        root = None if self.args.output_dir is None else Path(self.args.output_dir) / "features"
        if self.args.feature_cache != "auto":
            root = Path(self.args.feature_cache)
        if root is None:
            processes = Processes()
            needed = feature_bytes(self.model) * len(samples.frames) * views * processes.count
            if any(processes.collect([needed > SHARE_OF_MEMORY * free_memory()])):
                self.accelerator.print(
                    f"Features of {samples.name} are too large for memory; give `output_dir` to store them on disk."
                )
                return None
        try:
            return store_features(
                self.model,
                samples,
                (lambda key: None) if root is None else (lambda key: root / key_hash(key)),
                views=views,
                augment=Augmentation.of_views(views),
                include_excitation=None if self._needs_excitation else False,
                dataloader_num_workers=self.args.dataloader_num_workers,
                disable_tqdm=self.args.disable_tqdm,
            )
        except FeatureCacheError as error:
            if self.args.feature_cache != "auto":
                raise
            self.accelerator.print(f"Training without stored features: {error}")
            return None


def shows_the_same_twice(samples: Samples | ClipSamples, seed: int) -> bool:
    """Whether samples that are read again are the same, as far as a training can tell.

    All processes agree, even where some of them saw the dataset change.

    Args:
        samples: The data.
        seed: Of the training: for the same seed the answer is the same.

    Example:
        >>> shows_the_same_twice(samples_of([{"pixel_values": torch.rand(3, 8, 8)}], None), seed=0)
        True
    """
    with random_state_kept():
        seed_everything(seed)
        return all(Processes().collect([samples.shows_the_same_twice()]))


def check_training_data(source: BatchDataset, config: CIAOConfig, batch_size: int, accelerator: Accelerator) -> None:
    """Refuses training data that the processes cannot share, and warns of classes with a single sample.

    Args:
        source: Training data with labels.
        config: Of the adapter that is to learn them.
        batch_size: Samples of a batch on each process, at most.
        accelerator: Says how many processes there are.

    Raises:
        TrainingError: there are fewer samples than processes, or some batch would be; or regressed values lie outside
            `label_range`, where all would fall into the outermost cells.

    Example:
        >>> from types import SimpleNamespace
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
        >>> three_faces = samples_of([{"pixel_values": torch.rand(3, 8, 8), "labels": 0}] * 3, None)
        >>> source = BatchDataset(three_faces, three_faces.labels())
        >>> check_training_data(source, config, 8, SimpleNamespace(num_processes=4))
        Traceback (most recent call last):
        ...
        ciao_peft.errors.TrainingError: train_dataset has 3 samples for 4 processes; start no more than that.
    """
    processes = accelerator.num_processes
    if len(source) < processes:
        raise TrainingError(
            f"train_dataset has {len(source)} samples for {processes} processes; start no more than that."
        )
    smallest = smallest_batch(len(source), batch_size * processes)
    if smallest < processes:  # a process without samples would keep the others waiting for ever
        raise TrainingError(
            f"With per_device_train_batch_size={batch_size}, the {len(source)} samples of train_dataset make batches "
            f"down to {smallest}, too few for {processes} processes. Set it to {batch_size + 1} or more."
        )
    labels = source.known_labels
    if config.problem_type == "regression" and config.contrastive_weight > 0:
        _check_range(labels, config)
    if config.problem_type != "single_label_classification":
        return
    counts = torch.bincount(labels if labels.ndim == 1 else labels.argmax(dim=1), minlength=config.num_labels)
    names = config.id2label or {}
    if config.contrastive_prototypes != "none" and config.contrastive_weight > 0:
        return  # every sample has its prototype as a positive
    lone = [names[i] for i, count in enumerate(counts.tolist()) if count == 1]
    if lone and accelerator.is_main_process:
        warnings.warn(
            f"A single training sample each: {listed(lone)}. Such a sample has no positive pair; the contrastive "
            "loss only pushes the others away from it.",
            stacklevel=3,
        )


def _check_range(values: Tensor, config: CIAOConfig) -> None:
    """Refuses values outside the range whose cells decide which samples the contrastive loss draws together."""
    low, high = config.label_range
    least, most = float(values.min()), float(values.max())
    rounding = 1e-4 * (high - low)
    if low - rounding <= least and most <= high + rounding:
        return
    raise TrainingError(
        f"The values of train_dataset run from {least:g} to {most:g}, beyond label_range=({low:g}, {high:g}): the "
        "contrastive loss would take different values for equal ones. Give the config the scale of the labels, "
        f"such as `label_range=({least:g}, {most if most > least else least + 1:g})`, or bring the labels to "
        f"{low:g} to {high:g}."
    )
