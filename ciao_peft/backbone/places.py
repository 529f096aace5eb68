"""Where in a traced network the masks sit, and which of its maps the head sees."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, fx, nn

from ..errors import BackboneError, TargetModulesError, UntraceableBackboneError
from .maps import MapLayout, find_layout, is_map, tokens_layout, vector_layout
from .tracing import is_normalisation
from .units import UnitSpec, activation_step, check_targets, is_activation, no_convolution

__all__ = [
    "PREFIX",
    "Places",
    "ancestors",
    "carries_data",
    "conv_unit",
    "descendants",
    "find_places",
    "is_tensor",
    "path_of",
]

PREFIX = "backbone."
"""How the path of every module starts in the graph of a `Rooted`."""


@dataclass(frozen=True)
class Places:
    """The nodes of a network's graph at which it is cut.

    Args:
        convs: The convolutions to mask.
        ends: The last node of each one's conv unit.
        units: What the conv units are.
        map: The last node with positions that everything after the masks passes through.
        layout: How its value is read as a map.
        output: The node of the network's output.
        embeds_patches: Whether the masked convolutions are the first ones too, with other weights between them and the
            map: they cut a picture into patches, as in a vision transformer.
    """

    convs: list[fx.Node]
    ends: list[fx.Node]
    units: list[UnitSpec]
    map: fx.Node
    layout: MapLayout
    output: fx.Node
    embeds_patches: bool = False


def is_tensor(node: fx.Node) -> bool:
    """Whether the node's value is one tensor."""
    return isinstance(node.meta.get("value"), Tensor)


def carries_data(node: fx.Node) -> bool:
    """Whether the node's value is a tensor, or a tuple or list that holds one, as `chunk` returns."""

    def holds(value: Any) -> bool:
        return isinstance(value, Tensor) or (isinstance(value, (tuple, list)) and any(map(holds, value)))

    return holds(node.meta.get("value"))


def ancestors(nodes: Iterable[fx.Node], until: Collection[fx.Node] = ()) -> set[fx.Node]:
    """All nodes that some nodes depend on, these included.

    Args:
        nodes: Where the way back begins.
        until: Where it ends: these are among them if they are met, and nothing is that they alone depend on.

    Example:
        >>> from ciao_peft.backbone.tracing import trace
        >>> import torch
        >>> graph = trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), torch.rand(1, 3, 16, 16))
        >>> pixels, conv, relu, output = graph.nodes
        >>> ancestors([relu]) == {pixels, conv, relu}, ancestors([relu], until=[conv]) == {conv, relu}
        (True, True)
    """
    seen: set[fx.Node] = set()
    todo = list(nodes)
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            todo.extend(() if node in until else node.all_input_nodes)
    return seen


def descendants(nodes: Iterable[fx.Node], avoiding: fx.Node | None = None, by_data: bool = False) -> set[fx.Node]:
    """All nodes that depend on some nodes, these included.

    Args:
        nodes: Where to start.
        avoiding: A node that no way may pass.
        by_data: Whether to follow only nodes whose value is a tensor or holds one.

    Example:
        >>> from ciao_peft.backbone.tracing import trace
        >>> import torch
        >>> graph = trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), torch.rand(1, 3, 16, 16))
        >>> pixels, conv, relu, output = graph.nodes
        >>> descendants([pixels], avoiding=relu) == {pixels, conv}
        True
    """
    seen: set[fx.Node] = set()
    todo = list(nodes)
    while todo:
        node = todo.pop()
        if node not in seen and node is not avoiding and (not by_data or carries_data(node)):
            seen.add(node)
            todo.extend(node.users)
    return seen


def find_places(
    backbone: nn.Module, nodes: list[fx.Node], targets: tuple[str, ...] | None, silent: set[fx.Node]
) -> Places:
    """Finds the convolutions to mask, their conv units and the final map in a network's graph.

    Args:
        backbone: The network that was traced.
        nodes: Nodes of its graph, in order, with values.
        targets: Paths of convolutions, or None for the terminal ones.
        silent: Convolutions that are known to change nothing in the output, though it is computed from them.

    Raises:
        BackboneError: no spatial convolution is on the way to the output.
        TargetModulesError: `targets` do not name convolutions side by side on the way to the output.
        UntraceableBackboneError: nothing after the masks is one map.

    Example:
        >>> import torch
        >>> from ciao_peft.backbone.tracing import trace
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()).eval()
        >>> places = find_places(net, list(trace(net, torch.rand(1, 3, 16, 16)).nodes), None, set())
        >>> [path_of(conv) for conv in places.convs], path_of(places.map)
        (['2'], '3')
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
        if isinstance(backbone.get_submodule(path_of(node)), nn.Conv2d) and is_map(_shape(node))
    ]
    if not spatial:
        raise BackboneError(no_convolution(backbone))
    convs = _terminal(backbone, nodes, spatial) if targets is None else _named(backbone, spatial, targets)
    units, ends = zip(*[conv_unit(backbone, conv) for conv in convs], strict=True)
    final, layout = _final_map([node for node in nodes if node in on_the_way], output, convs, ends, units[0])
    first = not any(_has_weights(backbone, node, nn.Conv2d) for node in ancestors(convs) - set(convs))
    between = (descendants(ends) & ancestors([final])) - set(ends)
    patches = first and any(_has_weights(backbone, node) for node in between)
    return Places(convs, list(ends), list(units), final, layout, output, patches)


def path_of(node: fx.Node) -> str:
    """The path of the module that a node calls, from the backbone's root."""
    return cast(str, node.target).removeprefix(PREFIX)


