"""Adapters that are in the package: read by name, without the Hub."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checking import closest
from ..errors import AdapterFileError, HubNotFoundError, HubOfflineError, listed, quoted
from ..saving import CONFIG_FILE, read_json
from .downloading import is_hub_id

__all__ = ["BundledAdapter", "bundled_adapters", "bundled_folder", "list_adapters", "names_in_mind"]

PREFIX = "ciao/"
FOLDER = Path(__file__).parent / "bundled_adapters"
_ASKS_THE_HUB = ("subfolder", "revision", "force_download")  # a bundled adapter has none of them


@dataclass(frozen=True)
class BundledAdapter:
    """An adapter in the package, as its folder and its card describe it.

    Args:
        name: What `CIAOModel.from_pretrained` takes.
        encoder: The encoder that it sits on, as `load_encoder` takes it.
        labels: Names of its classes, values or labels.
        aligned: Whether it reads faces that are aligned by their landmarks.
        metric: The metric of `score`.
        score: On the test faces that its card names.
        num_bytes: Size of its folder.

    Example:
        >>> found = {adapter.name: adapter for adapter in bundled_adapters()}
        >>> found["ciao/painted-affect"].labels
        ('arousal', 'valence')
    """

    name: str
    encoder: str
    labels: tuple[str, ...]
    aligned: bool
    metric: str
    score: float
    num_bytes: int


def list_adapters() -> list[str]:
    """The names of the adapters in the package, which load without the Hub.

    Example:
        >>> "ciao/everyday-six" in list_adapters()
        True
    """
    return sorted(PREFIX + folder.parent.name for folder in FOLDER.glob(f"*/{CONFIG_FILE}"))


def bundled_folder(source: str | os.PathLike[str], hub: Mapping[str, Any] | None = None) -> Path | None:
    """The folder of an adapter in the package, if a source means one.

    Args:
        source: A folder, or `user/name`. A folder of that name goes before the package, the package before the Hub.
        hub: What else was asked for. A `subfolder`, a `revision` or `force_download` asks for the Hub's repository.

    Returns:
        The folder, which must not be written to; None if the source is something else.

    Example:
        >>> bundled_folder("ciao/everyday-six").name, bundled_folder("user/everyday-six")
        ('everyday-six', None)
        >>> bundled_folder("ciao/everyday-six", {"revision": "main"})  # the repository of that name
    """
    if source not in list_adapters() or any((hub or {}).get(key) for key in _ASKS_THE_HUB) or Path(source).is_dir():
        return None
    return FOLDER / str(source).removeprefix(PREFIX)


@contextmanager
def names_in_mind(source: str | os.PathLike[str], hub: Mapping[str, Any]) -> Iterator[None]:
    """Says which adapter in the package may be meant, where a source is not found.

    Args:
        source: Neither an adapter in the package nor, perhaps, anything else.
        hub: What else was asked for, as for `bundled_folder`.

    Raises:
        HubNotFoundError: at once, for a name that looks like one in the package and starts as they do.
        AdapterFileError, HubNotFoundError, HubOfflineError: those of the block, with the name that is meant.

    Example:
        >>> with names_in_mind("ciao/everyday-sx", {}):
        ...     print("asks the Hub")
        Traceback (most recent call last):
        ...
        ciao_peft.errors.HubNotFoundError: No adapter in this package is named 'ciao/everyday-sx'. Did you mean ...
    """
    if os.path.isdir(source) or any(hub.get(key) for key in _ASKS_THE_HUB):
        yield
        return
    name, known = os.fspath(source), list_adapters()
    close = closest(name.rpartition("/")[2], [known_name.removeprefix(PREFIX) for known_name in known])
    ours = name.startswith(PREFIX) and is_hub_id(name)
    if ours and close:
        raise HubNotFoundError(
            f"No adapter in this package is named {quoted(name)}. Did you mean {PREFIX + close[0]!r}? It holds "
            f"{listed(known)}. If you mean a repository on the Hub, say `revision='main'`."
        )
    try:
        yield
    except (AdapterFileError, HubNotFoundError, HubOfflineError) as error:
        if (not close and not ours) or os.path.lexists(source):
            raise
        meant = (
            f"Did you mean {PREFIX + close[0]!r} of this package?" if close else f"This package has {listed(known)}."
        )
        raise type(error)(f"{error} {meant}") from error


def bundled_adapters() -> list[BundledAdapter]:
    """What the package holds, in the order of the names.

    Example:
        >>> all(0 < adapter.num_bytes < 300_000 for adapter in bundled_adapters())
        True
    """
    return [_described(name, FOLDER / name.removeprefix(PREFIX)) for name in list_adapters()]


def _described(name: str, folder: Path) -> BundledAdapter:
    record = read_json(folder / CONFIG_FILE)
    metric, score = next(iter(record["training"]["metrics"].items()))
    return BundledAdapter(
        name=name,
        encoder=record["base_model_name_or_path"],
        labels=tuple(record["config"]["id2label"].values()),
        aligned=bool(record["training"].get("aligned")),
        metric=metric,
        score=float(score["value"] if isinstance(score, Mapping) else score),
        num_bytes=sum(file.stat().st_size for file in folder.iterdir()),
    )
