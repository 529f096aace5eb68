"""A training as its loop sees it: what is trained, with which settings, and who is told."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ..config import CIAOConfig
from ..errors import TrainingError
from ..model import CIAOModel
from .arguments import CIAOTrainingArguments
from .checkpoint import AdapterCheckpoints
from .loader import BatchDataset
from .unlabelled import Unlabelled

if TYPE_CHECKING:
    from accelerate import Accelerator


class LogitsAndEmbeddings(nn.Module):
    """A model as `DistributedDataParallel` and mixed precision wrap it: what they change is this, not the user's model.

    Args:
        model: Reads with an adapter.
        adapter_name: Which; the active one of each moment when left out.

    Shapes:
        Takes what `CIAOModel.forward` takes; returns logits `(B, num_labels)` and embeddings z `(B, D)`, and behind
        them the learned prototypes `(num_labels, D)`, where the adapter has some.

    Example:
        >>> import torch
        >>> from ciao_peft import get_ciao_model
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        >>> config = CIAOConfig(problem_type="regression", num_labels=1, hidden_sizes=(8,))
        >>> reader = LogitsAndEmbeddings(get_ciao_model(net, config, input_size=(3, 8, 8)))
        >>> logits, z = reader(pixel_values=torch.rand(2, 3, 8, 8))
        >>> logits.shape, z.shape  # z has 4 channels of 6 x 6 positions
        (torch.Size([2, 1]), torch.Size([2, 144]))
    """

    model: CIAOModel
    adapter_name: str | None

    def __init__(self, model: CIAOModel, adapter_name: str | None = None):
        super().__init__()
        self.model, self.adapter_name = model, adapter_name
        self._compiled: tuple[Any, ...] = ()  # no module of this one: it wraps the model

    def compile_model(self, backend: str) -> None:
        """Reads with what `torch.compile` makes of the model; the model itself stays as it is.

        Args:
            backend: Of `torch.compile`.
        """
        self._compiled = (torch.compile(self.model, backend=backend, dynamic=False),)

    def forward(self, **inputs: Any) -> tuple[Tensor, ...]:
        own = nullcontext() if self.adapter_name is None else self.model.reading_with(self.adapter_name)
        with own:
            output = (self._compiled[0] if self._compiled else self.model)(**inputs)
            prototypes = self.model.adapters[self.model.resolve_adapter()].head.prototypes
        # Handed on, so that processes average their gradients as they do those of all that answers.
        return (output.logits, output.embeddings, *(() if prototypes is None else (prototypes,)))


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a `TrainingLoop` trains, and with what. `CIAOTrainer` makes one for each `train`.

    Args:
        name: What bars and trackers call it.
        module: Holds what is trained; its `config` is the `CIAOConfig` that the losses follow.
        reader: Holds `module`, and answers `pixel_values=` or `features=` with logits and embeddings z.
        parameter_groups: What is trained, by part: `mask`, `encoder` and `head` have their own learning rates.
        args: Settings.
        accelerator: Device, processes and precision.
        evaluate: From evaluation data to scores, with `eval_` before their names; needed where the loop is given
            evaluation data.
        on_log: Called with every entry of the log.
        before_first_update: Called once with the training data and the size of a batch over all processes, where
            training does not go on from a checkpoint.
        around_update: Makes the context of each update, which puts what is trained into training mode; where it is
            left out, `reader.train()` is called once.
        before_update: Called when the gradients of an update are there.
        callbacks: Objects with methods of transformers' `TrainerCallback`; see `Callbacks`.
        checkpoints: Saves and loads; where it is left out, `args.output_dir` must be None.

    Shapes:
        `reader` takes `pixel_values` `(B, C, H, W)` or `features`, and returns logits `(B, num_labels)` and z `(B, D)`.

    Example:
        >>> from ciao_peft import get_ciao_model
        >>> from ciao_peft.trainer import make_accelerator
        >>> config = CIAOConfig(problem_type="regression", num_labels=1)
        >>> model = get_ciao_model(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), config, input_size=(3, 8, 8))
        >>> args = CIAOTrainingArguments(report_to="none")
        >>> job = Job(
        ...     name="faces",
        ...     module=model.adapters["default"],
        ...     reader=LogitsAndEmbeddings(model),
        ...     parameter_groups=model.adapter_parameters("default"),
        ...     args=args,
        ...     accelerator=make_accelerator(args),
        ... )
        >>> job.config.num_labels
        1
    """

    name: str
    module: nn.Module
    reader: nn.Module
    parameter_groups: Mapping[str, list[nn.Parameter]]
    args: CIAOTrainingArguments
    accelerator: Accelerator
    evaluate: Callable[[BatchDataset], dict[str, float]] | None = None
    on_log: Callable[[dict[str, Any]], None] | None = None
    before_first_update: Callable[[BatchDataset, int], None] | None = None
    around_update: Callable[[], AbstractContextManager[None]] | None = None
    before_update: Callable[[], None] | None = None
    callbacks: Sequence[Any] = ()
    checkpoints: AdapterCheckpoints | None = None

    @property
    def config(self) -> CIAOConfig:
        """Settings of the losses, as they are now: calibration notes in them where `a` starts."""
        return cast("CIAOConfig", self.module.config)  # torch says Tensor | Module for every attribute


