"""A search in pictures, drawn by Optuna: what trials reached one after the other and by each setting, and what matters.

Imported when a search is done: it needs Optuna and matplotlib, `pip install 'ciao_peft[search]'`.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from optuna import Study
from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.visualization import matplotlib as plots

from ...drawing import as_png
from ...saving import write_file


def draw_search(study: Study, names: Sequence[str], metric: str, folder: Path) -> None:
    """Writes `history.png`, `slices.png` and, where scores differ, `importances.png`.

    Args:
        study: With at least one score.
        names: The settings that were searched.
        metric: By which trials were compared.
        folder: Where to.
    """
    score = f"{metric.replace('_', ' ')} on held-out people"
    with _drawn_aside():
        history = plots.plot_optimization_history(study, target_name=score)
        history.legend(loc="lower right")  # Optuna's stands beside the axes and takes half the picture
        _save(history, folder / "history.png")
        drawn: Any = plots.plot_slice(study, params=list(names), target_name=score)  # one axes, or an array of them
        slices = np.ravel(drawn)
        for axes in slices:
            axes.xaxis.set_minor_formatter(NullFormatter())  # of less than a decade, one would lie on the other
        slices[0].figure.set_size_inches(2.2 * len(slices) + 1, 4)
        _save(slices[0], folder / "slices.png")
        if len({trial.value for trial in study.get_trials(deepcopy=False) if trial.value is not None}) > 1:
            importances = plots.plot_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
            if (legend := importances.get_legend()) is not None:
                legend.remove()  # of one entry
            _save(importances, folder / "importances.png")


@contextlib.contextmanager
def _drawn_aside() -> Iterator[None]:
    """Inside, pyplot has no window and its settings and figures are ours; the caller's are as before afterwards."""
    backend, figures = matplotlib.get_backend(), set(pyplot.get_fignums())
    with pyplot.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", "Attempting to set identical low and high")  # a setting with one value
        pyplot.switch_backend("Agg")
        try:
            yield
        finally:
            for number in set(pyplot.get_fignums()) - figures:
                pyplot.close(number)
            with contextlib.suppress(ImportError):  # one that needs a screen where there is none
                pyplot.switch_backend(backend)


def _save(axes: Axes, path: Path) -> None:
    figure = cast("Figure", axes.figure)
    figure.set_layout_engine("constrained")
    write_file(path, as_png(figure))
