"""Masks in a network whose graph cannot be traced, through hooks that last one call."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BackboneError, TargetModulesError, UntraceableBackboneError
from .depths import Depth
from .identity import size_of
from .maps import MapLayout, find_layout, is_map, tokens_layout, vector_layout
from .masks import Mask, Request
from .tracing import Rooted, first_tensor, is_normalisation
from .units import FunctionStep, UnitSpec, check_targets, is_activation, no_convolution

__all__ = ["HookedBackbone"]


@dataclass
class _Call:
    """One module's call while the backbone was watched."""

    path: str
    module: nn.Module
    shape_in: tuple[int, ...]
    shape: tuple[int, ...]
    node_in: Any  # of autograd's graph
    node: Any


class _Stop(Exception):
    """The final map is there; the rest of the backbone need not run."""


class HookedBackbone:
    """A backbone with masks in it that could not be cut, as its graph depends on the input.

    It has the attributes of `CutBackbone`, and each request is one pass through all of it. The terminal convolutions
    are found in autograd's graph of one example. Features can neither be taken nor given.

    Args:
        backbone: The network, in eval mode.
        example: `(2, C, H, W)` pixels.
        targets: Paths of the convolutions to mask, or None for the terminal ones.
        reason: Why the network could not be traced, for the error messages.

    Attributes:
        rooted: The backbone under a common call: pixels in, one tensor out.
        input_size: `(C, H, W)` of the pixels.
        units_spec: What each masked conv unit is.
        map_shape: `(C, H, W)` of the final map.
        reason: Why the network could not be traced.
        embeds_patches: As for `CutBackbone`.

    Shapes:
        pixel_values: `(B, C, H, W)`.
        u and masks: `(B, C', H', W')`; final map `(B, *map_shape)`.

    Raises:
        BackboneError: no spatial convolution is on the way to the output.
        TargetModulesError: `targets` do not name convolutions side by side on the way to the output.

    Example:
        >>> class Doubtful(nn.Sequential):
        ...     def forward(self, x):
        ...         return super().forward(x) if x.sum() > 0 else super().forward(-x)  # torch.fx cannot follow
        >>> net = Doubtful(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2)).eval()
        >>> hooked = HookedBackbone(net, torch.rand(2, 3, 16, 16), None, "it decides by the content of a tensor")
        >>> hooked.targets, hooked.map_shape
        (('2',), (16, 6, 6))
        >>> def halved(index, features, excitation):
        ...     return excitation() / 2
        >>> pixels = torch.rand(4, 3, 16, 16)
        >>> final_map = hooked.run(hooked.rooted, [(None, halved)], pixel_values=pixels)[0]
        >>> torch.allclose(final_map, net(pixels) / 2)
        True
    """

    traceable = False
    feature_shapes: tuple[tuple[int, ...], ...] = ()
    excitation_shapes: tuple[tuple[int, ...], ...] = ()
    rooted: Rooted
    input_size: tuple[int, int, int]
    units_spec: list[UnitSpec]
    map_shape: tuple[int, ...]
    reason: str
    embeds_patches: bool

    def __init__(self, backbone: nn.Module, example: Tensor, targets: tuple[str, ...] | None, reason: str) -> None:
        self.rooted = Rooted(backbone)
        self.input_size = size_of(example)
        self.reason = reason
        self._lock = threading.RLock()
        calls, output = _watch(self.rooted, example)
        below = _reached(output.grad_fn)
        convs = [c for c in calls if isinstance(c.module, nn.Conv2d) and is_map(c.shape) and c.node in below]
        if not convs:
            raise BackboneError(no_convolution(backbone))
        before = {id(c): _reached(c.node_in) for c in convs}  # what each convolution depends on
        if targets is None:
            chosen = [c for c in convs if not any(c.node in before[id(other)] for other in convs)]
        else:
            paths = [c.path for c in convs]
            check_targets(backbone, targets, {path: paths.count(path) for path in paths})
            chosen = [convs[paths.index(path)] for path in targets]
        if len({c.path for c in chosen}) < len(chosen):
            raise TargetModulesError(
                f"The last convolution of {type(backbone).__name__} runs more than once side by side; choose "
                f"`target_modules` from: {', '.join(c.path for c in convs)}."
            )
        for first in chosen:
            if any(first.node in before[id(second)] for second in chosen):
                raise TargetModulesError(f"`target_modules` names {first.path!r}, which feeds another of them.")
        users: defaultdict[Any, set[Any]] = defaultdict(set)
        for node in below:
            for parent, _ in node.next_functions:
                users[parent].add(node)
        self.units_spec, self._turns = [], []
        ends: list[_Call] = []
        for conv in chosen:
            steps: dict[str, str | FunctionStep] = {"conv": conv.path}
            end = conv
            for call in calls[calls.index(conv) + 1 :]:
                if call.node is end.node:  # a container or an identity, which hands on what it was given
                    continue
                kind = "norm" if is_normalisation(call.module) else "act" if is_activation(call.module) else None
                follows = call.node_in is end.node and users[end.node] <= _reached(call.node, end.node)
                if kind is None or kind in steps or not follows or not is_map(call.shape):
                    break
                steps[kind], end = call.path, call
            self.units_spec.append(UnitSpec(conv.path, tuple(steps.items()), conv.shape_in[1:], end.shape[1:]))
            ends.append(end)
            # Which of the calls of a module that runs more than once: the mask sits on one.
            self._turns.append([_turn(conv, calls), _turn(end, calls)])
        last, self._layout = self._final_map(calls, ends, output)
        is_first = not any(c.node in before[id(conv)] for conv in chosen for c in convs)
        self.embeds_patches = is_first and any(
            next(call.module.parameters(recurse=False), None) is not None and len(call.shape_in) > 2
            for call in calls[max(map(calls.index, ends)) + 1 :]  # on what still has positions
            if call.node in below and not is_normalisation(call.module)
        )
        self._map = _turn(last, calls)
        self.map_shape = tuple(self._layout.as_map(torch.empty(last.shape, device="meta")).shape[1:])

    @property
    def targets(self) -> tuple[str, ...]:
        """Paths of the masked convolutions."""
        return tuple(unit.conv for unit in self.units_spec)

    @property
    def stops_at(self) -> str:
        """Path of the module that gives the final map, behind which an adapter's pass ends."""
        return self._map[0]

    def _final_map(self, calls: list[_Call], ends: list[_Call], output: Tensor) -> tuple[_Call, MapLayout]:
        """The last module's call that everything after the masks passes through, before positions are pooled away."""

        def last(layout_of: Callable[[tuple[int, ...]], MapLayout | None]) -> tuple[_Call, MapLayout] | None:
            for call in reversed(calls):
                layout = layout_of(call.shape)
                if layout is None or call.shape[0] != len(output) or call.node is None:
                    continue
                if layout_of is vector_layout and call.node is output.grad_fn:  # the classifier itself
                    continue
                is_end = len(ends) == 1 and call is ends[0]
                if is_end or not any(end.node in _reached(output.grad_fn, call.node) for end in ends):
                    return call, layout
            return None

        like = self.units_spec[0].sides
        final = last(lambda shape: find_layout(shape, *like)) or last(tokens_layout) or last(vector_layout)
        if final is None:
            raise UntraceableBackboneError("No module of the backbone after its last convolutions gives one map.")
        return final

    def find_depths(self, depths: tuple[str, ...] | int | None, grid: int = 1) -> tuple[Depth, ...]:
        """None where none are asked for; refuses all others, as there is no cut.

        Raises:
            UntraceableBackboneError: `depths` is not None.
        """
        if depths is None:
            return ()
        raise UntraceableBackboneError(
            f"`depths` are read in the trunk of a backbone that can be cut, and the graph of "
            f"{type(self.rooted.backbone).__name__} could not be traced ({self.reason}). Leave them out."
        )

    def depth_sizes(self, depths: Sequence[Depth]) -> list[int]:
        """As for `CutBackbone`: of no depths, nothing."""
        return [0 for _ in depths]

    def features(
        self,
        rooted: Rooted,
        pixel_values: Tensor,
        include_excitation: bool = False,
        depths: Sequence[Depth] = (),
    ) -> tuple[Tensor, ...]:
        """Always refuses, as there is no cut.

        Raises:
            UntraceableBackboneError: always.
        """
        raise self.no_features(rooted)

    def no_features(self, rooted: Rooted) -> UntraceableBackboneError:
        """The error that says why features of this backbone can neither be taken nor given."""
        return UntraceableBackboneError(
            f"Features of {type(rooted.backbone).__name__} cannot be taken or cached, as its graph could not be traced "
            f"({self.reason}). Adapters work on it from pixels."
        )

    def run(
        self,
        rooted: Rooted,
        requests: Sequence[Request],
        *,
        pixel_values: Tensor | None = None,
        features: Sequence[Tensor] | None = None,
        train_encoder: bool = False,
    ) -> list[Tensor]:
        """Answers several requests as `CutBackbone.run` does, with one pass for each.

        Args:
            rooted: The modules to run on: the backbone, or an adapter's own copy of it.
            requests: Each the rows it reads (None for all) and its mask. A request without mask is for the backbone's
                output.
            pixel_values: `(B, C, H, W)`.
            features: Refused.
            train_encoder: Whether gradients go to the modules before the mask.

        Returns:
            For each request the final map `(b, C, H, W)` of its b rows, or the output.

        Raises:
            UntraceableBackboneError: features were given, or the backbone did not run the same modules this time.
        """
        if features is not None or pixel_values is None:
            raise self.no_features(rooted)
        results: list[Tensor] = []
        for rows, mask in requests:
            pixels = pixel_values if rows is None else pixel_values[rows]
            if mask is None:
                with torch.set_grad_enabled(torch.is_grad_enabled() and pixels.requires_grad):
                    results.append(rooted(pixels))
            else:
                results.append(self._masked(rooted, pixels, mask, train_encoder))
        return results

    def _masked(self, rooted: Rooted, pixels: Tensor, mask: Mask, train_encoder: bool) -> Tensor:
        """One pass with the masks in place, up to the final map."""
        mine = threading.get_ident()
        inputs: dict[int, Tensor] = {}
        final: list[Tensor] = []
        handles = []

        def at(turn: int, hook: Any) -> Any:
            count = itertools.count()

            def here(*args: Any) -> Any:  # another thread may be calling the backbone itself
                return hook(*args) if threading.get_ident() == mine and next(count) == turn else None

            return here

        def keep_input(index: int) -> Any:
            def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
                inputs[index] = args[0].clone()  # the backbone may write into it before the mask reads it

            return hook

        def replace(index: int) -> Any:
            def hook(module: nn.Module, args: tuple[Any, ...], u: Tensor) -> Tensor:
                u = u if train_encoder or pixels.requires_grad else u.detach()
                return mask(index, inputs[index], lambda: u)

            return hook

        def stop(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            final.append(first_tensor(output))
            raise _Stop

        with self._lock:  # hooks are the module's, and calls from other threads would meet them
            try:
                for index, ((conv, first), (end, last)) in enumerate(self._turns):
                    module = rooted.backbone.get_submodule(conv)
                    handles.append(module.register_forward_pre_hook(at(first, keep_input(index))))
                    module = rooted.backbone.get_submodule(end)
                    handles.append(module.register_forward_hook(at(last, replace(index))))
                path, turn = self._map
                handles.append(rooted.backbone.get_submodule(path).register_forward_hook(at(turn, stop)))
                rooted(pixels)
            except _Stop:
                pass
            finally:
                for handle in handles:
                    handle.remove()
        if not final:
            raise UntraceableBackboneError(
                f"The backbone did not run {self._map[0]!r} this time; which of its modules run depends on the input."
            )
        return self._layout.as_map(final[0])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.RLock())