def check_what_trains_the_mask(job: Job) -> None:
    """Refuses settings under which no loss would train the mask or the adapter's own copies of the encoder.

    Raises:
        TrainingError: so do `task_loss_trains`, `contrastive_weight` and `two_steps` together; or `two_steps` was asked
            of several processes.
    """
    config = job.config
    has_only_a_head = config.tuning == "decision_layer" and not config.inhibition and not config.excitation_rank
    if config.task_loss_trains == "head" and config.contrastive_weight == 0 and not has_only_a_head:
        raise TrainingError(
            "With `task_loss_trains='head'` and a `contrastive_weight` of 0, nothing would train the mask or own "
            "copies of the encoder. Set one of the two to another value."
        )
    if not job.args.two_steps:
        return
    if config.contrastive_weight == 0 or has_only_a_head:
        raise TrainingError(
            "With `two_steps` the contrastive loss trains all but the head: that needs a `contrastive_weight` "
            "above 0, and a mask or own copies of the encoder."
        )
    if config.contrastive_prototypes == "learned":
        raise TrainingError(
            "With `two_steps` the head learns from the task loss alone, and the prototypes in it would stay where they "
            "are; take contrastive_prototypes='simplex', which are meant to."
        )
    if job.accelerator.num_processes > 1:
        raise TrainingError("`two_steps` trains in one process; leave it out, or start one.")


def what_it_is_made_of(job: Job, source: BatchDataset, unlabelled: Unlabelled | None = None) -> dict[str, Any]:
    """What decides the result of a training; one that goes on from a checkpoint must have the same.

    Args:
        job: With `checkpoints`, whose model says which backbone it is.
        source: The training data.
        unlabelled: What is learned from pictures without labels, if any.

    Returns:
        Plain data for `trainer_state.json`.

    Raises:
        TrainingError: the job has no checkpoints.
    """
    if job.checkpoints is None:
        raise TrainingError(f"The training of {job.name!r} has no checkpoints to remember what it is made of.")
    return {
        "num_processes": job.accelerator.num_processes,
        "num_samples": len(source),
        "labels": zlib.crc32(source.known_labels.contiguous().numpy().tobytes()),
        "inputs": source.kind,
        "precision": str(job.accelerator.mixed_precision),
        "backbone": job.checkpoints.model.backbone_signature(),
        "arguments": job.args.weight_settings(),
        **({} if unlabelled is None else {"unlabelled": unlabelled.record()}),
    }
