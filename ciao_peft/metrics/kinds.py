"""What each score is: which way is better, and between which bounds it lies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["SCORES", "Score", "higher_is_better", "kind_of"]


@dataclass(frozen=True)
class Score:
    """What is known about a score, whatever its value.

    Args:
        name: Key of the score in what `compute_metrics` or an evaluation returns.
        higher_is_better: Which of two values belongs to the better model.
        lowest: Smallest value that the score can have.
        highest: Largest value that the score can have; `math.inf` where there is no bound.

    Example:
        >>> SCORES["concordance"]
        Score(name='concordance', higher_is_better=True, lowest=-1.0, highest=1.0)
    """

    name: str
    higher_is_better: bool
    lowest: float
    highest: float

    @property
    def best(self) -> float:
        """The value of a perfect model."""
        return self.highest if self.higher_is_better else self.lowest


SCORES: Mapping[str, Score] = MappingProxyType(
    {
        score.name: score
        for score in (
            Score("accuracy", True, 0.0, 1.0),
            Score("balanced_accuracy", True, 0.0, 1.0),
            Score("macro_f1", True, 0.0, 1.0),
            Score("calibration_error", False, 0.0, 1.0),
            Score("f1", True, 0.0, 1.0),
            Score("concordance", True, -1.0, 1.0),
            Score("rmse", False, 0.0, math.inf),
            Score("loss", False, -math.inf, math.inf),  # the contrastive loss over negatives falls below zero
            Score("task_loss", False, 0.0, math.inf),
            Score("contrastive_loss", False, -math.inf, math.inf),
        )
    }
)
"""Scores of this library by name. `f1`, `concordance` and `rmse` also stand for those of one label or value."""

_OF_EACH = ("f1", "concordance", "rmse")


def kind_of(name: str) -> Score | None:
    """The entry of `SCORES` for a score of an evaluation.

    Args:
        name: With or without `eval_`; `f1_<label>`, `concordance_<value>` and `rmse_<value>` count as `f1`,
            `concordance` and `rmse`, whatever the label or value is called.

    Returns:
        None for a score that is none of this library's.

    Example:
        >>> kind_of("eval_rmse_arousal").name
        'rmse'
        >>> kind_of("top_2") is None
        True
    """
    name = name.removeprefix("eval_")
    if name in SCORES:
        return SCORES[name]
    return next((SCORES[kind] for kind in _OF_EACH if name.startswith(f"{kind}_")), None)


def higher_is_better(name: str) -> bool:
    """Whether the larger of two values of a score belongs to the better model.

    The answer for a score of this library is in `SCORES`. For another one, which a `compute_metrics` of your own
    returned, it is read from its name: lower is better where the name starts with `rmse`, `mse` or `mae` or contains
    `loss` or `error`, and higher is better otherwise, as most scores are. transformers' `Trainer` looks for a name that
    ends with `loss`. Where the name misleads, set `greater_is_better` in the training arguments.

    Args:
        name: With or without `eval_`.

    Example:
        >>> [higher_is_better(name) for name in ("f1_loss of control", "eval_rmse", "mae_valence", "top_2")]
        [True, False, False, True]
    """
    if (kind := kind_of(name)) is not None:
        return kind.higher_is_better
    name = name.removeprefix("eval_")
    return not name.startswith(("rmse", "mse", "mae")) and not any(word in name for word in ("loss", "error"))
