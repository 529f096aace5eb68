"""A study in pictures: scores with their intervals, learning curves, confusion matrices, parameters against scores."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ...drawing import as_png, blank_figure
from ...errors import MissingExtraError
from ..analysis.study import BASELINE, CIAO, NETWORKS, Result, Study
from ..paper import SCHEMES, WITH_CIAO
from .text import in_percent, printable, score_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
WIDTH = 7.5  # inches: what a page shows without shrinking it
CURVES = 7  # more lines than this cannot be told apart

# The colours of Okabe and Ito, which readers without full colour vision tell apart; the marks differ as well.
_KINDS = {
    "network": ("#0072B2", "o", "network of the paper"),
    BASELINE: ("#009E73", "s", "baseline"),
    "ablation": ("#CC79A7", "^", "ablation of CIAO"),
}
_CIAO = ("#D55E00", "D", CIAO)
_SCHEME_COLOURS = dict(zip(SCHEMES, ("#009E73", "#E69F00", "#0072B2"), strict=True))
_OTHER_COLOURS = ("#CC79A7", "#56B4E9", "#000000", "#D55E00")
_GREY = "#8a8a8a"


def check_plots() -> None:
    """That figures can be drawn.

    Raises:
        MissingExtraError: matplotlib is missing.

    Example:
        >>> check_plots()  # says nothing: matplotlib is here
    """
    if find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "A report with figures", "study")


def _png(figure: Figure) -> bytes:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Glyph .* missing from")  # drawn as a box; the tables have the name
        drawn = as_png(figure, DPI)
    small = io.BytesIO()
    # A palette: a third of the bytes, and nothing in them but the picture, so that the same records give the same ones.
    Image.open(io.BytesIO(drawn)).convert("RGB").quantize(128).save(small, "png", optimize=True)
    return small.getvalue()


def _text(name: str, longest: int = 40) -> str:
    """A name as the drawing library shows it: no formulas, on one line, never the sign for "not in the legend"."""
    name = printable(name)
    name = name if len(name) <= longest else name[: longest - 1] + "…"
    return (" " + name if name.startswith("_") else name).replace("$", r"\$")


def _bare(axes: Axes, grid: Literal["both", "x", "y"] | None = None) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    if grid is not None:
        axes.grid(axis=grid, color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)


def _style(result: Result) -> tuple[str, str, str]:
    return _CIAO if result.method == CIAO else _KINDS.get(result.kind, _KINDS[BASELINE])


def _legend_of_kinds(figure: Figure, results: Sequence[Result], *more: object) -> None:
    from matplotlib.lines import Line2D

    used = {_style(result) for result in results}
    styles = [style for style in (_CIAO, *_KINDS.values()) if style in used]
    handles = [Line2D([], [], color=c, marker=m, linestyle="none", label=label) for c, m, label in styles]
    figure.legend(handles=[*handles, *more], loc="outside lower center", ncols=5, frameon=False, fontsize=8.5)


def _axis_name(metric: str) -> str:
    return f"{score_name(metric)}, %" if in_percent(metric) else score_name(metric)


# -- scores ------------------------------------------------------------------------------------------------------------


def scores_figure(study: Study, task: str, encoder: str) -> bytes | None:
    """Mean and 95 % interval of every method on its main score, the best on top, with a dot for each seed.

    Returns:
        A PNG, or `None` where nothing has a score.

    Example:
        >>> from ciao_peft.study.example import ENCODER, TASK, example_study
        >>> study = example_study()
        >>> scores_figure(study, TASK, ENCODER)[:4]
        b'\x89PNG'
    """
    from matplotlib.lines import Line2D

    metric = study.metric(task, encoder)
    factor = 100 if in_percent(metric) else 1
    chosen = [result for result in study.results(task, encoder).values() if result.scores(metric)]
    if not chosen:
        return None
    chosen.sort(key=lambda result: result.mean(metric))
    figure = blank_figure(WIDTH, 1.3 + 0.26 * len(chosen))
    axes = figure.add_subplot(xlabel=_axis_name(metric))
    for row, result in enumerate(chosen):
        colour, marker, _ = _style(result)
        scores = [factor * score for score in result.scores(metric).values()]
        mean, summary = factor * result.mean(metric), result.summary(metric)
        if summary is not None and summary.interval is not None:
            axes.scatter(scores, [row] * len(scores), s=9, color=_GREY, alpha=0.7, linewidths=0, zorder=2)
            low, high = summary.interval
            axes.plot([factor * low, factor * high], [row, row], color=colour, linewidth=2.2, zorder=3)
        axes.scatter([mean], [row], s=34, color=colour, marker=marker, zorder=4)
        if result.method == CIAO:
            axes.axvline(mean, color=colour, linewidth=0.8, linestyle=":", zorder=1)
    axes.set_yticks(range(len(chosen)), [_text(result.method) for result in chosen], fontsize=9)
    axes.set_ylim(-0.6, len(chosen) - 0.4)
    axes.tick_params(axis="y", length=0)
    _bare(axes, "x")
    seed = Line2D([], [], color=_GREY, marker=".", linestyle="none", label="one seed")
    several = any(len(result.seeds) > 1 for result in chosen)
    _legend_of_kinds(figure, chosen, *([seed] if several else []))
    return _png(figure)


# -- learning curves ---------------------------------------------------------------------------------------------------


def learning_curve(result: Result, loss: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A loss of training over the epochs that every seed has.

    Args:
        result: Of one method.
        loss: `"task_loss"`, `"contrastive_loss"` or `"loss"`, their weighted sum.

    Returns:
        Epochs, mean over seeds, and standard deviation with n - 1 (0 for one seed); each `(E,)`, empty where the
        records have no such loss.

    Example:
        >>> from ciao_peft.study.example import ENCODER, TASK, example_study
        >>> result = example_study().results(TASK, ENCODER)["decision layer"]
        >>> epochs, mean, sd = learning_curve(result, "task_loss")
        >>> epochs.tolist(), mean.round(2).tolist(), sd.tolist()
        ([1.0, 2.0, 3.0], [1.0, 0.5, 0.33], [0.0, 0.0, 0.0])
    """
    by_seed = [{row["epoch"]: row[loss] for row in record.history if loss in row} for record in result.records]
    by_seed = [curve for curve in by_seed if curve]
    epochs = sorted(set.intersection(*(set(curve) for curve in by_seed))) if by_seed else []
    values = np.array([[curve[epoch] for epoch in epochs] for curve in by_seed]).reshape(len(by_seed), len(epochs))
    if not epochs:
        return np.empty(0), np.empty(0), np.empty(0)
    spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(len(epochs))
    return np.array(epochs), values.mean(axis=0), spread


