"""Figures that are drawn without a window, and their PNG. Needs matplotlib, which the extra `plots` brings."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def blank_figure(width: float, height: float) -> Figure:
    """A white figure whose parts find room for one another; it belongs to no window and no global list.

    Args:
        width, height: In inches.

    Raises:
        ModuleNotFoundError: matplotlib is missing.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def as_png(figure: Figure, dpi: int = 120) -> bytes:
    r"""A PNG file's content, without the name and version of the library that drew it.

    Example:
        >>> as_png(blank_figure(1, 1))[:4]
        b'\x89PNG'
    """
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=dpi, metadata={"Software": None})
    return png.getvalue()
