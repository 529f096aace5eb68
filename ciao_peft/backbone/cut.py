"""Cut a traced network at its terminal convolutions into trunk, conv units and tail."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import BackboneError, TargetModulesError, UntraceableBackboneError
from .identity import example_pixels
from .tracing import Rooted, is_normalisation, trace
from .units import UnitSpec, activation_step, check_targets, is_activation

_PREFIX = "backbone."
_BATCH_SIZE = object()

Mask = Callable[[int, Tensor, Callable[[], Tensor]], Tensor]
"""From a unit's number, its input and a function that gives the frozen unit's answer, to what goes on in its place."""

Request = tuple[Tensor | None, Mask | None]
"""Rows of the batch (None for all of it) and their mask (None for the backbone's own output)."""


def _tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("value"), Tensor)


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["value"].shape)


def _is_map(shape: Sequence[int]) -> bool:
    return len(shape) == 4 and shape[2] * shape[3] > 1


def _cut_again(backbone: nn.Module, input_size: tuple[int, ...], targets: tuple[str, ...] | None) -> CutBackbone:
    return CutBackbone(backbone.eval(), example_pixels(backbone, input_size), targets)


class CutBackbone:
    """A backbone in four pieces, each a function of the backbone and tensors.

    The trunk gives the features that cross the cut; the units the answers u; the tail makes of features and masks the
    final map that the head sees; the rest makes of features and u the backbone's own output. The pieces run on the
    modules of whatever `Rooted` they are given, so any copy of the backbone can be run with them. Nothing of the
    backbone is held but a reference.

    Args:
        backbone: In eval mode.
        example: `(2, C, H, W)` pixels; the cut is checked on them against the backbone itself.
        targets: Paths of convolutions, or None for the terminal ones.

    Raises:
        UntraceableBackboneError: the graph cannot be followed, or computes something else than the backbone.
        BackboneError: no spatial convolution is on the way to the output.
        TargetModulesError: `targets` do not name convolutions side by side on the way to the output.
    """

    traceable = True

    def __init__(self, backbone: nn.Module, example: Tensor, targets: tuple[str, ...] | None = None):
        self.rooted = Rooted(backbone)
        self.input_size = tuple(example.shape[1:])
        self._targets = targets
        graph = trace(backbone, example[:1])
        self._nodes = list(graph.nodes)
        self._output = next(node for node in self._nodes if node.op == "output").args[0]
        if not isinstance(self._output, fx.Node):
            raise UntraceableBackboneError("The backbone's output does not depend on its input.")
        self._below = self._ancestors([self._output])
        convs = self._choose(backbone, targets)
        self._after = self._descendants(convs)
        self.units_spec, self._ends = self._find_units(backbone, convs)
        self._map = self._final_map()
        self._split(convs, example)
        del self._nodes, self._output, self._below, self._after, self._ends, self._map
        self._check(example)

    @property
    def targets(self) -> tuple[str, ...]:
        """Paths of the masked convolutions."""
        return tuple(unit.conv for unit in self.units_spec)

    def __reduce__(self) -> tuple:
        return _cut_again, (self.rooted.backbone, self.input_size, self._targets)  # compiled code has no pickle

    def __deepcopy__(self, memo: dict) -> CutBackbone:
        other = copy.copy(self)
        other.rooted = copy.deepcopy(self.rooted, memo)
        return other

    def __copy__(self) -> CutBackbone:
        other = object.__new__(CutBackbone)
        vars(other).update(vars(self))
        return other

    # -- finding ---------------------------------------------------------------------------------------------------

    @staticmethod
    def _ancestors(nodes: Iterable[fx.Node]) -> set[fx.Node]:
        seen, todo = set(), list(nodes)
        while todo:
            node = todo.pop()
            if node not in seen:
                seen.add(node)
                todo.extend(node.all_input_nodes)
        return seen

    @staticmethod
    def _descendants(nodes: Iterable[fx.Node], avoiding: fx.Node | None = None, tensors: bool = False) -> set[fx.Node]:
        """Nodes that depend on the given ones (these included), on paths that avoid one node and go by tensors only."""
        seen, todo = set(), list(nodes)
        while todo:
            node = todo.pop()
            if node not in seen and node is not avoiding and (_tensor(node) or not tensors):
                seen.add(node)
                todo.extend(node.users)
        return seen

    def _choose(self, backbone: nn.Module, targets: tuple[str, ...] | None) -> list[fx.Node]:
        spatial = [
            node
            for node in self._nodes
            if node in self._below and node.op == "call_module" and _tensor(node) and _is_map(_shape(node))
            if isinstance(backbone.get_submodule(node.target.removeprefix(_PREFIX)), nn.Conv2d)
        ]
        paths = [node.target.removeprefix(_PREFIX) for node in spatial]
        if not spatial:
            raise BackboneError(
                f"{type(backbone).__name__} has no convolution with an output larger than 1x1 on the way to its "
                "output; "
                "CIAO masks the last convolution of a convolutional network. Is `input_size` the one it was made for?"
            )
        if targets is None:
            chosen = [c for c in spatial if not any(o in self._descendants(c.users) for o in spatial)]
            if len({node.target for node in chosen}) < len(chosen):
                raise TargetModulesError(
                    f"The last convolution of {type(backbone).__name__} runs more than once in one pass; choose "
                    f"`target_modules` from: {', '.join(paths)}."
                )
            return chosen
        check_targets(backbone, targets, {path: paths.count(path) for path in paths})
        chosen = [spatial[paths.index(path)] for path in targets]
        for first in chosen:
            later = self._descendants(first.users)
            for second in chosen:
                if second in later:
                    one, two = (node.target.removeprefix(_PREFIX) for node in (first, second))
                    raise TargetModulesError(
                        f"`target_modules` names {one!r}, which feeds {two!r}, named as well; masks sit side by side. "
                        f"Keep one of the two."
                    )
        return chosen

    def _find_units(self, backbone: nn.Module, convs: list[fx.Node]) -> tuple[list[UnitSpec], list[fx.Node]]:
        units, ends = [], []
        for conv in convs:
            path = conv.target.removeprefix(_PREFIX)
            steps: dict[str, Any] = {"conv": path}
            end = here = conv
            while len(here.users) == 1:
                here = next(iter(here.users))
                if here.op == "call_module":
                    name = here.target.removeprefix(_PREFIX)
                    module = backbone.get_submodule(name)
                    if type(module) is nn.Identity:
                        continue
                    kind = "norm" if is_normalisation(module) else "act" if is_activation(module) else None
                    step = name
                else:
                    kwargs = dict(here.kwargs)
                    step = activation_step(here.target, kwargs) if len(here.args) == 1 else None
                    kind = "act" if step else None
                if kind is None or kind in steps or not _tensor(here) or not _is_map(_shape(here)):
                    break
                steps[kind] = step
                end = here
            in_shape, out_shape = _shape(conv.args[0])[1:], _shape(end)[1:]
            units.append(UnitSpec(path, tuple(steps.items()), in_shape, out_shape))
            ends.append(end)
        return units, ends

    def _final_map(self) -> fx.Node:
        """The last node that everything after the masks passes through, before positions are pooled away."""
        candidates = [node for node in self._nodes if node in self._below and node in self._after and _tensor(node)]
        candidates = candidates[candidates.index(self._ends[0]) :] if self._ends[0] in candidates else candidates

        def is_gate(node: fx.Node) -> bool:
            starts = [user for end in self._ends for user in end.users] if node not in self._ends else []
            if node in self._ends:
                return len(self._ends) == 1
            return self._output not in self._descendants(starts, avoiding=node, tensors=True)

        def last(fits: Callable[[tuple[int, ...]], bool]) -> fx.Node | None:
            return next((n for n in reversed(candidates) if fits(_shape(n)) and is_gate(n)), None)

        height, width = self.units_spec[0].out_shape[1:]

        def is_image(shape: tuple[int, ...]) -> bool:  # attention's (B, heads, N, d) has four dimensions as well
            sides = [] if not _is_map(shape) else [shape[2:], shape[1:3]]
            return any(
                h <= height and h * w > 1 and abs(h * width - w * height) <= max(height, width) for h, w in sides
            )

        found = last(is_image) or last(lambda shape: len(shape) == 3 and shape[1] > 1)
        if found is None:  # a classifier over vectors: its input
            found = last(lambda shape: len(shape) >= 2)
            if found is not None and found.op == "call_module" and found.all_input_nodes[0] in candidates:
                found = found.all_input_nodes[0]
        if found is None:
            raise UntraceableBackboneError("No part of the backbone after its last convolutions is one map.")
        return found

    # -- cutting ---------------------------------------------------------------------------------------------------

    def _split(self, convs: list[fx.Node], example: Tensor) -> None:
        nodes, after, ends = self._nodes, self._after, self._ends
        pixels = next(node for node in nodes if node.op == "placeholder")
        from_pixels = self._descendants([pixels])
        inputs = [conv.args[0] for conv in convs]
        inside = self._ancestors(ends) & after
        needed = self._ancestors([self._output, self._map])
        outer = [node for node in nodes if node in after and node in needed and node not in inside]
        crossing = [n for n in nodes if n in from_pixels and n not in after]
        crossing = [n for n in crossing if n in inputs or any(n in o.all_input_nodes for o in outer)]
        tensors = [n for n in crossing if _tensor(n)]
        scalars = [n for n in crossing if not _tensor(n)]
        self._input_index = [tensors.index(node) for node in inputs]

        self._trunk = self._piece([pixels], [*tensors, *scalars])
        with torch.no_grad():
            values = self._trunk(self.rooted, example)
        # A number of 1 on the batch of one and 2 on the batch of two is the batch size; an equal one is a constant.
        known = {}
        for node, value in zip(scalars, values[len(tensors) :], strict=True):
            if value != node.meta["value"] and (node.meta["value"], value) != (1, 2):
                raise UntraceableBackboneError("A number that depends on the batch crosses the cut.")
            known[node] = value if value == node.meta["value"] else _BATCH_SIZE
        if scalars:
            self._trunk = self._piece([pixels], tensors)
        # Attention folds heads into the batch: keep such tensors as (B, heads, ...), so that rows are samples.
        self._folds = []
        for value in values[: len(tensors)]:
            if value.ndim == 0 or len(value) % 2:
                raise UntraceableBackboneError("A tensor without a batch dimension crosses the cut.")
            self._folds.append(len(value) // 2)
        self.feature_shapes = [
            tuple(v.shape[1:]) if k == 1 else (k, *v.shape[1:])
            for v, k in zip(values[: len(tensors)], self._folds, strict=True)
        ]
        self._units = self._piece(tensors, ends, known)
        self._tail = self._piece([*tensors, *ends], [self._map], known)
        self._rest = self._piece([*tensors, *ends], [self._output], known)
        shape = _shape(self._map)
        height, width = self.units_spec[0].out_shape[1:]
        looks_so = len(shape) == 4 and abs(shape[1] * width - shape[2] * height) <= max(height, width) >= shape[1]
        self._channels_last = looks_so and shape[2:] != (height, width)
        self.map_shape = tuple(self._as_map(self._map.meta["value"]).shape[1:])

    def _piece(self, inputs: list[fx.Node], outputs: list[fx.Node], known: dict | None = None) -> Callable:
        """The part of the graph from some nodes to others, as a function of a `Rooted` and the inputs' values."""
        known = known or {}
        graph, env = fx.Graph(), {}
        for index, node in enumerate(inputs):
            env[node] = graph.placeholder(f"input_{index}")
        rows = graph.call_function(len, (env[inputs[0]],)) if _BATCH_SIZE in known.values() else None
        wanted = set()
        todo = list(outputs)
        while todo:
            node = todo.pop()
            if node not in wanted and node not in env and node not in known:
                wanted.add(node)
                todo.extend(node.all_input_nodes)
        for node in self._nodes:
            if node in known:
                env[node] = rows if known[node] is _BATCH_SIZE else known[node]
            elif node in wanted:
                env[node] = graph.node_copy(node, lambda n: env[n])
        graph.output(tuple(env[node] for node in outputs))
        for node in graph.nodes:
            node.meta.clear()
        # The module made here only compiles the code; it runs on the backbone's own modules, whatever moves them.
        return type(fx.GraphModule(self.rooted, graph)).forward

    @torch.no_grad()
    def _check(self, example: Tensor) -> None:
        """Compares the pieces with the backbone, and notes which tensors they write into."""
        self._written = [False] * len(self._folds)
        self._writes_masks = False
        reference = self.rooted(example)
        features = [f.clone() for f in self._trunk(self.rooted, example)]

        def written(tensors: Sequence[Tensor], run: Callable[[], Any]) -> tuple[list[bool], Any]:
            versions = [t._version for t in tensors]
            result = run()
            return [t._version != v for t, v in zip(tensors, versions, strict=True)], result

        flags, answers = written(features, lambda: self._units(self.rooted, *features))
        answers = [a.clone() for a in answers]
        self._written = [a | b for a, b in zip(self._written, flags, strict=True)]
        for piece in (self._tail, self._rest):
            fresh = [t.clone() for t in (*features, *answers)]
            flags, result = written(fresh, lambda piece=piece, fresh=fresh: piece(self.rooted, *fresh)[0])
            self._written = [a | b for a, b in zip(self._written, flags[: len(features)], strict=True)]
            self._writes_masks |= any(flags[len(features) :])
        if result.shape != reference.shape or not torch.allclose(
            result, reference, rtol=1e-3, atol=1e-4, equal_nan=True
        ):
            raise UntraceableBackboneError("The traced graph computes something else than the backbone.")

    # -- running ---------------------------------------------------------------------------------------------------

    def features(self, rooted: Rooted, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """The tensors that cross the cut, a row per sample."""
        features = self._trunk(rooted, pixel_values)
        return tuple(f.unflatten(0, (-1, k)) if k > 1 else f for f, k in zip(features, self._folds, strict=True))

    def run(
        self,
        rooted: Rooted,
        requests: Sequence[Request],
        *,
        pixel_values: Tensor | None = None,
        features: Sequence[Tensor] | None = None,
        train_encoder: bool = False,
    ) -> list[Tensor]:
        """Answers several requests from one trunk pass.

        Args:
            rooted: The modules to run on: the backbone, or an adapter's own copy of it.
            requests: Each with the rows it is about and its mask; a request without mask is for the backbone's output.
            pixel_values: `(B, C, H, W)`; not needed with `features`.
            features: What `features` returned before.
            train_encoder: Whether gradients go to the modules before the mask.

        Returns:
            For each request the final map `(b, C, H, W)` (tokens `(b, N, C)` come as `(b, C, N, 1)`), or the output.
        """
        to_pixels = pixel_values is not None and pixel_values.requires_grad
        before_mask = torch.is_grad_enabled() and (train_encoder or to_pixels)
        with torch.set_grad_enabled(before_mask):
            if features is None:
                features = self.features(rooted, pixel_values)
        answers: list[tuple[Tensor, ...]] = []

        def excitation() -> tuple[Tensor, ...]:  # of all rows, computed when first asked for
            if not answers:
                with torch.set_grad_enabled(before_mask):
                    answers.append(self._units(rooted, *self._safe(features)))
            return answers[0]

        results = []
        for rows, mask in requests:
            chosen = features if rows is None else [f[rows] for f in features]
            tensors = self._unfolded(chosen)

            def unit_answer(index: int, rows: Tensor | None = rows) -> Tensor:
                u = excitation()[index]
                if rows is None:
                    return u
                folds = len(u) // len(features[0])
                return u.unflatten(0, (-1, folds))[rows].flatten(0, 1)

            if mask is None:
                u = [unit_answer(index).clone() for index in range(len(self.units_spec))]
                results.append(self._rest(rooted, *self._safe(chosen), *u)[0])
                continue
            masks = [
                mask(index, tensors[place], lambda index=index: unit_answer(index))
                for index, place in enumerate(self._input_index)
            ]
            if self._writes_masks:  # without inhibition the mask is u itself, which others may still read
                masks = [m.clone() for m in masks]
            results.append(self._as_map(self._tail(rooted, *self._safe(chosen), *masks)[0]))
        return results

    def _unfolded(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [f.flatten(0, 1) if k > 1 else f for f, k in zip(features, self._folds, strict=True)]

    def _safe(self, features: Sequence[Tensor]) -> list[Tensor]:
        features = self._unfolded(features)
        return [f.clone() if w else f for f, w in zip(features, self._written, strict=True)]

    def _as_map(self, result: Tensor) -> Tensor:
        if result.ndim == 4:
            return result.permute(0, 3, 1, 2) if self._channels_last else result
        return result.transpose(1, 2).unsqueeze(3) if result.ndim == 3 else result[:, :, None, None]
