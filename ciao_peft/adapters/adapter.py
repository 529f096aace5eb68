"""One adapter as modules: inhibitory units, decision head, and its own copies of what else it trains."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, ItemsView, Iterator, Mapping, ValuesView
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..backbone import Depth, OpenedBackbone, parameters_reaching_the_map
from ..config import CIAOConfig
from ..errors import InputError
from ..heads import DecisionHead, pool_map
from ..inhibition import DECAY_START, InhibitoryLayer, LowRankConvolution, within
from .hold import Hold
from .seen import Seen

__all__ = ["Adapter", "AdapterDict"]


class Adapter(nn.Module):
    r"""Everything that one world adds to a backbone: inhibitory units, a decision head, and its own copies.

    For each masked convolution the adapter computes the mask of Eq. 1 from the features x before it,

    $$M = \frac{u(x)}{a + I(x)}$$

    where u is the frozen conv unit (or the adapter's own copy with `tuning="last_conv"`), I its trainable copy and a
    the learned decay per channel. The final map that the backbone makes of M is pooled and goes through the head.

    Args:
        config: Its settings.
        opened: The backbone with places for its masks.
        empty: Leave the values out, for those that `load_tensors` brings; the adapter computes nothing until then.

    Attributes:
        config: Its settings.
        inhibition: An `InhibitoryLayer` for each masked convolution; empty with `inhibition=False`.
        low_rank_excitation: A `LowRankConvolution` for each masked convolution, whose answer E is added to u, with
            `excitation_rank`; else empty.
        excitation: Trainable copies of the conv units for u, with `tuning="last_conv"`; else empty.
        encoder: A trainable copy of the backbone, with `tuning="full"`; else None.
        head: From the pooled map to logits.
        depths: Earlier units of the trunk that the head reads beside the map.
        trainable: Names of the parameters that training changes.
        hold: Who may change its modes now.

    Shapes:
        features of a mask: `(B, C, H, W)`; excitation and mask `(B, C', H', W')`.
        map of `decide`: `(B, C, H, W)`, of clips `(B * frames, C, H, W)`; logits `(B, num_labels)` and embeddings
        `(B, D)`.

    Example:
        >>> from ciao_peft.backbone import open_backbone
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()).eval()
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=7, pooling="avg")
        >>> adapter = Adapter(config, open_backbone(net, (3, 16, 16)))
        >>> logits, embeddings = adapter.decide(torch.rand(4, 16, 12, 12))
        >>> logits.shape, embeddings.shape
        (torch.Size([4, 7]), torch.Size([4, 16]))
    """

    config: CIAOConfig
    inhibition: nn.ModuleList
    low_rank_excitation: nn.ModuleList
    excitation: nn.ModuleList
    encoder: nn.Module | None
    head: DecisionHead
    depths: tuple[Depth, ...]
    trainable: frozenset[str]
    hold: Hold

    def __init__(self, config: CIAOConfig, opened: OpenedBackbone, empty: bool = False) -> None:
        super().__init__()
        self.hold = Hold()
        backbone = opened.rooted.backbone
        self.config = config
        units = [spec.build(backbone, empty) for spec in opened.units_spec]
        self.inhibition = nn.ModuleList(
            InhibitoryLayer(
                unit,
                spec.out_shape[0],
                DECAY_START if config.decay_init is None else config.decay_init,
                form=config.inhibition_form,
                rank=config.inhibition_rank,
                seed=_seed_of(config, 2 * index),
                learn_decay=config.learn_decay,
                generator=_generator_of(config, index) if config.inhibition_start == "random" else None,
                takes_unit=config.tuning != "last_conv" and not config.excitation_rank,
                sides=spec.sides,
            )
            for index, (unit, spec) in enumerate(zip(units, opened.units_spec, strict=True))
            if config.inhibition
        )
        self.low_rank_excitation = nn.ModuleList(
            LowRankConvolution(
                cast(nn.Conv2d, unit[0]),
                config.excitation_rank,
                _seed_of(config, 2 * index + 1),
                num_channels=spec.out_shape[0],
                sides=spec.sides,
            )
            for index, (unit, spec) in enumerate(zip(units, opened.units_spec, strict=True))
            if config.excitation_rank
        )
        own_units = units if config.tuning == "last_conv" else []
        self.excitation = nn.ModuleList(unit.float().requires_grad_(True) for unit in own_units)
        self.encoder = copy.deepcopy(backbone).float() if config.tuning == "full" else None
        in_features = pool_map(torch.empty(1, *opened.map_shape, device="meta"), config.pooling).shape[1]
        self.depths = opened.find_depths(config.depths, config.depth_grid)
        positions, depths = in_features // opened.map_shape[0], opened.depth_sizes(self.depths)
        self.head = DecisionHead(in_features, config, empty, positions=positions, depths=depths)
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
        """Sets the mode of the head; the copies of backbone modules stay in eval mode.

        The exception is their batch norm, which follows `mode` with `train_batch_norm=True`. While a training makes an
        update of the adapter, the mode is set after that.
        """
        self.hold.change("mode", lambda: self._set_mode(mode))
        return self

    def _set_mode(self, mode: bool) -> None:
        self.training = mode
        self.head.train(mode)
        for copies in (self.inhibition, self.low_rank_excitation, self.excitation, self.encoder):
            for module in () if copies is None else copies.modules():
                is_batch_norm = isinstance(module, _BatchNorm)
                module.training = mode and is_batch_norm and self.config.train_batch_norm

    @contextmanager
    def held(self, training: bool) -> Iterator[None]:
        """A context in which the adapter is in a mode and, in training mode, trainable, whatever other threads do.

        What they ask of it meanwhile is done at the end; otherwise it is then as it was.

        Args:
            training: The mode.

        Example:
            >>> from ciao_peft.backbone import open_backbone
            >>> opened = open_backbone(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), (3, 16, 16))
            >>> adapter = Adapter(CIAOConfig(problem_type="regression", num_labels=2), opened)
            >>> with adapter.held(training=True):
            ...     print(adapter.eval().training)
            True
            >>> adapter.training
            False
        """
        before: dict[str, Any] = {}

        def take() -> None:
            before["mode"] = self.training
            before["grads"] = {parameter: parameter.requires_grad for parameter in self.parameters()}
            self._set_mode(training)
            if training:
                self._set_trainable(True)

        def give_back() -> None:
            self._set_mode(before["mode"])
            for parameter, requires_grad in before["grads"].items():
                parameter.requires_grad_(requires_grad)

        with self.hold.taken(take, give_back):
            yield

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Adapter:
        """Moves between devices follow, and casts to float64; `half()` of a model reaches the backbone alone."""

        def at_least_float32(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            narrower = result.is_floating_point() and result.dtype not in (torch.float32, torch.float64)
            return tensor.to(result.device) if narrower else result

        return super()._apply(at_least_float32, recurse)

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> Adapter:
        """Makes tensors the adapter's own, in its dtypes and on its device, without a copy where they already fit.

        Args:
            tensors: One for each key of `state_dict`, in its shape. Nobody else may keep using them.

        Returns:
            The adapter.

        Example:
            >>> from ciao_peft.backbone import open_backbone
            >>> opened = open_backbone(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), (3, 16, 16))
            >>> config = CIAOConfig(problem_type="regression", num_labels=2, decay_init=2.0)
            >>> tensors = {key: value.clone() for key, value in Adapter(config, opened).state_dict().items()}
            >>> copied = Adapter(config, opened, empty=True).load_tensors(tensors)
            >>> round(copied.inhibition[0].decay[0].item(), 3)
            2.0
        """
        before = self.state_dict()
        usable = {key: tensor.clone() if tensor.is_inference() else tensor for key, tensor in tensors.items()}
        own = {key: _as_before(tensor, before.get(key), self._device) for key, tensor in usable.items()}
        shared = len(list(self.named_parameters(remove_duplicate=False))) > len(list(self.named_parameters()))
        self.load_state_dict(own, assign=not shared)  # assigning would part what shares one tensor
        return self.to(self._device)

    def set_decay(self, decay: float) -> None:
        """Sets `a` of all inhibitory units, and notes it in the config as the value it started from.

        Args:
            decay: The value for every channel, above 0, in the units of the activation it is added to.

        Example:
            >>> from ciao_peft.backbone import open_backbone
            >>> opened = open_backbone(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), (3, 16, 16))
            >>> adapter = Adapter(CIAOConfig(problem_type="regression", num_labels=2), opened)
            >>> adapter.set_decay(0.5)
            >>> adapter.config.decay_init
            0.5
        """
        self.config = dataclasses.replace(self.config, decay_init=decay)
        for layer in self.inhibition:
            cast(InhibitoryLayer, layer).set_decay(decay)

    def set_trainable(self, trainable: bool) -> None:
        """Switches `requires_grad` of the parameters in `trainable`; all others stay without gradients.

        While a training makes an update of the adapter, this is done after that.
        """
        self.hold.change("trainable", lambda: self._set_trainable(trainable))

    def _set_trainable(self, trainable: bool) -> None:
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(trainable and name in self.trainable)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The parameters that training changes, by part.

        Returns:
            `mask` (inhibitory units and E), `encoder` (own copies of conv units or encoder) and `head`; a list may be
            empty.

        Example:
            >>> from ciao_peft.backbone import open_backbone
            >>> opened = open_backbone(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), (3, 16, 16))
            >>> adapter = Adapter(CIAOConfig(problem_type="regression", num_labels=2, hidden_sizes=()), opened)
            >>> {part: len(parameters) for part, parameters in adapter.parameter_groups().items()}
            {'mask': 5, 'encoder': 0, 'head': 2}
        """
        groups: dict[str, list[nn.Parameter]] = {"mask": [], "encoder": [], "head": []}
        room = {
            "inhibition": "mask",
            "low_rank_excitation": "mask",
            "excitation": "encoder",
            "encoder": "encoder",
            "head": "head",
        }
        for name, parameter in self.named_parameters():
            if name in self.trainable:
                groups[room[name.split(".")[0]]].append(parameter)
        return groups

    def mask(self, index: int, features: Tensor, frozen_excitation: Callable[[], Tensor]) -> Tensor:
        """Computes what goes on in place of a conv unit's answer: M of Eq. 1, or u (+ E) where nothing inhibits.

        Args:
            index: Number of the conv unit.
            features: Its input, `(B, C, H, W)`.
            frozen_excitation: Gives u of the encoder that runs, `(B, C', H', W')`; called only if u is needed.

        Returns:
            `(B, C', H', W')`.

        Example:
            >>> from ciao_peft.backbone import open_backbone
            >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
            >>> config = CIAOConfig(problem_type="regression", num_labels=2, decay_init=1.0)
            >>> adapter, x = Adapter(config, open_backbone(net, (3, 16, 16))), torch.rand(4, 3, 16, 16)
            >>> mask = adapter.mask(0, x, lambda: net(x))  # at first I equals u, so M = u / (1 + u)
            >>> torch.allclose(mask, net(x) / (1 + net(x)), atol=1e-6)
            True
        """
        excitation = self.excitation_of(index, features, frozen_excitation)
        added = self.low_rank_excitation[index](features) if len(self.low_rank_excitation) else None
        if len(self.inhibition):
            return self.inhibition[index](features, excitation, added)
        return excitation if added is None else within(excitation + added, excitation.dtype)

    def excitation_of(self, index: int, features: Tensor, frozen_excitation: Callable[[], Tensor]) -> Tensor:
        """Computes u of a conv unit: the frozen unit's answer, or that of the adapter's own copy.

        Args:
            index: Number of the conv unit.
            features: Its input, `(B, C, H, W)`.
            frozen_excitation: Gives u of the encoder that runs, `(B, C', H', W')`; called only if it is needed.

        Returns:
            `(B, C', H', W')`.

        Example:
            >>> from ciao_peft.backbone import open_backbone
            >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
            >>> config = CIAOConfig(problem_type="regression", num_labels=2, tuning="last_conv")
            >>> adapter, x = Adapter(config, open_backbone(net, (3, 16, 16))), torch.rand(4, 3, 16, 16)
            >>> torch.equal(adapter.excitation_of(0, x, lambda: net(x)), net(x))  # its copy starts as the unit
            True
        """
        if not len(self.excitation):
            return frozen_excitation()
        unit = cast(nn.Sequential, self.excitation[index])
        return unit(features.to(cast(nn.Conv2d, unit[0]).weight.dtype)).to(features.dtype)

    def decide(self, seen: Tensor | Seen, trains_map: bool | None = None) -> tuple[Tensor, Tensor]:
        """Goes from the final map, and the depths that the adapter reads, to logits and embeddings.

        Args:
            seen: The map `(B, C, H, W)`, of clips `(B * frames, C, H, W)`, frame after frame; with its depths for an
                adapter that reads some.
            trains_map: Whether a gradient goes to the map; as the map says when left out, which it cannot in `vmap`.

        Returns:
            Logits `(B, num_labels)` and embeddings z `(B, D)`, in the dtype of the head.

        Raises:
            InputError: it reads depths, and there are none.

        Example:
            >>> from ciao_peft.backbone import open_backbone
            >>> opened = open_backbone(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), (3, 16, 16))
            >>> adapter = Adapter(CIAOConfig(problem_type="regression", num_labels=2), opened)
            >>> [tuple(part.shape) for part in adapter.decide(torch.rand(4, 8, 14, 14))]
            [(4, 2), (4, 1568)]
        """
        feature_map, depths = seen if isinstance(seen, Seen) else Seen(seen)
        if depths is None and self.depths:
            raise InputError(
                "This adapter reads depths beside the map, and got the map alone; give what `read_maps` did."
            )
        pooled = pool_map(feature_map, self.config.pooling)
        if self.config.frames is not None:
            pooled = pooled.unflatten(0, (-1, self.config.frames))
            depths = None if depths is None else depths.unflatten(0, (-1, self.config.frames))
        trains_map = pooled.requires_grad if trains_map is None else trains_map
        apart = self.config.task_loss_trains == "head" and trains_map
        logits, hidden = self.head(pooled.detach() if apart else pooled, depths)
        source = self.config.embedding_source
        to_compare, hidden = self.head(pooled, depths) if apart and source != "features" else (logits, hidden)
        seen_by_z = pooled if self.config.frames is None else pooled.mean(dim=1)
        z = {"features": seen_by_z, "hidden": hidden, "logits": to_compare}[source]
        return logits, z.to(next(self.head.parameters()).dtype)


