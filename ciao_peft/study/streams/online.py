"""`OnlineTrainer` as a learner of streams."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...features import FeatureDataset
from ...model import CIAOModel
from ...online import FeatureMemory, OnlineArguments, OnlineTrainer
from .learner import Learner

__all__ = ["Online"]


class Online(Learner):
    """Learns as this library does on the job; knows neither experiences nor their ends.

    Args:
        model, adapter_name: As for `Learner`. The adapter is changed in place.
        memory: Empty; it is filled from what is known before the stream.
        args: Settings; those of `OnlineArguments()` when left out.

    Attributes:
        undone: Updates that the guard did not keep.

    Shapes:
        As for `Learner`: features `(B, ...)` each, labels `(B,)`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from ciao_peft import CIAOConfig, get_ciao_model
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU())
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=3, hidden_sizes=())
        >>> model = get_ciao_model(net, config, input_size=(3, 8, 8))
        >>> learner = Online(model, "default", FeatureMemory(10_000), OnlineArguments(allow_one_class=True))
        >>> features = (torch.rand(5, 8, 6, 6),)
        >>> learner.observe(features, torch.full((5,), 2))
        >>> learner.predict(features).tolist(), learner.memory_bytes <= 10_000
        ([2, 2, 2, 2, 2], True)
    """

    undone: int

    def __init__(
        self, model: CIAOModel, adapter_name: str, memory: FeatureMemory, args: OnlineArguments | None = None
    ) -> None:
        super().__init__(model, adapter_name)
        self.trainer: OnlineTrainer = OnlineTrainer(model, adapter_name, memory=memory, args=args)
        self.undone = 0

    def know(self, known: FeatureDataset) -> None:
        """Fills the memory.

        Args:
            known: As for `Learner.know`.
        """
        self.trainer.memory.fill(self.model, known, self.adapter_name)
        self.memory_bytes = self.trainer.memory.nbytes

    def observe(self, features: Sequence[Tensor], labels: Tensor) -> None:
        """Makes one update.

        Args:
            features, labels: As for `Learner.observe`.
        """
        found = self.trainer.update([tensor.float() for tensor in features], labels)
        self.undone += not found.kept
        self.memory_bytes = self.trainer.memory.nbytes
