"""Writes docs/reference.md: every public name of the library with one line, from signatures and docstrings.

python docs/make_reference.py
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import itertools
import pkgutil
import re
import types
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pages import wrapped

import ciao_peft

PAGE = Path(__file__).parent / "reference.md"
OLD = ("checkpoints", "experiments", "starting")  # names of an earlier release, which only forward
# Modules that are no rooms with an `__init__.py` of their own, and what they offer all the same.
ALSO = {
    "calibration": ("start_decay",),
    "scenes": ("Face",),
    "losses": ("concordance_loss", "contrastive_targets", "supervised_contrastive_loss", "task_loss"),
}
SETTINGS = ("CIAOConfig", "CIAOTrainingArguments")  # classes whose arguments are listed one by one
INTRODUCTION = """# Reference

`python docs/make_reference.py` writes this page from signatures and docstrings. `help(name)` in Python prints the whole
docstring: arguments, shapes, errors, and an example that runs as a test.

Public is what `ciao_peft` and the `__init__.py` of its rooms export in `__all__`; other modules are internal and may
change."""


def rooms() -> dict[str, list[str]]:
    """The public names of each room, by the module one imports them from."""
    found = {"ciao_peft": sorted(ciao_peft.__all__)}
    for info in pkgutil.walk_packages(ciao_peft.__path__, "ciao_peft."):
        room = info.name.removeprefix("ciao_peft.")
        if info.ispkg and room != "cli":
            names = getattr(importlib.import_module(info.name), "__all__", ())
        else:
            names = ALSO.get(room, ())
        if room not in ALSO:
            names = set(names) - set(found["ciao_peft"])
        names = sorted(names)
        if names and room not in OLD:
            found[info.name] = names
    return found


def signature(thing: Any) -> str:
    """Names of the arguments, with defaults where they are plain."""
    try:
        parameters = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):
        return ""
    words, keywords_only = [], False
    for one in parameters:
        if one.name in ("self", "cls"):
            continue
        if one.kind is one.VAR_POSITIONAL:
            keywords_only = True
        elif one.kind is one.KEYWORD_ONLY and not keywords_only:
            words.append("*")
            keywords_only = True
        prefix = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
        plain = isinstance(one.default, (bool, int, float, str, type(None)))
        default = "" if one.default is one.empty else f"={one.default!r}" if plain else "=..."
        words.append(f"{prefix}{one.name}{default}")
    return f"({', '.join(words)})"


def first_line(thing: Any) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


def first_sentence(text: str) -> str:
    """Up to the first full stop that ends a sentence."""
    return re.split(r"(?<=[.:]) (?=[A-Z-])", text, maxsplit=1)[0].rstrip(":")


def of_constant(module: ModuleType, name: str) -> str:
    """The text below an assignment in a file of the room; the kind of the value where there is none."""
    for path in sorted(Path(str(module.__file__)).parent.rglob("*.py")):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for one, following in itertools.pairwise(body):
            targets = one.targets if isinstance(one, ast.Assign) else [getattr(one, "target", None)]
            described = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            if described and name in [getattr(target, "id", None) for target in targets]:
                return first_sentence(" ".join(str(following.value.value).split()))
    value = getattr(module, name)
    choices = " or ".join(f"`{choice!r}`" for choice in get_args(value))
    if choices:
        return f"A type: {choices}."
    return f"`{value!r}`." if len(repr(value)) < 80 else f"A constant of type `{type(value).__name__}`."


def entry(name: str, thing: Any, module: ModuleType) -> str:
    if inspect.isclass(thing) or inspect.isfunction(thing):
        shown = "" if inspect.isclass(thing) and issubclass(thing, Exception) else signature(thing)
        if len(name + shown) > 300:  # all settings of a config: `help` lists them with what they mean
            shown = "(...)"
        return wrapped(f"- `{name}{shown}`: {first_line(thing)}", "  ")
    return wrapped(f"- `{name}`: {of_constant(module, name)}", "  ")


def meanings(cls: type) -> dict[str, str]:
    """What each argument of a class means, from the section `Args` of its docstring."""
    section = (inspect.getdoc(cls) or "").split("Args:\n")[1].split("\n\n")[0]
    found: dict[str, str] = {}
    for line in re.split(r"\n(?=    \w)", section):
        names, _, meaning = line.strip().partition(": ")
        found |= dict.fromkeys(names.split(", "), " ".join(meaning.split()))
    return found


def settings(cls: type) -> str:
    """A line for each setting of a dataclass: its name, type and default, and what it means."""
    told, lines = meanings(cls), []
    for field in dataclasses.fields(cls):
        kind = spelled(get_type_hints(cls)[field.name])
        default = "required" if field.default is dataclasses.MISSING else f"default `{field.default!r}`"
        lines.append(wrapped(f"- `{field.name}` ({kind}; {default}): {told[field.name]}", "  "))
    return "\n".join(lines)


def spelled(kind: Any) -> str:
    """A type as one would say it; choices as they are written."""
    if get_origin(kind) is Literal:
        return " or ".join(f"`{choice!r}`" for choice in get_args(kind))
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(spelled(one) for one in get_args(kind))
    return "`None`" if kind is type(None) else f"`{getattr(kind, '__name__', kind) if not get_args(kind) else kind}`"


def methods(cls: type) -> list[str]:
    """Public methods and properties that the library wrote for a class, those of its bases first."""
    lines = []
    ours = [base for base in reversed(cls.__mro__) if base.__module__.startswith("ciao_peft.")]
    for name, thing in {name: thing for base in ours for name, thing in vars(base).items()}.items():
        is_property = isinstance(thing, property)
        function = thing.fget if is_property else getattr(thing, "__func__", thing)
        if name.startswith("_") or not inspect.isfunction(function) or not first_line(function):
            continue
        shown = "" if is_property else signature(function)
        lines.append(wrapped(f"- `.{name}{shown}`: {first_line(function)}", "  "))
    return lines


def errors() -> str:
    from ciao_peft import errors

    found = [one for one in vars(errors).values() if inspect.isclass(one) and issubclass(one, errors.CIAOError)]
    lines = []
    for one in found:
        parents = ", ".join(f"`{base.__name__}`" for base in one.__bases__)
        lines.append(wrapped(f"- `{one.__name__}` ({parents}): {first_line(one)}", "  "))
    return "\n".join(lines)


def page() -> str:
    parts, classes = [INTRODUCTION], []
    for room, names in rooms().items():
        module = importlib.import_module(room)
        things = {name: getattr(module, name) for name in names}
        about = first_line(module)
        lines = [entry(name, thing, module) for name, thing in things.items()]
        parts.append(f"## `{room}`\n\n{wrapped(about)}\n\n" + "\n".join(lines))
        if room == "ciao_peft":
            classes = [(name, methods(thing)) for name, thing in things.items() if inspect.isclass(thing)]
            for name, lines in classes:
                if lines:
                    parts.append(f"### `{name}`\n\n" + "\n".join(lines))
                if name in SETTINGS:
                    parts.append(f"#### Settings of `{name}`\n\n{settings(things[name])}")
    about = "The classes in brackets are its bases: an `except` for one of them catches it too."
    parts.append(f"## `ciao_peft.errors`\n\n{about}\n\n{errors()}")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
