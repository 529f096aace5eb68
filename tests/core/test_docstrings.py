"""What is public is documented, most of it with an example, and what takes tensors says their shapes.

`python tests/core/test_docstrings.py` prints the table, and what is missing in the rooms that it is given.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ciao_peft

PACKAGE = Path(ciao_peft.__file__).parent

# Documented by their class, or by the library whose methods they override.
OVERRIDDEN = {"forward", "backward", "train", "extra_repr", "setup_context"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Public:
    """A public module, class, function, method or property, as its file has it."""

    name: str
    kind: str
    docstring: str
    takes_tensors: bool = False

    @property
    def room(self) -> str:
        return self.name.split(".")[1] if "." in self.name else self.name

    @property
    def has_example(self) -> bool:
        lines = self.docstring.splitlines()
        return any(line.lstrip().startswith(">>> ") and "+SKIP" not in line for line in lines)

    @property
    def has_shapes(self) -> bool:
        return "Shapes:\n" in self.docstring


def is_public(name: str) -> bool:
    return not name.startswith("_")


def names_in(annotation: ast.expr | None) -> Iterator[str]:
    """Names in an annotation, quoted or not; a mapping's are left out, whose tensors have no shape in common."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        try:
            annotation = ast.parse(annotation.value.strip(), mode="eval").body
        except SyntaxError:  # a shape
            return
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) in ("dict", "Mapping", "Callable"):
        return
    if isinstance(annotation, ast.Name):
        yield annotation.id
    elif isinstance(annotation, ast.Attribute):
        yield annotation.attr
    elif annotation is not None:
        for part in ast.iter_child_nodes(annotation):
            if isinstance(part, ast.expr):
                yield from names_in(part)


def takes_tensors(node: ast.ClassDef) -> bool:
    """Whether a method that users call has an argument that is a tensor, or several."""
    for method in node.body:
        if isinstance(method, FUNCTIONS) and (is_public(method.name) or method.name == "__call__"):
            arguments = [*method.args.posonlyargs, *method.args.args, *method.args.kwonlyargs]
            if any("Tensor" in names_in(argument.annotation) for argument in arguments):
                return True
    return False


