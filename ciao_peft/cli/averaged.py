"""Scores of things that several faces show, such as clips: their answers are averaged, as in a study."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import DataError, listed, quoted
from .flags import add_flag

if TYPE_CHECKING:
    from ..config import CIAOConfig
    from ..trainer import PredictionOutput

__all__ = ["Averaged", "add_average_flag", "averaged_scores", "check_average"]


class Averaged(NamedTuple):
    """Scores of things.

    Args:
        by: The column that tells them apart.
        things: How many there are.
        scores: Each by its name.
    """

    by: str
    things: int
    scores: dict[str, float]


def add_average_flag(parser: argparse._ActionsContainer) -> None:
    """Adds `--average_by`.

    Args:
        parser: Of a command that scores.

    Example:
        >>> parser = argparse.ArgumentParser()
        >>> add_average_flag(parser)
        >>> parser.parse_args(["--average_by", "clip"]).average_by
        'clip'
    """
    add_flag(
        parser,
        "average_by",
        metavar="COLUMN",
        help="score the mean answer of the rows with one value there as well, such as clip for the frames of a video",
    )


def check_average(options: argparse.Namespace, faces: Any) -> str | None:
    """The column of the faces that `--average_by` means; of a table, the one that `--group_by` names is kept.

    Args:
        options: What was parsed.
        faces: The faces that are scored.

    Raises:
        DataError: there is no such column.
    """
    column = options.average_by
    if column is None or column in faces.column_names:
        return column
    if column == options.group_by and "identity" in faces.column_names:
        return "identity"
    raise DataError(
        f"`--average_by` names {quoted(column)}, which is no column of the faces: {listed(faces.column_names)}. Of a "
        f"table, give it as `--group_by {column}`, too."
    )


def averaged_scores(output: PredictionOutput, faces: Any, column: str, config: CIAOConfig) -> Averaged:
    """Scores of the mean logits of the rows that show one thing.

    Args:
        output: What `CIAOTrainer.predict` said of the faces.
        faces: One split, with labels.
        column: Which thing each row shows.
        config: Of the adapter.

    Raises:
        DataError: two rows of one thing have different labels, or a row does not say what it shows.
    """
    from ..metrics import compute_metrics
    from ..study.training import mean_answers

    things, labels = list(faces[column]), output.labels
    if None in things:
        raise DataError(f"Row {things.index(None)} has nothing in {quoted(column)}, by which answers are averaged.")
    assert labels is not None  # of labelled faces
    first: dict[Any, int] = {}
    for row, thing in enumerate(things):
        if not bool((labels[first.setdefault(thing, row)] == labels[row]).all()):
            raise DataError(
                f"Rows {first[thing]} and {row} are both of {quoted(thing)} in {quoted(column)}, and have different "
                "labels: answers are averaged over rows with one label."
            )
    logits, labels = mean_answers(output.logits, labels, things)
    scores = compute_metrics(logits, labels, config)
    return Averaged(column, len(labels), {name: float(value) for name, value in scores.items()})
