"""Head2Toe (Evci et al. 2022): a linear head on the features of all layers that count most."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ...backbone import (
    CutBackbone,
    HookedBackbone,
    Rooted,
    check_pixels,
    conv_unit,
    example_pixels,
    find_places,
    is_map,
    make_piece,
    trace,
)
from ...checking import check_number
from ...config import CIAOConfig
from ...errors import ConfigError, quoted
from ...features import Augmentation, FeatureDataset, FeatureLayout, Samples
from ...heads import DecisionHead
from ...preprocessing import Preprocessing
from .base import Trainee, check_cut, convolutions, task_loss_alone


class Layers(nn.Module):
    """The answers of all conv units of a frozen encoder and its final map, each averaged to about as many numbers.

    A map of C channels is averaged over the cells of an n x n grid, with the largest n for which `n * n * C` stays
    within the size, at least 1.

    Args:
        cut: The encoder, opened where CIAO masks it. Copied.
        size: Numbers that are kept of each layer, at most, where it has no more channels than that.

    Attributes:
        sizes: Numbers kept of each layer, in the order in which they run.

    Shapes:
        pixel_values: `(B, C, H, W)`; returns `(B, sum(sizes))`.

    Example:
        >>> from ciao_peft.backbone import open_backbone
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2)).eval()
        >>> layers = Layers(open_backbone(net, (3, 16, 16)), size=100)  # 8 * 3 * 3, 16 * 2 * 2, 16 * 2 * 2
        >>> layers.sizes, layers(torch.rand(5, 3, 16, 16)).shape
        ([72, 64, 64], torch.Size([5, 200]))
    """

    size: int
    rooted: Rooted
    input_size: tuple[int, int, int]
    sizes: list[int]

    def __init__(self, cut: CutBackbone | HookedBackbone, size: int):
        super().__init__()
        cut = check_cut(cut)
        self.size = size
        self.rooted = Rooted(copy.deepcopy(cut.rooted.backbone).float().requires_grad_(False).eval())
        example = example_pixels(self.rooted, cut.input_size)
        nodes = list(trace(self.rooted.backbone, example[:1]).nodes)
        places = find_places(self.rooted.backbone, nodes, cut.targets, set())
        paths = {f"backbone.{path}" for path in convolutions(cut, everywhere=True)}
        ends = [
            conv_unit(self.rooted.backbone, node)[1]
            for node in nodes
            if node.op == "call_module" and node.target in paths and is_map(tuple(node.meta["value"].shape))
        ]
        self._layout = places.layout
        self.input_size = cut.input_size
        pixels = next(node for node in nodes if node.op == "placeholder")
        outputs = list(dict.fromkeys([*ends, places.map]))
        self._index = outputs.index(places.map)
        self._run = make_piece(self.rooted, *_with_copies(nodes, [pixels], outputs))
        self.sizes = [pooled.shape[1] for pooled in self._pooled(example)]
        self.train(False)

    def train(self, mode: bool = True) -> Layers:
        """The encoder stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def _pooled(self, pixel_values: Tensor) -> list[Tensor]:
        pixel_values = check_pixels(pixel_values, self.input_size, torch.float32)
        pooled = []
        for index, answer in enumerate(self._run(self.rooted, pixel_values.clone())):
            answer = self._layout.as_map(answer) if index == self._index else answer
            channels, height, width = answer.shape[1:]
            side = max(1, math.isqrt(self.size // channels))
            pooled.append(F.adaptive_avg_pool2d(answer.float(), (min(side, height), min(side, width))).flatten(1))
        return pooled

    def forward(self, pixel_values: Tensor) -> Tensor:
        return torch.cat(self._pooled(pixel_values), dim=1)


def _with_copies(
    nodes: list[fx.Node], inputs: list[fx.Node], outputs: list[fx.Node]
) -> tuple[list[fx.Node], list[fx.Node], list[fx.Node]]:
    """A graph's nodes, inputs and outputs, the outputs copied as soon as they are there: others write into them."""
    graph, copies = outputs[0].graph, []
    for node in outputs:
        with graph.inserting_after(node):
            copies.append(graph.call_method("clone", (node,)))
    order = [node for node in graph.nodes if node in {*nodes, *copies}]
    return order, inputs, copies


class LinearOnLayers(Trainee):
    """A linear head on some of the numbers of all layers, those of each layer scaled to unit length.

    Args:
        config: Kind of problem.
        rows: For each layer, which of its numbers; positions in the answer of `Layers`.
        group_lasso: Factor of the sum of the lengths of the weights of each number, `sum_i ||w_i||`.

    Shapes:
        features: one tensor `(B, sum(sizes))`, the answer of `Layers`; returns logits `(B, num_labels)`.

    Example:
        >>> config = CIAOConfig(problem_type="regression", num_labels=1)
        >>> layer = LinearOnLayers(config, [torch.tensor([0, 2]), torch.tensor([5])])  # of two layers
        >>> layer(features=[torch.rand(4, 6)]).shape, layer.num_stored  # 3 weights, 1 bias, 3 positions
        (torch.Size([4, 1]), 7)
    """

    group_lasso: float
    lengths: list[int]
    rows: Tensor
    head: DecisionHead

    def __init__(self, config: CIAOConfig, rows: Sequence[Tensor], group_lasso: float = 0.0):
        super().__init__()
        self.config = config
        self.group_lasso = group_lasso
        self.lengths = [len(own) for own in rows if len(own)]
        self.register_buffer("rows", torch.cat(list(rows)))
        self.head = DecisionHead(len(self.rows), replace(config, hidden_sizes=()))

    @property
    def num_stored(self) -> int:
        """With the numbers of those that it looks at."""
        return self.num_trained + len(self.rows)

    def add_penalty(self) -> None:
        """Adds the gradients of the group lasso: w_i over its length, for the weights w_i of number i."""
        weight = getattr(self.head, "0").weight
        if self.group_lasso:
            weight.grad.add_(F.normalize(weight.detach(), dim=0), alpha=self.group_lasso)

    def scores(self) -> Tensor:
        """How much each number counts: the sum of its squared weights, `(sum(sizes),)`."""
        return getattr(self.head, "0").weight.detach().float().square().sum(dim=0)

    def forward(self, *, features: Sequence[Tensor]) -> Tensor:
        chosen = features[0].float().index_select(1, self.rows)
        scaled = [F.normalize(own, dim=1) for own in chosen.split(self.lengths, dim=1)]
        return self.head(torch.cat(scaled, dim=1))[0].float()


class Head2Toe(Trainee):
    """Finds the numbers of all layers that count, and learns a linear head on them.

    First a linear head learns on all numbers under a group lasso; the share of numbers with the largest weights stays,
    and a fresh linear head learns on these alone. Each of the two takes the whole budget.

    Args:
        cut: The encoder, opened where CIAO masks it. Copied.
        config: Kind of problem, and `init_seed`.
        size: Numbers that are kept of each layer.
        fraction: Share of all numbers that stay, above 0 to 1.
        group_lasso: Factor of the group lasso in the first step, at least 0.

    Shapes:
        pixel_values: `(B, C, H, W)`, or features: one tensor `(B, sum(layers.sizes))`; returns logits
        `(B, num_labels)`.

    Example:
        >>> from ciao_peft.backbone import open_backbone
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()).eval()
        >>> cut = open_backbone(net, (3, 16, 16))
        >>> config = CIAOConfig(problem_type="regression", num_labels=1, hidden_sizes=())
        >>> module = Head2Toe(cut, config, size=64, fraction=0.25, group_lasso=0.0)
        >>> module.layers.sizes, module.num_kept, module(pixel_values=torch.rand(2, 3, 16, 16)).shape
        ([32, 64], 24, torch.Size([2, 1]))
    """

    fraction: float
    group_lasso: float
    layers: Layers
    head: LinearOnLayers

    def __init__(
        self, cut: CutBackbone | HookedBackbone, config: CIAOConfig, size: int, fraction: float, group_lasso: float
    ):
        super().__init__()
        self.config = replace(task_loss_alone(config), hidden_sizes=())
        self.fraction, self.group_lasso = fraction, group_lasso
        self.layers = Layers(cut, size)
        self.head = self._linear(torch.arange(self.num_kept))
        self.train(False)

    @property
    def num_kept(self) -> int:
        """Numbers that stay: the share of all, rounded, at least one."""
        return max(1, round(self.fraction * sum(self.layers.sizes)))

    @property
    def num_stored(self) -> int:
        """With the numbers of those that its head looks at."""
        return self.head.num_stored

    @property
    def preprocessing(self) -> Preprocessing | None:
        """The encoder's own."""
        return Preprocessing.for_backbone(self.layers.rooted.backbone)

    def _linear(self, kept: Tensor, group_lasso: float = 0.0) -> LinearOnLayers:
        """A fresh head on some numbers, those of each layer together."""
        bounds = torch.tensor([0, *self.layers.sizes]).cumsum(0)
        kept = kept.sort().values.cpu()
        rows = [kept[(kept >= first) & (kept < last)] for first, last in pairwise(bounds)]
        return LinearOnLayers(self.config, rows, group_lasso)

    def stages(self) -> Iterator[Trainee]:
        """A head on all numbers; then, on those that count most for it, the head that stays."""
        every = self._linear(torch.arange(sum(self.layers.sizes)), self.group_lasso)
        yield every
        # Of equal scores the earlier number goes first, on every machine.
        order = every.scores().cpu().sort(descending=True, stable=True).indices
        self.head = self._linear(order[: self.num_kept])
        yield self.head

    @torch.no_grad()
    def stored(self, dataset: Any, views: int = 1, augment: Augmentation | None = None) -> Any:
        """The numbers of all layers of a dataset of pixels, in memory in half precision."""
        if isinstance(dataset, FeatureDataset):
            return dataset
        samples = Samples(dataset, self.preprocessing)
        device = next(self.layers.parameters()).device
        largest = torch.finfo(torch.float16).max
        numbers_of_all = torch.empty(views * len(samples), sum(self.layers.sizes), dtype=torch.float16)
        for view in range(views):
            for start in range(0, len(samples), 64):
                rows = range(start, min(start + 64, len(samples)))
                pixels = samples.pixels(rows)
                if augment is not None:
                    pixels = augment(pixels, [*rows], view=view, preprocessing=self.preprocessing)
                numbers = self.layers(pixels.to(device)).clamp(-largest, largest)
                first = view * len(samples) + start
                numbers_of_all[first : first + len(rows)] = numbers.half().cpu()
        key = {"layers": self.layers.sizes, "views": views, "num_samples": len(samples)}
        layout = FeatureLayout(((numbers_of_all.shape[1],),), "float16", len(numbers_of_all))
        return FeatureDataset(key, layout, samples.labels(), (numbers_of_all,), label_names=samples.label_names)

    def forward(self, pixel_values: Tensor | None = None, *, features: Sequence[Tensor] | None = None) -> Tensor:
        return self.head(features=[self.layers(pixel_values)] if features is None else features)


def build_head2toe(
    cut: CutBackbone | HookedBackbone,
    config: CIAOConfig,
    *,
    size: int = 2048,
    fraction: float = 0.1,
    group_lasso: float = 1e-4,
) -> Head2Toe:
    """A linear head on the features of all layers that count most (Evci et al. 2022).

    Args:
        cut: The encoder, opened where CIAO masks it.
        config: Kind of problem.
        size: Numbers that are kept of each layer, 1 or more.
        fraction: Share of all numbers that stay, above 0 to 1.
        group_lasso: Factor of the group lasso by which they are chosen, at least 0.

    Raises:
        ConfigError: a setting is out of its range.

    Example:
        >>> from ciao_peft.backbone import open_backbone
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()).eval()
        >>> cut = open_backbone(net, (3, 16, 16))
        >>> config = CIAOConfig(problem_type="regression", num_labels=1, hidden_sizes=())
        >>> build_head2toe(cut, config, size=64, fraction=0.5).num_kept
        48
    """
    check_number("size", size, int, 1)
    if not 0 < fraction <= 1:
        raise ConfigError(f"`fraction` must lie above 0 and at most at 1; got {quoted(fraction)}.")
    if not group_lasso >= 0:
        raise ConfigError(f"`group_lasso` must be at least 0; got {quoted(group_lasso)}.")
    return Head2Toe(cut, config, size, fraction, group_lasso)
