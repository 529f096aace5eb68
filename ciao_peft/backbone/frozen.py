"""A backbone that is frozen while adapters use it, cut where they need it, and restored afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..errors import BackboneError
from ..surroundings import outside_inference
from .identity import find_input_size
from .opening import OpenedBackbone, open_backbone

__all__ = ["FrozenBackbone"]


_States = tuple[dict[str, bool], dict[str, bool]]
_FROZEN: WeakKeyDictionary[nn.Module, _States] = WeakKeyDictionary()
"""Modes and `requires_grad` of each network that is frozen, as they were before it was frozen first."""


def _as_it_came(backbone: nn.Module) -> _States:
    """How a network is to be given back: as before the first model on it, where it still is as that one left it."""
    modes = {name: module.training for name, module in backbone.named_modules()}
    grads = {name: parameter.requires_grad for name, parameter in backbone.named_parameters()}
    before = _FROZEN.get(backbone)
    if before is None or any(grads.values()) or before[0].keys() != modes.keys() or before[1].keys() != grads.keys():
        return modes, grads
    return before


class FrozenBackbone:
    """A network in eval mode and without gradients, which remembers how it came so that all can be undone.

    Frozen twice, it is given back as it was before the first time. It is opened once for each set of masked
    convolutions.

    Args:
        backbone: Any convolutional network with parameters.
        input_size: `(C, H, W)` of its pixels; found out when left out.

    Attributes:
        backbone: The network itself.
        input_size: `(C, H, W)` of its pixels.
        training: The mode in which it came.

    Raises:
        BackboneError: it has no parameters, no spatial convolution, or cannot be called; it is then as it was.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        >>> frozen = FrozenBackbone(net, (3, 16, 16))
        >>> net.training, net[0].weight.requires_grad
        (False, False)
        >>> frozen.restore() is net, net.training, net[0].weight.requires_grad
        (True, True, True)
    """

    backbone: nn.Module
    input_size: tuple[int, int, int]
    training: bool

    def __init__(self, backbone: nn.Module, input_size: tuple[int, int, int] | None = None) -> None:
        if next(backbone.parameters(), None) is None:
            raise BackboneError(
                f"{type(backbone).__name__} has no parameters, so nothing that a mask could be copied from."
            )
        self.backbone = backbone
        self._modes, self._grads = _as_it_came(backbone)
        self.training = self._modes[""]
        backbone.eval()
        try:
            with outside_inference():
                size = find_input_size(backbone) if input_size is None else input_size
                self.input_size = cast(tuple[int, int, int], tuple(size))
                self._opened: dict[tuple[str, ...] | None, OpenedBackbone] = {
                    None: open_backbone(backbone, self.input_size)
                }
        except BaseException:
            self._restore_modes()
            raise
        backbone.requires_grad_(False)
        _FROZEN[backbone] = self._modes, self._grads

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its first parameter."""
        return next(self.backbone.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """The device of its first parameter."""
        return next(self.backbone.parameters()).device

    def open(self, targets: tuple[str, ...] | None = None) -> OpenedBackbone:
        """Opens the network with places for masks on some convolutions; a second call returns the same object.

        Args:
            targets: Exact paths of the convolutions; the terminal ones when left out.

        Raises:
            TargetModulesError: `targets` do not name convolutions side by side on the way to the output.

        Example:
            >>> frozen = FrozenBackbone(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)), (3, 16, 16))
            >>> frozen.open().targets, frozen.open(("0",)).targets
            (('2',), ('0',))
        """
        opened = self.opened_at(targets)
        if targets is not None and targets != self._opened[None].targets:
            self._opened[targets] = opened
        return opened

    def opened_at(self, targets: tuple[str, ...] | None = None) -> OpenedBackbone:
        """What `open` returns, without remembering it: a reader may hold an adapter that is deleted meanwhile.

        Args:
            targets: As for `open`.

        Raises:
            TargetModulesError: as `open` says.

        Example:
            >>> frozen = FrozenBackbone(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)), (3, 16, 16))
            >>> frozen.opened_at(("0",)) is frozen.opened_at(("0",)), frozen.opened_at() is frozen.open()
            (False, True)
        """
        if targets is None or targets == self._opened[None].targets:
            return self._opened[None]
        opened = self._opened.get(targets)
        if opened is None:
            with outside_inference():
                opened = open_backbone(self.backbone, self.input_size, targets)
        return opened

    def close(self, targets: tuple[str, ...] | None) -> None:
        """Forgets a set of convolutions that no adapter masks any more; the terminal ones stay open.

        Example:
            >>> frozen = FrozenBackbone(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)), (3, 16, 16))
            >>> before = frozen.open(("0",))
            >>> frozen.close(("0",))
            >>> frozen.open(("0",)) is before
            False
        """
        if targets is not None:
            self._opened.pop(targets, None)

    @contextmanager
    def opened_only_on_success(self) -> Iterator[None]:
        """A `with` block after which everything that was opened inside is forgotten if an error leaves it."""
        before = dict(self._opened)
        try:
            yield
        except BaseException:
            self._opened = before
            raise

    def keep_in_eval_mode(self) -> None:
        """Puts the network back into eval mode, should somebody have called `train()` on it or on a part of it.

        Example:
            >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
            >>> frozen = FrozenBackbone(net, (3, 16, 16))
            >>> net.train().training
            True
            >>> frozen.keep_in_eval_mode()
            >>> net.training
            False
        """
        if any(module.training for module in self.backbone.modules()):
            self.backbone.eval()

    def restore(self) -> nn.Module:
        """Restores the modes and the `requires_grad` with which the network came.

        Returns:
            The network itself.
        """
        self._restore_modes()
        _FROZEN.pop(self.backbone, None)
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(self._grads[name])
        return self.backbone

    def _restore_modes(self) -> None:
        for name, module in self.backbone.named_modules():
            module.training = self._modes.get(name, self.training)
