"""Measures of learning one thing after another, from accuracies after each of them (Lopez-Paz & Ranzato 2017)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._shapes import Float
from ..errors import InputError

__all__ = ["average_accuracy", "backward_transfer", "forgetting", "forward_transfer"]


def average_accuracy(accuracies: Any) -> float:
    r"""Mean accuracy over everything that was learned, once all of it was (Lopez-Paz & Ranzato 2017, Eq. 2).

    $$\mathrm{ACC} = \frac{1}{T} \sum_{j=1}^{T} R_{T,j}$$

    Args:
        accuracies: `R`, `(T, T)`: in row i and column j the accuracy on the test of experience j after experience i was
            learned, from 0 to 1.

    Returns:
        From 0 to 1; higher is better.

    Raises:
        InputError: `accuracies` is no square table of numbers from 0 to 1.

    Example:
        >>> average_accuracy([[0.9, 0.2], [0.6, 0.8]])
        0.7
    """
    return float(_table(accuracies)[-1].mean())


def forgetting(accuracies: Any) -> float:
    r"""How much worse it is in the end than it was at its best (Chaudhry et al. 2018, Eq. 3).

    $$F = \frac{1}{T-1} \sum_{j=1}^{T-1} \left( \max_{l < T} R_{l,j} - R_{T,j} \right)$$

    The last experience cannot be forgotten yet, and does not count.

    Args:
        accuracies: `R`, `(T, T)`, as for `average_accuracy`.

    Returns:
        From -1 to 1; lower is better. Below 0 where later experiences helped earlier ones. NaN for one experience.

    Raises:
        InputError: as for `average_accuracy`.

    Example:
        >>> round(forgetting([[0.9, 0.2], [0.6, 0.8]]), 3)
        0.3
    """
    table = _table(accuracies)
    if len(table) == 1:
        return float("nan")
    return float((table[:-1, :-1].max(axis=0) - table[-1, :-1]).mean())


def backward_transfer(accuracies: Any) -> float:
    r"""What later experiences did to earlier ones (Lopez-Paz & Ranzato 2017, Eq. 3).

    $$\mathrm{BWT} = \frac{1}{T-1} \sum_{j=1}^{T-1} \left( R_{T,j} - R_{j,j} \right)$$

    Avalanche calls its negative the forgetting.

    Args:
        accuracies: `R`, `(T, T)`, as for `average_accuracy`.

    Returns:
        From -1 to 1; higher is better, and below 0 where something was forgotten. NaN for one experience.

    Raises:
        InputError: as for `average_accuracy`.

    Example:
        >>> round(backward_transfer([[0.9, 0.2], [0.6, 0.8]]), 3)
        -0.3
    """
    table = _table(accuracies)
    if len(table) == 1:
        return float("nan")
    return float((table[-1, :-1] - table.diagonal()[:-1]).mean())


def forward_transfer(accuracies: Any, before: Any) -> float:
    r"""What earlier experiences did for those that were still to come (Lopez-Paz & Ranzato 2017, Eq. 4).

    $$\mathrm{FWT} = \frac{1}{T-1} \sum_{j=2}^{T} \left( R_{j-1,j} - b_j \right)$$

    Args:
        accuracies: `R`, `(T, T)`, as for `average_accuracy`.
        before: `b`, `(T,)`: the accuracy on the test of each experience before anything was learned.

    Returns:
        From -1 to 1; higher is better. NaN for one experience.

    Raises:
        InputError: as for `average_accuracy`, or `before` has not one accuracy for each experience.

    Example:
        >>> round(forward_transfer([[0.9, 0.2], [0.6, 0.8]], before=[0.5, 0.125]), 3)
        0.075
    """
    table = _table(accuracies)
    start = _numbers(before, "before")
    if start.shape != table.shape[:1]:
        raise InputError(
            f"`before` must hold one accuracy for each of the {len(table)} experiences; got the shape {start.shape}."
        )
    if len(table) == 1:
        return float("nan")
    return float((table.diagonal(offset=1) - start[1:]).mean())


def _table(accuracies: Any) -> Float[np.ndarray, "rows columns"]:
    table = _numbers(accuracies, "accuracies")
    if table.ndim != 2 or len(table) != table.shape[1] or not len(table):
        raise InputError(
            "`accuracies` must be a square table, one row and one column for each experience; got the shape "
            f"{table.shape}. Test all experiences after each of them."
        )
    return table


def _numbers(values: Any, name: str) -> np.ndarray:
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"`{name}` must be numbers in rows of one length; {error}."[:200]) from None
    if not ((numbers >= 0) & (numbers <= 1)).all():
        raise InputError(f"`{name}` must be accuracies from 0 to 1; give shares, not percent, and no NaN.")
    return numbers
