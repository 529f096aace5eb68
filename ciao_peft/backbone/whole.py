"""A cut backbone run as a whole, for hooks on modules that its pieces only run parts of."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import UntraceableBackboneError
from .hooked import HookedBackbone
from .masks import Mask, Request
from .tracing import Rooted

if TYPE_CHECKING:
    from .units import UnitSpec

__all__ = ["WholeRun", "without_hooks"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class WholeRun:
    """Answers requests by the network's own forward, with the masks through hooks.

    It is made when it is first asked for, and asked only where a hook sits on a container: a pass for each request, and
    no shared trunk.

    Args:
        units: The masked units of the cut, which it must have, too.
        run_pieces: `CutBackbone.run`; both must answer alike on the example.

    Shapes:
        pixel_values: `(B, C, H, W)`; each answer is the final map `(b, C, H, W)` of the b rows of a request, or the
            backbone's output.

    Example:
        >>> from ciao_peft.backbone import open_backbone
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU())).eval()
        >>> cut = open_backbone(net, (3, 16, 16))
        >>> whole = WholeRun(cut.units_spec, cut.run)
        >>> whole.passes(Rooted(net), torch.rand(2, 3, 16, 16), "1")
        True
    """

    def __init__(self, units: Sequence[UnitSpec], run_pieces: Callable[..., list[Tensor]]) -> None:
        self._units, self._run_pieces = units, run_pieces
        self._hooked: HookedBackbone | None = None
        self._made = False

    def passes(self, rooted: Rooted, pixels: Tensor, path: str) -> bool:
        """Whether a container runs to its end, so that its hooks fire.

        Args:
            rooted: The modules to run on.
            pixels: `(B, C, H, W)`, of the size that the network was opened with.
            path: Of the container.
        """
        hooked = self._of(rooted, pixels)
        if hooked is None or not path:
            return False
        return not hooked.stops_at.startswith(f"{path}.")

    def run(
        self, rooted: Rooted, requests: Sequence[Request], pixel_values: Tensor, train_encoder: bool
    ) -> list[Tensor] | None:
        """As `HookedBackbone.run`; None where a mask answers for several adapters at once, which needs the pieces.

        Args:
            rooted, requests, pixel_values, train_encoder: As for `CutBackbone.run`.
        """
        hooked = self._of(rooted, pixel_values)
        if hooked is None:
            return None
        try:
            whole = [(rows, None if mask is None else _for_one(mask)) for rows, mask in requests]
            return hooked.run(rooted, whole, pixel_values=pixel_values, train_encoder=train_encoder)
        except _ForSeveral:
            return None

    def _of(self, rooted: Rooted, pixels: Tensor) -> HookedBackbone | None:
        if not self._made:
            self._hooked = self._make(rooted, pixels[:1].detach().repeat(2, 1, 1, 1))
            self._made = True
        return self._hooked

    def _make(self, rooted: Rooted, example: Tensor) -> HookedBackbone | None:
        """None where the network as a whole cannot be hooked, or answers otherwise than the pieces."""

        def halved(index: int, features: Tensor, excitation: Callable[[], Tensor]) -> Tensor:
            return excitation() / 2

        bare = without_hooks(rooted.backbone)
        targets = tuple(unit.conv for unit in self._units)
        try:
            hooked = HookedBackbone(bare, example, targets, "hooks on containers need its own forward")
            with torch.no_grad():
                request: list[Request] = [(None, halved)]
                (pieces,) = self._run_pieces(Rooted(bare), request, pixel_values=example)
                (whole,) = hooked.run(Rooted(bare), request, pixel_values=example)
        except Exception:  # whatever a network of others does where it is hooked: the pieces can do without
            return None
        same = [unit.steps for unit in hooked.units_spec] == [unit.steps for unit in self._units]
        if not same or pieces.shape != whole.shape or not torch.allclose(pieces, whole, rtol=1e-3, atol=1e-4):
            return None
        hooked.rooted = rooted
        return hooked


class _ForSeveral(UntraceableBackboneError):
    """A mask gave several rows for each row of its input."""


def _for_one(mask: Mask) -> Mask:
    def one(index: int, features: Tensor, excitation: Callable[[], Tensor]) -> Tensor:
        answer = mask(index, features, excitation)
        if len(answer) != len(excitation()):
            raise _ForSeveral
        return answer

    return one


def without_hooks(module: nn.Module, seen: dict[int, nn.Module] | None = None) -> nn.Module:
    """A module with the same parameters, buffers and submodules, and without anybody's hooks.

    Args:
        module: Stays as it is.
        seen: Modules that were met before.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> _ = layer.register_forward_hook(print)
        >>> bare = without_hooks(layer)
        >>> len(bare._forward_hooks), bare.weight is layer.weight
        (0, True)
    """
    seen = {} if seen is None else seen
    if id(module) not in seen:
        bare = seen[id(module)] = copy.copy(module)
        values: dict[str, Any] = {name: OrderedDict() for name in _HOOKS}
        children = {name: child and without_hooks(child, seen) for name, child in module._modules.items()}
        bare.__dict__.update(values, _modules=children)
    return seen[id(module)]
