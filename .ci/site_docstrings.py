"""Docstrings of the house, as Griffe reads Google's: for the API pages of the site (`extensions` in mkdocs.yml)."""

from __future__ import annotations

import re
from typing import Any

import griffe


class HouseDocstrings(griffe.Extension):
    """Takes arguments that share a line apart, and calls the fields of a NamedTuple or TypedDict attributes."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        if obj.is_alias or obj.docstring is None:
            return
        text = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
        text = re.sub(r"^( +)(\w+(?:, \*{0,2}\w+)+): (.*(?:\n\1 +\S.*)*)", apart, text, flags=re.MULTILINE)
        if obj.is_class and {"NamedTuple", "TypedDict"} & {str(base) for base in obj.bases}:
            text = re.sub(r"^Args:$", "Attributes:", text, flags=re.MULTILINE)
        obj.docstring.value = text


def apart(match: re.Match[str]) -> str:
    """`a, b: what they are` as a line for each of them."""
    indent, names, meaning = match.groups()
    return "\n".join(f"{indent}{name}: {meaning}" for name in names.split(", "))
