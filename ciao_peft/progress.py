"""Where a long call may say how far it is: a terminal, a notebook, a log, or nowhere."""

from __future__ import annotations

import sys
from typing import Any, Literal

__all__ = ["Place", "hides_bars", "in_notebook", "place_to_speak"]

Place = Literal["terminal", "notebook", "log", "nowhere"]
"""Where words appear: bars move in a terminal and in a notebook, lines stay in a log."""


def in_notebook() -> bool:
    """Whether this is a cell of Jupyter, Colab, or the like, whose kernel shows more than text.

    Example:
        >>> in_notebook()
        False
    """
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None


def place_to_speak(disable_tqdm: bool | None) -> Place:
    """Where a call speaks.

    Args:
        disable_tqdm: True: nowhere; False: as on a terminal; None: as what stderr is allows.

    Example:
        >>> place_to_speak(True), place_to_speak(False)
        ('nowhere', 'terminal')
    """
    if disable_tqdm:
        return "nowhere"
    if in_notebook():
        return "notebook"
    stderr: Any = sys.stderr  # None in a program without a console
    is_terminal = stderr is not None and stderr.isatty()
    return "terminal" if is_terminal or disable_tqdm is False else "log"


def hides_bars(disable_tqdm: bool | None) -> bool:
    """Whether progress bars stay hidden.

    Args:
        disable_tqdm: As for `place_to_speak`.

    Example:
        >>> hides_bars(True), hides_bars(False)
        (True, False)
    """
    return place_to_speak(disable_tqdm) in ("log", "nowhere")
