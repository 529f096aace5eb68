"""The tests stand where one looks for them, and no test file leans on another one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from helpers.places import PACKAGE, TESTS

FILES = sorted(TESTS.rglob("*.py"))
NO_ROOMS = {"core", "docs", "fuzz", "helpers"}
"""Folders of `tests/` that are no rooms of the package; tests/README.md says what they hold."""


def imported(source: str) -> set[str]:
    """Every part of every module name that a file imports, and every name imported from one."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(*(alias.name.split(".") for alias in node.names))
        elif isinstance(node, ast.ImportFrom):
            found.update((node.module or "").split("."), (alias.name for alias in node.names))
    return found


def name_of(path: Path) -> str:
    return path.relative_to(TESTS).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_file_imports_a_test_file(path):
    stems = {"conftest", "tests"} | {other.stem for other in FILES if other.stem.startswith("test_")}
    assert imported(path.read_text("utf-8")) & stems == set()


@pytest.mark.parametrize(
    "source",
    ["import test_a", "from test_a import faces", "from .test_a import faces", "from tests.core import test_a"],
)
def test_every_way_to_import_a_test_file_is_seen(source):
    assert "test_a" in imported(source)
    assert "test_a" in imported(f"def late():\n    {source}")


def test_the_folders_are_the_rooms_of_the_package():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {path.relative_to(TESTS).parts[0] for path in TESTS.glob("*/*.py")} - NO_ROOMS <= rooms


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_is_short_enough_to_be_read_at_once(path):
    assert len(path.read_text("utf-8").splitlines()) <= 450


@pytest.mark.parametrize("path", [path for path in FILES if path.stem != "places"], ids=name_of)
def test_only_places_looks_for_folders_from_where_a_file_lies(path):
    assert re.findall(r"Path\(__file__\).*", path.read_text("utf-8")) == []


def test_helpers_hold_no_tests():
    assert [name_of(path) for path in FILES if path.stem.startswith("test_") and path.parent.name == "helpers"] == []
