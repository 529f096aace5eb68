"""Seeds: what is random in a micro-batch depends on its number alone."""

from __future__ import annotations

import random
import zlib

import numpy as np
import torch


def seed_of(*numbers: int) -> int:
    """A seed of 32 bits that depends on every number and on their order.

    Args:
        numbers: Whole numbers, such as the seed of a training, an epoch and the number of a batch.

    Returns:
        From 0 to below 2**32: the CRC-32 of the numbers, written in decimal with commas between them.

    Example:
        >>> seed_of(1, 2) == seed_of(1, 2), seed_of(1, 2) == seed_of(2, 1)
        (True, False)
    """
    return zlib.crc32(",".join(map(str, numbers)).encode())


def seed_everything(seed: int) -> None:
    """Sets the generators of Python, NumPy and torch on all devices.

    Done before every micro-batch: what is random in it then depends on its number alone, and training resumes exactly
    without any generator's state.

    Args:
        seed: From 0 to below 2**32, as `seed_of` gives it.

    Example:
        >>> seed_everything(7)
        >>> numbers = random.random(), torch.rand(1).item()
        >>> seed_everything(7)
        >>> numbers == (random.random(), torch.rand(1).item())
        True
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - for datasets that draw from the global generator
    seed_torch(seed)


def seed_torch(seed: int) -> None:
    """Sets the generators of torch on the devices in use.

    `torch.manual_seed` also notes the call, with a stack trace, for every kind of device that was never used: half a
    millisecond, and a list that grows with every step.

    Args:
        seed: A whole number from 0 on.

    Example:
        >>> seed_torch(7)
        >>> noise = torch.rand(2)
        >>> torch.equal(noise, torch.rand(2, generator=torch.Generator().manual_seed(7)))
        True
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
