"""Adapters that are in the package: read by name, without the Hub."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..saving import CONFIG_FILE, read_json

__all__ = ["BundledAdapter", "bundled_adapters", "bundled_folder", "list_adapters"]

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
