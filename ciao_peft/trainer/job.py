"""A training as its loop sees it: what is trained, with which settings, and who is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..config import CIAOConfig
from ..model import CIAOModel
from .arguments import CIAOTrainingArguments
from .checkpoint import AdapterCheckpoints
from .loader import BatchDataset

if TYPE_CHECKING:
    from accelerate import Accelerator


class LogitsAndEmbeddings(nn.Module):
    """A model as `DistributedDataParallel` and mixed precision wrap it: what they change is this, not the user's model.

    Args:
        model: Reads with its active adapter.

    Shapes:
        What `CIAOModel.forward` takes; returns logits `(B, num_labels)` and embeddings z `(B, D)`.
    """

    def __init__(self, model: CIAOModel):
        super().__init__()
        self.model = model

    def forward(self, **inputs: Any) -> tuple[Tensor, Tensor]:
        output = self.model(**inputs)
        return output.logits, output.embeddings


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a `TrainingLoop` trains, and with what.

    Args:
        name: In bars and trackers.
        module: Holds what is trained; its `config` is the `CIAOConfig` that the losses follow.
        reader: Holds `module`, and answers `pixel_values=` or `features=` with logits and embeddings z.
        parameter_groups: What is trained, by part: `mask`, `encoder` and `head` have their own learning rates.
        args: Settings.
        accelerator: Device, processes and precision.
        evaluate: From evaluation data to scores, with `eval_` before their names.
        on_log: Called with every entry of the log.
        before_first_update: Called once with the training data and the size of a batch over all processes, where
            training does not go on from a checkpoint.
        before_update: Called when the gradients of an update are there.
        checkpoints: Saves and loads; where it is left out, `args.output_dir` must be None.
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
    before_update: Callable[[], None] | None = None
    checkpoints: AdapterCheckpoints | None = None

    @property
    def config(self) -> CIAOConfig:
        """Settings of the losses, as they are now: calibration notes in them where `a` starts."""
        return self.module.config