def curves_shown(study: Study, task: str, encoder: str) -> list[str]:
    """Methods whose learning curves are drawn.

    The networks, the best baseline of CIAO's size, and where there is room the best of the others.

    Example:
        >>> from ciao_peft.study.example import ENCODER, TASK, example_study
        >>> study = example_study()
        >>> curves_shown(study, TASK, ENCODER)
        ['decision layer', 'decision layer + CIAO', 'MLP head']
    """
    results = study.results(task, encoder)
    names = [name for name in NETWORKS if name in results]
    best = study.best_baseline(task, encoder)
    names += [best] if best is not None and best not in names else []
    metric = study.metric(task, encoder)
    means = {name: result.mean(metric) for name, result in results.items() if result.scores(metric)}
    others = [name for name in means if name not in names and results[name].kind != "ablation"]
    others.sort(key=lambda name: -means[name])
    return [*names, *others[: max(0, 4 - len(names))]][:CURVES]


def curves_figure(study: Study, task: str, encoder: str) -> bytes | None:
    """Task loss and contrastive loss over the epochs of training, mean over seeds, with a band of one sd.

    Returns:
        A PNG, or `None` where the records have no history of two epochs or more.
    """
    from matplotlib.ticker import MaxNLocator

    results = study.results(task, encoder)
    panels: dict[str, dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]] = {"task_loss": {}, "contrastive_loss": {}}
    for name in curves_shown(study, task, encoder):
        task_loss = learning_curve(results[name], "task_loss")
        panels["task_loss"][name] = task_loss if len(task_loss[0]) else learning_curve(results[name], "loss")
        panels["contrastive_loss"][name] = learning_curve(results[name], "contrastive_loss")
    drawn = {
        loss: {name: curve for name, curve in curves.items() if len(curve[0]) > 1 and curve[1].any()}
        for loss, curves in panels.items()
    }
    drawn = {loss: curves for loss, curves in drawn.items() if curves}
    if not drawn:
        return None
    styles = _curve_styles(list(panels["task_loss"]))
    figure = blank_figure(WIDTH if len(drawn) > 1 else 5.0, 3.6)
    for axes, (loss, curves) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True):
        for name, (epochs, mean, sd) in curves.items():
            colour, line = styles[name]
            axes.plot(epochs, mean, color=colour, linestyle=line, linewidth=1.6)
            if sd.any():
                axes.fill_between(epochs, mean - sd, mean + sd, color=colour, alpha=0.15, linewidth=0)
        axes.set_xlabel("epoch")
        axes.set_title(loss.replace("_", " "), fontsize=10)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        _bare(axes, "y")
    from matplotlib.lines import Line2D

    names = [name for name in styles if any(name in curves for curves in drawn.values())]
    looks: dict[str, Any] = {name: {"color": styles[name][0], "linestyle": styles[name][1]} for name in names}
    handles = [Line2D([], [], label=_text(name), **looks[name]) for name in names]
    columns = 3 if len(drawn) > 1 else 2
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=8.5)
    return _png(figure)


