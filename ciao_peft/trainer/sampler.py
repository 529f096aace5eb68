"""Which samples make a batch: an epoch as a list of batches, the same for everyone who knows seed and epoch."""

from __future__ import annotations

import random
import zlib
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..config import CIAOConfig
from ..labels import contrastive_targets


def positive_groups(labels: Tensor, config: CIAOConfig) -> np.ndarray:
    """A number for each sample, equal for those that are a positive pair: its class, cell or set of labels.

    Args:
        labels: Of all samples, as `check_labels` returns them.
        config: Of the adapter that learns them.

    Returns:
        `(N,)` integers from 0 on.

    Example:
        >>> config = CIAOConfig(problem_type="multi_label_classification", num_labels=2)
        >>> positive_groups(torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]]), config).tolist()
        [0, 1, 0]
    """
    targets = contrastive_targets(labels, replace(config, multi_label_positives="same_set"))
    return np.unique(targets.cpu().numpy(), return_inverse=True)[1].reshape(-1)


def draws_per_group(sizes: np.ndarray, balance: float, rng: np.random.Generator) -> np.ndarray:
    """How often each group is drawn in an epoch, in proportion to `size ** (1 - balance)`; they sum to the samples.

    Example:
        >>> draws_per_group(np.array([90, 10]), 0.5, np.random.default_rng(0)).tolist()
        [75, 25]
    """
    weights = sizes.astype(float) ** (1 - balance)
    wanted = np.round(weights / weights.sum() * sizes.sum(), 9)
    draws = np.floor(wanted).astype(int)
    left, rest = int(sizes.sum() - draws.sum()), wanted - np.floor(wanted)
    if left:
        draws[rng.choice(len(sizes), size=left, replace=False, p=rest / rest.sum())] += 1
    return draws


def smallest_batch(num_samples: int, batch_size: int) -> int:
    """Samples in the smallest batch that `plan_epoch` makes.

    Example:
        >>> smallest_batch(5, 2), smallest_batch(7, 4)
        (1, 3)
    """
    return num_samples // -(-num_samples // batch_size)


def plan_epoch(
    groups: np.ndarray, batch_size: int, *, seed: int, epoch: int, balance: float | None = None
) -> list[np.ndarray]:
    """The batches of one epoch, as indices of samples.

    All batches have the same size up to one sample, so that the last one is no leftover without positives.

    Args:
        groups: `(N,)`, what makes two samples a positive pair.
        batch_size: Samples of a batch, over all processes; at most.
        seed, epoch: Decide the order, together with the groups, and nothing else does.
        balance: Draw samples by group, as `draws_per_group` says and in pairs of two samples of one group; every batch
            gets such a pair while there are any. `None`: every sample once, in random order.

    Returns:
        As many batches as it takes for N samples; those of a balanced epoch repeat samples of small groups and leave
        out some of large ones.

    Example:
        >>> batches = plan_epoch(np.array([0, 0, 0, 0, 0, 1, 1]), 4, seed=0, epoch=0)
        >>> [len(batch) for batch in batches], sorted(np.concatenate(batches).tolist())
        ([4, 3], [0, 1, 2, 3, 4, 5, 6])
    """
    rng = np.random.default_rng([seed, epoch])
    total = len(groups)
    num_batches = -(-total // batch_size)
    if balance is None:
        return np.array_split(rng.permutation(total), num_batches)
    members = np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))[:-1])
    draws = draws_per_group(np.array([len(own) for own in members]), balance, rng)
    pairs, singles = [], []
    for own, count in zip(members, draws, strict=True):
        passes = [rng.permutation(own) for _ in range(-(-count // len(own)))]
        drawn = np.concatenate(passes)[:count] if passes else own[:0]
        paired = 0 if len(own) == 1 else count // 2 * 2
        pairs.append(drawn[:paired].reshape(-1, 2))
        singles.append(drawn[paired:])
    pairs = rng.permutation(np.concatenate(pairs))
    singles = np.concatenate(singles)
    sizes = np.array([len(part) for part in np.array_split(np.arange(total), num_batches)])
    first = np.where(sizes >= 2, 2, 0)
    first[np.cumsum(first) > 2 * len(pairs)] = 0
    num_first = int(first.sum()) // 2
    # The rest in random order, pairs side by side; -1 stands where a single has no partner.
    rest = np.concatenate([pairs[num_first:], np.stack([singles, np.full_like(singles, -1)], axis=1)])
    rest = rng.permutation(rest).reshape(-1)
    parts = np.split(rest[rest >= 0], np.cumsum(sizes - first)[:-1])
    batches, used = [], 0
    for part, size in zip(parts, first, strict=True):
        own = pairs[used : used + 1].reshape(-1) if size else part[:0]
        used += int(size) // 2
        batches.append(rng.permutation(np.concatenate([own, part])))
    return batches


def seed_of(*numbers: int) -> int:
    """A seed of 32 bits that depends on every number and on their order.

    Example:
        >>> seed_of(1, 2) == seed_of(1, 2), seed_of(1, 2) == seed_of(2, 1)
        (True, False)
    """
    return zlib.crc32(",".join(map(str, numbers)).encode())


def seed_everything(seed: int) -> None:
    """Sets the generators of Python, NumPy and torch on all devices.

    Done before every micro-batch: what is random in it then depends on its number alone, and training resumes exactly
    without any generator's state.
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - for datasets that draw from the global generator
    seed_torch(seed)


def seed_torch(seed: int) -> None:
    """Sets the generators of torch on the devices in use.

    `torch.manual_seed` also notes the call, with a stack trace, for every kind of device that was never used: half a
    millisecond, and a list that grows with every step.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
