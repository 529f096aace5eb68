"""What a record of a training says: its dataset, its seeds and its scores."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["SCORE", "Score", "dataset_of", "rounded", "scores_of", "seeds_of"]

SCORE = re.compile("eval_|test_")
"""How a trainer starts the names of its scores."""

_SPLITS = {"eval_": "evaluation", "test_": "test"}
_PROGRESS = re.compile(r"train_|epoch$|\w*(runtime|_per_second)$")  # numbers about the training itself


@dataclass(frozen=True)
class Score:
    """One number that a training was measured by.

    Args:
        name: The metric.
        value: Its value, or its mean over several runs.
        split: The split it was measured on, if that is known.
        details: Everything else that was recorded with it, such as `sd`, `interval` and `values`.

    Example:
        >>> score = Score("accuracy", 0.75, "test", {"sd": 0.05, "interval": [0.7, 0.8], "values": [0.7, 0.8]})
        >>> score.text, score.interval, score.runs
        ('0.75 ± 0.05', '[0.7, 0.8]', '2')
    """

    name: str
    value: float
    split: str | None
    details: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The value with its standard deviation."""
        sd = self.details.get("sd")
        return f"{self.value:.4g}" + (f" ± {sd:.2g}" if _is_number(sd) else "")

    @property
    def interval(self) -> str:
        """The interval of confidence; empty if there is none."""
        bounds = self.details.get("interval")
        if not isinstance(bounds, (list, tuple)) or len(bounds) != 2 or not all(map(_is_number, bounds)):
            return ""
        return "[{:.4g}, {:.4g}]".format(*bounds)

    @property
    def runs(self) -> str:
        """The number of runs; empty if it is not known."""
        values = self.details.get("values")
        return str(len(values)) if isinstance(values, (list, tuple)) else ""


def scores_of(training: Mapping[str, Any]) -> Iterator[Score]:
    """Finds every score in a record of a training.

    Entries that are no numbers, or that are about the training's progress, are passed over.

    Args:
        training: The record, as `adapter_card` describes it.

    Example:
        >>> training = {"metrics": {"accuracy": {"mean": 0.75, "sd": 0.1}, "train_loss": 1.0}, "eval_macro_f1": 0.5}
        >>> [(score.name, score.text, score.split) for score in scores_of(training)]
        [('accuracy', '0.75 ± 0.1', None), ('macro_f1', '0.5', 'evaluation')]
    """
    metrics = training.get("metrics")
    recorded = dict(metrics) if isinstance(metrics, Mapping) else {}
    recorded |= {key: value for key, value in training.items() if SCORE.match(key)}
    for key, score in recorded.items():
        details = dict(score) if isinstance(score, Mapping) else {"value": score}
        value = details.pop("value", details.pop("mean", None))
        if not _is_number(value) or _PROGRESS.match(key):
            continue
        name, split = str(key), details.pop("split", None)
        if prefix := SCORE.match(name):
            name, split = name[prefix.end() :], split or _SPLITS[prefix[0]]
        yield Score(name, value, str(split) if split else None, details)


def rounded(value: Any, digits: int = 4) -> Any:
    """A recorded value as a card shows it: its fractions have a few significant digits.

    Args:
        value: Plain data of any depth; whole numbers stay as they are.
        digits: How many digits count.

    Example:
        >>> rounded({"mean": 0.8432160804, "values": [0.12345678, 1234567], "split": "test"})
        {'mean': 0.8432, 'values': [0.1235, 1234567], 'split': 'test'}
    """
    if isinstance(value, Mapping):
        return {key: rounded(one, digits) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(one, digits) for one in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) and not value.is_integer() else value


def seeds_of(training: Mapping[str, Any]) -> Any:
    """The seeds of a training, wherever they were recorded; None if they were not.

    Example:
        >>> seeds_of({"seeds": [0, 1]}), seeds_of({"arguments": {"seed": 3}}), seeds_of({})
        ([0, 1], 3, None)
    """
    arguments = training.get("arguments")
    seed = arguments.get("seed") if isinstance(arguments, Mapping) else None
    return training.get("seeds", training.get("seed", seed))


def dataset_of(training: Mapping[str, Any]) -> dict[str, Any]:
    """The dataset of a training with its `name`, `id`, `license` and `url`, as far as they were recorded.

    Example:
        >>> dataset_of({"dataset": "FER2013"}), dataset_of({})
        ({'name': 'FER2013'}, {})
    """
    data = training.get("dataset")
    if isinstance(data, Mapping):
        return dict(data)
    return {"name": str(data)} if data else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
