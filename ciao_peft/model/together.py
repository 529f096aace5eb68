"""The answers of several adapters to one question, averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..checking import is_number
from ..config import CIAOConfig
from ..errors import InputError, listed, quoted

__all__ = ["averaged", "checked_shares"]


def checked_shares(
    names: Sequence[str], configs: Sequence[CIAOConfig], weights: Sequence[float] | None
) -> dict[str, float]:
    """How much each adapter counts, in shares that add up to 1.

    Args:
        names: Of the adapters.
        configs: Theirs.
        weights: 0 or more for each; equal when left out.

    Raises:
        InputError: fewer than two adapters, one of them twice, other labels, or weights that do not fit.

    Example:
        >>> config = CIAOConfig(problem_type="regression", num_labels=1)
        >>> checked_shares(["a", "b"], [config, config], [3, 1])
        {'a': 0.75, 'b': 0.25}
    """
    if len(names) < 2 or len(set(names)) != len(names):
        raise InputError(f"`adapter_names` takes two or more different adapters; got {listed(names) or 'none'}.")
    asked = [(config.problem_type, set(config.id2label.values())) for config in configs]
    if other := [name for name, question in zip(names, asked, strict=True) if question != asked[0]]:
        raise InputError(
            f"{listed(other)} and {quoted(names[0])} do not answer with the same labels to the same problem, so their "
            "answers have no average. `predict(adapter_names=...)` gives the answers of each."
        )
    weights = [1.0] * len(names) if weights is None else list(weights)
    if len(weights) != len(names) or not all(is_number(w, float, 0, 1e9) for w in weights) or sum(weights) == 0:
        raise InputError(f"`weights` must be {len(names)} numbers of 0 or more, one above 0; got {quoted(weights)}.")
    return {name: weight / sum(weights) for name, weight in zip(names, weights, strict=True)}


def averaged(answers: Any, shares: Mapping[str, float], is_sorted: bool) -> Any:
    """What `predict(adapter_names=...)` gave, with one averaged answer in place of one for each world.

    Args:
        answers: Of one picture, `{world: {label: value}}`; of a list or a folder as `predict` gives them.
        shares: How much each world counts.
        is_sorted: Whether the likeliest comes first.

    Example:
        >>> averaged({"a": {"sad": 0.2, "glad": 0.8}, "b": {"sad": 0.9, "glad": 0.1}}, {"a": 0.5, "b": 0.5}, True)
        {'sad': 0.55, 'glad': 0.45}
    """
    if isinstance(answers, list):
        return [averaged(answer, shares, is_sorted) for answer in answers]
    if set(answers) != set(shares):  # a folder, by path
        return {path: averaged(answer, shares, is_sorted) for path, answer in answers.items()}
    labels = answers[next(iter(shares))]
    pairs = [(label, round(sum(share * answers[w][label] for w, share in shares.items()), 6)) for label in labels]
    return dict(sorted(pairs, key=lambda pair: -pair[1]) if is_sorted else pairs)