def _curve_styles(names: list[str]) -> dict[str, tuple[str, str]]:
    """A colour per scheme, solid with CIAO and dashed without; other methods dotted, each in its own colour."""
    styles, others = {}, iter(_OTHER_COLOURS)
    for name in names:
        scheme = name.removesuffix(WITH_CIAO)
        if scheme in _SCHEME_COLOURS:
            styles[name] = (_SCHEME_COLOURS[scheme], "-" if name.endswith(WITH_CIAO) else "--")
        else:
            styles[name] = (next(others), ":")
    return styles


# -- confusion matrices ------------------------------------------------------------------------------------------------


def confusions_shown(study: Study, task: str, encoder: str) -> list[str]:
    """Methods whose confusion matrices are drawn: CIAO and the best baseline of its size, or the same head without it.

    Example:
        >>> from ciao_peft.study.example import ENCODER, TASK, example_study
        >>> study = example_study()
        >>> confusions_shown(study, TASK, ENCODER)
        ['decision layer + CIAO', 'MLP head']
    """
    results = study.results(task, encoder)
    names = [CIAO, study.best_baseline(task, encoder), CIAO.removesuffix(WITH_CIAO), *results]
    drawn = [name for name in dict.fromkeys(names) if name in results and results[name].confusion() is not None]
    return drawn[:2]


