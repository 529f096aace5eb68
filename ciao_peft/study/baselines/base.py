"""What all baselines share: a frozen copy of the encoder, adapted in places, and a decision head on its final map."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...backbone import (
    CutBackbone,
    HookedBackbone,
    Rooted,
    check_features,
    check_pixels,
    is_normalisation,
    parameters_reaching_the_map,
)
from ...config import CIAOConfig
from ...errors import UntraceableBackboneError
from ...features import Augmentation
from ...heads import DecisionHead, pool_map
from ...preprocessing import Preprocessing

Adapt = Callable[[nn.Module], None]
"""Puts into a frozen copy of the encoder what is to be trained, and switches `requires_grad` of that on."""


class Trainee(nn.Module):
    """A module with logits as its answer, as `fit` trains it.

    Attributes:
        config: Kind of problem and settings of the head.

    Shapes:
        Takes `pixel_values` `(B, C, H, W)` or `features`; returns logits `(B, num_labels)`.

    Example:
        >>> class Mean(Trainee):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.head = nn.Linear(3, 1)
        ...
        ...     def forward(self, pixel_values):
        ...         return self.head(pixel_values.mean(dim=(2, 3)))
        >>> Mean().num_trained, [*Mean().parts()]
        (4, ['encoder', 'head'])
    """

    config: CIAOConfig

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """What is trained: `encoder` (what was put into it) and `head`, each with its own learning rate."""
        parts: dict[str, list[nn.Parameter]] = {"encoder": [], "head": []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                parts["head" if name.split(".")[0] == "head" else "encoder"].append(parameter)
        return parts

    @property
    def num_trained(self) -> int:
        """Numbers that training changes."""
        return sum(p.numel() for own in self.parts().values() for p in own)

    @property
    def num_stored(self) -> int:
        """Numbers to be stored in addition to the encoder, so that the module answers as it does now."""
        return self.num_trained

    @property
    def uses_excitation(self) -> bool:
        """Whether stored u of the frozen conv units is of use."""
        return True

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What pictures are prepared with, where the encoder says so."""
        return None

    def add_penalty(self) -> None:
        """Adds the gradients of a penalty on the weights to those of the loss; called once before each update."""

    def stages(self) -> Iterator[Trainee]:
        """The modules to train one after another; each takes the whole budget."""
        yield self

    def stored(self, dataset: Any, views: int = 1, augment: Augmentation | None = None) -> Any:
        """The dataset as training should read it, where something of it can be computed once.

        Args:
            dataset: Pictures or stored features.
            views: Views of each picture that are computed.
            augment: How they differ.
        """
        return dataset


class Baseline(Trainee):
    """A frozen copy of an encoder, what a baseline adds to it, and a head on its final map.

    The copy runs in eval mode, whatever `train()` says, as every backbone does here: statistics of batch norm stay
    those of the encoder.

    Args:
        cut: The encoder, opened where CIAO masks it. Copied; the encoder itself is never changed.
        config: Kind of problem, and the head's `pooling`, `hidden_sizes`, `dropout` and `init_seed`. What is about the
            mask and the contrastive loss does not count: a baseline learns from the task loss alone.
        adapt: What it changes in the copy; nothing when left out: then only the head learns.

    Shapes:
        features: as `CIAOModel.extract_features` gives them, or pixel_values: `(B, C, H, W)`; returns logits
            `(B, num_labels)`. Whatever is adapted before the cut has no effect on features.

    Raises:
        UntraceableBackboneError: the encoder could not be cut.

    Example:
        >>> from ciao_peft.backbone import open_backbone
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()).eval()
        >>> cut = open_backbone(net, (3, 16, 16))
        >>> baseline = Baseline(cut, CIAOConfig(problem_type="regression", num_labels=2, hidden_sizes=()))
        >>> baseline(pixel_values=torch.rand(4, 3, 16, 16)).shape, baseline.num_trained  # 16 x 12 x 12 x 2 + 2
        (torch.Size([4, 2]), 4610)
    """

    cut: CutBackbone
    rooted: Rooted
    head: DecisionHead

    def __init__(self, cut: CutBackbone | HookedBackbone, config: CIAOConfig, adapt: Adapt | None = None):
        super().__init__()
        self.cut = copy.deepcopy(check_cut(cut))
        self.config = task_loss_alone(config)
        self.rooted = self.cut.rooted.float().requires_grad_(False)
        if adapt is not None:
            adapt(self.rooted.backbone)
        self._trains_encoder = any(p.requires_grad for p in self.rooted.parameters())
        in_features = pool_map(torch.empty(1, *self.cut.map_shape, device="meta"), config.pooling).shape[1]
        positions = in_features // self.cut.map_shape[0]
        self.head = DecisionHead(in_features, self.config, positions=positions).to(
            next(self.rooted.parameters()).device
        )
        self.train(False)

    def train(self, mode: bool = True) -> Baseline:
        """Dropout of the head follows `mode`; the encoder stays in eval mode."""
        super().train(mode)
        self.rooted.eval()
        return self

    @property
    def uses_excitation(self) -> bool:
        """Stored u is that of the frozen units; an adapted unit has to compute its own."""
        return not self._trains_encoder

    @property
    def preprocessing(self) -> Preprocessing | None:
        """The encoder's own."""
        return Preprocessing.for_backbone(self.rooted.backbone)

    def feature_map(self, pixel_values: Tensor | None = None, features: Sequence[Tensor] | None = None) -> Tensor:
        """The final map of the adapted encoder, `(B, C, H, W)`."""
        if features is None:
            source: dict[str, Any] = {
                "pixel_values": check_pixels(pixel_values, self.cut.input_size, torch.float32),
            }
        else:
            shapes = self.cut.feature_shapes
            features = check_features(features, shapes, self.cut.excitation_shapes, torch.float32)
            source = {"features": features if self.uses_excitation else features[: len(shapes)]}
        requests = [(None, lambda index, unit_input, excitation: excitation())]
        return self.cut.run(self.rooted, requests, **source, train_encoder=self._trains_encoder)[0]

    def forward(self, pixel_values: Tensor | None = None, *, features: Sequence[Tensor] | None = None) -> Tensor:
        return self.head(pool_map(self.feature_map(pixel_values, features), self.config.pooling))[0].float()


