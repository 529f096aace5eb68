"""Adapters of equal shape as one: their tensors stacked, their masks and their heads computed in one product each.

On a GPU, a small batch in N worlds costs what it takes to launch N times as many small kernels. Stacked, it takes as
many launches as one world. On a CPU, products of N worlds take as long as N products, so that nothing is stacked there
and every answer is to the bit that of its adapter alone.

A stack lives as long as one call: it is made of the adapters' tensors as they are at that moment, so that no change of
one, however it is made, can be missed. Gradients go through it to each adapter.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeAlias, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..backbone import CutBackbone, OpenedBackbone
from ..config import CIAOConfig
from ..heads import DecisionHead
from ..inhibition import InhibitoryLayer
from .adapter import Adapter
from .seen import Seen

__all__ = ["STACKED_ON", "Call", "Stack", "decide_all", "is_stacked_on", "kind_of", "masks_together", "stacks"]

STACKED_ON = {"cuda"}
"""Types of devices on which adapters of equal shape are stacked."""

LARGEST = 2**30
"""Bytes of the masks that one product makes, at most; worlds beyond that go into another stack."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_SKELETONS_KEPT = 16

_Shape: TypeAlias = tuple[torch.Size, torch.dtype, torch.device]


class _Parts(NamedTuple):
    """What an adapter is made of, read off its modules once, with what shows that it still is.

    Args:
        config: Its config then.
        places: For each parameter and buffer the dict that holds it, and its name there.
        shapes: Of each its shape, dtype and device; None where there is none.
        children: For each module the dict that holds it, its name there, and itself.
        names: Of the tensors, in `state_dict`.
        mask_kind: Equal for two adapters whose masks can be computed together, if both sit at the same place.
        head_kind: The same of their heads; None where heads are never computed together.
    """

    config: CIAOConfig
    places: list[tuple[dict[str, Any], str]]
    shapes: list[_Shape | None]
    children: list[tuple[dict[str, Any], str, nn.Module]]
    names: list[str]
    mask_kind: Hashable
    head_kind: Hashable

    @classmethod
    def of(cls, adapter: Adapter) -> _Parts:
        places: list[tuple[dict[str, Any], str]] = []
        names: list[str] = []
        children: list[tuple[dict[str, Any], str, nn.Module]] = []
        for prefix, module in adapter.named_modules(remove_duplicate=False):
            children += [(module._modules, name, child) for name, child in module._modules.items() if child is not None]
            for own in (module._parameters, module._buffers):
                places += [(own, name) for name in own]
                names += [f"{prefix}.{name}" if prefix else name for name in own]
        shapes = [_shape(own[name]) for own, name in places]
        config, layers = adapter.config, [cast(InhibitoryLayer, layer) for layer in adapter.inhibition]
        named = list(zip(names, shapes, strict=True))
        mask_kind = (
            (*[(layer.form, layer.steps) for layer in layers], repr(adapter.inhibition), repr(adapter.excitation)),
            tuple(pair for pair in named if not pair[0].startswith("head.")),
        )
        head_kind = (
            (repr(adapter.head), config.pooling, config.frames, config.embedding_source, config.task_loss_trains),
            tuple(pair for pair in named if pair[0].startswith("head.")),
        )
        return cls(config, places, shapes, children, names, mask_kind, None if adapter.head.lstm else head_kind)

    def is_still(self, adapter: Adapter) -> bool:
        """Whether the adapter has these modules, and tensors of these shapes, dtypes and devices."""
        return (
            adapter.config is self.config
            and all(own.get(name) is child for own, name, child in self.children)
            and all(_shape(own.get(name)) == shape for (own, name), shape in zip(self.places, self.shapes, strict=True))
        )

    def is_plain(self, adapter: Adapter) -> bool:
        """Whether it computes what its modules say: nothing hooked or replaced."""
        if adapter.encoder is not None or not {"mask", "decide"}.isdisjoint(vars(adapter)):
            return False
        modules = [child for _, _, child in self.children]
        return not any(vars(module)[hooks] for module in (adapter, *modules) for hooks in _HOOKS)

    def is_reading(self, adapter: Adapter) -> bool:
        """Whether it drops nothing and follows no statistics: neither head nor batch norm is in training mode."""
        modules = [child for _, _, child in self.children]
        return not adapter.training and not any(
            m.training and isinstance(m, (DecisionHead, _BatchNorm)) for m in modules
        )

    def under(self, prefixes: tuple[str, ...]) -> list[int]:
        """Places of the tensors whose names begin so."""
        return [place for place, name in enumerate(self.names) if name.startswith(prefixes) and self.shapes[place]]


