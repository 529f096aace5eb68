"""What other libraries ask a model's `config`: the labels and the problem of the adapter that reads."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from ..config import CIAOConfig

__all__ = ["ActiveConfig"]


@dataclass
class ActiveConfig:
    """The active adapter in the words of `transformers.PreTrainedConfig`; a copy, so that changes change nothing.

    Args:
        problem_type: As in `CIAOConfig`; None where no adapter is active.
        num_labels: Answers of the head; 0 where no adapter is active.
        id2label: Their names.
        model_type: `"ciao"`, the name under which transformers' `Auto` classes find this library.
        keys_to_ignore_at_inference: Entries of a `CIAOOutput` that are no predictions.

    Example:
        >>> config = CIAOConfig(problem_type="regression", num_labels=2, id2label={0: "arousal", 1: "valence"})
        >>> active = ActiveConfig.of(config)
        >>> active.label2id, active.problem_type
        ({'arousal': 0, 'valence': 1}, 'regression')
    """

    problem_type: str | None = None
    num_labels: int = 0
    id2label: dict[int, str] = field(default_factory=dict)
    model_type: str = "ciao"
    keys_to_ignore_at_inference: list[str] = field(
        default_factory=lambda: ["embeddings", "task_loss", "contrastive_loss"]
    )
    _commit_hash = None  # which some pipelines of transformers read, whatever the model came from

    @property
    def label2id(self) -> dict[str, int]:
        """The index of each name."""
        return {name: index for index, name in self.id2label.items()}

    @classmethod
    def of(cls, config: CIAOConfig | None) -> ActiveConfig:
        """Of an adapter's config; of the backbone alone for None.

        Args:
            config: Settings of the adapter.

        Example:
            >>> ActiveConfig.of(None).id2label
            {}
        """
        if config is None:
            return cls()
        return cls(problem_type=config.problem_type, num_labels=config.num_labels, id2label=dict(config.id2label))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as trackers record it.

        Example:
            >>> sorted(ActiveConfig().to_dict())[:3]
            ['id2label', 'keys_to_ignore_at_inference', 'label2id']
        """
        return asdict(self) | {"label2id": self.label2id}

    def to_json_string(self) -> str:
        """The same as JSON.

        Example:
            >>> ActiveConfig().to_json_string()[:15]
            '{"problem_type"'
        """
        return json.dumps(self.to_dict())
