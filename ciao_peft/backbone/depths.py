"""Earlier units of a network whose answers a head may read beside the masked map: which there are, and where."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from torch import fx, nn

from ..errors import TargetModulesError, listed, quoted
from .maps import is_map
from .places import PREFIX, ancestors, conv_unit, descendants, is_tensor, path_of
from .tracing import OUTPUT_OF

__all__ = ["Depth", "DepthNodes"]


class Depth(NamedTuple):
    """What is read of one earlier unit: the answer of a module, averaged over the cells of a grid.

    Args:
        path: Of a convolution, whose conv unit answers, or of another module.
        grid: Rows and columns of the grid.

    Example:
        >>> Depth("layer2", grid=1).path
        'layer2'
    """

    path: str
    grid: int = 1


class DepthNodes:
    """The nodes of a network's graph that no mask reaches, by the paths under which `CIAOConfig.depths` names them.

    Args:
        backbone: The network that was traced. It is not kept.
        nodes: Nodes of its graph, in order, with values.
        convs: The masked convolutions.

    Raises:
        TargetModulesError: `find` is asked for what cannot be read; see there.

    Example:
        >>> import torch
        >>> from ciao_peft.backbone.tracing import trace
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()).eval()
        >>> pixels, conv, relu, masked, *_ = nodes = list(trace(net, torch.rand(1, 3, 16, 16)).nodes)
        >>> there = DepthNodes(net, nodes, [masked])
        >>> there.spaced(1), there.find("0") is relu, there.shape("0")
        (('0',), True, (8, 14, 14))
    """

    def __init__(self, backbone: nn.Module, nodes: Sequence[fx.Node], convs: Sequence[fx.Node]) -> None:
        after, before = descendants(convs), ancestors(convs)
        self._paths = {path for path, _ in backbone.named_modules() if path}
        self._nodes: defaultdict[str, list[fx.Node]] = defaultdict(list)
        self._shapes: dict[fx.Node, tuple[int, ...]] = {}
        self._masked_or_after = after
        self._units: list[str] = []
        for node in nodes:
            if is_tensor(node):
                self._shapes[node] = tuple(node.meta["value"].shape)
            for path in node.meta.get(OUTPUT_OF, ()):
                path = path.removeprefix(PREFIX)
                is_conv = node.op == "call_module" and isinstance(backbone.get_submodule(path_of(node)), nn.Conv2d)
                if not (is_conv and path_of(node) == path and self._is_map(node)):
                    self._nodes[path].append(node)
                    continue
                self._nodes[path].append(conv_unit(backbone, node)[1])
                if node in before and node not in after:
                    self._units.append(path)

    def _is_map(self, node: fx.Node) -> bool:
        shape = self._shapes.get(node, ())
        return is_map(shape) and shape[0] == 1  # of one picture: attention may fold heads or windows into rows

    def find(self, path: str) -> fx.Node:
        """The node whose value is the answer of a unit.

        Args:
            path: Of a convolution or another module of the network.

        Raises:
            TargetModulesError: no module has that path, it does not run before the masks or not exactly once, or its
                answer is no map `(B, C, H, W)`.
        """
        what = f"`depths` names {quoted(path)}"
        units = f"Conv units before the mask end with: {', '.join(self._units[-8:]) or 'none'}."
        if path not in self._paths:
            close = [name for name in self._units if name.endswith(path)]
            hint = f"Did you mean {listed(close[:5])}? " if close else ""
            raise TargetModulesError(f"{what}, which matches no module. {hint}{units}")
        found = self._nodes.get(path, [])
        if len(found) != 1:
            times = "more than once" if found else "not at all, or inside what can only be read as a whole,"
            raise TargetModulesError(f"{what}, which runs {times} in one pass. {units}")
        if found[0] in self._masked_or_after:
            raise TargetModulesError(
                f"{what}, which is masked or comes after a mask; depths come before, where the trunk is frozen. {units}"
            )
        if not self._is_map(found[0]):
            shape = ", ".join(map(str, self._shapes.get(found[0], ())[1:]))
            raise TargetModulesError(f"{what}, whose answer is no map (B, C, H, W) but (B, {shape}). {units}")
        return found[0]

    def shape(self, path: str) -> tuple[int, ...]:
        """Of the answer of a unit `(C, H, W)`."""
        return self._shapes[self.find(path)][1:]

    def chosen(self, depths: tuple[str, ...] | int | None) -> tuple[str, ...]:
        """The paths that `CIAOConfig.depths` means: those that it names, or as many evenly spaced ones as it says.

        Args:
            depths: As in the config.

        Raises:
            TargetModulesError: one of them cannot be read, two are the same map, or there are not as many.
        """
        if depths is None:
            return ()
        if isinstance(depths, int):
            return self.spaced(depths)
        nodes: dict[fx.Node, str] = {}
        for path in depths:
            same = nodes.setdefault(self.find(path), path)
            if same != path:
                raise TargetModulesError(
                    f"`depths` names {quoted(same)} and {quoted(path)}, which are the same map; keep one of the two."
                )
        return depths

    def spaced(self, count: int) -> tuple[str, ...]:
        """Paths of some conv units on the way to the masks, evenly spaced; the last one before them is the last here.

        Args:
            count: How many.

        Raises:
            TargetModulesError: there are fewer.
        """
        units = [path for path in self._units if len(self._nodes[path]) == 1]
        if count > len(units):
            raise TargetModulesError(
                f"`depths={count}` asks for more conv units than the {len(units)} that come before the mask here: "
                f"{', '.join(units[-8:]) or 'none'}. Name fewer, or leave `depths` out."
            )
        return tuple(units[(place + 1) * len(units) // count - 1] for place in range(count))
