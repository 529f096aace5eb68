"""What a door is: valid files, and the way in which a stranger's files come through it."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Door:
    """One way for files from outside. A campaign makes the seeds, changes copies of them, and opens those.

    Attributes:
        name: On the command line and in tables.
        about: What comes through, in a few words.
        fast: Whether hundreds of inputs take seconds.
        limit: Seconds after which an input counts as hanging.
        reaches: Hosts that may be asked.
        warms_up: Whether the seeds are opened once before anything is measured.
        hostile: Names of seeds of which that would be too much.
        compares: Whether what `open` returns tells contents apart.
    """

    name = ""
    about = ""
    fast = True
    limit = 2.0
    warms_up, compares = True, False
    hostile: frozenset[str] = frozenset()
    reaches: frozenset[str] = frozenset()

    def make_seeds(self, folder: Path) -> None:
        """Writes valid inputs, a folder each."""
        raise NotImplementedError

    def start(self, scratch: Path) -> None:
        """What every input needs, such as a model; called once in the process that opens them."""

    def begin(self) -> None:
        """What one input needs of its own."""

    def wanted(self, path: Path) -> bool:
        """Whether a file of an input is one to change."""
        return True

    def finish(self, folder: Path, rng: random.Random) -> bool:
        """After the changes: checksums made right again, to reach what lies behind them; whether they were."""
        return False

    def open(self, folder: Path, scratch: Path) -> Any:
        """Loads the input; where the door compares, what it returns must be that of the unchanged input, or nothing."""
        raise NotImplementedError

    def state(self) -> Any:
        """What a failed load must leave as it was."""
        return None


def digest(*values: Any) -> str:
    """The same for the same tensors and plain data."""
    found = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            found.update(f"{value.dtype}{tuple(value.shape)}".encode())
            found.update(value.detach().contiguous().view(-1).view(torch.uint8).numpy())
        elif isinstance(value, dict):
            for name in value:
                found.update(repr(name).encode())
                add(value[name])
        elif isinstance(value, (list, tuple)):
            found.update(f"[{len(value)}".encode())
            for item in value:
                add(item)
        else:
            found.update(repr(value).encode())

    add(list(values))
    return found.hexdigest()


def state_of(model: Any) -> tuple[Any, ...]:
    """A model as its user sees it."""
    tensors = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    trained = [parameter.requires_grad for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    return digest(tensors), list(model.adapters), model.active_adapter, trained, modes, model.preprocessing
