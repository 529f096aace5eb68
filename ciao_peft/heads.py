"""Decision heads (Fig. 2): from the masked map to logits."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import CIAOConfig, Pooling


def pool_map(feature_map: Tensor, pooling: Pooling) -> Tensor:
    """What the head sees of a feature map.

    Args:
        feature_map: `(B, C, H, W)`.
        pooling: `"flatten"` all of it; `"max"`: maxima of 2x2 squares (of 2x1 or one where the map is that thin), then
            flatten; `"avg"`: the mean over positions.

    Returns:
        `(B, F)`.

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


class DecisionHead(nn.Module):
    """Dense ReLU layers with dropout, then one linear layer to the logits; for clips, an LSTM over the frames first.

    What the LSTM answers to the last frame is what the dense layers see.

    Args:
        in_features: `F`, the size of what `pool_map` returns.
        config: Gives `hidden_sizes`, `dropout` and `num_labels`; for clips `recurrent_size`.
        empty: On the meta device, for values that are loaded into their places.

    Shapes:
        pooled: `(B, F)`, of clips `(B, T, F)`; returns logits `(B, num_labels)` and the last hidden answers
        `(B, hidden_sizes[-1])`, which are the LSTM's, or the pooled features themselves, where there is no hidden
        layer.

    Example:
        >>> head = DecisionHead(4608, CIAOConfig(problem_type="regression", num_labels=2, hidden_sizes=(64,)))
        >>> [tuple(t.shape) for t in head(torch.rand(5, 4608))]
        [(5, 2), (5, 64)]
        >>> config = CIAOConfig(problem_type="regression", num_labels=2, hidden_sizes=(), frames=10, recurrent_size=32)
        >>> [tuple(t.shape) for t in DecisionHead(4608, config)(torch.rand(5, 10, 4608))]
        [(5, 2), (5, 32)]
    """

    def __init__(self, in_features: int, config: CIAOConfig, empty: bool = False):
        super().__init__()
        self.dropout = config.dropout
        self.lstm = None
        if config.recurrent_size is not None:
            lstm = nn.LSTM(in_features, config.recurrent_size, batch_first=True, device="meta")
            self.lstm = lstm if empty else lstm.to_empty(device="cpu")
        sizes = (config.recurrent_size or in_features, *config.hidden_sizes, config.num_labels)
        for index, (size, next_size) in enumerate(pairwise(sizes)):
            linear = nn.Linear(size, next_size, device="meta")
            self.add_module(str(index), linear if empty else linear.to_empty(device="cpu"))
        self.num_layers = len(sizes) - 1
        if not empty:
            self.reset(torch.Generator().manual_seed(config.init_seed))

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draws the initial values of `nn.LSTM` and `nn.Linear` anew, from a generator of their own."""
        if self.lstm is not None:
            bound = 1 / math.sqrt(self.lstm.hidden_size)
            for parameter in self.lstm.parameters():
                parameter.uniform_(-bound, bound, generator=generator)
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

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        last = getattr(self, str(self.num_layers - 1))
        hidden = dropped = pooled.to(last.weight.dtype)
        if self.lstm is not None:
            hidden = dropped = self.lstm(dropped)[0][:, -1]
        for index in range(self.num_layers - 1):
            hidden = F.relu(getattr(self, str(index))(dropped))
            dropped = F.dropout(hidden, self.dropout, self.training)
        return last(dropped), hidden
