"""Alike adapters as one network: their stacked tensors lent to a skeleton of one of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ...adapters import Adapter, Call, Seen, checked_source, masks_together
from ...model import CIAOModel

__all__ = ["Skeleton"]


class Skeleton:
    """Reads batches with many alike adapters.

    Args:
        model: Holds them.
        adapter: One of them.

    Attributes:
        passes: How often the head runs for one answer where gradients go to the mask; each draws its own dropout.
        widths: Of what each hidden layer of the head gives.

    Shapes:
        With K adapters: features `(b, ...)`, or `(K * b, ...)`, those of the first adapter first; logits
        `(K, b, num_labels)`, embeddings `(K, b, D)`, drops `(K, b, width)` each.
    """

    passes: int
    widths: tuple[int, ...]

    def __init__(self, model: CIAOModel, adapter: Adapter):
        self._frozen = model._frozen
        self._opened = model._frozen.opened_at(adapter.config.target_modules)
        self._adapter = copy.deepcopy(adapter).to("meta").eval()
        self._has_mask = any(not name.startswith("head.") for name in adapter.state_dict())
        self._drops: Iterator[Tensor] | None = None
        config, head = adapter.config, self._adapter.head
        twice = config.task_loss_trains == "head" and self._has_mask and config.embedding_source != "features"
        self.passes, self.widths = 1 + twice, config.hidden_sizes
        for index in range(1, head.num_layers):  # what a layer receives is what the one before it gave, after dropout
            head.get_submodule(str(index)).register_forward_pre_hook(self._drop)

    def _drop(self, layer: nn.Module, args: tuple[Tensor]) -> Tensor | None:
        return None if self._drops is None else args[0] * next(self._drops)

    def read(
        self, tensors: Mapping[str, Tensor], features: Sequence[Tensor], shared: bool, drops: Sequence[Tensor] = ()
    ) -> tuple[Tensor, Tensor]:
        """Logits in the dtype of the backbone, and embeddings in float32 or wider.

        Args:
            tensors: Of all adapters, by name.
            features: Of the batch that all of them read, or of their batches.
            shared: Which of the two.
            drops: What the outputs of hidden layers are multiplied by; nothing is dropped without.
        """
        tensors, count = dict(tensors), len(next(iter(tensors.values())))
        depths = self._adapter.depths
        source = checked_source(self._frozen, self._opened, None, features, None, depths)
        of_mask = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}

        def mask(index: int, features: Tensor, frozen_excitation: Callable[[], Tensor]) -> Tensor:
            return masks_together(self._adapter, of_mask, index, features, frozen_excitation, shared)

        (maps,) = self._opened.run(self._opened.rooted, [(None, mask)], features=source["features"])
        averages = [torch.cat([source["depths"][depth] for depth in depths], dim=1)] if depths else []
        if not shared:
            maps = maps.unflatten(0, (count, -1))
            averages = [each.unflatten(0, (count, -1)) for each in averages]
        elif self._has_mask:
            maps = maps.unflatten(0, (-1, count)).movedim(1, 0)
        trains_map = maps.requires_grad

        def decide(
            adapter: Adapter, feature_map: Tensor, own: tuple[Tensor, ...], *averages: Tensor
        ) -> tuple[Tensor, Tensor]:
            self._drops = iter(own) if own else None
            return adapter.decide(Seen(feature_map, *averages), trains_map)

        dims = (0, 0 if self._has_mask or not shared else None, 0, *(None if shared else 0 for _ in averages))
        run = torch.vmap(Call(self._adapter, decide).with_tensors, in_dims=dims)
        try:
            logits, z = run(tensors, maps, tuple(drops), *averages)
        finally:
            self._drops = None
        return logits.to(self._frozen.dtype), z.float()
