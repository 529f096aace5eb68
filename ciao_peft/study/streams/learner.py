"""What every learner of a stream can do, and those that count instead of training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...config import CIAOConfig
from ...features import FeatureDataset
from ...model import CIAOModel
from .means import NearestMean

__all__ = ["CountingLearner", "Learner", "Untouched", "frozen_vectors"]

FROZEN = "frozen-map"


class Learner:
    """Learns from a stream, a few samples at a time, and answers at any time. This one never learns.

    Args:
        model: On whose frozen encoder it reads.
        adapter_name: The adapter it answers with.

    Attributes:
        memory_bytes: What it keeps of the stream besides its own adapter, in bytes.

    Shapes:
        features: One tensor `(B, ...)` for each place where the cut is crossed, as `model.extract_features` gives them.

    Example:
        >>> from torch import nn
        >>> from ciao_peft import get_ciao_model
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU())
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=3)
        >>> learner = Learner(get_ciao_model(net, config, input_size=(3, 8, 8)), "default")
        >>> learner.predict((torch.rand(5, 8, 6, 6),)).shape
        torch.Size([5])
    """

    model: CIAOModel
    adapter_name: str
    memory_bytes: int = 0

    def __init__(self, model: CIAOModel, adapter_name: str):
        self.model = model.eval()
        self.adapter_name = adapter_name

    def know(self, known: FeatureDataset) -> None:
        """Takes note of what the adapter was trained on before the stream; called before all else.

        Args:
            known: Features with their classes; `begin` is given them in parts, in their order.
        """
        assert known.labels is not None
        for first in range(0, len(known), 512):
            rows = range(first, min(first + 512, len(known)))
            self.begin(known.features(rows, include_excitation=False), known.labels[list(rows)])

    def begin(self, features: Sequence[Tensor], labels: Tensor) -> None:
        """Takes note of a part of what the adapter was trained on before the stream.

        Args:
            features: Of some samples.
            labels: Their classes, `(B,)`.
        """

    def observe(self, features: Sequence[Tensor], labels: Tensor) -> None:
        """Learns from the samples that arrive next; they do not come again.

        Args:
            features: Of a few samples.
            labels: Their classes, `(B,)`.
        """

    def finish(self, features: Sequence[Tensor], labels: Tensor) -> None:
        """Is told that an experience is over; only methods that are defined by tasks make use of it.

        Args:
            features: Of all samples of the experience.
            labels: Their classes, `(N,)`.
        """

    @torch.no_grad()
    def predict(self, features: Sequence[Tensor]) -> Tensor:
        """Answers with a class for each sample, `(B,)`.

        Args:
            features: Of any number of samples.
        """
        halves = [tensor.float() for tensor in features]
        return self.model.read(features=halves, adapter_names=[self.adapter_name])[self.adapter_name].argmax(dim=1)


class Untouched(Learner):
    """The adapter as it is before the stream: what learning nothing reaches.

    Args:
        model, adapter_name: As for `Learner`.
    """


class CountingLearner(Learner):
    """A classifier of means on the encoder's own last map, averaged over squares of it; no adapter takes part.

    Args:
        model: On whose frozen encoder it reads.
        classifier: Counts; its size is that of `frozen_vectors` with this grid.
        grid: Squares in each direction.

    Shapes:
        As for `Learner`: features `(B, ...)` each, labels `(B,)`.

    Example:
        >>> from torch import nn
        >>> from ciao_peft import get_ciao_model
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU())
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=3)
        >>> model = get_ciao_model(net, config, input_size=(3, 8, 8))
        >>> learner = CountingLearner(model, NearestMean(num_labels=3, size=16 * 2 * 2), grid=2)
        >>> learner.observe((torch.rand(5, 8, 6, 6),), torch.tensor([1, 1, 2, 1, 1]))
        >>> set(learner.predict((torch.rand(20, 8, 6, 6),)).tolist()) <= {1, 2}
        True
    """

    classifier: NearestMean
    grid: int

    def __init__(self, model: CIAOModel, classifier: NearestMean, grid: int):
        super().__init__(model, FROZEN)
        self.classifier = classifier
        self.grid = grid

    def begin(self, features: Sequence[Tensor], labels: Tensor) -> None:
        """Counts samples that were there before.

        Args:
            features, labels: As for `Learner.begin`.
        """
        self.observe(features, labels)

    def observe(self, features: Sequence[Tensor], labels: Tensor) -> None:
        """Counts them.

        Args:
            features, labels: As for `Learner.observe`.
        """
        self.classifier.add(frozen_vectors(self.model, features, self.grid), labels)
        self.memory_bytes = self.classifier.memory_bytes

    def predict(self, features: Sequence[Tensor]) -> Tensor:
        """Answers with the class of the best score, `(B,)`; before anything was counted, with the first.

        Args:
            features: As for `Learner.predict`.
        """
        return self.classifier.scores(frozen_vectors(self.model, features, self.grid)).argmax(dim=1)


@torch.no_grad()
def frozen_vectors(model: CIAOModel, features: Sequence[Tensor], grid: int) -> Tensor:
    """The encoder's own last map, without any mask, averaged over `grid` x `grid` squares; `(B, C * grid * grid)`.

    Each vector is scaled to unit length.

    Args:
        model: An adapter without a mask is added to it, as `frozen-map`.
        features: As for `Learner`.
        grid: Squares in each direction.

    Example:
        >>> from torch import nn
        >>> from ciao_peft import get_ciao_model
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU())
        >>> config = CIAOConfig(problem_type="regression", num_labels=1)
        >>> model = get_ciao_model(net, config, input_size=(3, 8, 8))
        >>> frozen_vectors(model, (torch.rand(5, 8, 6, 6),), grid=1).shape
        torch.Size([5, 16])
    """
    active = model.active_adapter
    if FROZEN not in model.adapters:
        bare = CIAOConfig(problem_type="regression", num_labels=1, inhibition=False, pooling="flatten", hidden_sizes=())
        model.add_adapter(FROZEN, bare)
    model.set_adapter(FROZEN)
    try:
        seen = model(features=[tensor.float() for tensor in features]).embeddings
        maps = seen.unflatten(1, model.opened.map_shape)
    finally:
        if active is not None:
            model.set_adapter(active)
    return F.normalize(F.adaptive_avg_pool2d(maps, grid).flatten(1), dim=1)