def confusion_figure(study: Study, task: str, encoder: str) -> bytes | None:
    """Share of each true class that was given each answer, in percent, summed over seeds.

    Returns:
        A PNG, or `None` where the records have no confusion matrix.
    """
    results, matrices = study.results(task, encoder), {}
    for name in confusions_shown(study, task, encoder):
        if (matrix := results[name].confusion()) is not None:
            matrices[name] = matrix
    if not matrices:
        return None
    names = list(matrices)
    side = min(max(2.6, 0.48 * max(map(len, matrices.values()))), 9.0)
    width = side * len(names) + 1.8
    figure = blank_figure(width, side + 1.35)
    fontsize = 8.5 * max(1.0, width / 8.5)  # a wider picture is shown smaller
    for index, (axes, name) in enumerate(zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True)):
        counts = matrices[name]
        seeds = sum(record.confusion is not None for record in results[name].records)
        totals = counts.sum(axis=1, keepdims=True)
        shares = counts / np.maximum(totals, 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        labels = results[name].records[-1].labels or []
        labels = (
            [_text(label, 16) for label in labels] if len(labels) == len(counts) else [*map(str, range(len(counts)))]
        )
        faces = [f"{label} ({n / seeds:,.0f})" for label, n in zip(labels, totals[:, 0], strict=True)]
        axes.set_xticks(range(len(counts)), labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=fontsize)
        axes.set_yticks(range(len(counts)), faces if index == 0 else [""] * len(counts), fontsize=fontsize)
        axes.tick_params(length=0)
        axes.spines[:].set_color("0.7")
        axes.set_title(_text(name), fontsize=fontsize + 1.5)
        axes.set_xlabel("answer", fontsize=fontsize + 0.5)
        if index == 0:
            axes.set_ylabel("true class (test faces)", fontsize=fontsize + 0.5)
        for row, column in np.ndindex(shares.shape):
            if totals[row, 0]:
                shade = "white" if shares[row, column] > 0.55 else "black"
                percent = f"{100 * shares[row, column]:.0f}"
                axes.text(column, row, percent, ha="center", va="center", color=shade, fontsize=fontsize)
    return _png(figure)


# -- parameters against scores -----------------------------------------------------------------------------------------


def parameters_figure(study: Study, task: str, encoder: str) -> bytes | None:
    """Trained parameters against the main score of networks and baselines: what the score costs (compare Fig. 4).

    Returns:
        A PNG, or `None` where fewer than two methods have both.
    """
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    metric = study.metric(task, encoder)
    factor = 100 if in_percent(metric) else 1
    chosen: list[Result] = []
    points: dict[str, tuple[int, float]] = {}
    for result in study.results(task, encoder).values():
        if result.kind != "ablation" and result.trained and result.scores(metric):
            chosen.append(result)
            points[result.method] = (result.trained, factor * result.mean(metric))
    if len(chosen) < 2:
        return None
    chosen.sort(key=lambda result: -points[result.method][1])
    height = max(3.4, 1.3 + 0.2 * len(chosen))
    figure = blank_figure(WIDTH, height)
    axes = figure.add_subplot(xlabel="trained parameters", ylabel=_axis_name(metric), xscale="log")
    for result in chosen:
        colour, marker, _ = _style(result)
        axes.scatter(*points[result.method], s=34, color=colour, marker=marker, zorder=3)
    widths = [trained for trained, _ in points.values()]
    axes.set_xlim(min(widths) / 1.3, max(widths) * 1.3)
    axes.margins(y=0.08)
    low, high = axes.get_ylim()
    # Names stand in a column beside the axes, in the order of the scores: they cannot cover one another or a point.
    heights = [(points[result.method][1] - low) / (high - low) for result in chosen]
    for result, place in zip(chosen, spaced(heights, 0.2 / (height - 1.2)), strict=True):
        axes.annotate(
            _text(result.method),
            xy=points[result.method],
            xytext=(1.04, place),
            textcoords="axes fraction",
            va="center",
            fontsize=8.5,
            fontweight="bold" if result.method == CIAO else "normal",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": _style(result)[0],
                "linewidth": 0.5,
                "alpha": 0.5,
                "relpos": (0, 0.5),
            },
        )
    decades = math.log10(max(widths) / min(widths))
    subs = (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9) if decades < 0.6 else (1, 2, 5) if decades < 2.5 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())
    _bare(axes, "both")
    _legend_of_kinds(figure, chosen)
    return _png(figure)


def spaced(places: Sequence[float], gap: float) -> list[float]:
    """Heights from the top down, moved as little as it takes to lie `gap` apart and, where there is room, in [0, 1].

    Example:
        >>> spaced([1.0, 0.5, 0.5, 0.0], 0.25)
        [1.0, 0.5, 0.25, 0.0]
        >>> spaced([0.0, 0.0], 0.5)
        [0.5, 0.0]
    """
    apart: list[float] = []
    for place in places:
        apart.append(min(place, apart[-1] - gap) if apart else place)
    floor = 0.0
    for index in reversed(range(len(apart))):
        apart[index] = max(apart[index], floor)
        floor = apart[index] + gap
    return apart
