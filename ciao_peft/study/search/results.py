"""What a search has found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..plan import Method


@dataclass(frozen=True)
class SearchTrial:
    """One trial of a search that is done.

    Args:
        index: From 0, in the order in which trials were begun.
        values: What it tried, by the names in `SearchSpace`.
        score: On the held-out part, by the task's metric; None where it was given up on the way or diverged.
        seconds: It took.

    Example:
        >>> SearchTrial(index=0, values={"dropout": 0.5}, score=0.8, seconds=2.0).values["dropout"]
        0.5
    """

    index: int
    values: Mapping[str, Any]
    score: float | None
    seconds: float


@dataclass(frozen=True)
class SearchResult:
    """What a search has found so far.

    Args:
        method: The method with the best trial's settings, as `best.json` has it.
        best: The best trial.
        trials: All that are done.
        importances: Share of each setting in what made trials good or bad; empty with too few of them.
        metric: By which trials were compared.
        folder: With `best.json`, `trials.md`, pictures and `search.db`.
    """

    method: Method
    best: SearchTrial
    trials: list[SearchTrial] = field(repr=False)
    importances: dict[str, float]
    metric: str
    folder: Path
