"""The order of the rooms, the cost of the import, and what must not be in any tracked file."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

import ciao_peft
from helpers.places import REPOSITORY

PACKAGE = REPOSITORY / "ciao_peft"

# From the ground up, as docs/architecture.md lists them: a file imports from its own room and those before it.
LISTED = re.findall(
    r"^  (\w+(?:\.py|/)) ", (REPOSITORY / "docs" / "architecture.md").read_text("utf-8"), flags=re.MULTILINE
)
ROOMS = [re.sub(r"\.py|/", "", entry) for entry in LISTED]
MODELS = {"inhibition", "losses", "heads", "backbone", "adapters", "model"}
HEAVY = {
    *(
        "accelerate",
        "cv2",
        "datasets",
        "evaluate",
        "gradio",
        "matplotlib",
        "optuna",
        "pandas",
        "peft",
        "PIL",
        "sklearn",
    ),
    *("timm", "torchvision", "transformers"),
}


def room_of(path: Path) -> str:
    """`data` for ciao_peft/data/jaffe.py, `losses` for ciao_peft/losses.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def modules_imported(path: Path) -> set[str]:
    """Full names of everything a file imports, inside functions too; `a.b` and `a.b.c` for `from a.b import c`."""
    package = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)}
    return found


def rooms_imported(path: Path) -> set[str]:
    """Rooms of this package that a file imports from; a public name counts as the room it lives in."""
    names = {name.split(".")[1] for name in modules_imported(path) if name.startswith("ciao_peft.")}
    return {ciao_peft._ROOM_OF.get(name, name) for name in names - {"__version__"}}


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_the_list_of_rooms_was_found():
    assert (ROOMS[0], *ROOMS[-2:]) == ("_version", "cli", "__main__")
    assert len(ROOMS) == len(set(ROOMS)) >= 20


def test_every_room_there_is_has_its_line_in_the_list():
    there = {path.name + "/" * path.is_dir() for path in PACKAGE.iterdir()}
    assert there - {"__init__.py", "__pycache__/", "py.typed"} <= set(LISTED)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_file_imports_only_from_its_own_room_and_those_above_it(path):
    assert rooms_imported(path) <= set(ROOMS[: ROOMS.index(room_of(path)) + 1])


def module_of(path: Path) -> str:
    """`ciao_peft.data.jaffe` for its file, `ciao_peft.data` for the `__init__.py` of a room."""
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


def files_imported(path: Path, modules: set[str]) -> set[str]:
    """Modules of this package that a file imports, inside functions and for types too.

    `from . import folder` is an import of that file, and not of the room's `__init__.py`.
    """
    names = modules_imported(path)
    rooms = {name for name in names if any(other.startswith(f"{name}.") for other in names)}
    inner = {name for name in rooms if all(o in modules for o in names if o.rpartition(".")[0] == name)}
    return modules & (names - inner) - {module_of(path)}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, in a circle however long (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(graph[module]):
            if other not in index:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(graph):
        if module not in index:
            visit(module)
    return found


def test_no_files_import_each_other_in_a_circle():
    modules = {module_of(path): path for path in FILES}
    # A room's face is what other rooms import from; inside the room, files import from each other and not from it.
    assert circles({name: files_imported(path, set(modules)) for name, path in modules.items()}) == []


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"a"}}, [["a", "b"]]),
        ({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}, [["b", "c"]]),
        ({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}, [["a", "b", "c"]]),
    ],
)
def test_every_circle_is_found(graph, expected):
    assert circles(graph) == expected


@pytest.mark.parametrize("path", sorted((PACKAGE / "data").glob("*.py")), ids=lambda path: path.name)
def test_data_knows_nothing_of_models(path):
    assert not rooms_imported(path) & MODELS


def test_config_needs_no_torch():
    for room in ("errors", "config"):
        assert not {name for name in modules_imported(PACKAGE / f"{room}.py") if name.split(".")[0] == "torch"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from ..errors import CIAOError", {"errors"}),
        ("from .. import model", {"model"}),
        ("from ..encoders.registry import names", {"encoders"}),
        ("from .crops import crop", {"data"}),
        ("import ciao_peft.trainer", {"trainer"}),
        ("from ciao_peft import get_ciao_model, __version__", {"model"}),
        ("def late():\n    from ciao_peft.hub import pull", {"hub"}),
        ("import importlib\nimportlib.import_module('ciao_peft.cli')", {"cli"}),
        ("import torch, datasets", set()),
    ],
)
def test_every_way_to_import_is_seen(source, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "REPOSITORY", tmp_path)
    path = tmp_path / "ciao_peft" / "data" / "jaffe.py"
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert rooms_imported(path) == expected


def test_every_package_imported_is_declared_in_pyproject():
    declared = {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in requires("ciao_peft")}
    provided_by = packages_distributions()
    examples = (REPOSITORY / "examples").glob("*.py")
    for path in [*FILES, *examples]:
        tops = {name.split(".")[0] for name in modules_imported(path)} - set(sys.stdlib_module_names) - {"ciao_peft"}
        for top in tops:
            # dlib-bin, dlib ready built, does not list what it provides.
            names = {name.lower().replace("_", "-") for name in provided_by.get(top, [top, f"{top}-bin"])}
            assert names & declared, f"{path.name} imports {top}, which no dependency of pyproject.toml brings"


def loaded_after(statement: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport json, sys; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_importing_the_package_brings_in_nothing_heavy():
    loaded = loaded_after("import ciao_peft")
    assert "ciao_peft" in loaded
    assert not loaded & (HEAVY | {"torch", "numpy"})


def test_the_config_comes_without_torch():
    assert not loaded_after("from ciao_peft import CIAOConfig, CIAOError") & (HEAVY | {"torch", "numpy"})


def test_every_public_name_together_brings_in_no_more_than_torch_and_the_hub():
    loaded = loaded_after("from ciao_peft import *")
    assert "torch" in loaded
    assert not loaded & HEAVY


def test_public_names_are_complete_and_importable():
    assert set(ciao_peft.__all__) == set(ciao_peft._ROOM_OF) == set(ciao_peft.__all__) & set(dir(ciao_peft))
    for name in ciao_peft.__all__:
        assert getattr(ciao_peft, name).__name__ == name


def test_public_names_are_declared_to_type_checkers():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    declared = next(
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    assert {alias.name: node.module for node in declared.body for alias in node.names} == ciao_peft._ROOM_OF


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'ciao_peft' has no attribute 'get_caio_model'"):
        ciao_peft.get_caio_model  # noqa: B018


# None of these patterns matches itself, so that this file is looked at too.
NEVER_TRACKED = {
    "the host of a registry": r"pypi\.(org|python)|pythonh[o]sted|registry\.npmjs|deb\.debian|download\.pytorch",
    "an absolute path of one machine": r"(?<![\w.~/-])/(work|root|home)/",
    "a note of unfinished work": r"\b(TO[D]O|FIX[M]E|X{3})\b",
}


def tracked_texts() -> dict[str, str]:
    listing = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    texts = {}
    for name in filter(None, listing.stdout.split("\0")):
        try:
            texts[name] = (REPOSITORY / name).read_text(encoding="utf-8")
        except (FileNotFoundError, UnicodeDecodeError):  # deleted but not yet committed, or no text
            continue
    return texts


@pytest.mark.parametrize("what", NEVER_TRACKED)
def test_no_tracked_file_holds(what):
    hits = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in tracked_texts().items()
        for number, line in enumerate(text.splitlines(), start=1)
        if re.search(NEVER_TRACKED[what], line)
    ]
    assert not hits, "\n".join(hits)
