"""Figures that are drawn without a window, and their PNG. Needs matplotlib, which the extra `plots` brings."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from .errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


__all__ = ["Picture", "as_png", "blank_figure"]


class Picture(bytes):
    """The content of a PNG file; as the last value of a notebook's cell it shows itself.

    Example:
        >>> as_png(blank_figure(1, 1))  # doctest: +ELLIPSIS
        <PNG of 120 x 120 pixels, ... bytes; `Path(...).write_bytes(picture)` saves it>
    """

    def _repr_png_(self) -> bytes:
        return bytes(self)

    def __repr__(self) -> str:
        width, height = (int.from_bytes(self[at : at + 4], "big") for at in (16, 20))
        size = f"{width} x {height} pixels, {len(self):,} bytes"
        return f"<PNG of {size}; `Path(...).write_bytes(picture)` saves it>"


def blank_figure(width: float, height: float) -> Figure:
    """Makes a white figure that belongs to no window and is not in pyplot's list of figures.

    Its layout is `"constrained"`: axes, labels and legends make room for one another.

    Args:
        width: Width in inches.
        height: Height in inches.

    Raises:
        MissingExtraError: matplotlib is missing.

    Example:
        >>> figure = blank_figure(4, 3)
        >>> figure.get_size_inches().tolist(), len(figure.axes)
        ([4.0, 3.0], 0)
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("matplotlib", "A picture", "plots") from error

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def as_png(figure: Figure, dpi: int = 120) -> Picture:
    r"""Draws a figure as a PNG file.

    The name and version of matplotlib are left out of the file, so that the same figure gives the same bytes.

    Args:
        figure: Figure to draw, such as one of `blank_figure`.
        dpi: Pixels per inch.

    Returns:
        The content of the file, which shows itself in a notebook.

    Example:
        >>> as_png(blank_figure(1, 1))[:4]
        b'\x89PNG'
    """
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=dpi, metadata={"Software": None})
    return Picture(png.getvalue())
