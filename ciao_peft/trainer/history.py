"""What happened during training: kept, written, drawn."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..drawing import as_png, blank_figure
from ..saving.files import write_file

LOG_FILE = "trainer_log.jsonl"
CURVE_FILE = "learning_curve.png"


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values for JSON, which knows neither NaN nor infinity: None stands for them.

    Example:
        >>> plain({"loss": float("nan"), "step": 3})
        {'loss': None, 'step': 3}
    """
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }


class History:
    """Log entries, in memory and as lines of a file.

    Args:
        folder: For `trainer_log.jsonl`; None keeps them in memory only.
        entries: Of a training that is resumed. The file is written anew with them.
    """

    def __init__(self, folder: Path | None, entries: list[dict[str, Any]] | None = None):
        self.entries: list[dict[str, Any]] = list(entries or [])
        self._path = None if folder is None else folder / LOG_FILE
        if self._path is not None:
            write_file(self._path, "".join(json.dumps(entry) + "\n" for entry in self.entries))

    def add(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Appends an entry and returns it as it is kept."""
        kept = plain(entry)
        self.entries.append(kept)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(kept) + "\n")
        return kept


def draw_learning_curve(entries: list[dict[str, Any]], metric: str, path: Path) -> bool:
    """Training loss and evaluation over updates, as a picture.

    Args:
        entries: Of a `History`.
        metric: Name of the evaluated metric to show, with `eval_`.
        path: Of the PNG file.

    Returns:
        Whether it was drawn: not without matplotlib, nor without two points.
    """
    losses = [(entry["step"], entry["loss"]) for entry in entries if entry.get("loss") is not None]
    scores = [(entry["step"], entry[metric]) for entry in entries if entry.get(metric) is not None]
    if len(losses) + len(scores) < 2:
        return False
    try:
        figure = blank_figure(6, 4)
    except ImportError:
        return False
    axes = figure.add_subplot()
    axes.set(xlabel="update", ylabel="training loss")
    lines = [*axes.plot(*zip(*losses, strict=True), color="C0", label="training loss")] if losses else []
    if scores:
        right = axes.twinx()
        right.set_ylabel(metric.removeprefix("eval_").replace("_", " "))
        lines += right.plot(*zip(*scores, strict=True), color="C1", marker="o", markersize=3, label=metric)
    axes.legend(handles=lines, loc="center right")
    write_file(path, as_png(figure))
    return True
