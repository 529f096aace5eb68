"""From logits to named answers."""

from __future__ import annotations

from torch import Tensor

from .config import CIAOConfig


def named_answers(logits: Tensor, config: CIAOConfig) -> list[dict[str, float]]:
    """Each row's logits as values by label.

    Args:
        logits: `(B, num_labels)`.
        config: Of the adapter that gave them.

    Returns:
        For each row `{label: probability}`, likeliest first, or `{name: value}` in order for regression.

    Example:
        >>> import torch
        >>> config = CIAOConfig(problem_type="regression", num_labels=2, id2label={0: "arousal", 1: "valence"})
        >>> named_answers(torch.tensor([[0.5, -0.25]]), config)
        [{'arousal': 0.5, 'valence': -0.25}]
    """
    values = logits.float()
    if config.problem_type == "single_label_classification":
        values = values.softmax(dim=1)
    elif config.problem_type == "multi_label_classification":
        values = values.sigmoid()
    answers = []
    for row in values.tolist():
        pairs = [(config.id2label[index], round(value, 6)) for index, value in enumerate(row)]
        ordered = pairs if config.problem_type == "regression" else sorted(pairs, key=lambda pair: -pair[1])
        answers.append(dict(ordered))
    return answers
