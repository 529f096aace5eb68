"""Parts of a traced graph as functions."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import fx

from ..errors import UntraceableBackboneError
from .maps import average_cells
from .tracing import Rooted

__all__ = ["PerRow", "make_piece", "per_row"]


@dataclass(frozen=True)
class PerRow:
    """A number that is a multiple of the batch size.

    Args:
        times: The multiple.

    Example:
        >>> per_row(49, 98, batch_size=2)
        PerRow(times=49)
    """

    times: int


def per_row(at_one: Any, at_more: Any, batch_size: int) -> Any:
    """What a number or shape is at any batch size, from what it is for one sample and for more.

    Args:
        at_one: Its value for one sample.
        at_more: Its value for `batch_size` samples.
        batch_size: 2 or more.

    Returns:
        The value itself where it does not depend on the batch size, else a `PerRow`; a tuple of these for a tuple.

    Raises:
        UntraceableBackboneError: it is neither constant nor proportional to the batch size.

    Example:
        >>> per_row((1, 3, 49), (2, 3, 49), batch_size=2)
        (PerRow(times=1), 3, 49)
    """
    if isinstance(at_one, (tuple, list)) and len(at_one) == len(at_more):
        return tuple(per_row(a, b, batch_size) for a, b in zip(at_one, at_more, strict=True))
    if isinstance(at_one, (bool, int, str, slice, type(None), torch.dtype, torch.device, torch.layout)):
        if at_one == at_more:
            return at_one
        if isinstance(at_one, int) and at_more == at_one * batch_size:
            return PerRow(at_one)
    raise UntraceableBackboneError(f"A {type(at_one).__name__} that depends on the pixels crosses the cut.")


def make_piece(
    rooted: Rooted,
    nodes: list[fx.Node],
    inputs: list[fx.Node],
    outputs: list[fx.Node],
    known: dict[fx.Node, Any] | None = None,
    fold: int = 1,
    pooled: Sequence[tuple[fx.Node, int]] = (),
) -> Callable[..., tuple[Any, ...]]:
    """Compiles the part of a graph between some nodes and others.

    Args:
        rooted: What was traced, or a copy.
        nodes: Nodes of the graph, in order, with values.
        inputs: Where the part begins.
        outputs: Where it ends.
        known: What `per_row` says of numbers that come from before the inputs.
        fold: How many rows of the first input make one sample.
        pooled: Maps that are averaged over the cells of a grid as soon as they are there, before others write into
            them, each with the side of its grid.

    Returns:
        A function from a `Rooted` and the values of the inputs to those of the outputs and of `pooled`, as a tuple.

    Example:
        >>> from torch import nn
        >>> from ciao_peft.backbone.tracing import trace
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten()).eval()
        >>> pixels, conv, relu, flat, output = trace(net, torch.rand(1, 3, 16, 16)).nodes
        >>> head = make_piece(Rooted(net), [pixels, conv, relu, flat, output], [relu], [flat])
        >>> head(Rooted(net), torch.rand(4, 8, 14, 14))[0].shape
        torch.Size([4, 1568])
    """
    known = known or {}
    graph, env = fx.Graph(), dict[fx.Node, fx.Node]()
    constants: list[Any] = []
    needed: set[fx.Node] = set()
    todo = [node for node in (*outputs, *(node for node, _ in pooled)) if node not in inputs]
    averages: dict[tuple[fx.Node, int], fx.Node] = {}
    while todo:
        node = todo.pop()
        if node not in needed:
            needed.add(node)
            todo.extend(n for n in node.all_input_nodes if node not in known and n not in inputs)
    for index, node in enumerate(inputs):
        env[node] = graph.placeholder(f"input_{index}")
    for node in nodes:
        if node in needed and node.op == "get_attr" and not _has(rooted, cast(str, node.target)):
            env[node] = graph.placeholder(f"constant_{len(constants)}")
            constants.append(node.meta["value"])
    first = env[inputs[0]]
    for node in nodes:
        if node in known and node in needed:
            env[node] = _write(known[node], graph, first, fold)
        elif node in needed and node not in env:
            env[node] = graph.node_copy(node, lambda n: env[n])
            for tapped in (entry for entry in pooled if entry[0] is node):
                averages[tapped] = graph.call_function(average_cells, (env[node], tapped[1]))
    graph.output(tuple(env[node] for node in outputs) + tuple(averages[entry] for entry in pooled))
    for node in graph.nodes:
        node.meta.clear()
    # The module made here only compiles the code; it runs on the backbone's own modules, whatever moves them.
    forward = type(fx.GraphModule(rooted, graph)).forward
    if not constants:
        return forward
    placed = {constants[0].device: constants}

    def with_constants(rooted: Rooted, *values: Any) -> tuple[Any, ...]:
        device = values[0].device
        there = placed.get(device)
        if there is None:  # copied once: a copy from the host makes it wait, and no CUDA graph holds one
            there = [c.to(device) for c in constants]
            if not torch.compiler.is_compiling():
                placed[device] = there
        return forward(rooted, *values, *there)

    return with_constants


def _has(rooted: Rooted, path: str) -> bool:
    """Whether there is such an attribute; constants made on the way were put on another root."""
    try:
        operator.attrgetter(path)(rooted)
    except AttributeError:
        return False
    return True


def _write(value: Any, graph: fx.Graph, first: fx.Node, fold: int) -> Any:
    """Puts what computes a known value into a graph, from the first input: its rows, its device and its dtype."""
    if isinstance(value, PerRow):
        rows = graph.call_function(operator.floordiv, (graph.call_method("size", (first, 0)), fold))
        return graph.call_function(operator.mul, (rows, value.times))
    if isinstance(value, torch.device):
        return graph.call_function(getattr, (first, "device"))
    if isinstance(value, torch.dtype) and value.is_floating_point:
        return graph.call_function(getattr, (first, "dtype"))
    if isinstance(value, tuple):
        parts = tuple(_write(part, graph, first, fold) for part in value)
        numbers = all(isinstance(part, (int, PerRow)) for part in value)
        return graph.call_function(torch.Size, (parts,)) if numbers else parts
    return value
