"""Which faces to label next: strategies of active learning on what the frozen encoder and an adapter say of them."""

from __future__ import annotations

from .strategies import STRATEGIES, Candidates, Chosen, choose, uncertainty
from .suggesting import Suggestion, Suggestions, suggest
from .table import labelled_rows, save_suggestions, suggestion_sheet

__all__ = [
    "STRATEGIES",
    "Candidates",
    "Chosen",
    "Suggestion",
    "Suggestions",
    "choose",
    "labelled_rows",
    "save_suggestions",
    "suggest",
    "suggestion_sheet",
    "uncertainty",
]
