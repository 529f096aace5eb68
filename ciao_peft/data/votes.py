"""Votes for expressions as labels: what Barsoum et al. (2016) make of ten votes per face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from .expressions import FERPLUS
from .labels import describe_labels

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["VOTES", "sample_labels", "vote_weights"]

VOTES = (*FERPLUS, "unknown", "NF")
"""What a vote can say, in the order of the columns of `fer2013new.csv`: eight expressions, unknown, and no face."""

_NUM_NAMED = len(FERPLUS)  # votes from here on mean unknown and no face


def vote_weights(votes: Sequence[float] | np.ndarray, mode: str) -> np.ndarray | None:
    """The label that the votes for one picture make: a weight per expression, or `None` to leave the picture out.

    A single vote for something counts as a slip and is removed first; shares are of the remaining votes.

    - `"majority"`: the expression with more than half of the votes, else none.
    - `"probability"`, `"crossentropy"`: the most voted expressions until they have three quarters of the votes. The
      picture is left out if these are more than three, if they hold half of the votes or less, or if unknown or no face
      leads.
    - `"multi_target"`: every expression with 30 % or more; left out if they hold half of the votes or less.

    Args:
        votes: Counts, 0 or more, `(10,)`, in the order of `VOTES`.
        mode: One of the four above.

    Returns:
        `(8,)` float64, 0 to 1, with sum 1, in the order of `FERPLUS`; `None` if the picture has no label in this mode.

    Example:
        >>> vote_weights([0, 6, 4, 0, 0, 0, 0, 0, 0, 0], "probability").round(1).tolist()
        [0.0, 0.6, 0.4, 0.0, 0.0, 0.0, 0.0, 0.0]
        >>> vote_weights([0, 5, 5, 0, 0, 0, 0, 0, 0, 0], "majority") is None
        True
    """
    counts = np.where(np.asarray(votes, dtype=np.float64) <= 1, 0.0, votes)
    total = float(counts.sum())
    if mode == "majority":
        chosen = np.zeros_like(counts)
        if counts.max() > 0.5 * total:
            chosen[counts.argmax()] = counts.max()
    elif mode == "multi_target":
        chosen = np.where(counts >= 0.3 * total, counts, 0.0)
    else:
        chosen = _leading(counts, total)
    if chosen is None or chosen.sum() <= 0.5 * total or chosen.argmax() >= _NUM_NAMED:
        return None
    named = chosen[:_NUM_NAMED]
    return named / named.sum()


def _leading(votes: np.ndarray, total: float) -> np.ndarray | None:
    """The most voted entries until three quarters of the votes are in, ties together; `None` if more than three."""
    chosen, count = np.zeros_like(votes), 0
    for value in sorted(set(votes[votes > 0].tolist()), reverse=True):
        if chosen.sum() >= 0.75 * total or count >= 3:
            break
        for index in np.flatnonzero(votes == value):
            if index >= _NUM_NAMED:
                # Unknown or no face ends it; it only counts itself where nothing else came before.
                if count == 0:
                    chosen[index] = value
                return chosen if count <= 3 else None
            chosen[index] = value
            count += 1
    return chosen if count <= 3 else None


def sample_labels(faces: Dataset, seed: int, column: str = "label") -> Dataset:
    """Draws one class per face from its distribution: the paper's probabilistic label drawing, anew for every epoch.

    Args:
        faces: Faces whose labels are distributions over the eight expressions, as `mode="probability"` of FER+ gives
            them.
        seed: Another seed draws other labels; use the number of the epoch.
        column: Name of the column with the distributions.

    Returns:
        The same faces, in the same order, with class ids (0 to 7, a `ClassLabel`) in `column`.

    Raises:
        DataError: the column holds no distributions over eight classes.

    Example:
        >>> from datasets import Dataset
        >>> sample_labels(Dataset.from_dict({"label": [[0.0, 1.0, 0, 0, 0, 0, 0, 0]]}), seed=0)["label"][0]
        1
    """
    from datasets import ClassLabel

    weights = np.array(faces[column], dtype=np.float64)
    if weights.ndim != 2 or weights.shape[1] != len(FERPLUS):
        raise DataError(
            f"Labels are drawn from distributions over {len(FERPLUS)} classes; {column!r} holds {weights.shape}."
        )
    edges = weights.cumsum(axis=1)
    drawn = (np.random.default_rng(seed).random((len(weights), 1)) * edges[:, -1:] >= edges).sum(axis=1)
    labels = ClassLabel(names=list(FERPLUS))
    drawn_faces = faces.add_column("drawn label", drawn.tolist(), feature=labels)
    drawn_faces = drawn_faces.remove_columns(column).rename_column("drawn label", column)
    drawn_faces.info.description = describe_labels("", "single_label_classification", FERPLUS)
    return drawn_faces
