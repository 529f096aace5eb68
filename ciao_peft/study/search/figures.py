"""A search in pictures: what the trials reached one after the other, and by each setting."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...saving.files import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .results import SearchTrial
    from .space import SearchSpace


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    png = io.BytesIO()
    figure.savefig(png, dpi=120, format="png")
    write_file(path, png.getvalue())


def draw_history(trials: Sequence[SearchTrial], metric: str, path: Path) -> None:
    """The score of each trial, and the best one until then; what was given up is a mark below."""
    figure = _figure(7, 4)
    axes = figure.add_subplot(xlabel="trial", ylabel=f"{metric.replace('_', ' ')} on held-out people")
    done = [trial for trial in trials if trial.score is not None]
    index, scores = [trial.index for trial in done], [trial.score for trial in done]
    axes.scatter(index, scores, s=18, color="C0", label="trial")
    axes.step(index, np.maximum.accumulate(scores), where="post", color="C1", label="best so far")
    given_up = [trial.index for trial in trials if trial.score is None]
    if given_up:
        axes.scatter(given_up, [min(scores)] * len(given_up), marker="x", s=18, color="0.6", label="given up")
    axes.legend(loc="lower right")
    _save(figure, path)


def draw_slices(
    trials: Sequence[SearchTrial], names: Sequence[str], space: SearchSpace, metric: str, path: Path
) -> None:
    """The score over each setting on its own, later trials darker, the best one in a ring."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    done = [trial for trial in trials if trial.score is not None]
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = _figure(2.6 * columns + 0.6, 2.4 * rows + 0.2)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    last = max(done, key=lambda trial: trial.index).index
    shades = [trial.index / max(last, 1) for trial in done]
    best = max(done, key=lambda trial: (trial.score, -trial.index))
    for axes, name in zip(grid.flat, names, strict=False):
        values: list[Any] = [trial.values[name] for trial in done]
        axes.scatter(values, [t.score for t in done], c=shades, cmap="Blues", vmin=-0.5, vmax=1, s=16)
        axes.scatter([best.values[name]], [best.score], s=60, facecolors="none", edgecolors="C1")
        axes.set_xlabel(name.replace("_", " "))
        low, high = min(getattr(space, name)), max(getattr(space, name))
        if name == "batch_size":
            axes.set_xscale("log", base=2)
            axes.set_xticks(space.batch_size, [str(size) for size in space.batch_size])
            axes.minorticks_off()
        elif space.is_logarithmic(name):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(numticks=4))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlim(low / 1.2, high * 1.2)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=name == "hidden_layers"))
            axes.set_xlim(low - 0.05 * (high - low) - 0.01, high + 0.05 * (high - low) + 0.01)
    for axes in list(grid.flat)[len(names) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel(metric.replace("_", " "))
    _save(figure, path)


def draw_importances(importances: Mapping[str, float], path: Path) -> None:
    """Share of each setting in what made trials good or bad, the largest on top."""
    figure = _figure(6, 0.4 * len(importances) + 1)
    axes = figure.add_subplot(xlabel="importance (PED-ANOVA)", xlim=(0, 1))
    names = [name.replace("_", " ") for name in importances][::-1]
    axes.barh(names, list(importances.values())[::-1], color="C0")
    _save(figure, path)