def _shape(tensor: Tensor | None) -> _Shape | None:
    return None if tensor is None else (tensor.shape, tensor.dtype, tensor.device)


_PARTS: WeakKeyDictionary[Adapter, _Parts] = WeakKeyDictionary()


def _parts_of(adapter: Adapter) -> _Parts | None:
    """Its parts as they are now, or None where it has to be asked by itself."""
    parts = _parts_in_any_mode(adapter)
    return parts if parts is not None and parts.is_reading(adapter) else None


def _parts_in_any_mode(adapter: Adapter) -> _Parts | None:
    parts = _PARTS.get(adapter)
    if parts is None or not parts.is_still(adapter):
        parts = _PARTS[adapter] = _Parts.of(adapter)
    return parts if parts.is_plain(adapter) else None


def kind_of(adapter: Adapter) -> Hashable | None:
    """Equal for two adapters that can be stacked whole, where both sit at the same place; None for one that cannot.

    Example:
        >>> from ciao_peft.backbone import open_backbone
        >>> opened = open_backbone(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), (3, 16, 16))
        >>> first, second = (Adapter(CIAOConfig(problem_type="regression", num_labels=n), opened) for n in (2, 3))
        >>> kind_of(first) == kind_of(first), kind_of(first) == kind_of(second)
        (True, False)
    """
    parts = _parts_in_any_mode(adapter)
    return None if parts is None or parts.head_kind is None else (parts.mask_kind, parts.head_kind)


def is_stacked_on(device: torch.device) -> bool:
    """Whether adapters on a device are stacked."""
    return device.type in STACKED_ON and not torch.compiler.is_compiling()


class _Skeletons(threading.local):
    """Adapters without values by kind; each thread has its own, for they are lent values while they compute."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, Adapter] = OrderedDict()

    def of(self, adapter: Adapter, parts: _Parts) -> Adapter:
        kind = (parts.mask_kind, parts.head_kind, parts.config.pooling)
        if kind not in self._kept:
            self._kept[kind] = copy.deepcopy(adapter).to("meta")
            if len(self._kept) > _SKELETONS_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(kind)
        return self._kept[kind]


_SKELETONS = _Skeletons()


class Call(nn.Module):
    """An adapter, called by one of its methods, with tensors by name in place of its own.

    Args:
        adapter: Without values, as a skeleton; lent them for a call, by one thread at a time.
        method: Called with the adapter and what `with_tensors` is given.

    Shapes:
        As the method has them.
    """

    adapter: Adapter

    def __init__(self, adapter: Adapter, method: Callable[..., Any]):
        super().__init__()
        self.adapter, self._method = adapter, method

    def forward(self, *args: Any) -> Any:
        return self._method(self.adapter, *args)

    def with_tensors(self, tensors: dict[str, Tensor], *args: Any) -> Any:
        """What the method returns when the adapter has these tensors, by name in `state_dict`."""
        named = {f"adapter.{name}": tensor for name, tensor in tensors.items()}
        return torch.func.functional_call(self, named, args)


class Stack(NamedTuple):
    """Alike adapters that answer together.

    Args:
        places: Of their requests, as `stacks` was asked.
        adapters: In the same order.
        parts: What each is made of.

    Shapes:
        features `(B, C, H, W)`, u and masks `(B, C', H', W')`; with k adapters, the masks of `masks_of_all` are
        `(B * k, C', H', W')`, those of a row one after the other.

    Example:
        >>> from ciao_peft import CIAOConfig
        >>> from ciao_peft.backbone import open_backbone
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
        >>> configs = [CIAOConfig(problem_type="regression", num_labels=2, decay_init=a) for a in (1.0, 2.0)]
        >>> adapters = [Adapter(config, open_backbone(net, (3, 16, 16))) for config in configs]
        >>> stack, x = Stack.of(adapters), torch.rand(4, 3, 16, 16)
        >>> masks = stack.masks_of_all(0, x, lambda: net(x)).unflatten(0, (4, 2))
        >>> torch.allclose(masks[:, 1], 2 * net(x) / (2 + net(x)), atol=1e-6)
        True
    """

    places: list[int]
    adapters: list[Adapter]
    parts: list[_Parts]

    @classmethod
    def of(cls, adapters: Sequence[Adapter]) -> Stack:
        """A stack of adapters that are alike."""
        return cls([*range(len(adapters))], [*adapters], [_Parts.of(adapter) for adapter in adapters])

    def tensors(self, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
        """By name those of all adapters, with one more dimension in front."""
        each = [[parts.places[place] for place in parts.under(prefixes)] for parts in self.parts]
        names = [self.parts[0].names[place] for place in self.parts[0].under(prefixes)]
        together = zip(names, zip(*each, strict=True), strict=True)
        return {name: torch.stack([own[key] for own, key in tensors]) for name, tensors in together}

    @property
    def skeleton(self) -> Adapter:
        """An adapter like these, without values; this thread's own."""
        return _SKELETONS.of(self.adapters[0], self.parts[0])

    def masks_of_all(self, index: int, features: Tensor, frozen_excitation: Callable[[], Tensor]) -> Tensor:
        """The masks of adapters that read the same rows: a `Mask` with a row for each adapter and row of the input.

        Adapters that let u pass as it is have one answer for all of them, which is u.
        """
        return self._masks(index, features, frozen_excitation, True)

    def masks_of_each(self, index: int, features: Tensor, frozen_excitation: Callable[[], Tensor]) -> Tensor:
        """The masks of adapters with rows of their own: a `Mask` of an input with equally many rows for each."""
        return self._masks(index, features, frozen_excitation, False)

    def _masks(self, index: int, features: Tensor, frozen_excitation: Callable[[], Tensor], shared: bool) -> Tensor:
        rooms = ("inhibition", "excitation", "low_rank_excitation")
        tensors = self.tensors(tuple(f"{room}.{index}." for room in rooms))
        return masks_together(self.skeleton, tensors, index, features, frozen_excitation, shared)