def is_overload(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether it only tells a type checker what comes back for which arguments."""
    return any(ast.unparse(decorator).rpartition(".")[2] == "overload" for decorator in node.decorator_list)


def members_of(node: ast.ClassDef, name: str) -> Iterator[Public]:
    for member in node.body:
        if not isinstance(member, FUNCTIONS) or not is_public(member.name) or member.name in OVERRIDDEN:
            continue
        decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in member.decorator_list}
        if decorators & {"setter", "deleter", "overload"}:  # documented where the value is read
            continue
        kind = "property" if decorators & {"property", "cached_property"} else "method"
        yield Public(f"{name}.{member.name}", kind, ast.get_docstring(member) or "")


def public_names(package: Path = PACKAGE) -> Iterator[Public]:
    for path in sorted(package.rglob("*.py")):
        module = ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if is_public(path.stem) or path.stem in ("__init__", "__main__"):
            yield Public(module, "module", ast.get_docstring(tree) or "")
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and is_public(node.name):
                name = f"{module}.{node.name}"
                yield Public(name, "class", ast.get_docstring(node) or "", takes_tensors(node))
                yield from members_of(node, name)
            elif isinstance(node, FUNCTIONS) and is_public(node.name) and not is_overload(node):
                yield Public(f"{module}.{node.name}", "function", ast.get_docstring(node) or "")


NAMES = list(public_names())
TO_CALL = [name for name in NAMES if name.kind in ("class", "function")]


def share(part: list[Public], whole: list[Public]) -> float:
    return len(part) / max(len(whole), 1)


def table() -> str:
    """Documented, with an example and with shapes, room by room; those with fewest examples first."""
    rows = []
    for room in sorted({name.room for name in NAMES}):
        names, to_call = ([n for n in some if n.room == room] for some in (NAMES, TO_CALL))
        documented = [name for name in names if name.docstring]
        with_example = [name for name in to_call if name.has_example]
        tensors = [name for name in names if name.takes_tensors]
        with_shapes = [name for name in tensors if name.has_shapes]
        rows.append(
            (
                share(with_example, to_call) if to_call else 1.0,
                f"{room:16} {len(documented):4}/{len(names):<4} {len(with_example):4}/{len(to_call):<4} "
                f"{share(with_example, to_call):5.0%}    {len(with_shapes):3}/{len(tensors):<3}",
            )
        )
    with_example = [name for name in TO_CALL if name.has_example]
    tensors = [name for name in NAMES if name.takes_tensors]
    total = (
        f"{'all':16} {sum(bool(n.docstring) for n in NAMES):4}/{len(NAMES):<4} {len(with_example):4}/{len(TO_CALL):<4} "
        f"{share(with_example, TO_CALL):5.0%}    {sum(n.has_shapes for n in tensors):3}/{len(tensors):<3}"
    )
    head = f"{'room':16} documented  with example    shapes"
    return "\n".join([head, *(row for _, row in sorted(rows)), total])


def test_everything_public_is_documented():
    missing = [f"{name.kind} {name.name}" for name in NAMES if not name.docstring.strip()]
    assert not missing, "\n".join([f"{len(missing)} of {len(NAMES)} have no docstring:", *missing])


def test_most_public_functions_and_classes_have_an_example_that_is_run():
    with_example = [name for name in TO_CALL if name.has_example]
    assert share(with_example, TO_CALL) >= 0.6, table()


def test_every_public_class_that_takes_tensors_says_their_shapes():
    missing = [name.name for name in NAMES if name.takes_tensors and not name.has_shapes]
    assert not missing, "\n".join(["no `Shapes:` in the docstring of", *missing])


def test_what_is_missing_is_seen(tmp_path):
    module = tmp_path / "pack" / "room.py"
    module.parent.mkdir()
    module.write_text(
        "class Layer:\n"
        "    '''It has none.'''\n"
        "    def forward(self, x: Float[Tensor, 'batch dim']): ...\n"
        "    def reset(self): ...\n"
        "    @property\n"
        "    def size(self): ...\n"
        "    def _inner(self): ...\n"
        "class Store:\n"
        "    '''Shapes:\n        x\n    '''\n"
        "    def keep(self, tensors: Mapping[str, Tensor]): ...\n"
        "def call(x: Tensor):\n"
        "    '''Example:\n        >>> call(1)\n    '''\n"
        "def skip():\n"
        "    '''Example:\n        >>> skip()  # doctest: +SKIP\n    '''\n"
    )
    seen = {name.name.removeprefix("pack."): name for name in public_names(module.parent)}
    assert set(seen) == {
        *("room", "room.call", "room.skip"),
        *("room.Layer", "room.Layer.reset", "room.Layer.size", "room.Store", "room.Store.keep"),
    }
    assert [name for name, entry in seen.items() if not entry.docstring] == [
        *("room", "room.Layer.reset", "room.Layer.size", "room.Store.keep")
    ]
    assert [name for name, entry in seen.items() if entry.takes_tensors] == ["room.Layer"]
    assert [name for name, entry in seen.items() if entry.has_example] == ["room.call"]
    assert [name for name, entry in seen.items() if entry.has_shapes] == ["room.Store"]
    assert seen["room.Layer.size"].kind == "property"


if __name__ == "__main__":
    print(table())
    for entry in NAMES:
        if entry.room in sys.argv[1:]:
            lacks = [
                *(["a docstring"] if not entry.docstring else []),
                *(["an example"] if entry in TO_CALL and not entry.has_example else []),
                *(["shapes"] if entry.takes_tensors and not entry.has_shapes else []),
            ]
            if lacks:
                print(f"{entry.kind} {entry.name} lacks {' and '.join(lacks)}")
