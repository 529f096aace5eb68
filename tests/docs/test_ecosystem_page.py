"""The tables of docs/howto/ecosystem.md: behind every row is a test that uses the real library."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest
import torch

from helpers.places import REPOSITORY

PAGE = (REPOSITORY / "docs" / "howto" / "ecosystem.md").read_text("utf-8")
ROWS = re.findall(r"^\| (.+?) \| (.+) \| `(tests/[\w/]+\.py)` \|$", PAGE, flags=re.MULTILINE)
NAMES_OF_PEFT = PAGE.partition("## peft's names")[2].partition("\n## ")[0]
OF_PEFT = re.findall(r"^\| (`.+?) \| (.+?) \|$", NAMES_OF_PEFT, flags=re.MULTILINE)
FAMILIAR = "tests/model/test_familiar_names.py"

IMPORTED = {
    "Accelerate": "accelerate",
    "grad-cam": "pytorch_grad_cam",
    "Lightning": "lightning",
    "plain loops": "torch",
    "scikit-learn": "sklearn",
    "TensorBoard": "tensorboard",
    "`torch.compile`": "torch",
    "`torch.export`": "torch",
    "`torch.onnx`": "torch",
}
"""What a library of the table is imported as, where that is not its name."""


def libraries(cell: str) -> list[str]:
    """Those that the first cell of a row names; what follows a colon is a part of one."""
    names = [name.strip() for name in cell.partition(": ")[0].split(",")]
    return [IMPORTED.get(name, name) for name in names]


def names_in(cell: str) -> set[str]:
    """The names of code in a cell: `num_parameters` for `model.num_parameters()`."""
    code = re.findall(r"`([^`]+)`", cell)
    return {name for text in code for name in re.findall(r"[A-Za-z_]\w*", re.sub(r"[\"'].*?[\"']", "", text))}


@cache
def tree_of(test: str) -> ast.Module:
    return ast.parse((REPOSITORY / test).read_text("utf-8"))


def packages_imported(node: ast.AST) -> set[str]:
    """Packages that code imports, `pytest.importorskip` included."""
    found: set[str] = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in inner.names}
        elif isinstance(inner, ast.ImportFrom):
            found.add((inner.module or "").partition(".")[0])
        elif isinstance(inner, ast.Call) and ast.unparse(inner.func).endswith("importorskip"):
            found.add(ast.literal_eval(inner.args[0]).partition(".")[0])
    return found


def is_used_by_a_test(package: str, test: str) -> bool:
    """Whether a test, or its file for all of its tests, imports a package."""
    return any(
        package in packages_imported(node)
        for node in tree_of(test).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        or (isinstance(node, ast.FunctionDef) and node.name.startswith("test_"))
    )


def words_of(test: str) -> set[str]:
    return set(re.findall(r"\w+", (REPOSITORY / test).read_text("utf-8")))


def test_the_tables_were_found():
    lines = [line for line in PAGE.partition("\n## ")[0].splitlines() if line.startswith("|")]
    assert len(ROWS) == len(lines) - 2 >= 16 and len(OF_PEFT) >= 9  # two lines are the head


@pytest.mark.parametrize(("cell", "what", "test"), ROWS)
def test_a_row_names_a_test_that_imports_its_library(cell, what, test):
    assert [name for name in libraries(cell) if not is_used_by_a_test(name, test)] == []


@pytest.mark.parametrize(("cell", "what", "test"), ROWS)
def test_what_a_row_names_stands_in_its_test(cell, what, test):
    assert names_in(cell) | names_in(what) <= words_of(test) | {"model", "output"}


@pytest.mark.parametrize(("theirs", "ours"), OF_PEFT)
def test_a_name_of_peft_is_one_and_is_tried(theirs, ours):
    import peft
    from peft.utils import hotswap

    assert is_used_by_a_test("peft", FAMILIAR)
    assert names_in(theirs) | names_in(ours) <= words_of(FAMILIAR) | {"LoraConfig", "model", "folder"}
    lora = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(2, 2)), peft.LoraConfig(target_modules=["0"]))
    of_peft = {name for place in (peft, peft.LoraConfig, lora, lora.base_model, hotswap) for name in dir(place)}
    assert names_in(theirs) <= of_peft | {"is_trainable", "True", "model"}


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("def test_a():\n    from peft import PeftConfig", True),
        ("def test_a():\n    pytest.importorskip('peft')", True),
        ("import peft.utils", True),
        ("def helper():\n    import peft", False),
        ("def test_a():\n    sys.modules['peft'] = 'a stand-in'", False),
    ],
)
def test_only_a_real_import_in_a_test_counts(code, found, monkeypatch):
    monkeypatch.setitem(globals(), "tree_of", lambda test: ast.parse(code))
    assert is_used_by_a_test("peft", "any.py") == found
