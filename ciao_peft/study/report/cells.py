"""What tables are made of: cells with a text and a number to sort by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..analysis.statistics import Summary
from .text import NOTHING, interval, spread


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Args:
        text: What it shows.
        value: The number it is sorted by; `None`: it is sorted by its text.
        strong: Whether it stands out.

    Example:
        >>> Cell("80.5 ± 0.4", 0.805, strong=True).text
        '80.5 ± 0.4'
    """

    text: str
    value: float | None = None
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table with what must be known to read it.

    Args:
        title: Of the table.
        header: One name per column.
        rows: One cell per column.
        note: What the numbers are.

    Example:
        >>> Table("Scores", ("method", "score"), ((Cell("CIAO"), Cell("80 %", 0.8)),)).numeric
        [False, True]
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    @property
    def numeric(self) -> list[bool]:
        """For each column whether it holds numbers to sort by."""
        return [any(row[column].value is not None for row in self.rows) for column in range(len(self.header))]


def score_cell(summary: Summary | None, metric: str, strong: bool = False) -> Cell:
    """Mean and standard deviation of a score, sorted by the mean; a dash for `None`.

    Example:
        >>> score_cell(Summary(3, 0.805, 0.004, (0.801, 0.808)), "accuracy")
        Cell(text='80.5 ± 0.4', value=0.805, strong=False)
    """
    return Cell(spread(summary, metric), None if summary is None else summary.mean, strong)


def interval_cell(summary: Summary | None, metric: str, *, signed: bool = False) -> Cell:
    """The 95 % interval of a mean, sorted by its lower end; a dash where there is none.

    Example:
        >>> interval_cell(Summary(3, 0.805, 0.004, (0.801, 0.808)), "accuracy")
        Cell(text='80.1 to 80.8', value=0.801, strong=False)
    """
    bounds = None if summary is None else summary.interval
    return Cell(interval(summary, metric, signed=signed), None if bounds is None else bounds[0])


def count_cell(count: float | None) -> Cell:
    """A number without decimals; a dash for `None`.

    Example:
        >>> count_cell(12345.0).text
        '12,345'
    """
    return Cell(NOTHING if count is None else f"{count:,.0f}", count)


def make_table(title: str, header: Sequence[str], rows: Iterable[Sequence[Cell]], note: str = "") -> Table:
    """A table of any rows of cells.

    Example:
        >>> make_table("Scores", ["method", "score"], [[Cell("CIAO"), Cell("80 %", 0.8)]]).header
        ('method', 'score')
    """
    return Table(title, tuple(header), tuple(tuple(row) for row in rows), note)
