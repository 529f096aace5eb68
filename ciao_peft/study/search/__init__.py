"""A search for the settings of a method, on people held out of the training split."""

from __future__ import annotations

from .results import SearchResult, SearchTrial
from .search import search_settings
from .space import SearchSpace

__all__ = ["SearchResult", "SearchSpace", "SearchTrial", "search_settings"]
