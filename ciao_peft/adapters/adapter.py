"""One adapter as modules: inhibitory units, decision head, and its own copies of what else it trains."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..backbone import CutBackbone, HookedBackbone, parameters_reaching_the_map
from ..config import CIAOConfig
from ..heads import DecisionHead, pool_map
from ..inhibition import DECAY_START, InhibitoryLayer


class Adapter(nn.Module):
    """What one world adds to a backbone.

    Args:
        config: Its settings.
        opened: The backbone with places for its masks.
        empty: Without initial values, for those that `take` brings; it computes nothing until then.

    Attributes:
        inhibition: An `InhibitoryLayer` for each masked convolution; empty with `inhibition=False`.
        excitation: Trainable copies of the conv units for u, with `tuning="last_conv"`.
        encoder: A trainable copy of the backbone, with `tuning="full"`.
        head: From the masked map to logits.
    """

    def __init__(self, config: CIAOConfig, opened: CutBackbone | HookedBackbone, empty: bool = False):
        super().__init__()
        backbone = opened.rooted.backbone
        self.config = config
        units = [spec.build(backbone, empty) for spec in opened.units_spec]
        self.inhibition = nn.ModuleList(
            InhibitoryLayer(
                unit,
                spec.out_shape[0],
                DECAY_START if config.decay_init is None else config.decay_init,
                form=config.inhibition_form,
                learn_decay=config.learn_decay,
                generator=_generator_of(config, index) if config.inhibition_start == "random" else None,
            )
            for index, (unit, spec) in enumerate(zip(units, opened.units_spec, strict=True))
            if config.inhibition
        )
        own_units = units if config.tuning == "last_conv" else []
        self.excitation = nn.ModuleList(unit.float().requires_grad_(True) for unit in own_units)
        self.encoder = copy.deepcopy(backbone).float() if config.tuning == "full" else None
        in_features = pool_map(torch.empty(1, *opened.map_shape), config.pooling).shape[1]
        self.head = DecisionHead(in_features, config, empty)
        self._device = next(backbone.parameters()).device
        if not empty:
            self.to(self._device)
        if self.encoder is not None:
            reaching = parameters_reaching_the_map(opened, self.encoder)  # the old classifier is no part of it
            for name, parameter in self.encoder.named_parameters():
                parameter.requires_grad_(name in reaching)
        self.trainable = frozenset(name for name, p in self.named_parameters() if p.requires_grad)
        self.train(False)

    def train(self, mode: bool = True) -> Adapter:
        """Dropout of the head follows `mode`; the copies of backbone modules stay in eval mode.

        The exception is their batch norm with `train_batch_norm=True`.
        """
        self.training = mode
        self.head.train(mode)
        for copies in (self.inhibition, self.excitation, self.encoder):
            for module in () if copies is None else copies.modules():
                is_batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
                module.training = mode and is_batch_norm and self.config.train_batch_norm
        return self

    def take(self, tensors: Mapping[str, Tensor]) -> Adapter:
        """Makes tensors the adapter's own, in its dtypes and on its device; copied only where they are not.

        Args:
            tensors: As many as `state_dict` has, by its keys and in its shapes. Nobody else's.
        """
        dtypes = {key: tensor.dtype for key, tensor in self.state_dict().items()}
        own = {key: tensor.to(self._device, dtypes.get(key)) for key, tensor in tensors.items()}
        shared = len(list(self.named_parameters(remove_duplicate=False))) > len(list(self.named_parameters()))
        self.load_state_dict(own, assign=not shared)  # assigning would part what shares one tensor
        return self.to(self._device)

    def set_decay(self, decay: float) -> None:
        """Sets `a` of all inhibitory units, and notes it in the config as where it started."""
        self.config = dataclasses.replace(self.config, decay_init=decay)
        for layer in self.inhibition:
            layer.set_decay(decay)

    def set_trainable(self, trainable: bool) -> None:
        """Switches `requires_grad` of what this adapter trains."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(trainable and name in self.trainable)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """What it trains: `mask` (inhibitory units), `encoder` (own copies of conv unit or encoder), `head`."""
        groups: dict[str, list[nn.Parameter]] = {"mask": [], "encoder": [], "head": []}
        room = {"inhibition": "mask", "excitation": "encoder", "encoder": "encoder", "head": "head"}
        for name, parameter in self.named_parameters():
            if name in self.trainable:
                groups[room[name.split(".")[0]]].append(parameter)
        return groups

    def mask(self, index: int, features: Tensor, frozen_excitation: Callable[[], Tensor]) -> Tensor:
        """What goes on in place of a conv unit's answer: M of Eq. 1, or u where there is no inhibition.

        Args:
            index: Number of the conv unit.
            features: Its input, `(B, C, H, W)`.
            frozen_excitation: Gives u of the encoder that runs, `(B, C', H', W')`.
        """
        if len(self.excitation):
            unit = self.excitation[index]
            excitation = unit(features.to(unit[0].weight.dtype)).to(features.dtype)
        else:
            excitation = frozen_excitation()
        return self.inhibition[index](features, excitation) if len(self.inhibition) else excitation

    def decide(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """From the final map `(B, C, H, W)` to logits `(B, num_labels)` and embeddings z `(B, D)`.

        Of clips the map is `(B * frames, C, H, W)`, frame after frame.
        """
        pooled = pool_map(feature_map, self.config.pooling)
        if self.config.frames is not None:
            pooled = pooled.unflatten(0, (-1, self.config.frames))
        apart = self.config.task_loss_trains == "head" and pooled.requires_grad
        logits, hidden = self.head(pooled.detach() if apart else pooled)
        source = self.config.embedding_source
        to_compare, hidden = self.head(pooled) if apart and source != "features" else (logits, hidden)
        seen = pooled if self.config.frames is None else pooled.mean(dim=1)
        z = {"features": seen, "hidden": hidden, "logits": to_compare}[source]
        return logits, z.to(next(self.head.parameters()).dtype)


def _generator_of(config: CIAOConfig, index: int) -> torch.Generator:
    """For the weights of one inhibitory unit, apart from those of the head and of the other units."""
    return torch.Generator().manual_seed((config.init_seed + 1_000_003 * (index + 1)) % 2**63)


class AdapterDict(nn.Module, Mapping):
    """Adapters by name. Names may hold dots and be those of attributes, which `nn.ModuleDict` refuses."""

    _PREFIX = "adapter:"

    @classmethod
    def _key(cls, name: Any) -> str:
        return cls._PREFIX + str(name).replace(".", "%2E")

    def __getitem__(self, name: str) -> Adapter:
        return self._modules[self._key(name)]

    def __setitem__(self, name: str, adapter: Adapter) -> None:
        self.add_module(self._key(name), adapter)

    def __delitem__(self, name: str) -> None:
        del self._modules[self._key(name)]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._key(name) in self._modules

    def __iter__(self) -> Iterator[str]:
        return iter([key.removeprefix(self._PREFIX).replace("%2E", ".") for key in self._modules])

    def __len__(self) -> int:
        return len(self._modules)

    __hash__ = nn.Module.__hash__
    __eq__ = nn.Module.__eq__
