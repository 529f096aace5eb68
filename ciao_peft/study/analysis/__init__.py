"""What the records of a study say: results, comparisons and their statistics."""

from __future__ import annotations

from .statistics import Comparison, Summary, compare, holm, summarize
from .study import (
    BASELINE,
    CIAO,
    COMPARED,
    LEVEL,
    MARGIN,
    NETWORKS,
    Against,
    RateTrial,
    Result,
    Study,
    Within,
    within_margin,
)

__all__ = [
    "BASELINE",
    "CIAO",
    "COMPARED",
    "LEVEL",
    "MARGIN",
    "NETWORKS",
    "Against",
    "Comparison",
    "RateTrial",
    "Result",
    "Study",
    "Summary",
    "Within",
    "compare",
    "holm",
    "summarize",
    "within_margin",
]
