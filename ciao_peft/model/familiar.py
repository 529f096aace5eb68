"""The names under which users of transformers and peft look for things on a model."""

from __future__ import annotations

import torch

from .active_config import ActiveConfig
from .reading import ReadingModel

__all__ = ["FamiliarModel"]


class FamiliarModel(ReadingModel):
    """The part of `CIAOModel` that answers to the names of transformers and peft.

    Args:
        backbone, input_size, preprocessing: As for `get_ciao_model`.

    Shapes:
        As for `CIAOModel`.

    Example:
        >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
        >>> model = get_ciao_model(load_encoder("small-face"), CIAOConfig(problem_type="regression", num_labels=2))
        >>> model.config.problem_type, model.device, model.dtype
        ('regression', device(type='cpu'), torch.float32)
    """

    @property
    def config(self) -> ActiveConfig:
        """Labels and problem of the active adapter, as transformers' pipelines and `Trainer` read them."""
        active = self.active_adapter
        adapter = None if active is None else self.adapters.find(active)
        return ActiveConfig.of(None if adapter is None else adapter.config)

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        return self._frozen.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the backbone, and of the logits."""
        return self._frozen.dtype

    def num_parameters(self, only_trainable: bool = False) -> int:
        """Counts the numbers of backbone and adapters.

        Args:
            only_trainable: Only those that training changes.

        Example:
            >>> from torch import nn
            >>> from ciao_peft import CIAOConfig, get_ciao_model
            >>> net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU())  # 3 * 4 * 9 weights
            >>> config = CIAOConfig(problem_type="regression", num_labels=1, pooling="avg", hidden_sizes=())
            >>> model = get_ciao_model(net, config, input_size=(3, 8, 8))
            >>> model.num_parameters(), model.num_parameters(only_trainable=True)
            (225, 117)
        """
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not only_trainable)
