"""The last adapter of a training that was finite, for when training diverges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ..errors import DivergenceError

__all__ = ["LastFinite", "all_finite_there"]


def all_finite_there(tensors: Iterable[Tensor]) -> Tensor:
    """Whether all values of all tensors are finite, as a tensor `()` on their device: the host does not wait for it.

    Args:
        tensors: On one device, one or more of them with floating-point values. Whole numbers are always finite.

    Example:
        >>> all_finite_there([torch.zeros(2), torch.tensor(7)])
        tensor(True)
    """
    with_values = [tensor.detach() for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    return torch.stack([tensor.isfinite().all() for tensor in with_values]).all()


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
        self._tensors: dict[str, Tensor] = {}
        self._step: Tensor | None = None  # -1 where the module was finite at no call

    @torch.no_grad()
    def keep(self, step: int) -> None:
        """Copies the module after an update, if all of it is finite; the device decides that, and nobody waits.

        Args:
            step: The number of updates so far.
        """
        tensors = self._module.state_dict()
        if not tensors:
            return
        finite = all_finite_there(tensors.values())
        if self._step is None:
            self._tensors = {name: tensor.clone() for name, tensor in tensors.items()}
            self._step = torch.where(finite, step, -1)
            return
        for name, tensor in tensors.items():
            self._tensors[name] = torch.where(finite, tensor, self._tensors[name])
        self._step = torch.where(finite, step, self._step)

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
        kept = -1 if self._step is None else int(self._step)
        step, tensors, which = None if kept < 0 else kept, self._tensors, "the last finite one that was kept, "
        if best is not None:
            step, tensors, which = best_step, dict(best), "the best one, "
        if step is None:
            return error
        self._module.load_state_dict(tensors)
        where = f"{which}of update {step}" if step else "as it was before the first update"
        return type(error)(f"{error} The adapter in memory is {where}.")