def _as_before(tensor: Tensor, before: Tensor | None, device: torch.device) -> Tensor:
    """A tensor in the dtype and layout of another one: convolutions of another layout round otherwise."""
    if before is None:
        return tensor.to(device)
    last = torch.channels_last
    laid_out = tensor.ndim == 4 and before.is_contiguous(memory_format=last) and not before.is_contiguous()
    return tensor.to(device, before.dtype, memory_format=last if laid_out else torch.preserve_format)


def _generator_of(config: CIAOConfig, index: int) -> torch.Generator:
    """For the weights of one inhibitory unit, apart from those of the head and of the other units."""
    return torch.Generator().manual_seed(_seed_of(config, index))


def _seed_of(config: CIAOConfig, index: int) -> int:
    return (config.init_seed + 1_000_003 * (index + 1)) % 2**63


class AdapterDict(nn.Module, Mapping[str, Adapter]):
    """Adapters by name: a module that reads like a dict.

    Names may hold dots and be those of attributes, both of which `nn.ModuleDict` refuses. Who goes through them sees
    those of one moment, whatever other threads add or delete.

    Example:
        >>> from ciao_peft.backbone import open_backbone
        >>> opened = open_backbone(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), (3, 16, 16))
        >>> adapters = AdapterDict()
        >>> adapters["v1.0"] = Adapter(CIAOConfig(problem_type="regression", num_labels=2), opened)
        >>> list(adapters), adapters["v1.0"].config.num_labels, "forward" in adapters
        (['v1.0'], 2, False)
    """

    _PREFIX = "adapter:"

    @classmethod
    def _key(cls, name: Any) -> str:
        return cls._PREFIX + str(name).replace(".", "%2E")

    def __getitem__(self, name: str) -> Adapter:
        return cast(Adapter, self._modules[self._key(name)])

    def __setitem__(self, name: str, adapter: Adapter) -> None:
        # A new dict each time: whoever is going through the old one, in torch's code too, goes on undisturbed.
        vars(self)["_modules"] = {**self._modules, self._key(name): adapter}

    def __delitem__(self, name: str) -> None:
        left = dict(self._modules)
        del left[self._key(name)]
        vars(self)["_modules"] = left

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._key(name) in self._modules

    def __iter__(self) -> Iterator[str]:
        return iter([self._name(key) for key in self._modules])

    @classmethod
    def _name(cls, key: str) -> str:
        return key.removeprefix(cls._PREFIX).replace("%2E", ".")

    def find(self, name: str) -> Adapter | None:
        """The adapter of a name, or None."""
        return cast("Adapter | None", self._modules.get(self._key(name)))

    def snapshot(self) -> dict[str, Adapter]:
        """The adapters of this moment, by name."""
        return {self._name(key): cast(Adapter, adapter) for key, adapter in self._modules.items()}

    def items(self) -> ItemsView[str, Adapter]:
        """Names and adapters of this moment."""
        return self.snapshot().items()

    def values(self) -> ValuesView[Adapter]:
        """The adapters of this moment."""
        return self.snapshot().values()

    def __len__(self) -> int:
        return len(self._modules)

    # As modules are, not as mappings are.
    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)