def masks_together(
    skeleton: Adapter,
    tensors: dict[str, Tensor],
    index: int,
    features: Tensor,
    frozen_excitation: Callable[[], Tensor],
    shared: bool,
) -> Tensor:
    """`Adapter.mask` of alike adapters at once.

    Args:
        skeleton: An adapter like them, without values.
        tensors: Of all of them what their masks are made of, by name; none where they let u pass as it is.
        index: Number of the conv unit.
        features: Its input: rows that all of them read, or equally many for each, those of the first adapter first.
        frozen_excitation: Gives u of the frozen unit, of the same rows; called only if it is needed.
        shared: Whether all read the same rows.

    Returns:
        `(B * k, C', H', W')` with k adapters, those of a row one after the other, or `(B, C', H', W')`, a mask for each
        of the rows that are not shared. Of adapters that let u pass, u.

    Example:
        >>> from ciao_peft.backbone import open_backbone
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
        >>> adapter = Adapter(CIAOConfig(problem_type="regression", num_labels=2), open_backbone(net, (3, 16, 16)))
        >>> own = {name: t for name, t in adapter.state_dict().items() if not name.startswith("head.")}
        >>> both = {name: torch.stack([t, t]) for name, t in own.items()}
        >>> x = torch.rand(4, 3, 16, 16)
        >>> [len(masks_together(adapter, both, 0, x, lambda: net(x), shared)) for shared in (True, False)]
        [8, 4]
    """
    if not tensors:
        return frozen_excitation()
    u = None if len(skeleton.excitation) else frozen_excitation()

    def of_one(adapter: Adapter, features: Tensor, u: Tensor) -> Tensor:
        return adapter.mask(index, features, lambda: u)

    run = Call(skeleton, of_one).with_tensors
    if shared:
        return torch.vmap(run, in_dims=(0, None, None), out_dims=1)(tensors, features, u).flatten(0, 1)
    count = len(next(iter(tensors.values())))
    own, u = (None if t is None else t.unflatten(0, (count, -1)) for t in (features, u))
    return torch.vmap(run, in_dims=(0, 0, None if u is None else 0))(tensors, own, u).flatten(0, 1)


