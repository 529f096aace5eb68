"""The study lives on public faces: it imports what rooms export, and nothing but the command line imports it."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from helpers.places import REPOSITORY

PACKAGE = REPOSITORY / "ciao_peft"
STUDY = sorted((PACKAGE / "study").rglob("*.py"))
LIBRARY = sorted(set(PACKAGE.rglob("*.py")) - set(STUDY) - set((PACKAGE / "cli").rglob("*.py")))


def imported(path: Path, package: Path = PACKAGE) -> set[tuple[str, str]]:
    """Module and name of everything that a file imports from the package, inside functions too."""
    here = ["ciao_peft", *path.relative_to(package).parts[:-1]]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            names |= {(module, alias.name) for alias in node.names}
    return {(module, name) for module, name in names if module.split(".")[0] == "ciao_peft"}


def is_exported(module: str, name: str) -> bool:
    """Whether a name is of the package's face, of a room's face, or of a file that is a room by itself."""
    if module.count(".") > 1 or not name or name.startswith("_"):
        return False
    if (PACKAGE / f"{module.partition('.')[2]}.py").is_file():
        return True
    return name in importlib.import_module(module).__all__


@pytest.mark.parametrize("path", STUDY, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_the_study_imports_only_what_rooms_export(path):
    inner = {
        f"{module}: {name}"
        for module, name in imported(path)
        if not module.startswith("ciao_peft.study") and not is_exported(module, name)
    }
    assert not inner


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_nothing_but_the_command_line_imports_the_study(path):
    names = {f"{module}.{name}" for module, name in imported(path)}
    by_study = {name for name in names if f"{name}.".startswith("ciao_peft.study.")}
    assert not by_study or path == PACKAGE / "experiments.py"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from ...features import Samples", True),
        ("from ... import CIAOConfig", True),
        ("from ciao_peft import load_faces", True),
        ("from ...losses import check_labels", True),
        ("def late():\n    from ...features.store import Layout", False),
        ("from ...features import store", False),
        ("from ... import features", False),
        ("import ciao_peft.features", False),
        ("from ...losses import _blocks", False),
    ],
)
def test_every_way_past_a_face_is_seen(source, expected, tmp_path):
    path = tmp_path / "study" / "baselines" / "made_up.py"
    path.parent.mkdir(parents=True)
    path.write_text(source)
    ((module, name),) = imported(path, tmp_path)
    assert is_exported(module, name) == expected