def task_loss_alone(config: CIAOConfig) -> CIAOConfig:
    """The settings of an adapter without a mask, for what learns from the task loss and nothing else.

    Example:
        >>> config = CIAOConfig(problem_type="regression", num_labels=1)
        >>> task_loss_alone(config).inhibition, task_loss_alone(config).contrastive_weight
        (False, 0.0)
    """
    alone = {"inhibition": False, "excitation_rank": 0, "contrastive_weight": 0.0}
    return replace(config, **alone, tuning="decision_layer", task_loss_trains="all")


def check_cut(cut: CutBackbone | HookedBackbone) -> CutBackbone:
    """The opened encoder, if it is cut.

    Raises:
        UntraceableBackboneError: it could not be cut.

    Example:
        >>> from ciao_peft.backbone import open_backbone
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()).eval()
        >>> cut = open_backbone(net, (3, 16, 16))
        >>> check_cut(cut) is cut
        True
    """
    if not isinstance(cut, CutBackbone):
        raise UntraceableBackboneError(
            f"{type(cut.rooted.backbone).__name__} could not be cut in two ({cut.reason}), and baselines are put into "
            "the pieces of a cut. Compare with 'last convolution' and 'full' instead."
        )
    return cut


def reached_parameters(cut: CutBackbone) -> frozenset[str]:
    """Paths, within the encoder, of the parameters that the final map depends on; the encoder stays as it is.

    Example:
        >>> from ciao_peft.backbone import open_backbone
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()).eval()
        >>> cut = open_backbone(net, (3, 16, 16))
        >>> sorted(reached_parameters(cut))
        ['0.bias', '0.weight', '2.bias', '2.weight']
    """
    return parameters_reaching_the_map(cut, copy.deepcopy(cut.rooted.backbone).float().eval())


def convolutions(cut: CutBackbone, everywhere: bool) -> list[str]:
    """Paths of the convolutions that CIAO masks, or of all on the way to the final map.

    Example:
        >>> from ciao_peft.backbone import open_backbone
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()).eval()
        >>> cut = open_backbone(net, (3, 16, 16))
        >>> convolutions(cut, everywhere=False), convolutions(cut, everywhere=True)
        (['2'], ['0', '2'])
    """
    if not everywhere:
        return list(cut.targets)
    reached = reached_parameters(cut)
    modules = cut.rooted.backbone.named_modules()
    return [path for path, module in modules if isinstance(module, nn.Conv2d) and f"{path}.weight" in reached]


def normalisations(cut: CutBackbone, everywhere: bool) -> list[str]:
    """Paths of the normalisations with a gain, in the conv units that CIAO masks or on the way to the final map.

    Example:
        >>> from ciao_peft.backbone import open_backbone
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16)).eval()
        >>> cut = open_backbone(net, (3, 16, 16))
        >>> normalisations(cut, everywhere=False), normalisations(cut, everywhere=True)
        (['3'], ['1', '3'])
    """
    if not everywhere:
        steps = [step for spec in cut.units_spec for name, step in spec.steps if name == "norm"]
        paths = [step for step in steps if isinstance(step, str)]
        return [path for path in paths if getattr(cut.rooted.backbone.get_submodule(path), "weight", None) is not None]
    reached = reached_parameters(cut)
    modules = cut.rooted.backbone.named_modules()
    return [path for path, module in modules if is_normalisation(module) and f"{path}.weight" in reached]


def conv2d(backbone: nn.Module, path: str) -> nn.Conv2d:
    """The convolution at a path that `convolutions` gave.

    Example:
        >>> conv2d(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 8, 5)), "1").kernel_size
        (5, 5)
    """
    return cast("nn.Conv2d", backbone.get_submodule(path))