def stacks(
    asked: Sequence[tuple[Tensor | None, Adapter]], opened: OpenedBackbone, device: torch.device, num_rows: int
) -> list[Stack]:
    """Which requests are answered in one product: those of alike adapters that read equally many rows, nearly.

    Args:
        asked: Rows of the batch (None for all) and the adapter that reads them; all of them at the same place.
        opened: That place.
        device: Where they are read.
        num_rows: Of the batch.

    Returns:
        Stacks of two or more; the other requests are answered one by one.

    Example:
        >>> from ciao_peft import CIAOConfig
        >>> from ciao_peft.backbone import open_backbone
        >>> opened = open_backbone(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), (3, 16, 16))
        >>> adapters = [Adapter(CIAOConfig(problem_type="regression", num_labels=2), opened) for _ in range(3)]
        >>> stacks([(None, adapter) for adapter in adapters], opened, torch.device("cpu"), 4)
        []
    """
    if not is_stacked_on(device) or not isinstance(opened, CutBackbone) or not opened.keeps_rows:
        return []
    groups: dict[Hashable, list[tuple[int, Adapter, _Parts]]] = {}
    for place, (rows, adapter) in enumerate(asked):
        parts = _parts_of(adapter)
        if parts is not None:
            count = -1 if rows is None else (len(rows) - 1).bit_length()  # padding at most doubles the rows
            groups.setdefault((parts.mask_kind, count), []).append((place, adapter, parts))
    each = 4 * num_rows * sum(torch.Size(shape).numel() for shape in opened.excitation_shapes)
    most = max(LARGEST // max(each, 1), 2)
    chosen = (group[first : first + most] for group in groups.values() for first in range(0, len(group), most))
    return [Stack(*map(list, zip(*group, strict=True))) for group in chosen if len(group) > 1]


def decide_all(asked: Sequence[tuple[Adapter, Tensor | Seen]], dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """`Adapter.decide` of several adapters, those with alike heads in one product where their device stacks.

    Args:
        asked: Adapters, each with its final map, and its depths if it reads some.
        dtype: Of the logits that are returned.

    Returns:
        For each its logits, in that dtype, and embeddings.

    Example:
        >>> from ciao_peft import CIAOConfig
        >>> from ciao_peft.backbone import open_backbone
        >>> opened = open_backbone(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), (3, 16, 16))
        >>> configs = [CIAOConfig(problem_type="regression", num_labels=n) for n in (2, 3)]
        >>> asked = [(Adapter(config, opened), torch.rand(4, 8, 14, 14)) for config in configs]
        >>> [tuple(logits.shape) for logits, _ in decide_all(asked, torch.float32)]
        [(4, 2), (4, 3)]
    """
    groups: dict[Hashable, list[tuple[int, Adapter, _Parts]]] = {}
    results: dict[int, tuple[Tensor, Tensor]] = {}
    seen = [each if isinstance(each, Seen) else Seen(each) for _, each in asked]
    for place, (adapter, _) in enumerate(asked):
        feature_map = seen[place].map
        parts = _parts_of(adapter) if is_stacked_on(feature_map.device) else None
        if parts is not None and parts.head_kind is not None:
            kind = (parts.head_kind, feature_map.shape, feature_map.dtype)
            groups.setdefault(kind, []).append((place, adapter, parts))
    for group in groups.values():
        if len(group) > 1:
            stack = Stack(*map(list, zip(*group, strict=True)))
            inputs = [torch.stack(each) for each in zip(*(_given(seen[place]) for place in stack.places), strict=True)]
            trains_map = inputs[0].requires_grad

            def decide(adapter: Adapter, *own: Tensor, trains_map: bool = trains_map) -> tuple[Tensor, Tensor]:
                return adapter.decide(Seen(*own), trains_map)

            logits, z = torch.vmap(Call(stack.skeleton, decide).with_tensors)(stack.tensors(("head.",)), *inputs)
            results |= dict(zip(stack.places, zip(logits.to(dtype), z, strict=True), strict=True))
    for place, (adapter, _) in enumerate(asked):
        if place not in results:
            logits, z = adapter.decide(seen[place])
            results[place] = logits.to(dtype), z
    return [results[place] for place in range(len(asked))]


def _given(seen: Seen) -> list[Tensor]:
    return [tensor for tensor in seen if tensor is not None]
