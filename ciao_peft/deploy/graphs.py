"""A model as modules of plain tensors: the trunk, what an adapter does with its features, and an adapter as a whole."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..adapters import Adapter, read_maps
from ..backbone import CutBackbone, FrozenBackbone, OpenedBackbone
from ..probabilities import probabilities

__all__ = ["AdapterGraph", "Part", "TrunkGraph", "WholeGraph", "in_float32", "parts_of"]


class Part(NamedTuple):
    """An adapter in float32 on the CPU, and the backbone it sits on.

    Args:
        adapter: A copy in eval mode.
        frozen: The backbone.
        opened: The same, opened where the adapter masks it.
        is_split: Whether it reads what a trunk that it shares with others computed, and not pixels.
    """

    adapter: Adapter
    frozen: FrozenBackbone
    opened: OpenedBackbone
    is_split: bool


def in_float32(frozen: FrozenBackbone) -> FrozenBackbone:
    """The backbone in float32 on the CPU: itself where it is so already, else a copy.

    Args:
        frozen: The backbone of a model.

    Example:
        >>> frozen = FrozenBackbone(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), (3, 16, 16))
        >>> in_float32(frozen) is frozen
        True
        >>> frozen.backbone.half()[0].weight.dtype, in_float32(frozen).dtype
        (torch.float16, torch.float32)
    """
    frozen.keep_in_eval_mode()
    tensors = [*frozen.backbone.parameters(), *frozen.backbone.buffers()]
    if all(t.device.type == "cpu" and (t.dtype == torch.float32 or not t.is_floating_point()) for t in tensors):
        return frozen
    return FrozenBackbone(copy.deepcopy(frozen.backbone).to("cpu").float(), frozen.input_size)


def parts_of(adapters: dict[str, Adapter], frozen: FrozenBackbone) -> dict[str, Part]:
    """Adapters as copies in float32 on the CPU, on the backbone where each masks it.

    Args:
        adapters: By name.
        frozen: What `in_float32` gave.

    Example:
        >>> from ciao_peft import CIAOConfig
        >>> frozen = FrozenBackbone(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), (3, 16, 16))
        >>> config = CIAOConfig(problem_type="regression", num_labels=2)
        >>> adapters = {name: Adapter(config, frozen.open()) for name in ("adults", "children")}
        >>> [part.is_split for part in parts_of(adapters, frozen).values()]
        [True, True]
    """
    parts: dict[str, Part] = {}
    for name, adapter in adapters.items():
        opened = frozen.open(adapter.config.target_modules)  # a copy of the backbone has to remember it
        copied = copy.deepcopy(adapter).to("cpu").float().eval()
        parts[name] = Part(copied, frozen, opened, adapter.encoder is None and isinstance(opened, CutBackbone))
    return parts


def _answers(part: Part, **source: Any) -> tuple[Tensor, ...]:
    adapter = part.adapter
    seen = read_maps([(None, "it")], {"it": adapter}, part.frozen, features_of=part.opened, **source)[0]
    logits, embeddings = adapter.decide(seen)
    if adapter.config.problem_type == "regression":
        return logits, embeddings
    return logits, embeddings, probabilities(logits, adapter.config)


class TrunkGraph(nn.Module):
    """The trunk: from pixels to the features that cross the cut, and u of each conv unit where adapters need it.

    Args:
        opened: The backbone, cut.
        include_excitation: Whether u is computed, too.
        depths: Earlier units whose averaged answers it gives, for the heads that read them.

    Shapes:
        pixel_values `(B, C, H, W)`; each result `(B, ...)`.

    Example:
        >>> frozen = FrozenBackbone(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), (3, 16, 16))
        >>> [tuple(f.shape) for f in TrunkGraph(frozen.open(), True)(torch.rand(2, 3, 16, 16))]
        [(2, 8, 14, 14), (2, 4, 12, 12)]
    """

    depths: tuple[Any, ...]

    def __init__(self, opened: CutBackbone, include_excitation: bool, depths: Sequence[Any] = ()) -> None:
        super().__init__()
        self.rooted, self.depths = opened.rooted, tuple(depths)
        self._opened, self._include_excitation = opened, include_excitation

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        more: dict[str, Any] = {"depths": self.depths} if self.depths else {}
        return self._opened.features(self.rooted, pixel_values, self._include_excitation, **more)

    @property
    def names(self) -> list[str]:
        """Names of what it returns, in order: `feature_0`, ..., `depth_0`, ... and `excitation_0`, ..."""
        features = [f"feature_{index}" for index in range(len(self._opened.feature_shapes))]
        features += [f"depth_{index}" for index in range(len(self.depths))]
        units = range(len(self._opened.excitation_shapes)) if self._include_excitation else ()
        return features + [f"excitation_{index}" for index in units]


class AdapterGraph(nn.Module):
    """An adapter behind the trunk: its mask, the tail of the backbone and its head.

    Args:
        part: The adapter and its backbone.
        depths: Those that the trunk gives.

    Shapes:
        features: as `TrunkGraph` returns them, `(B, ...)` each; for clips `(B, frames, ...)`. Logits
        `(B, num_labels)`, embeddings `(B, D)` and, but for regression, probabilities `(B, num_labels)`.

    Example:
        >>> from ciao_peft import CIAOConfig
        >>> frozen = FrozenBackbone(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), (3, 16, 16))
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=3)
        >>> part = parts_of({"fer": Adapter(config, frozen.open())}, frozen)["fer"]
        >>> [tuple(answer.shape) for answer in AdapterGraph(part)(torch.rand(2, 3, 16, 16))]
        [(2, 3), (2, 1568), (2, 3)]
    """

    def __init__(self, part: Part, depths: Sequence[Any] = ()) -> None:
        super().__init__()
        self.adapter, self.rooted = part.adapter, part.opened.rooted
        self._part, self._depths = part, tuple(depths)

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        if self.adapter.config.frames is not None:
            features = tuple(f.flatten(0, 1) for f in features)
        first = len(self._part.opened.feature_shapes)
        last = first + len(self._depths)
        more = {"depths": dict(zip(self._depths, features[first:last], strict=True))} if self._depths else {}
        crossing = [*features[:first], *features[last:]]
        return _answers(self._part, pixel_values=None, features=crossing, **more)


class WholeGraph(nn.Module):
    """An adapter with all of its encoder, from pixels to answers.

    Args:
        part: The adapter and its backbone.

    Shapes:
        pixel_values `(B, C, H, W)`, of clips `(B, frames, C, H, W)`; the answers as for `AdapterGraph`.

    Example:
        >>> from ciao_peft import CIAOConfig
        >>> frozen = FrozenBackbone(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), (3, 16, 16))
        >>> config = CIAOConfig(problem_type="regression", num_labels=2, tuning="full")
        >>> part = parts_of({"arousal": Adapter(config, frozen.open())}, frozen)["arousal"]
        >>> part.is_split, [tuple(answer.shape) for answer in WholeGraph(part)(torch.rand(2, 3, 16, 16))]
        (False, [(2, 2), (2, 1568)])
    """

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.adapter, self.rooted = part.adapter, part.opened.rooted
        self._part = part

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        if self.adapter.config.frames is not None:
            pixel_values = pixel_values.flatten(0, 1)
        return _answers(self._part, pixel_values=pixel_values, features=None)


def example_rows(shapes: Sequence[tuple[int, ...]], rows: int, frames: int | None, seed: int = 0) -> list[Tensor]:
    """Noise from 0 to 1 in the shapes of what a graph takes, `(rows, ...)` each; for clips `(rows, frames, ...)`.

    Example:
        >>> [tuple(t.shape) for t in example_rows([(3, 8, 8)], 2, frames=5)]
        [(2, 5, 3, 8, 8)]
    """
    generator = torch.Generator().manual_seed(seed)
    front = (rows,) if frames is None else (rows, frames)
    return [torch.rand((*front, *shape), generator=generator) for shape in shapes]
