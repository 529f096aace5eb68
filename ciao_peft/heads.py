"""Decision heads (Fig. 2): from the masked map to logits."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._shapes import Float
from .config import CIAOConfig, Pooling
from .errors import ConfigError
from .prototypes import check_room_for_simplex, simplex

__all__ = ["DecisionHead", "dropout_from", "head_width", "pool_map"]


class _Draws(threading.local):
    generator: torch.Generator | None = None


_DRAWS = _Draws()


@contextmanager
def dropout_from(generator: torch.Generator) -> Iterator[None]:
    """A context in which the heads of this thread draw their dropout from a generator, not from the process's.

    On a CPU the numbers are those that the process's generator would give for the same seed.

    Args:
        generator: On the device of the heads.

    Example:
        >>> hidden = torch.ones(2, 3)
        >>> with dropout_from(torch.Generator().manual_seed(7)):
        ...     own = _dropped(hidden, 0.5)
        >>> _ = torch.manual_seed(7)
        >>> torch.equal(own, F.dropout(hidden, 0.5))
        True
    """
    before, _DRAWS.generator = _DRAWS.generator, generator
    try:
        yield
    finally:
        _DRAWS.generator = before


def _dropped(hidden: Tensor, share: float) -> Tensor:
    if torch.compiler.is_compiling():  # which generator is decided by who calls the compiled code, not when it is made
        return hidden * torch.ops.ciao_peft.kept(hidden.detach(), share)
    if _DRAWS.generator is None:
        return F.dropout(hidden, share)
    return hidden * _kept(hidden, share)


def _kept(hidden: Tensor, share: float) -> Tensor:
    """What the outputs of a layer are multiplied by: 0 for those that are dropped, `1 / (1 - share)` for the others."""
    return torch.empty_like(hidden).bernoulli_(1 - share, generator=_DRAWS.generator).div_(1 - share)


if not hasattr(torch.ops.ciao_peft, "kept"):
    # One operation for `torch.compile`: it can hand no generator over, and must neither join nor repeat two draws.
    torch.library.define(
        "ciao_peft::kept", "(Tensor hidden, float share) -> Tensor", tags=(torch.Tag.nondeterministic_seeded,)
    )
    torch.library.impl("ciao_peft::kept", "CompositeExplicitAutograd", _kept)
    torch.library.register_fake("ciao_peft::kept", lambda hidden, share: torch.empty_like(hidden))


def pool_map(
    feature_map: Float[Tensor, "batch channels height width"], pooling: Pooling
) -> Float[Tensor, "batch features"]:
    """Turns a feature map into the vector that the head receives.

    Args:
        feature_map: `(B, C, H, W)`.
        pooling: `"flatten"` keeps every value; `"max"` takes the maxima of 2x2 squares (2x1 or 1x1 where the map is
            that thin) and flattens them; `"avg"` takes the mean over positions.

    Returns:
        `(B, F)`, in the dtype of the map. F is `C * H * W` for `"flatten"`, `C * (H // 2) * (W // 2)` for `"max"` with
        two rows and columns or more, and C for `"avg"`.

    Example:
        >>> [pool_map(torch.rand(2, 512, 6, 6), p).shape[1] for p in ("flatten", "max", "avg")]
        [18432, 4608, 512]
    """
    if pooling == "avg":
        return feature_map.mean(dim=(2, 3))
    if pooling == "max":
        height, width = feature_map.shape[2:]
        feature_map = F.max_pool2d(feature_map, (min(2, height), min(2, width)))
    return feature_map.flatten(1)


def head_width(in_features: int, positions: int, config: CIAOConfig) -> int:
    """How many numbers the first dense layer of a head receives (for clips, the LSTM), for each row.

    Args:
        in_features: `F`, the size of the vectors that `pool_map` returns.
        positions: How many of them belong to each channel.
        config: Gives `spatial_maps`.

    Returns:
        `F`, or one number for each channel and map.

    Raises:
        ConfigError: there are maps to learn, and one position alone.

    Example:
        >>> config = CIAOConfig(problem_type="regression", num_labels=2, spatial_maps=8)
        >>> head_width(192 * 16, 16, config)
        1536
    """
    if config.spatial_maps is None:
        return in_features
    if positions < 2:
        raise ConfigError(
            f"`spatial_maps={config.spatial_maps}` learns maps of positions, and after pooling={config.pooling!r} "
            "there is one position; leave it out, or pool by 'flatten' or 'max'."
        )
    return in_features // positions * config.spatial_maps


class DecisionHead(nn.Module):
    """Dense ReLU layers with dropout, then one linear layer to the logits; for clips, an LSTM over the frames first.

    For clips, the dense layers receive the LSTM's output for the last frame. With `spatial_maps`, the head looks at
    the pooled map through that many learned maps of its positions: for each channel one weighted sum per map, then a
    layer normalisation over all of them. It is a head of few numbers.

    With depths, averaged answers of earlier units come beside that, each layer-normalised by itself, before the LSTM or
    the first dense layer.

    Args:
        in_features: `F`, the size of the vectors that `pool_map` returns.
        config: Gives `spatial_maps`, `hidden_sizes`, `dropout`, `num_labels` and `init_seed`; for clips also
            `recurrent_size`.
        empty: Whether to leave the parameters on the meta device, without values; for heads that are loaded next.
        positions: How many of the `F` numbers belong to each channel; counts with `spatial_maps` alone.
        depths: How many numbers come from each earlier unit.

    Attributes:
        maps: The learned maps of positions, as a linear layer `(positions, K)`; None without `spatial_maps`.
        norm: The layer normalisation after them, or None.
        depths: A layer normalisation for each depth; None without depths.
        dropout: Share of a hidden layer's outputs zeroed in training.
        lstm: The LSTM over the frames of a clip, or None.
        prototypes: A learned point for each class in the space of the embeddings, which the contrastive loss takes;
            None without. They start at the vertices of a simplex.
        num_layers: Number of linear layers; they are the children named `"0"`, `"1"`, ...

    Shapes:
        - pooled: `(B, F)`; for clips `(B, T, F)`.
        - depths: `(B, D)`, those of all units one after the other; for clips `(B, T, D)`.
        - logits, returned first: `(B, num_labels)`.
        - hidden, returned second: `(B, hidden_sizes[-1])`, the last hidden layer's output before dropout. Without a
          hidden layer it is the LSTM's output `(B, recurrent_size)`, the normalised sums over the maps
          `(B, C * K)`, or `pooled` itself; with depths, these and the normalised depths.

        All in the dtype of the head's parameters, whatever the dtype of `pooled`.

    Example:
        >>> head = DecisionHead(4608, CIAOConfig(problem_type="regression", num_labels=2, hidden_sizes=(64,)))
        >>> [tuple(t.shape) for t in head(torch.rand(5, 4608))]
        [(5, 2), (5, 64)]
        >>> config = CIAOConfig(problem_type="regression", num_labels=2, hidden_sizes=(), frames=10, recurrent_size=32)
        >>> [tuple(t.shape) for t in DecisionHead(4608, config)(torch.rand(5, 10, 4608))]
        [(5, 2), (5, 32)]
        >>> compact = CIAOConfig(problem_type="regression", num_labels=2, spatial_maps=8, hidden_sizes=())
        >>> head = DecisionHead(512 * 9, compact, positions=9)
        >>> sum(parameter.numel() for parameter in head.parameters())  # 9 * 8 + 2 * 512 * 8 + 512 * 8 * 2 + 2
        16458
        >>> DecisionHead(4608, compact, positions=9, depths=(64, 128))(torch.rand(5, 4608), torch.rand(5, 192))[1].shape
        torch.Size([5, 4288])
    """

    dropout: float
    maps: nn.Linear | None
    norm: nn.LayerNorm | None
    depths: nn.ModuleList | None
    lstm: nn.LSTM | None
    prototypes: nn.Parameter | None
    num_layers: int

    def __init__(
        self,
        in_features: int,
        config: CIAOConfig,
        empty: bool = False,
        positions: int = 1,
        depths: Sequence[int] = (),
    ):
        super().__init__()
        self.dropout = config.dropout
        self.maps = self.norm = self.depths = self.lstm = None
        pooled = in_features
        in_features = head_width(in_features, positions, config)
        if config.spatial_maps is not None:
            maps = nn.Linear(positions, config.spatial_maps, bias=False, device="meta", dtype=torch.float32)
            norm = nn.LayerNorm(in_features, device="meta", dtype=torch.float32)
            self.maps = maps if empty else maps.to_empty(device="cpu")
            self.norm = norm if empty else norm.to_empty(device="cpu")
        if depths:
            norms = nn.ModuleList(nn.LayerNorm(size, device="meta", dtype=torch.float32) for size in depths)
            self.depths = norms if empty else norms.to_empty(device="cpu")
            self._depth_sizes = list(depths)
            in_features += sum(depths)
        if config.recurrent_size is not None:
            lstm = nn.LSTM(in_features, config.recurrent_size, batch_first=True, device="meta", dtype=torch.float32)
            self.lstm = lstm if empty else lstm.to_empty(device="cpu")
        sizes = (config.recurrent_size or in_features, *config.hidden_sizes, config.num_labels)
        for index, (size, next_size) in enumerate(pairwise(sizes)):
            linear = nn.Linear(size, next_size, device="meta", dtype=torch.float32)
            self.add_module(str(index), linear if empty else linear.to_empty(device="cpu"))
        self.num_layers = len(sizes) - 1
        width = {"features": pooled, "hidden": sizes[-2], "logits": sizes[-1]}[config.embedding_source]
        if config.contrastive_prototypes != "none":
            check_room_for_simplex(config.num_labels, width)
        self.register_parameter("prototypes", None)
        if config.contrastive_prototypes == "learned" and config.contrastive_weight > 0:
            where = "meta" if empty else "cpu"
            self.prototypes = nn.Parameter(torch.empty(config.num_labels, width, dtype=torch.float32, device=where))
        if not empty:
            self.reset(torch.Generator().manual_seed(config.init_seed))

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draws new initial values, distributed as those of `nn.LSTM` and `nn.Linear`.

        Args:
            generator: Source of the values; the global random state is not touched.

        Example:
            >>> config = CIAOConfig(problem_type="regression", num_labels=2)
            >>> first, second = DecisionHead(8, config), DecisionHead(8, config)
            >>> for head in (first, second):
            ...     head.reset(torch.Generator().manual_seed(7))
            >>> all(map(torch.equal, first.parameters(), second.parameters()))
            True
        """
        if self.lstm is not None:
            bound = 1 / math.sqrt(self.lstm.hidden_size)
            for parameter in self.lstm.parameters():
                parameter.uniform_(-bound, bound, generator=generator)
        if self.maps is not None and self.norm is not None:
            bound = 1 / math.sqrt(self.maps.in_features)
            self.maps.weight.uniform_(-bound, bound, generator=generator)
            self.norm.reset_parameters()
        if self.prototypes is not None:  # of unit numbers rather than unit length, for rates of the usual size
            num_labels, width = self.prototypes.shape
            self.prototypes.copy_(simplex(num_labels, width) * math.sqrt(width))
        for norm in self.depths or ():
            cast(nn.LayerNorm, norm).reset_parameters()
        for index in range(self.num_layers):
            linear = getattr(self, str(index))
            bound = 1 / math.sqrt(linear.in_features)
            linear.weight.uniform_(-bound, bound, generator=generator)
            linear.bias.uniform_(-bound, bound, generator=generator)

    def train(self, mode: bool = True) -> DecisionHead:
        """Dropout follows `mode`. The LSTM has none, and cuDNN gives its gradients in training mode only."""
        super().train(mode)
        if self.lstm is not None:
            self.lstm.training = True
        return self

    def forward(
        self,
        pooled: Float[Tensor, "batch features"] | Float[Tensor, "batch frames features"],
        depths: Float[Tensor, "batch depths"] | Float[Tensor, "batch frames depths"] | None = None,
    ) -> tuple[Float[Tensor, "batch num_labels"], Float[Tensor, "batch hidden"]]:
        last = getattr(self, str(self.num_layers - 1))
        hidden = dropped = pooled.to(last.weight.dtype)
        if self.maps is not None and self.norm is not None:
            by_channel = dropped.unflatten(-1, (-1, self.maps.in_features))
            hidden = dropped = self.norm(self.maps(by_channel).flatten(-2))
        if self.depths is not None and depths is not None:
            parts = depths.to(last.weight.dtype).split(self._depth_sizes, dim=-1)
            normed = [norm(part) for norm, part in zip(self.depths, parts, strict=True)]
            hidden = dropped = torch.cat([dropped, *normed], dim=-1)
        if self.lstm is not None:
            hidden = dropped = self.lstm(dropped)[0][:, -1]
        for index in range(self.num_layers - 1):
            hidden = F.relu(getattr(self, str(index))(dropped))
            dropped = _dropped(hidden, self.dropout) if self.training and self.dropout > 0 else hidden
        return last(dropped), hidden
