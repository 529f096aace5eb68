"""The last adapter of a training that was finite, for when training diverges."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..checking import all_finite
from ..errors import DivergenceError

__all__ = ["LastFinite"]


class LastFinite:
    """Keeps a copy of a module from time to time, while it is finite, and puts it back after a divergence.

    Args:
        module: The adapter that is trained.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> kept = LastFinite(layer)
        >>> kept.keep(0)
        >>> _ = layer.weight.data.fill_(float("nan"))
        >>> str(kept.put_back(DivergenceError("The loss is NaN."), None, None))
        'The loss is NaN. The adapter in memory is as it was before the first update.'
        >>> bool(layer.weight.isfinite())
        True
    """

    def __init__(self, module: nn.Module):
        self._module = module
        self._step: int | None = None
        self._tensors: dict[str, Tensor] = {}

    @torch.no_grad()
    def keep(self, step: int) -> None:
        """Copies the module after an update, if all of it is finite.

        Args:
            step: The number of updates so far.
        """
        tensors = self._module.state_dict()
        if all(map(all_finite, tensors.values())):
            self._step, self._tensors = step, {name: tensor.clone() for name, tensor in tensors.items()}

    def put_back(
        self, error: DivergenceError, best: Mapping[str, Tensor] | None, best_step: int | None
    ) -> DivergenceError:
        """Puts the best adapter, or else the last copy, into the module.

        Args:
            error: What ended the training.
            best: The adapter of the best evaluation, where it was kept.
            best_step: After which update that was.

        Returns:
            The error, which says as well what is in memory now.
        """
        step, tensors, which = self._step, self._tensors, "the last finite one that was kept, "
        if best is not None:
            step, tensors, which = best_step, dict(best), "the best one, "
        if step is None:
            return error
        self._module.load_state_dict(tensors)
        where = f"{which}of update {step}" if step else "as it was before the first update"
        return type(error)(f"{error} The adapter in memory is {where}.")
