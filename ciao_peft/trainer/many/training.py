"""`train_adapters`: many trainings on the same features, at once where that is faster."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from ...adapters import is_stacked_on
from ...config import CIAOConfig, check_adapter_name
from ...errors import DivergenceError, TrainingError, listed, quoted
from ...features import FeatureDataset, check_labels_of
from ...model import CIAOModel
from ...saving import local_path
from ...surroundings import random_state_kept
from ..accelerator import make_apart
from ..arguments import CIAOTrainingArguments
from ..course import batch_size_of
from ..job import check_what_trains_the_mask
from ..loader import BatchDataset
from ..sources import check_training_data
from ..trainer import CIAOTrainer
from .jobs import AdapterJob, AdapterTraining, alike, sorted_alike
from .loop import StackedLoop
from .member import Member

__all__ = ["train_adapters", "trains_at_once"]


def train_adapters(
    model: CIAOModel, jobs: Sequence[AdapterJob], train_dataset: Any, eval_dataset: Any = None
) -> dict[str, AdapterTraining]:
    """Trains many adapters of a model on the same samples: other seeds, rates, temperatures, labels or forms.

    Each comes out as `CIAOTrainer` would train it by itself, to rounding: the same order of samples, dropout, schedule
    and optimiser. (Where a gradient is nothing but rounding, AdamW makes steps of it: in float32 a few numbers then
    differ by more than 1e-5, as they do between two single trainings that start a rounding error apart.)

    On a GPU, trainings of adapters of equal shape on stored features run in one loop, whose products are those of all
    of them: a small adapter leaves a GPU nearly idle, and sixteen cost little more than one. Those that differ in more
    than numbers (the head's sizes, the pooling, the kind of labels, the batch size) make another loop; settings that a
    loop of many has no room for (`output_dir`, `two_steps`, `average_last`, `gradient_accumulation_steps`, clips,
    `tuning="full"`) make the training run by itself. On a CPU all run one after the other: a CPU is busy with one.

    The adapter that is active stays so. Until its training ends, an adapter of a loop answers as before it.

    Args:
        model: Holds the adapters.
        jobs: One for each adapter; where they save, each in an `output_dir` of its own.
        train_dataset: What `CIAOTrainer.train` takes; best what `cache_features` gave.
        eval_dataset: The same, for evaluation during training.

    Returns:
        By name of the adapter what came out. A training that diverged has an `error` there and ends no other one.

    Raises:
        TrainingError: no jobs, two for one adapter or one `output_dir`, or settings and data that do not go together.
        DataError, InputError, FeatureCacheError: as for `CIAOTrainer.train`.
        AdapterNotFoundError: the model has no adapter of a name.
        KeyboardInterrupt: on Ctrl-C; what was trained so far is in the adapters.

    Example:
        >>> import torch
        >>> from ciao_peft import CIAOConfig, CIAOTrainingArguments, get_ciao_model
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 8, 3), torch.nn.ReLU())
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
        >>> model = get_ciao_model(net, config, "0", input_size=(3, 16, 16))
        >>> model.add_adapter("1", config)
        >>> faces = [{"pixel_values": torch.rand(3, 16, 16), "labels": n % 2} for n in range(8)]
        >>> arguments = [CIAOTrainingArguments(seed=seed, max_steps=3, report_to="none") for seed in (0, 1)]
        >>> jobs = [AdapterJob(adapter_name=str(n), args=own) for n, own in enumerate(arguments)]
        >>> {name: training.output.global_step for name, training in train_adapters(model, jobs, faces).items()}
        {'0': 3, '1': 3}
    """
    jobs = _checked(jobs)
    names = [job.adapter_name for job in jobs]
    trainers = [
        CIAOTrainer(model, job.args, job.adapter_name, compute_metrics=job.compute_metrics, on_log=job.on_log)
        for job in jobs
    ]
    if eval_dataset is None and any(job.eval_labels is not None for job in jobs):
        raise TrainingError("`eval_labels` are those of an evaluation dataset: give `eval_dataset` as well.")
    views = {trainer.args.views for trainer in trainers}
    stored = (
        _stored(trainers, train_dataset, "train_dataset", views.pop()) if len(views) == 1 else train_dataset,
        _stored(trainers, eval_dataset, "eval_dataset", 0),
    )
    asked = [trainer.args for trainer in trainers]
    for trainer in trainers:
        if isinstance(stored[0], FeatureDataset):  # else each chooses by itself what was left out
            trainer.args = trainer.args.completed(len(stored[0]), stored[0].views)
    todo = [
        _Todo(trainer, _with_labels(stored[0], job, "labels"), _with_labels(stored[1], job, "eval_labels"))
        for trainer, job in zip(trainers, jobs, strict=True)
    ]
    results: dict[str, AdapterTraining] = {}
    for places in sorted_alike([each.kind() for each in todo]):
        own = [todo[place] for place in places]
        results |= _trained_together(model, own) if len(own) > 1 else {own[0].trainer.adapter_name: own[0].train()}
    for trainer, args in zip(trainers, asked, strict=True):
        trainer.args = args  # what was left out, the next training chooses for its own data
    return {name: results[name] for name in names}


def _checked(jobs: Any) -> list[AdapterJob]:
    """The jobs, each of an adapter and an `output_dir` of its own."""
    of_jobs = isinstance(jobs, Iterable) and not isinstance(jobs, (str, bytes, Mapping))
    given: list[Any] = [*cast("Iterable[Any]", jobs)] if of_jobs else [jobs]
    must = "`jobs` must have one `AdapterJob` for each adapter that is trained;"
    if not given:
        raise TrainingError(f"{must} got none.")
    for job in given:
        if not of_jobs or not isinstance(job, AdapterJob):
            raise TrainingError(f"{must} give a list of them; got {quoted(job)}.")
        check_adapter_name(job.adapter_name)
    own: list[AdapterJob] = given
    if twice := _repeated([job.adapter_name for job in own]):
        raise TrainingError(f"{must} got several for {listed(twice)}.")
    folders = [job.args.output_dir for job in own if isinstance(job.args, CIAOTrainingArguments)]
    if twice := _repeated([str(local_path(folder)) for folder in folders if folder is not None]):
        raise TrainingError(f"Every job needs an `output_dir` of its own; got {listed(twice)} for several.")
    return own


def _repeated(values: Sequence[str]) -> list[str]:
    return sorted({value for value in values if values.count(value) > 1})


def trains_at_once() -> bool:
    """Whether `train_adapters` runs alike trainings in one loop on the device that this process trains on.

    Example:
        >>> import torch
        >>> trains_at_once() == torch.cuda.is_available()
        True
    """
    return is_stacked_on(make_apart(CIAOTrainingArguments(report_to="none"))[0].device)


@dataclass(frozen=True)
class _Todo:
    """A training that is to be done.

    Args:
        trainer: Of the adapter.
        data, eval_data: What it is trained and evaluated on, with its own labels.
    """

    trainer: CIAOTrainer
    data: Any
    eval_data: Any

    def kind(self) -> Hashable | None:
        """As `alike` says it; trainings on anything but stored features are like no other."""
        stored = [data for data in (self.data, self.eval_data) if data is not None]
        if not all(isinstance(data, FeatureDataset) for data in stored):
            return None
        labels = [check_labels_of(data, self._config, "the dataset") for data in stored]
        return alike(self.trainer, labels[0]) if is_stacked_on(self.trainer.accelerator.device) else None

    def train(self) -> AdapterTraining:
        """Trains it by itself."""
        result = AdapterTraining(trainer=self.trainer)
        try:
            result.output = self.trainer.train(self.data, self.eval_data)
        except DivergenceError as error:
            result.error = error
        return result

    def member(self, like: BatchDataset | None, eval_like: BatchDataset | None) -> Member:
        """The training as one of several in a loop, checked as `CIAOTrainer.train` checks it.

        Args:
            like, eval_like: The same data as another member of the loop reads them.
        """
        evaluates = self.eval_data is not None and self.trainer.args.eval_strategy != "no"
        source = self._source(self.data, "train_dataset", like, self.trainer.args.views)
        eval_source = self._source(self.eval_data, "eval_dataset", eval_like, 0) if evaluates else None
        args, accelerator = self.trainer.args, self.trainer.accelerator
        check_training_data(source, self._config, batch_size_of(args), accelerator)
        check_what_trains_the_mask(self.trainer._job(args))
        return Member(self.trainer, source, eval_source)

    def _source(self, data: Any, name: str, like: BatchDataset | None, views: int | None) -> BatchDataset:
        if like is None:
            return self.trainer._source(data, name, True, views=views)
        labels = check_labels_of(data, self._config, name)
        return BatchDataset(like.data, labels, like.include_excitation, views=like.views, depths=like.depths)

    @property
    def _config(self) -> CIAOConfig:
        return self.trainer.config


def _trained_together(model: CIAOModel, todo: Sequence[_Todo]) -> dict[str, AdapterTraining]:
    for each in todo:
        each.trainer.check_evaluations(each.eval_data)
    with ExitStack() as contexts:
        contexts.enter_context(random_state_kept())
        for each in todo:
            contexts.enter_context(each.trainer._in_training())
        model.to(todo[0].trainer.accelerator.device)
        members: list[Member] = []
        eval_like: BatchDataset | None = None
        for each in todo:
            members.append(each.member(members[0].source if members else None, eval_like))
            eval_like = eval_like or members[-1].eval_source
        for member in members:
            member.trainer._before_first_update(member.source, batch_size_of(member.args))
        settings = [member.settings for member in members]
        members.sort(key=lambda member: settings.index(member.settings))
        StackedLoop(model, members).run()
    return {member.name: member.result for member in members if member.result is not None}


def _stored(trainers: Sequence[CIAOTrainer], dataset: Any, name: str, views: int | None) -> Any:
    """A dataset with its features stored once for all trainings, where they can share them; else as it is."""
    configs = [trainer.config for trainer in trainers]
    shares = len({(own.target_modules, own.depths, own.depth_grid, own.frames) for own in configs}) == 1
    if (
        dataset is None
        or len(trainers) == 1
        or isinstance(dataset, FeatureDataset)
        or not shares
        or any(config.tuning == "full" for config in configs)
    ):
        return dataset
    data = trainers[0]._source(dataset, name, True, views=views).data
    return data if isinstance(data, FeatureDataset) else dataset


def _with_labels(data: Any, job: AdapterJob, name: str) -> Any:
    labels: Any = getattr(job, name)
    if labels is None:
        return data
    if not isinstance(labels, Tensor) or not labels.ndim:
        raise TrainingError(
            f"`{name}` of the job for {job.adapter_name!r} must be a tensor with a row for each sample; got "
            f"{quoted(labels)}. Try `torch.as_tensor(labels)`."
        )
    if not isinstance(data, FeatureDataset):
        raise TrainingError(
            f"`{name}` of the job for {job.adapter_name!r} needs stored features, of which there are none here; give "
            "what `cache_features` returned."
        )
    if len(labels) != len(data):
        raise TrainingError(
            f"`{name}` of the job for {job.adapter_name!r} has {len(labels)} rows for {len(data)} samples."
        )
    own = data.with_labels(labels)
    own.label_names = None  # those were of the other labels
    return own
