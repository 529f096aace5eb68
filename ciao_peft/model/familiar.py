"""The names under which users of transformers and peft look for things on a model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..adapters import restore_adapter
from ..errors import AdapterConfigError, MergeError
from ..hub import read_adapter
from ..saving import SavedAdapter, check_tensors
from .active_config import ActiveConfig
from .reading import ReadingModel
from .status import LayerStatus, ModelStatus, devices_by_name, layer_status, trainable_by_name
from .together import averaged, checked_shares

__all__ = ["FamiliarModel"]

# Settings that say how an adapter was trained or what its answers are called, and do not change what its weights mean.
_MAY_DIFFER = {
    *("id2label", "decay_init", "init_seed", "dropout", "temperature", "contrastive_weight", "task_loss_trains"),
    *("contrastive_denominator", "contrastive_reduction", "embedding_source", "num_bins", "label_range"),
    *("multi_label_positives", "regression_loss", "logit_adjustment", "class_prior", "probability_temperature"),
    *("train_batch_norm", "learn_decay", "inhibition_start"),
}


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

    @property
    def base_model(self) -> nn.Module:
        """The backbone, under peft's name."""
        return self.backbone

    def get_base_model(self) -> nn.Module:
        """The backbone, frozen as long as it has adapters; `unload` gives it back as it was.

        Example:
            >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
            >>> net = load_encoder("small-face")
            >>> get_ciao_model(net, CIAOConfig(problem_type="regression", num_labels=2)).get_base_model() is net
            True
        """
        return self.backbone

    @property
    def active_adapters(self) -> list[str]:
        """The active adapter in a list, as peft has it; empty where none is active."""
        return [] if self.active_adapter is None else [self.active_adapter]

    def get_layer_status(self) -> list[LayerStatus]:
        """Where adapters mask the backbone: one entry for each masked convolution, with peft's names of fields.

        Example:
            >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
            >>> model = get_ciao_model(load_encoder("small-face"), CIAOConfig(problem_type="regression", num_labels=2))
            >>> [status] = model.get_layer_status()
            >>> status.available_adapters, status.enabled, status.requires_grad
            (['default'], True, {'default': True})
        """
        return layer_status(self.adapters.snapshot(), self.active_adapters, not self._active.is_off)

    def get_model_status(self) -> ModelStatus:
        """What the model is made of, with peft's names of fields.

        Example:
            >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
            >>> model = get_ciao_model(load_encoder("small-face"), CIAOConfig(problem_type="regression", num_labels=2))
            >>> status = model.get_model_status()
            >>> status.peft_types, status.num_adapter_layers, status.active_adapters
            ({'default': 'CIAO'}, 1, ['default'])
        """
        adapters = self.adapters.snapshot()
        return ModelStatus(
            base_model_type=type(self.backbone).__name__,
            adapter_model_type=type(self).__name__,
            peft_types=dict.fromkeys(adapters, "CIAO"),
            trainable_params=self.num_parameters(only_trainable=True),
            total_params=self.num_parameters(),
            num_adapter_layers=len(self.get_layer_status()),
            enabled=not self._active.is_off,
            active_adapters=self.active_adapters,
            merged_adapters=[],
            requires_grad=trainable_by_name(adapters),
            available_adapters=sorted(adapters),
            devices=devices_by_name(adapters),
            quantization_backend=None,
        )

    def predict_together(
        self, images: Any, adapter_names: Sequence[str], weights: Sequence[float] | None = None, **options: Any
    ) -> Any:
        """Reads pictures with several adapters and averages their answers: probabilities, or regressed values.

        Args:
            images: As for `predict`.
            adapter_names: Two adapters or more that answer with the same labels.
            weights: How much each counts, 0 or more; equally much when left out.
            **options: `prior`, `batch_size` and `disable_tqdm` of `predict`.

        Returns:
            As `predict` without `adapter_names`: the averaged answer of each picture, likeliest first.

        Raises:
            InputError: the adapters answer different questions, or the weights do not fit.
            AdapterNotFoundError: a name is not loaded.

        Example:
            >>> import numpy as np
            >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
            >>> config = CIAOConfig(problem_type="regression", num_labels=1, id2label={0: "arousal"})
            >>> model = get_ciao_model(load_encoder("small-face"), config, "first").eval()
            >>> model.add_adapter("second", config)
            >>> face = np.zeros((64, 64, 3), dtype=np.uint8)
            >>> model.predict_together(face, ["first", "second"]) == model.predict(face)
            True
        """
        names = list(adapter_names)
        shares = checked_shares(names, [self._loaded(name).config for name in names], weights)
        config = self._loaded(names[0]).config
        answers = self.predict(images, adapter_names=names, **options)
        return averaged(answers, shares, is_sorted=config.problem_type != "regression")

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Always refuses: an average of masks is no mask. `predict_together` averages answers.

        Args:
            args, kwargs: As in peft.

        Raises:
            MergeError: always.
        """
        raise MergeError(
            "Weights of CIAO's adapters cannot be averaged: M = (u + E) / (a + I) divides, so that an average of masks "
            "is no mask. `model.predict_together(images, ['one', 'other'], weights=[0.5, 0.5])` averages their answers."
        )

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Counts the numbers of backbone and adapters.

        Args:
            only_trainable: Only those that training changes.
            exclude_embeddings: Changes nothing; transformers' callers give it, and there are none here.

        Example:
            >>> from torch import nn
            >>> from ciao_peft import CIAOConfig, get_ciao_model
            >>> net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU())  # 3 * 4 * 9 weights
            >>> settings = {"pooling": "avg", "hidden_sizes": (), "excitation_rank": 0}
            >>> config = CIAOConfig(problem_type="regression", num_labels=1, **settings)
            >>> model = get_ciao_model(net, config, input_size=(3, 8, 8))
            >>> model.num_parameters(), model.num_parameters(only_trainable=True)
            (225, 117)
        """
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not only_trainable)

    def hotswap_adapter(self, source: str | os.PathLike[str], adapter_name: str | None = None, **hub: Any) -> None:
        """Puts the tensors of a saved adapter into one that is loaded, which stays the same object.

        What `torch.compile` made of the model, hooks and optimisers go on with it.

        Args:
            source: As for `load_adapter`: an adapter with tensors of the same names and shapes, on the same backbone.
            adapter_name: Which adapter to change; the active one when left out.
            **hub: As for `load_adapter`.

        Raises:
            AdapterConfigError: the saved adapter solves another problem or computes in another way.
            AdapterFileError, BackboneMismatchError, HubError: as for `load_adapter`. The adapter is then as it was.

        Example:
            >>> import tempfile
            >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
            >>> config = CIAOConfig(problem_type="regression", num_labels=2, init_seed=1)
            >>> folder = get_ciao_model(load_encoder("small-face"), config).save_pretrained(tempfile.mkdtemp() + "/fer")
            >>> model = get_ciao_model(load_encoder("small-face"), CIAOConfig(problem_type="regression", num_labels=2))
            >>> adapter = model.adapters["default"]
            >>> model.hotswap_adapter(folder)
            >>> adapter is model.adapters["default"], adapter.config.init_seed
            (True, 1)
        """
        name = self.resolve_adapter(adapter_name)
        saved, snapshot = read_adapter(source, **hub)
        self._swap_in(name, saved, str(snapshot))

    def _swap_in(self, name: str, saved: SavedAdapter, where: str) -> None:
        with self._lock:
            adapter = self._loaded(name)
            mine, theirs = adapter.config.to_dict(), saved.config.to_dict()
            if other := sorted(key for key in mine if mine[key] != theirs[key] and key not in _MAY_DIFFER):
                raise AdapterConfigError(
                    f"The adapter in '{where}' has another {', '.join(f'`{key}`' for key in other)} than the loaded "
                    f"one; only its weights could be swapped. Load it beside that one: `load_adapter`."
                )
            read, _ = restore_adapter(saved, where, self._frozen, self.preprocessing)
            check_tensors(read.state_dict(), adapter.state_dict(), where)
            adapter.load_state_dict(read.state_dict())
            adapter.config = saved.config
