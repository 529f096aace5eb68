"""What a decision head decides from: the masked map, and the depths that it reads beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..backbone import Depth

__all__ = ["Seen", "depths_of_rows"]


class Seen(NamedTuple):
    """What one adapter's head decides from.

    Args:
        map: The final map of the masked backbone.
        depths: Averaged answers of earlier units, one after the other; None for an adapter that reads none.

    Shapes:
        map: `(B, C, H, W)`; depths `(B, D)`. Of clips `B * frames` rows each, frame after frame.

    Example:
        >>> seen = Seen(torch.rand(4, 8, 14, 14))
        >>> seen.map.shape, seen.depths is None
        (torch.Size([4, 8, 14, 14]), True)
    """

    map: Tensor
    depths: Tensor | None = None


def depths_of_rows(
    averages: Mapping[Depth, Tensor], depths: Sequence[Depth], rows: Tensor | None, num_rows: int
) -> Tensor:
    """The depths that an adapter reads, of its own rows.

    Args:
        averages: Of all rows, `(B, n)` for each depth.
        depths: Those that it reads, in its order; one or more.
        rows: Its rows; all when None.
        num_rows: How many to return; the last one is repeated where there are fewer, as `read_maps` pads maps.

    Returns:
        `(num_rows, D)`.

    Example:
        >>> averages = {Depth("0"): torch.tensor([[1.0], [2.0]]), Depth("2"): torch.tensor([[3.0], [4.0]])}
        >>> depths_of_rows(averages, [Depth("2"), Depth("0")], torch.tensor([1]), num_rows=2)
        tensor([[4., 2.],
                [4., 2.]])
    """
    own = torch.cat([averages[depth] for depth in depths], dim=1)
    own = own if rows is None else own[rows]
    more = num_rows - own.shape[0]
    return own if more == 0 else torch.cat([own, own[-1:].expand(more, -1)])
