"""Which samples make a batch: an epoch as a list of batches, the same for everyone who knows seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from torch import Tensor
from torch.utils.data import Sampler

from ..checking import check_number
from ..config import CIAOConfig
from ..errors import InputError
from ..labels import check_labels, contrastive_targets


def positive_groups(labels: Tensor, config: CIAOConfig) -> np.ndarray:
    """A number for each sample, equal for those that are a positive pair: its class, cell or set of labels.

    Args:
        labels: `(N,)` or `(N, num_labels)`, of all samples, as `check_labels` returns them.
        config: Of the adapter that learns them. Its `problem_type` says what a pair shares: a class (for a
            distribution, the most voted one), a cell of the label space, or the whole set of labels.

    Returns:
        `(N,)` integers from 0 on.

    Example:
        >>> import torch
        >>> config = CIAOConfig(problem_type="multi_label_classification", num_labels=2)
        >>> positive_groups(torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]]), config).tolist()
        [0, 1, 0]
    """
    targets = contrastive_targets(labels, replace(config, multi_label_positives="same_set"))
    return np.unique(targets.cpu().numpy(), return_inverse=True)[1].reshape(-1)


def draws_per_group(sizes: np.ndarray, balance: float, rng: np.random.Generator) -> np.ndarray:
    """How many samples of each group an epoch draws, in proportion to `size ** (1 - balance)`.

    Args:
        sizes: `(G,)` integers of 1 or more: the samples of each group.
        balance: From 0, as frequent as in the data, to 1, all groups equally frequent.
        rng: Decides which groups get the draws that rounding down leaves over.

    Returns:
        `(G,)` integers; their sum is that of `sizes`.

    Example:
        >>> draws_per_group(np.array([90, 10]), 0.5, np.random.default_rng(0)).tolist()
        [75, 25]
    """
    weights = sizes.astype(float) ** (1 - balance)
    shares = np.round(weights / weights.sum() * sizes.sum(), 9)
    draws = np.floor(shares).astype(int)
    left, rest = int(sizes.sum() - draws.sum()), shares - np.floor(shares)
    if left:
        draws[rng.choice(len(sizes), size=left, replace=False, p=rest / rest.sum())] += 1
    return draws


def smallest_batch(num_samples: int, batch_size: int) -> int:
    """Samples in the smallest batch that `plan_epoch` makes.

    Args:
        num_samples: Samples of the dataset, 1 or more.
        batch_size: Samples of a batch, over all processes; at most.

    Example:
        >>> smallest_batch(5, 2), smallest_batch(7, 4)
        (1, 3)
    """
    return num_samples // -(-num_samples // batch_size)


def plan_epoch(
    groups: np.ndarray, batch_size: int, *, seed: int, epoch: int, balance: float | None = None, even: bool = True
) -> list[np.ndarray]:
    """The batches of one epoch, as indices of samples.

    All batches have the same size up to one sample, so that the last one is no leftover without positives.

    Args:
        groups: `(N,)` integers from 0 on, equal for two samples that are a positive pair; `positive_groups` makes them.
        batch_size: Samples of a batch, over all processes; at most.
        seed, epoch: Decide the order, together with the groups, and nothing else does.
        balance: Draw samples by group, as `draws_per_group` says and in pairs of two samples of one group; every batch
            gets such a pair while there are any. `None`: every sample once, in random order.
        even: When `False`, all batches but the last have `batch_size` samples, as a loader cuts them.

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
    sizes = np.array([len(part) for part in np.array_split(np.arange(total), num_batches)])
    if not even:
        sizes = np.minimum(batch_size, total - batch_size * np.arange(num_batches))
    if balance is None:
        return np.split(rng.permutation(total), np.cumsum(sizes)[:-1])
    members = np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))[:-1])
    draws = draws_per_group(np.array([len(own) for own in members]), balance, rng)
    # Each group's draws go in pairs; what is odd stays single.
    pairs, singles = [], []
    for own, count in zip(members, draws, strict=True):
        passes = [rng.permutation(own) for _ in range(-(-count // len(own)))]
        drawn = np.concatenate(passes)[:count] if passes else own[:0]
        paired = 0 if len(own) == 1 else count // 2 * 2
        pairs.append(drawn[:paired].reshape(-1, 2))
        singles.append(drawn[paired:])
    pairs = rng.permutation(np.concatenate(pairs))
    singles = np.concatenate(singles)
    first = np.where(sizes >= 2, 2, 0)
    first[np.cumsum(first) > 2 * len(pairs)] = 0
    num_first = int(first.sum()) // 2
    # The rest comes in random order with pairs kept together; -1 stands where a single has no partner.
    rest = np.concatenate([pairs[num_first:], np.stack([singles, np.full_like(singles, -1)], axis=1)])
    rest = rng.permutation(rest).reshape(-1)
    parts = np.split(rest[rest >= 0], np.cumsum(sizes - first)[:-1])
    batches, used = [], 0
    for part, size in zip(parts, first, strict=True):
        own = pairs[used : used + 1].reshape(-1) if size else part[:0]
        used += int(size) // 2
        batches.append(rng.permutation(np.concatenate([own, part])))
    return batches


class BalancedBatchSampler(Sampler[list[int]]):
    """The trainer's pair-balanced batches for any `torch.utils.data.DataLoader`.

    The contrastive loss learns from positive pairs within a batch. This sampler draws classes as `class_balance` says
    and puts a positive pair into every batch while there are any; all batches have the same size up to one sample. Its
    batches are those of `CIAOTrainer` with the same seed, epoch and batch size.

    The order depends on seed and epoch alone. Call `set_epoch` before each epoch; without it, every epoch has the same
    batches. The sampler knows nothing of processes: each of several has to take its share of every batch.

    Args:
        labels: `(N,)` or `(N, num_labels)`: the labels of all samples, in the order of the dataset.
        config: Of the adapter that learns them; says what a positive pair is (see `positive_groups`).
        batch_size: Samples of a batch, at most; 1 or more.
        class_balance: From 0, classes as frequent as in the data, to 1, all equally frequent. `None`: every sample once
            per epoch in random order, without regard to pairs.
        seed: 0 or more.

    Attributes:
        epoch: Number of the epoch that iteration gives the batches of.

    Raises:
        ConfigError: a number is of the wrong type or out of range.
        InputError: labels that an adapter with this config cannot learn, or none at all.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> labels = torch.tensor([0, 0, 0, 0, 0, 1, 1, 2])
        >>> faces = TensorDataset(torch.rand(8, 3, 16, 16), labels)
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=3)
        >>> sampler = BalancedBatchSampler(labels, config, batch_size=4)
        >>> loader = DataLoader(faces, batch_sampler=sampler)
        >>> for epoch in range(2):
        ...     sampler.set_epoch(epoch)
        ...     for pixel_values, targets in loader:
        ...         print(epoch, tuple(pixel_values.shape), len(targets.unique()) < len(targets))
        0 (4, 3, 16, 16) True
        0 (4, 3, 16, 16) True
        1 (4, 3, 16, 16) True
        1 (4, 3, 16, 16) True
    """

    epoch: int

    def __init__(
        self,
        labels: Tensor,
        config: CIAOConfig,
        batch_size: int,
        *,
        class_balance: float | None = 0.5,
        seed: int = 42,
    ):
        check_number("batch_size", batch_size, int, 1)
        check_number("seed", seed, int, 0)
        if class_balance is not None:
            check_number("class_balance", class_balance, float, 0, 1)
        labels = check_labels(labels, config)
        if len(labels) == 0:
            raise InputError("`labels` is empty: there is nothing to make batches of.")
        self._groups = positive_groups(labels, config)
        self._batch_size, self._balance, self._seed = batch_size, class_balance, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose batches the next iteration gives.

        Args:
            epoch: 0 or more.

        Raises:
            ConfigError: it is no whole number, or below 0.

        Example:
            >>> import torch
            >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
            >>> sampler = BalancedBatchSampler(torch.tensor([0, 1] * 8), config, batch_size=4)
            >>> first = list(sampler)
            >>> sampler.set_epoch(1)
            >>> list(sampler) == first
            False
        """
        check_number("epoch", epoch, int, 0)
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-len(self._groups) // self._batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of this epoch, each a list of indices into the dataset."""
        return (batch.tolist() for batch in self.plan())

    def plan(self, even: bool = True) -> list[np.ndarray]:
        """The batches of this epoch, as `plan_epoch` makes them.

        Args:
            even: As for `plan_epoch`.

        Example:
            >>> import torch
            >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
            >>> [len(batch) for batch in BalancedBatchSampler(torch.tensor([0, 1, 1, 0, 1]), config, 3).plan()]
            [3, 2]
        """
        place: dict[str, int] = {"seed": self._seed, "epoch": self.epoch}
        return plan_epoch(self._groups, self._batch_size, balance=self._balance, even=even, **place)

    @property
    def num_samples(self) -> int:
        """Samples of an epoch."""
        return len(self._groups)


class BalancedSampler(Sampler[int]):
    """The same balance of classes and pairs for whoever cuts the indices into batches: `Trainer`, Lightning, a loader.

    Cut into batches of `batch_size`, in order, every batch has a positive pair while there are any; the last one is
    what is left over. In all else as `BalancedBatchSampler`.

    Args:
        labels, config, class_balance, seed: As for `BalancedBatchSampler`.
        batch_size: Samples that the loader puts into a batch.

    Raises:
        ConfigError, InputError: as for `BalancedBatchSampler`.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> labels = torch.tensor([0, 0, 0, 0, 0, 1, 1, 2, 2, 2])
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=3)
        >>> sampler = BalancedSampler(labels, config, batch_size=4)
        >>> loader = DataLoader(TensorDataset(labels), batch_size=4, sampler=sampler)
        >>> [(len(batch), len(batch.unique()) < len(batch)) for (batch,) in loader]
        [(4, True), (4, True), (2, True)]
    """

    def __init__(
        self,
        labels: Tensor,
        config: CIAOConfig,
        batch_size: int,
        *,
        class_balance: float | None = 0.5,
        seed: int = 42,
    ):
        self._batches = BalancedBatchSampler(labels, config, batch_size, class_balance=class_balance, seed=seed)

    @property
    def epoch(self) -> int:
        """Number of the epoch that iteration gives the samples of."""
        return self._batches.epoch

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose samples the next iteration gives.

        Args:
            epoch: 0 or more.

        Raises:
            ConfigError: it is no whole number, or below 0.

        Example:
            >>> import torch
            >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
            >>> sampler = BalancedSampler(torch.tensor([0, 1] * 8), config, batch_size=4)
            >>> sampler.set_epoch(3)
            >>> sampler.epoch
            3
        """
        self._batches.set_epoch(epoch)

    def __len__(self) -> int:
        """Samples of an epoch."""
        return self._batches.num_samples

    def __iter__(self) -> Iterator[int]:
        """The samples of this epoch, as indices into the dataset."""
        return iter([index for batch in self._batches.plan(even=False) for index in batch.tolist()])
