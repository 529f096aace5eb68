"""Learners that train the adapter itself: naively, with rehearsal, or held back by what was learned before."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...adapters import Adapter
from ...features import model_key
from ...model import CIAOModel
from ...online import Faces, FeatureMemory, distillation_loss
from .learner import Learner

__all__ = ["ElasticWeights", "GradientSettings", "LearningWithoutForgetting", "Naive", "Rehearsal"]

TEACHER = "before"


@dataclass(frozen=True, kw_only=True)
class GradientSettings:
    """How a learner trains.

    Args:
        learning_rate: Of the head, and of everything else that the adapter trains.
        steps: Updates for each batch that arrives.
        strength: What the penalty counts against the task loss; 0 for learners without one.
        memory_bytes: What rehearsal may keep.
        replayed: Samples of the memory beside each batch.
        seed: Of what rehearsal keeps and replays, and of EWC's draws.
    """

    learning_rate: float = 1e-3
    steps: int = 5
    strength: float = 0.0
    memory_bytes: int = 200_000
    replayed: int = 32
    seed: int = 0


class Naive(Learner):
    """Trains on what arrives by cross-entropy, and on nothing else.

    Args:
        model, adapter_name: As for `Learner`. The adapter is changed in place.
        settings: How it trains, with AdamW.

    Shapes:
        As for `Learner`: features `(B, ...)` each, labels `(B,)`.

    Example:
        >>> from torch import nn
        >>> from ciao_peft import CIAOConfig, get_ciao_model
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU())
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=3, hidden_sizes=())
        >>> model = get_ciao_model(net, config, input_size=(3, 8, 8))
        >>> learner = Naive(model, "default", GradientSettings(learning_rate=0.01, steps=20))
        >>> features = (torch.rand(5, 8, 6, 6),)
        >>> learner.observe(features, torch.full((5,), 2))
        >>> learner.predict(features).tolist()
        [2, 2, 2, 2, 2]
    """

    settings: GradientSettings

    def __init__(self, model: CIAOModel, adapter_name: str, settings: GradientSettings):
        super().__init__(model, adapter_name)
        self.settings = settings
        self.adapter: Adapter = model.adapters[adapter_name]
        self.adapter.set_trainable(True)
        self.trained: list[torch.nn.Parameter] = [p for p in self.adapter.parameters() if p.requires_grad]
        self.chance = torch.Generator().manual_seed(settings.seed)
        self._optimizer = torch.optim.AdamW(self.trained, lr=settings.learning_rate, weight_decay=0.0)

    def observe(self, features: Sequence[Tensor], labels: Tensor) -> None:
        """Makes its updates on them.

        Args:
            features, labels: As for `Learner.observe`.
        """
        features = [tensor.float() for tensor in features]
        for _ in range(self.settings.steps):
            rows, wanted = self.batch(features, labels)
            logits = self.logits(rows)
            loss = F.cross_entropy(logits, wanted) + self.penalty(rows, logits)
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()

    def batch(self, features: Sequence[Tensor], labels: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        """What one update is made on.

        Args:
            features, labels: What arrived.
        """
        return features, labels

    def penalty(self, features: Sequence[Tensor], logits: Tensor) -> Tensor:
        """What is added to the task loss: a scalar.

        Args:
            features: What the update is made on.
            logits: The adapter's answer, `(B, num_labels)`.
        """
        return logits.new_zeros(())

    def logits(self, features: Sequence[Tensor]) -> Tensor:
        """The adapter's answer with its gradients, `(B, num_labels)`.

        Args:
            features: As for `Learner`.
        """
        self.model.set_adapter(self.adapter_name)
        return self.model(features=features).logits


class Rehearsal(Naive):
    """Experience replay (Chaudhry et al. 2019): a reservoir of all that came is replayed beside each batch.

    Args:
        model, adapter_name, settings: As for `Naive`.

    Attributes:
        memory: A reservoir of features in float16, with nothing held apart.

    Shapes:
        As for `Learner`: features `(B, ...)` each, labels `(B,)`.

    Example:
        >>> from torch import nn
        >>> from ciao_peft import CIAOConfig, get_ciao_model
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU())
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=3, hidden_sizes=())
        >>> model = get_ciao_model(net, config, input_size=(3, 8, 8))
        >>> learner = Rehearsal(model, "default", GradientSettings(memory_bytes=1500))
        >>> learner.observe((torch.rand(5, 8, 6, 6),), torch.arange(5) % 3)
        >>> len(learner.memory), learner.memory_bytes  # 2 * (2 * 8 * 6 * 6 + 12 + 73) + 3 * 8
        (2, 1346)
    """

    memory: FeatureMemory

    def __init__(self, model: CIAOModel, adapter_name: str, settings: GradientSettings):
        super().__init__(model, adapter_name, settings)
        self.memory = FeatureMemory(settings.memory_bytes, policy="reservoir", held_share=0.0, seed=settings.seed)
        self._key = model_key(model)

    def begin(self, features: Sequence[Tensor], labels: Tensor) -> None:
        """Keeps some of what the adapter was trained on.

        Args:
            features, labels: As for `Learner.begin`.
        """
        self._keep(features, labels)

    def observe(self, features: Sequence[Tensor], labels: Tensor) -> None:
        """Makes its updates on them and on what it kept, then keeps some of them.

        Args:
            features, labels: As for `Learner.observe`.
        """
        super().observe(features, labels)
        self._keep(features, labels)

    def batch(self, features: Sequence[Tensor], labels: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        """What arrived, and as much of what was kept as `replayed` says.

        Args:
            features, labels: What arrived.
        """
        count = min(self.settings.replayed, len(self.memory))
        if not count:
            return features, labels
        old = self.memory.draw(count, self.chance)
        rows = [torch.cat([new, kept.float()]) for new, kept in zip(features, old.tensors, strict=True)]
        return rows, torch.cat([labels, old.labels.argmax(dim=1)])

    def _keep(self, features: Sequence[Tensor], labels: Tensor) -> None:
        config = self.adapter.config
        rows = F.one_hot(labels, config.num_labels).float()
        self.memory.add(Faces(tuple(features), rows), config, self._key)
        self.memory_bytes = self.memory.nbytes


class ElasticWeights(Naive):
    r"""Online EWC (Kirkpatrick et al. 2017; Schwarz et al. 2018): parameters that mattered are held where they were.

    $$L + \tfrac{\lambda}{2} \sum_i F_i (\theta_i - \theta_i^*)^2, \quad F \leftarrow 0.95 F + F_{\text{new}}$$

    F is the diagonal of the Fisher information: mean squares of the gradients of log p of a class that is drawn from
    the adapter's own answer. It is told when an experience is over, and reads all of it once more then.

    Args:
        model, adapter_name, settings: As for `Naive`; `strength` is λ.

    Shapes:
        As for `Learner`: features `(B, ...)` each, labels `(B,)`.

    Example:
        >>> from torch import nn
        >>> from ciao_peft import CIAOConfig, get_ciao_model
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU())
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=3, hidden_sizes=())
        >>> model = get_ciao_model(net, config, input_size=(3, 8, 8))
        >>> learner = ElasticWeights(model, "default", GradientSettings(strength=10.0))
        >>> learner.finish((torch.rand(5, 8, 6, 6),), torch.arange(5) % 3)
        >>> learner.penalty((), torch.zeros(1)).item()  # nothing has moved yet
        0.0
    """

    decay = 0.95
    most = 64

    def __init__(self, model: CIAOModel, adapter_name: str, settings: GradientSettings):
        super().__init__(model, adapter_name, settings)
        self.fisher: list[Tensor] | None = None
        self.anchor: list[Tensor] = []

    def begin(self, features: Sequence[Tensor], labels: Tensor) -> None:
        """Holds what the adapter learned before the stream.

        Args:
            features, labels: As for `Learner.begin`.
        """
        self.finish(features, labels)

    def finish(self, features: Sequence[Tensor], labels: Tensor) -> None:
        """Measures which parameters matter now, and holds all where they are.

        Args:
            features, labels: As for `Learner.finish`; at most 64 samples of them are read.
        """
        rows = torch.randperm(len(labels), generator=self.chance)[: self.most].tolist()
        found = [torch.zeros_like(parameter) for parameter in self.trained]
        for row in rows:
            logits = self.logits([tensor[row : row + 1].float() for tensor in features])
            drawn = torch.multinomial(logits.detach().softmax(dim=1), 1, generator=self.chance)[0]
            gradients = torch.autograd.grad(F.cross_entropy(logits, drawn), self.trained, allow_unused=True)
            for total, gradient in zip(found, gradients, strict=True):
                if gradient is not None:
                    total += gradient.square() / len(rows)
        before = self.fisher or [torch.zeros_like(one) for one in found]
        self.fisher = [self.decay * old + new for old, new in zip(before, found, strict=True)]
        self.anchor = [parameter.detach().clone() for parameter in self.trained]
        self.memory_bytes = 8 * sum(one.numel() for one in found)

    def penalty(self, features: Sequence[Tensor], logits: Tensor) -> Tensor:
        """How far the parameters that matter have moved.

        Args:
            features, logits: As for `Naive.penalty`.
        """
        if self.fisher is None:
            return logits.new_zeros(())
        parts = zip(self.fisher, self.trained, self.anchor, strict=True)
        moved = torch.stack([(fisher * (now - then).square()).sum() for fisher, now, then in parts]).sum()
        return 0.5 * self.settings.strength * moved


class LearningWithoutForgetting(Naive):
    r"""LwF (Li & Hoiem 2017): on what arrives, the adapter answers for the old classes as it did before the experience.

    $$L + \lambda T^2 \, \mathrm{KL}\left( p^{(T)}_{\text{before}} \,\|\, p^{(T)} \right), \quad T = 2$$

    Both distributions are over the classes that were there before the experience.

    Args:
        model, adapter_name, settings: As for `Naive`; `strength` is λ. The adapter before is kept as `before`.

    Shapes:
        As for `Learner`: features `(B, ...)` each, labels `(B,)`.

    Example:
        >>> from torch import nn
        >>> from ciao_peft import CIAOConfig, get_ciao_model
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU())
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=3, hidden_sizes=())
        >>> model = get_ciao_model(net, config, input_size=(3, 8, 8))
        >>> learner = LearningWithoutForgetting(model, "default", GradientSettings(strength=1.0))
        >>> features = (torch.rand(5, 8, 6, 6),)
        >>> learner.finish(features, torch.tensor([0, 1, 0, 1, 0]))
        >>> bool(learner.penalty(features, learner.logits(features)).abs() < 1e-6)  # it answers as it did
        True
    """

    temperature = 2.0

    def __init__(self, model: CIAOModel, adapter_name: str, settings: GradientSettings):
        super().__init__(model, adapter_name, settings)
        self.seen: set[int] = set()

    def begin(self, features: Sequence[Tensor], labels: Tensor) -> None:
        """Takes the adapter as it is for what to answer.

        Args:
            features, labels: As for `Learner.begin`.
        """
        self.finish(features, labels)

    def finish(self, features: Sequence[Tensor], labels: Tensor) -> None:
        """Takes the adapter as it is for what to answer from now on.

        Args:
            features, labels: As for `Learner.finish`.
        """
        self.seen |= set(labels.tolist())
        if TEACHER not in self.model.adapters:
            self.model.add_adapter(TEACHER, self.adapter.config)
        self.model.adapters[TEACHER].load_tensors(copy.deepcopy(self.adapter.state_dict()))
        self.memory_bytes = 4 * sum(tensor.numel() for tensor in self.adapter.state_dict().values())

    def penalty(self, features: Sequence[Tensor], logits: Tensor) -> Tensor:
        """How far the answers for the old classes are from those before.

        Args:
            features, logits: As for `Naive.penalty`.
        """
        if len(self.seen) < 2:
            return logits.new_zeros(())
        old = sorted(self.seen)
        with torch.no_grad():
            before = self.model.read(features=features, adapter_names=[TEACHER])[TEACHER][:, old]
        apart = distillation_loss(logits[:, old], before, self.adapter.config, self.temperature)
        return self.settings.strength * apart
