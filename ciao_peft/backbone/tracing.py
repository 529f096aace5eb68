"""A network's graph, with the value of every node on one example."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from ..errors import BackboneError, UntraceableBackboneError
from .maps import is_map

__all__ = ["OUTPUT_OF", "Rooted", "ValueTracer", "first_tensor", "is_normalisation", "trace"]

OUTPUT_OF = "output_of"
"""In the `meta` of a node: paths of the modules whose output it is, those with others inside included."""


class Rooted(nn.Module):
    """A backbone whose call takes pixels and gives one tensor, whatever its own signature and output type.

    Graphs name their modules from here (`backbone.layer1.0.conv1`), so code made from a graph of one backbone runs on
    any copy of it.

    Args:
        backbone: The network.

    Shapes:
        pixel_values: `(B, C, H, W)`; the output is whatever tensor the backbone's output is about, `(B, ...)`.

    Example:
        >>> class Classifier(nn.Module):
        ...     def forward(self, x):
        ...         return {"logits": x.mean(dim=(2, 3)), "attention": None}
        >>> Rooted(Classifier())(torch.rand(4, 3, 16, 16)).shape
        torch.Size([4, 3])
    """

    backbone: nn.Module

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixel_values: Tensor) -> Tensor:
        return first_tensor(self.backbone(pixel_values))


def first_tensor(output: Any) -> Any:
    """The tensor that a network's output is about: the output itself, `.logits`, or the first entry that is a tensor.

    Args:
        output: What a network returned: a tensor, a dict (such as transformers' `ModelOutput`), a tuple or a list.

    Raises:
        BackboneError: there are several maps, as those of a feature pyramid, and nothing says which one is meant.
        UntraceableBackboneError: there is no tensor.

    Example:
        >>> first_tensor({"hidden": torch.zeros(2), "logits": torch.ones(2)})
        tensor([1., 1.])
        >>> first_tensor((None, torch.zeros(2)))
        tensor([0., 0.])
    """
    if isinstance(output, (Tensor, fx.Proxy)):
        return output
    if isinstance(output, dict):  # transformers' ModelOutput is one
        entries = [output["logits"]] if "logits" in output else list(output.values())
    else:
        entries = list(output) if isinstance(output, (tuple, list)) else []
    maps = [tuple(entry.shape[1:]) for entry in entries if isinstance(entry, Tensor) and is_map(entry.shape)]
    # Named and of one shape, as a segmentation and its auxiliary answer: the first is the answer.
    if len(maps) > 1 and not (isinstance(output, dict) and len({*maps}) == 1):
        raise BackboneError(
            f"The backbone returns several maps, of {' and '.join(map(str, maps))}; an adapter reads one. Make the "
            "backbone return one: a model of timm with `features_only=True` takes `out_indices=[-1]` for its last, any "
            "other a module around it."
        )
    for entry in entries:
        if isinstance(entry, (Tensor, fx.Proxy)):
            return entry
    raise UntraceableBackboneError(f"The backbone returns no tensor but {type(output).__name__}.")


def is_normalisation(module: nn.Module) -> bool:
    """Whether a module is a normalisation layer, with or without an activation inside, by the name of its type.

    Example:
        >>> is_normalisation(nn.BatchNorm2d(8)), is_normalisation(nn.ReLU())
        (True, False)
    """
    named_so = "Norm" in type(module).__name__
    return named_so and not any(any(True for _ in part.parameters()) for part in module.children())


class _ValueProxy(fx.Proxy):
    """Stands for a value that is known for the example, so Python can count, index and compare with it."""

    def _value(self) -> Any:
        return self.node.meta["value"]

    def __len__(self) -> int:
        return len(self._value())

    def __index__(self) -> int:
        if isinstance(self._value(), Tensor):
            raise UntraceableBackboneError("The backbone uses the content of a tensor as a Python number.")
        return self._value().__index__()

    def __int__(self) -> int:
        return self.__index__()


_TRACING = threading.RLock()
"""One trace at a time: `torch.fx` replaces `nn.Module.__call__` and `__getattr__` of the whole process meanwhile."""


class _Root(Rooted):
    """What is traced. As soon as `torch.fx` has replaced methods of `nn.Module`, it keeps that to its own thread."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        with _patched_for_this_thread():
            return super().forward(pixel_values)


@contextlib.contextmanager
def _patched_for_this_thread() -> Iterator[None]:
    """Inside, other threads call modules and read their attributes as if nobody traced."""
    own, patched = threading.get_ident(), {}

    def dispatch(replacement: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
        def method(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            chosen = replacement if threading.get_ident() == own else original
            return chosen(module, *args, **kwargs)

        return method

    for name, original in _METHODS.items():
        patched[name] = getattr(nn.Module, name)
        setattr(nn.Module, name, dispatch(patched[name], original))
    try:
        yield
    finally:
        for name, replacement in patched.items():
            setattr(nn.Module, name, replacement)


_METHODS = {name: vars(nn.Module)[name] for name in ("__call__", "__getattr__")}


class ValueTracer(fx.Tracer):
    """Records a graph while computing it, so that control flow that depends on shapes goes as it does in eager mode.

    Other threads use modules meanwhile as ever. What was decided on the example is fixed in the graph: check the graph
    against the network on another batch size. Control flow on the *content* of a tensor is refused.

    Args:
        example: `(B, C, H, W)` pixels.
        leaf_modules: Types that are never looked into.
        leaf_functions: Functions recorded as one node.

    Example:
        >>> class Halves(nn.Module):
        ...     def forward(self, x):
        ...         return x[:, :, : x.shape[2] // 2]  # a size becomes a plain number
        >>> graph = ValueTracer(torch.rand(1, 3, 16, 16)).trace(Halves())
        >>> [tuple(node.meta["value"].shape) for node in graph.nodes if node.name == "getitem_1"]
        [(1, 3, 8, 16)]
    """

    def __init__(
        self, example: Tensor, leaf_modules: tuple[type, ...] = (), leaf_functions: tuple[Any, ...] = ()
    ) -> None:
        super().__init__(autowrap_functions=leaf_functions)
        self.example = example
        self.leaf_modules = leaf_modules
        self._evaluating = False
        self._thread = threading.get_ident()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module becomes one node: convolutions, normalisations, and what fx or `leaf_modules` says."""
        # Weight-standardised convolutions and normalisations with an activation inside are one unit to us.
        if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) or is_normalisation(m):
            return True
        return isinstance(m, self.leaf_modules) or super().is_leaf_module(m, module_qualified_name)

    def create_node(
        self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *rest: Any, **named: Any
    ) -> fx.Node:
        """Records a node and computes its value on the example."""
        node = super().create_node(kind, target, args, kwargs, *rest, **named)
        if kind == "placeholder":
            node.meta["value"] = self.example
        elif kind != "output":
            self._evaluating = True
            try:
                node.meta["value"] = self._evaluate(node)
            finally:
                self._evaluating = False
        return node

    def _evaluate(self, node: fx.Node) -> Any:
        args: Any = map_arg(node.args, lambda n: n.meta["value"])
        kwargs: Any = map_arg(node.kwargs, lambda n: n.meta["value"])
        if callable(node.target):
            return node.target(*args, **kwargs)
        if node.op == "get_attr":
            value: Any = self.root
            for name in node.target.split("."):
                value = getattr(value, name)
            return value
        if node.op == "call_module":
            return self.root.get_submodule(node.target)(*args, **kwargs)
        return getattr(args[0], node.target)(*args[1:], **kwargs)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Records a module's call, and which node is its output; or just makes it while a value is computed."""
        if self._evaluating or threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        output = super().call_module(m, forward, args, kwargs)
        if isinstance(output, fx.Proxy):
            output.node.meta.setdefault(OUTPUT_OF, []).append(self.path_of_module(m))
        return output

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        """Attributes are plain while a value is computed, and in other threads."""
        if self._evaluating or threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """A proxy that knows the value of its node."""
        return _ValueProxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Decides by the value on the example.

        Raises:
            UntraceableBackboneError: the value is a tensor.
        """
        value = obj.node.meta["value"]
        if isinstance(value, Tensor):
            raise UntraceableBackboneError("The backbone decides by the content of a tensor what to compute.")
        return bool(value)

    def iter(self, obj: fx.Proxy) -> Iterator[fx.Proxy]:
        """Goes through as many entries as the value on the example has."""
        return iter([cast(Any, obj)[index] for index in range(len(obj.node.meta["value"]))])


def trace(backbone: nn.Module, example: Tensor) -> fx.Graph:
    """Records the graph of `Rooted(backbone)`.

    Args:
        backbone: The network, in eval mode.
        example: `(B, C, H, W)` pixels.

    Returns:
        The graph; the `meta["value"]` of every node is its value on the example.

    Raises:
        UntraceableBackboneError: the graph depends on the content of tensors, or `torch.fx` cannot follow it.

    Example:
        >>> graph = trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), torch.rand(1, 3, 16, 16))
        >>> [node.target for node in graph.nodes if node.op == "call_module"]
        ['backbone.0', 'backbone.1']
    """
    modules, functions = _timm_leaves(backbone)
    # A leaf hides the convolutions inside: tracing into those that have any is tried first.
    hiding = [
        m for m in backbone.modules() if isinstance(m, modules) and any(isinstance(p, nn.Conv2d) for p in m.modules())
    ]
    opened = tuple(kind for kind in modules if not any(isinstance(module, kind) for module in hiding))
    try:
        graph = _recorded(backbone, example, opened, functions)
    except UntraceableBackboneError:
        if opened == modules:
            raise
        graph = _recorded(backbone, example, modules, functions)
    for node in graph.nodes:
        if not node.users and _writes(node, backbone):
            raise UntraceableBackboneError(f"The backbone writes into a tensor in passing ({node.format_node()}).")
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    return graph


def _recorded(backbone: nn.Module, example: Tensor, leaves: tuple[type, ...], functions: tuple[Any, ...]) -> fx.Graph:
    try:
        with _TRACING, torch.no_grad():
            return ValueTracer(example, leaves, functions).trace(_Root(backbone))
    except UntraceableBackboneError:
        raise
    except Exception as error:  # whatever a network's own code raises when it meets a proxy
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UntraceableBackboneError(f"torch.fx cannot follow {type(backbone).__name__}: {reason}") from error


def _writes(node: fx.Node, backbone: nn.Module) -> bool:
    """Whether it changes its input, by its name and its settings."""
    if node.op == "call_module":
        return bool(getattr(backbone.get_submodule(cast(str, node.target).partition(".")[2]), "inplace", False))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    by_name = node.op.startswith("call") and name.endswith("_") and not name.endswith("__")
    return by_name or node.kwargs.get("inplace") is True


def _timm_leaves(backbone: nn.Module) -> tuple[tuple[type, ...], tuple[Any, ...]]:
    """What timm itself says must not be traced into, where the backbone has modules from timm."""
    if not any(type(module).__module__.startswith("timm.") for module in backbone.modules()):
        return (), ()
    layers = sys.modules["timm.layers"]
    return tuple(layers.get_notrace_modules()), tuple(layers.get_notrace_functions())
