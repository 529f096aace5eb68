"""YAML as plain data: text, numbers, true and false, null, lists and maps, of which none can multiply."""

from __future__ import annotations

from typing import Any

from .errors import shortened

__all__ = ["load"]

MAX_BROUGHT = 100_000
"""How many keys all `<<` of a file may bring together; maps that bring maps that bring maps would have no end."""


def load(text: str) -> Any:
    """What a text in YAML stands for. Dates stay text, and tags that make something else are refused.

    Args:
        text: One document.

    Raises:
        ValueError: a key stands twice in one map, or `<<` brings too much or no map.
        yaml.YAMLError: it is no YAML, or has a tag that is not known here.
        TypeError: the key of a map is no text and no number.
        RecursionError: it is nested too deep.

    Example:
        >>> load("seeds: 3")
        {'seeds': 3}
        >>> load("fast: &fast {epochs: 2, seeds: 3}\\nmine: {<<: *fast, seeds: 5}")["mine"]
        {'epochs': 2, 'seeds': 5}
    """
    import yaml

    safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # that of libyaml takes a seventh of the time

    class Loader(safe):
        """Safe, and nothing can multiply."""

        brought = 0

        def construct_map(self, node: Any) -> dict[Any, Any]:
            seen: set[Any] = set()
            for key, _ in node.value:
                name = "<<" if key.tag == "tag:yaml.org,2002:merge" else self.construct_object(key, True)
                if name in seen:
                    raise ValueError(f"the key {shortened(repr(name))} stands twice")
                seen.add(name)
            self.flatten_mapping(node)
            return {self.construct_object(k, True): self.construct_object(v, True) for k, v in node.value}

        def flatten_mapping(self, node: Any) -> None:
            """What `<<:` brings comes first, and gives way to a map's own keys."""
            entries, node.value = node.value, []  # a map that brings itself brings nothing
            brought: list[Any] = []
            for key, value in entries:
                if key.tag != "tag:yaml.org,2002:merge":
                    node.value.append((key, value))
                    continue
                for source in reversed(value.value) if isinstance(value, yaml.SequenceNode) else [value]:
                    if not isinstance(source, yaml.MappingNode):
                        raise ValueError("`<<` must bring a map, or a list of maps")
                    self.flatten_mapping(source)
                    brought += source.value
                    self.brought += len(source.value)
                    if self.brought > MAX_BROUGHT:
                        raise ValueError(f"`<<` brings more than {MAX_BROUGHT:,} keys")
            node.value = brought + node.value

    Loader.add_constructor("tag:yaml.org,2002:map", Loader.construct_map)
    for tag in ("timestamp", "value"):  # "value" is a lonely equals sign
        Loader.add_constructor(f"tag:yaml.org,2002:{tag}", lambda loader, node: node.value)
    for tag in ("binary", "set", "omap", "pairs"):
        Loader.add_constructor(f"tag:yaml.org,2002:{tag}", Loader.construct_undefined)
    return yaml.load(text, Loader=Loader)
