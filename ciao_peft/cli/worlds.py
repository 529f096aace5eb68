"""Adapters that a command line names, on as few models as there are backbones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import BackboneMismatchError

if TYPE_CHECKING:
    from ..model import CIAOModel

__all__ = ["World", "load_worlds"]


class World(NamedTuple):
    """An adapter that reads, on the model that holds it.

    Args:
        name: Its column in the output.
        model: Holds it, and others on the same backbone.
        adapter_name: Its name in the model.
    """

    name: str
    model: CIAOModel
    adapter_name: str


def load_worlds(adapters: Sequence[str]) -> list[World]:
    """Loads adapters, those of one backbone onto one model, so that a picture goes through its trunk once.

    Args:
        adapters: Folders, names in the package, or repositories.

    Returns:
        One world for each, in their order; two of one name get numbers.

    Raises:
        AdapterFileError, BackboneError, HubError: as for `AutoCIAOModel.from_pretrained`.

    Example:
        >>> worlds = load_worlds(["ciao/everyday-six"])
        >>> worlds[0].name, worlds[0].model.active_adapter
        ('everyday-six', 'everyday-six')
    """
    from ..auto import AutoCIAOModel

    worlds: list[World] = []
    for source in adapters:
        name = own = _name_of(source)
        number = 1
        while own in {world.name for world in worlds}:
            number += 1
            own = f"{name}-{number}"
        for model in dict.fromkeys(world.model for world in worlds):
            try:
                model.load_adapter(source, adapter_name=own)
            except BackboneMismatchError:
                continue
            break
        else:
            model = AutoCIAOModel.from_pretrained(source, adapter_name=own)
        worlds.append(World(own, model.eval(), own))
    return worlds


def _name_of(source: str) -> str:
    """The last part of its folder or repository; of `runs/eight/adapter`, as `ciao train` writes it, `eight`."""
    from ..hub.adapters import name_from

    place = Path(source).resolve()
    if not place.exists():
        return name_from(source)
    return place.parent.name if place.name == "adapter" and place.parent.name else place.name
