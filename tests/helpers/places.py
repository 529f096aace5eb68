"""Where things lie: the one place that counts folders upwards."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parents[1]
REPOSITORY = TESTS.parent
PACKAGE = REPOSITORY / "ciao_peft"
BENCHMARKS = REPOSITORY / "benchmarks"
DOCS = REPOSITORY / "docs"
EXAMPLES = REPOSITORY / "examples"
SHARED = REPOSITORY.parent / "shared"
"""Beside the checkout: real faces and votes that are no part of the repository. Tests that want them skip without."""
