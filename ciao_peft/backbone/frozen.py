"""A backbone on loan: frozen while adapters use it, cut where they need it, given back as it came."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import BackboneError
from .cut import CutBackbone
from .hooked import HookedBackbone
from .identity import find_input_size
from .opening import open_backbone


class BorrowedBackbone:
    """What a model does to the network it was given, so that all of it can be undone.

    The network goes into eval mode and its parameters stop requiring gradients. It is opened once for each set of
    masked convolutions.

    Args:
        backbone: Any convolutional network with parameters.
        input_size: `(C, H, W)`; found out when left out.

    Attributes:
        input_size: `(C, H, W)` of its pixels.
        training: The mode in which it came.

    Raises:
        BackboneError: it has no parameters, no spatial convolution, or cannot be called; it is then as it was.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        >>> borrowed = BorrowedBackbone(net, (3, 16, 16))
        >>> net.training, net[0].weight.requires_grad
        (False, False)
        >>> borrowed.give_back() is net, net.training, net[0].weight.requires_grad
        (True, True, True)
    """

    def __init__(self, backbone: nn.Module, input_size: tuple[int, int, int] | None = None):
        if next(backbone.parameters(), None) is None:
            raise BackboneError(
                f"{type(backbone).__name__} has no parameters, so nothing that a mask could be copied from."
            )
        self.backbone = backbone
        self.training = backbone.training
        self._modes = {name: module.training for name, module in backbone.named_modules()}
        self._grads = {name: parameter.requires_grad for name, parameter in backbone.named_parameters()}
        backbone.eval()
        try:
            self.input_size = tuple(input_size) if input_size is not None else find_input_size(backbone)
            self._opened: dict[tuple[str, ...] | None, CutBackbone | HookedBackbone] = {
                None: open_backbone(backbone, self.input_size)
            }
        except BaseException:
            self._restore_modes()
            raise
        backbone.requires_grad_(False)

    @property
    def dtype(self) -> torch.dtype:
        """Of its first parameter."""
        return next(self.backbone.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Of its first parameter."""
        return next(self.backbone.parameters()).device

    def open(self, targets: tuple[str, ...] | None = None) -> CutBackbone | HookedBackbone:
        """The network with places for masks on these convolutions, its terminal ones when left out."""
        if targets is not None and targets == self._opened[None].targets:
            targets = None
        if targets not in self._opened:
            self._opened[targets] = open_backbone(self.backbone, self.input_size, targets)
        return self._opened[targets]

    def close(self, targets: tuple[str, ...] | None) -> None:
        """Forgets a set of convolutions that no adapter masks any more; the terminal ones stay open."""
        if targets is not None:
            self._opened.pop(targets, None)

    @contextmanager
    def opened_only_on_success(self) -> Iterator[None]:
        """Inside, what is opened is forgotten again when an error leaves."""
        before = dict(self._opened)
        try:
            yield
        except BaseException:
            self._opened = before
            raise

    def calm(self) -> None:
        """Back into eval mode, should somebody have called `train()` of the network or of a part of it."""
        if any(module.training for module in self.backbone.modules()):
            self.backbone.eval()

    def give_back(self) -> nn.Module:
        """The network itself, with the modes and the `requires_grad` with which it came."""
        self._restore_modes()
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(self._grads[name])
        return self.backbone

    def _restore_modes(self) -> None:
        for name, module in self.backbone.named_modules():
            module.training = self._modes.get(name, self.training)
