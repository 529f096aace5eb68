"""What happened during training: kept, written, drawn."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..drawing import as_png, blank_figure
from ..errors import TrainingError
from ..saving.files import refusals_told, write_file

LOG_FILE = "trainer_log.jsonl"
"""The log in `output_dir`: one JSON object per line."""

CURVE_FILE = "learning_curve.png"
"""The picture of the log in `output_dir`."""


_MAKE_ROOM = "Make room there, or give another `output_dir`."


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values for JSON, which knows neither NaN nor infinity: None stands for them.

    Args:
        values: Numbers, texts and the like by name.

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
        entries: Entries of a training that is resumed. The file is written anew with them.

    Attributes:
        entries: All entries, the oldest first; each holds `step`, `epoch` and what was measured there.

    Example:
        >>> history = History(None)
        >>> history.add({"step": 1, "loss": float("inf")})
        {'step': 1, 'loss': None}
        >>> history.entries
        [{'step': 1, 'loss': None}]
    """

    entries: list[dict[str, Any]]

    def __init__(self, folder: Path | None, entries: list[dict[str, Any]] | None = None):
        self.entries = list(entries or [])
        self._path = None if folder is None else folder / LOG_FILE
        if self._path is not None:
            with refusals_told(TrainingError, self._path, _MAKE_ROOM):
                write_file(self._path, "".join(json.dumps(entry) + "\n" for entry in self.entries))

    def add(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Appends an entry to memory and file.

        Args:
            entry: Plain data by name, such as `{"step": 10, "loss": 0.3}`.

        Returns:
            The entry as it is kept: None in place of NaN and infinity.
        """
        kept = plain(entry)
        self.entries.append(kept)
        if self._path is not None:
            with refusals_told(TrainingError, self._path, _MAKE_ROOM), self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(kept) + "\n")
        return kept

    def scores_at(self, step: int | None) -> dict[str, float]:
        """The scores of the last evaluation after an update, by `eval_NAME`; empty if there was none.

        Args:
            step: Updates made.

        Example:
            >>> history = History(None)
            >>> _ = history.add({"step": 1, "epoch": 0.5, "eval_loss": 0.25})
            >>> history.scores_at(1), history.scores_at(2)
            ({'eval_loss': 0.25}, {})
        """
        entries = [entry for entry in self.entries if entry["step"] == step and "eval_loss" in entry]
        return {name: value for name, value in entries[-1].items() if name.startswith("eval_")} if entries else {}


def draw_learning_curve(entries: list[dict[str, Any]], metric: str, path: Path) -> bool:
    """Draws training loss and evaluation over updates into a PNG file.

    Args:
        entries: Of a `History`.
        metric: Name of the evaluated metric to show, with `eval_`.
        path: Of the PNG file, which is replaced.

    Returns:
        Whether it was drawn: it is not without matplotlib, nor with fewer than two points.

    Example:
        >>> draw_learning_curve([{"step": 1, "loss": 0.5}], "eval_accuracy", Path("learning_curve.png"))
        False
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
    with refusals_told(TrainingError, path, _MAKE_ROOM):
        write_file(path, as_png(figure))
    return True
