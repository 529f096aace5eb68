"""One point per class in the space of the embeddings, which takes part in the contrastive loss of every batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._shapes import Float, Int
from .config import CIAOConfig
from .errors import ConfigError, InputError
from .labels import widest_dtype

__all__ = ["check_room_for_simplex", "simplex", "with_prototypes"]


def check_room_for_simplex(num_labels: int, dim: int) -> None:
    """Refuses embeddings in which the classes have no room to lie equally far apart.

    Args:
        num_labels: C, classes.
        dim: D, numbers of an embedding.

    Raises:
        ConfigError: D is below C.

    Example:
        >>> check_room_for_simplex(7, 7)
    """
    if dim < num_labels:
        raise ConfigError(
            f"The prototypes of {num_labels} classes need embeddings of {num_labels} numbers or more; these have "
            f"{dim}. Take another `embedding_source`, or more units in the last of `hidden_sizes`."
        )


def simplex(num_labels: int, dim: int, device: torch.device | None = None) -> Float[Tensor, "classes dim"]:
    r"""Points of length 1 that lie as far apart as so many can: the vertices of a regular simplex around zero.

    $$p_c = \sqrt{\frac{C}{C - 1}} \left(q_c - \frac{1}{C} \sum_{c'} q_{c'}\right) \qquad
      q_{cd} = \sqrt{\frac{2}{D}} \cos\left(\frac{\pi (c + 1)(d + \frac{1}{2})}{D}\right)$$

    The q are orthogonal and of length 1: rows of the cosine transform, of the frequencies 1 to C; where C = D, the
    constant row stands for the last one. Any two points have the cosine -1 / (C - 1), which is where the class means
    end in a network that is trained to the end (Papyan et al. 2020), and what fixed targets for contrastive learning
    are (Li et al. 2022; Mildenberger et al. 2025).

    Args:
        num_labels: C, 2 or more.
        dim: D, at least C.
        device: Where they are to be; the CPU when left out.

    Returns:
        `(C, D)`, in float64 wherever the device has it; the same on every machine up to rounding.

    Raises:
        ConfigError: D is below C.

    Example:
        >>> points = simplex(3, 8)
        >>> (points @ points.T).round(decimals=4)
        tensor([[ 1.0000, -0.5000, -0.5000],
                [-0.5000,  1.0000, -0.5000],
                [-0.5000, -0.5000,  1.0000]], dtype=torch.float64)
    """
    check_room_for_simplex(num_labels, dim)
    device = torch.device("cpu") if device is None else device
    exact = widest_dtype(device)
    frequency = torch.arange(1, num_labels + 1, dtype=exact, device=device) % dim  # the constant one is number 0
    place = torch.arange(dim, dtype=exact, device=device) + 0.5
    rows = (frequency[:, None] * place * (math.pi / dim)).cos()
    rows = rows / rows.norm(dim=1, keepdim=True)
    return (rows - rows.mean(dim=0)) * math.sqrt(num_labels / (num_labels - 1))


def with_prototypes(
    embeddings: Float[Tensor, "batch dim"],
    targets: Int[Tensor, " batch"],
    config: CIAOConfig,
    prototypes: Float[Tensor, "classes dim"] | None = None,
) -> tuple[Float[Tensor, "rows dim"], Int[Tensor, " rows"]]:
    """A batch with one more sample of each class, the class's prototype; the batch itself without prototypes.

    Args:
        embeddings: z, `(B, D)`.
        targets: Class ids, `(B,)`.
        config: Gives `contrastive_prototypes` and `num_labels`.
        prototypes: The learned ones, `(num_labels, D)`; any length.

    Returns:
        `(B + num_labels, D)` and `(B + num_labels,)`.

    Raises:
        InputError: the config has learned prototypes, and none are given.
        ConfigError: there is no room for a simplex.

    Example:
        >>> config = CIAOConfig(
        ...     problem_type="single_label_classification", num_labels=2, contrastive_prototypes="simplex"
        ... )
        >>> rows, targets = with_prototypes(torch.rand(3, 4), torch.tensor([0, 0, 1]), config)
        >>> rows.shape, targets.tolist()
        (torch.Size([5, 4]), [0, 0, 1, 0, 1])
    """
    if config.contrastive_prototypes == "none":
        return embeddings, targets
    if config.contrastive_prototypes == "simplex":
        prototypes = simplex(config.num_labels, embeddings.shape[1], embeddings.device)
    elif prototypes is None:
        raise InputError(
            "The config has `contrastive_prototypes='learned'`: give the adapter's, `adapter.head.prototypes`, to the "
            "loss."
        )
    ids = torch.arange(config.num_labels, dtype=targets.dtype, device=targets.device)
    return torch.cat([embeddings, prototypes.to(embeddings.dtype)]), torch.cat([targets, ids])