def _has_weights(backbone: nn.Module, node: fx.Node, kind: type[nn.Module] = nn.Module) -> bool:
    """Whether a node calls a module of this kind that has weights, and is more than a normalisation."""
    if node.op != "call_module":
        return False
    module = backbone.get_submodule(path_of(node))
    has_weights = next(module.parameters(), None) is not None
    return isinstance(module, kind) and has_weights and not is_normalisation(module)


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["value"].shape)


def _terminal(backbone: nn.Module, nodes: list[fx.Node], spatial: list[fx.Node]) -> list[fx.Node]:
    these = set(spatial)
    before_one: set[fx.Node] = set()
    for node in reversed(nodes):
        if any(user in these or user in before_one for user in node.users):
            before_one.add(node)
    chosen = [conv for conv in spatial if conv not in before_one]
    if len({conv.target for conv in chosen}) < len(chosen):
        raise TargetModulesError(
            f"The last convolution of {type(backbone).__name__} runs more than once side by side; choose "
            f"`target_modules` from: {', '.join(path_of(node) for node in spatial)}."
        )
    return chosen


def _named(backbone: nn.Module, spatial: list[fx.Node], targets: tuple[str, ...]) -> list[fx.Node]:
    paths = [path_of(node) for node in spatial]
    check_targets(backbone, targets, {path: paths.count(path) for path in paths})
    chosen = [spatial[paths.index(path)] for path in targets]
    for first in chosen:
        later = descendants(first.users)
        for second in chosen:
            if second in later:
                raise TargetModulesError(
                    f"`target_modules` names {path_of(first)!r}, which feeds {path_of(second)!r}, named as well; masks "
                    "sit side by side. Keep one of the two."
                )
    return chosen


def conv_unit(backbone: nn.Module, conv: fx.Node) -> tuple[UnitSpec, fx.Node]:
    """Follows a convolution in a traced graph to the end of its conv unit.

    Args:
        backbone: The network that was traced.
        conv: The convolution's node.

    Returns:
        What the unit is, and the node of its answer u.

    Example:
        >>> import torch
        >>> from ciao_peft.backbone.tracing import trace
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)).eval()
        >>> pixels, conv, norm, act, pool, output = trace(net, torch.rand(1, 3, 16, 16)).nodes
        >>> unit, end = conv_unit(net, conv)
        >>> [name for name, _ in unit.steps], end is act
        (['conv', 'norm', 'act'], True)
    """
    steps: dict[str, Any] = {"conv": path_of(conv)}
    end = here = conv
    while len(here.users) == 1:
        here = next(iter(here.users))
        kind = step = None
        if here.op == "call_module":
            step, module = path_of(here), backbone.get_submodule(path_of(here))
            if type(module) is nn.Identity:
                continue
            kind = "norm" if is_normalisation(module) else "act" if is_activation(module) else None
        elif len(here.args) == 1 and (step := activation_step(here.target, dict(here.kwargs))):
            kind = "act"
        if kind is None or kind in steps or not is_tensor(here) or not is_map(_shape(here)):
            break
        steps[kind] = step
        end = here
    return UnitSpec(path_of(conv), tuple(steps.items()), _shape(conv.all_input_nodes[0])[1:], _shape(end)[1:]), end


def _final_map(
    nodes: list[fx.Node], output: fx.Node, convs: list[fx.Node], ends: tuple[fx.Node, ...], unit: UnitSpec
) -> tuple[fx.Node, MapLayout]:
    """The last node that everything after the masks passes through, before positions are pooled away."""
    after = descendants(convs)
    starts = [user for end in ends for user in end.users]
    candidates = [node for node in nodes if node in after and is_tensor(node) and _shape(node)[:1] == (1,)]

    def last(layout_of: Callable[[tuple[int, ...]], MapLayout | None]) -> tuple[fx.Node, MapLayout] | None:
        for node in reversed(candidates):
            layout = layout_of(_shape(node))
            if layout is None:
                continue
            if (len(ends) == 1 and node is ends[0]) or output not in descendants(starts, avoiding=node, by_data=True):
                return node, layout
        return None

    final = last(lambda shape: find_layout(shape, *unit.sides)) or last(tokens_layout)
    if final is not None:
        return final
    if (final := last(vector_layout)) is None:
        raise UntraceableBackboneError("No part of the backbone after its last convolutions is one map.")
    for before in final[0].all_input_nodes[:1] if final[0].op == "call_module" else []:
        if before in candidates and (layout := vector_layout(_shape(before))):
            return before, layout  # the call is a classifier: the head sees what it reads
    return final