def _turn(call: _Call, calls: list[_Call]) -> tuple[str, int]:
    """The path of a module, and which of its calls this is."""
    return call.path, [id(other) for other in calls if other.path == call.path].index(id(call))


def _watch(rooted: Rooted, example: Tensor) -> tuple[list[_Call], Tensor]:
    """Every module's call on the example, in order, with its place in autograd's graph."""
    calls: list[_Call] = []
    entered: dict[int, list[tuple[Any, tuple[int, ...]]]] = {}

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        first = next((a for a in args if isinstance(a, Tensor)), None)
        state = (None, ()) if first is None else (first.grad_fn, tuple(first.shape))
        entered.setdefault(id(module), []).append(state)

    def leave(path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            node_in, shape_in = entered[id(module)].pop()
            if isinstance(output, Tensor):
                calls.append(_Call(path, module, shape_in, tuple(output.shape), node_in, output.grad_fn))

        return hook

    handles = []
    whole = [path for path, module in rooted.backbone.named_modules() if path and is_normalisation(module)]
    for path, module in rooted.backbone.named_modules():
        # What a normalisation has inside, such as its activation, is part of it.
        if path and not any(path.startswith(f"{outer}.") for outer in whole):
            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave(path))]
    try:
        with torch.enable_grad():
            output = rooted(example.detach().clone().requires_grad_(True).clone())
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(output, Tensor) or output.grad_fn is None:
        raise UntraceableBackboneError("The backbone's output does not depend on its input.")
    return calls, output


def _reached(node: Any, avoiding: Any = None) -> set[Any]:
    """Nodes of autograd's graph that one depends on, itself included."""
    seen: set[Any] = set()
    todo = [node]
    while todo:
        node = todo.pop()
        if node is not None and node is not avoiding and node not in seen:
            seen.add(node)
            todo.extend(parent for parent, _ in node.next_functions)
    return seen
