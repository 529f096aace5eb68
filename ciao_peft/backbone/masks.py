"""What is asked of an opened backbone: rows of a batch, and what stands in the place of its units' answers."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

__all__ = ["Mask", "Request"]

Mask = Callable[[int, Tensor, Callable[[], Tensor]], Tensor]
"""From a unit's number, its input and a function that gives the frozen unit's answer, to what goes on in its place.

It may return k rows for each row of the input, one after the other: the final map then has k rows for each, too.
"""

Request = tuple[Tensor | None, Mask | None]
"""Rows of the batch (None for all of it) and their mask (None for the backbone's own output)."""
