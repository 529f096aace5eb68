"""Where in a traced network the masks sit, and what of it the head sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from ..errors import BackboneError, TargetModulesError, UntraceableBackboneError
from .maps import Layout, find_layout, is_map, tokens_layout, vector_layout
from .tracing import is_normalisation
from .units import UnitSpec, activation_step, check_targets, is_activation, no_convolution

PREFIX = "backbone."


@dataclass(frozen=True)
class Places:
    """Nodes of a network's graph that the cut is about.

    Args:
        convs: The convolutions to mask.
        ends: The last node of each one's conv unit.
        units: What the conv units are.
        map: The last node with positions that everything after the masks passes through.
        layout: How its value is a map.
    """

    convs: list[fx.Node]
    ends: list[fx.Node]
    units: list[UnitSpec]
    map: fx.Node
    layout: Layout


def is_tensor(node: fx.Node) -> bool:
    """Whether the node's value is one tensor."""
    return isinstance(node.meta.get("value"), Tensor)


def carries_data(node: fx.Node) -> bool:
    """Whether the node's value is a tensor, or tensors, as `chunk` gives them."""

    def holds(value: Any) -> bool:
        return isinstance(value, Tensor) or (isinstance(value, (tuple, list)) and any(map(holds, value)))

    return holds(node.meta.get("value"))


def ancestors(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """Nodes that the given ones depend on, these included."""
    seen, todo = set(), list(nodes)
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            todo.extend(node.all_input_nodes)
    return seen


def descendants(nodes: Iterable[fx.Node], avoiding: fx.Node | None = None, by_data: bool = False) -> set[fx.Node]:
    """Nodes that depend on the given ones, these included, on ways that avoid one node and, if asked, go by data."""
    seen, todo = set(), list(nodes)
    while todo:
        node = todo.pop()
        if node not in seen and node is not avoiding and (not by_data or carries_data(node)):
            seen.add(node)
            todo.extend(node.users)
    return seen


def find_places(
    backbone: nn.Module, nodes: list[fx.Node], targets: tuple[str, ...] | None, silent: set[fx.Node]
) -> Places:
    """Finds them.

    Args:
        backbone: The network that was traced.
        nodes: Of its graph, in order, with values.
        targets: Paths of convolutions, or None for the terminal ones.
        silent: Convolutions that are known to change nothing in the output, though it is computed from them.

    Raises:
        BackboneError: no spatial convolution is on the way to the output.
        TargetModulesError: `targets` do not name convolutions side by side on the way to the output.
        UntraceableBackboneError: nothing after the masks is one map.
    """
    pixels = next(node for node in nodes if node.op == "placeholder")
    output = next(node for node in nodes if node.op == "output").args[0]
    if not isinstance(output, fx.Node) or not carries_data(output):
        raise UntraceableBackboneError("The backbone's output does not depend on its input.")
    on_the_way = ancestors([output]) & descendants([pixels], by_data=True)
    spatial = [
        node
        for node in nodes
        if node in on_the_way and node not in silent and node.op == "call_module" and is_tensor(node)
        if isinstance(backbone.get_submodule(_path(node)), nn.Conv2d) and is_map(_shape(node))
    ]
    if not spatial:
        raise BackboneError(no_convolution(backbone))
    convs = _terminal(backbone, nodes, spatial) if targets is None else _named(backbone, spatial, targets)
    units, ends = zip(*[conv_unit(backbone, conv) for conv in convs], strict=True)
    found, layout = _final_map([node for node in nodes if node in on_the_way], output, convs, ends, units[0])
    return Places(convs, list(ends), list(units), found, layout)


def _path(node: fx.Node) -> str:
    return node.target.removeprefix(PREFIX)


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["value"].shape)


def _terminal(backbone: nn.Module, nodes: list[fx.Node], spatial: list[fx.Node]) -> list[fx.Node]:
    these, before_one = set(spatial), set()
    for node in reversed(nodes):
        if any(user in these or user in before_one for user in node.users):
            before_one.add(node)
    chosen = [conv for conv in spatial if conv not in before_one]
    if len({conv.target for conv in chosen}) < len(chosen):
        raise TargetModulesError(
            f"The last convolution of {type(backbone).__name__} runs more than once side by side; choose "
            f"`target_modules` from: {', '.join(_path(node) for node in spatial)}."
        )
    return chosen


def _named(backbone: nn.Module, spatial: list[fx.Node], targets: tuple[str, ...]) -> list[fx.Node]:
    paths = [_path(node) for node in spatial]
    check_targets(backbone, targets, {path: paths.count(path) for path in paths})
    chosen = [spatial[paths.index(path)] for path in targets]
    for first in chosen:
        later = descendants(first.users)
        for second in chosen:
            if second in later:
                raise TargetModulesError(
                    f"`target_modules` names {_path(first)!r}, which feeds {_path(second)!r}, named as well; masks sit "
                    "side by side. Keep one of the two."
                )
    return chosen


def conv_unit(backbone: nn.Module, conv: fx.Node) -> tuple[UnitSpec, fx.Node]:
    """The unit of a convolution in a traced graph: what it is, and the node of its answer u."""
    steps: dict[str, Any] = {"conv": _path(conv)}
    end = here = conv
    while len(here.users) == 1:
        here = next(iter(here.users))
        kind = step = None
        if here.op == "call_module":
            step, module = _path(here), backbone.get_submodule(_path(here))
            if type(module) is nn.Identity:
                continue
            kind = "norm" if is_normalisation(module) else "act" if is_activation(module) else None
        elif len(here.args) == 1 and (step := activation_step(here.target, dict(here.kwargs))):
            kind = "act"
        if kind is None or kind in steps or not is_tensor(here) or not is_map(_shape(here)):
            break
        steps[kind] = step
        end = here
    return UnitSpec(_path(conv), tuple(steps.items()), _shape(conv.all_input_nodes[0])[1:], _shape(end)[1:]), end


def _final_map(
    nodes: list[fx.Node], output: fx.Node, convs: list[fx.Node], ends: tuple[fx.Node, ...], unit: UnitSpec
) -> tuple[fx.Node, Layout]:
    """The last node that everything after the masks passes through, before positions are pooled away."""
    after = descendants(convs)
    starts = [user for end in ends for user in end.users]
    candidates = [node for node in nodes if node in after and is_tensor(node) and _shape(node)[:1] == (1,)]

    def last(layout_of: Callable[[tuple[int, ...]], Layout | None]) -> tuple[fx.Node, Layout] | None:
        for node in reversed(candidates):
            layout = layout_of(_shape(node))
            if layout is None:
                continue
            if (len(ends) == 1 and node is ends[0]) or output not in descendants(starts, avoiding=node, by_data=True):
                return node, layout
        return None

    found = last(lambda shape: find_layout(shape, unit.out_shape[1:], unit.in_shape[1:])) or last(tokens_layout)
    if found is None:
        found = last(vector_layout)
        given = found[0].all_input_nodes[:1] if found is not None and found[0].op == "call_module" else []
        if given and given[0] in candidates and vector_layout(_shape(given[0])):  # a classifier: what it is given
            found = given[0], vector_layout(_shape(given[0]))
    if found is None:
        raise UntraceableBackboneError("No part of the backbone after its last convolutions is one map.")
    return found
