"""Stored features in the memory of the device that trains: a batch is one selection of rows for each tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..backbone import Depth
from ..checking import all_finite
from ..errors import DataError, TrainingError
from ..features import FeatureDataset, free_memory, readable_size
from .arguments import CIAOTrainingArguments

__all__ = ["SHARE_OF_DEVICE", "ResidentFeatures", "check_finite_rows", "resident_features"]

SHARE_OF_DEVICE = 0.5
"""Of the free memory of the device, what stored features may take; the rest is for the update."""

_AT_ONCE = 2**26  # bytes that are read from the disk and copied at a time


def check_finite_rows(features: tuple[Tensor, ...], samples: Tensor) -> None:
    """Refuses features that are NaN or infinite, before anything is computed of them.

    Args:
        features: `(B, ...)` each, on the CPU.
        samples: `(B,)`, the numbers of the samples they belong to.

    Raises:
        DataError: names the first sample.

    Example:
        >>> check_finite_rows((torch.tensor([[1.0], [float("inf")]]),), torch.tensor([7, 4]))
        Traceback (most recent call last):
        ...
        ciao_peft.errors.DataError: The stored features of sample 4 hold NaN or infinite values. Make them anew with \
`cache_features`, from pixels that are finite.
    """
    for tensor in features:
        if not all_finite(tensor):
            row = int((~tensor.isfinite()).flatten(1).any(dim=1).nonzero()[0, 0])
            raise DataError(
                f"The stored features of sample {int(samples[row])} hold NaN or infinite values. Make them anew with "
                "`cache_features`, from pixels that are finite."
            )


class ResidentFeatures:
    """All features that a dataset shows, on one device. Every row is read, compared with its checksum and copied once.

    Args:
        data: Stored features.
        device: Where they go.
        include_excitation: Whether stored u goes with them.
        depths: Which of the stored depths go with them; all when None.

    Shapes:
        Row `view * len(data) + sample` of each tensor; of clips `(T, ...)` each.

    Raises:
        FeatureCacheError: a row is not what was written.
        DataError: a row is NaN or infinite.

    Example:
        >>> from ciao_peft.features import FeatureLayout
        >>> key = {"views": 1, "num_samples": 3}
        >>> stored = FeatureDataset(key, FeatureLayout(((2,),), "float32", 3), None, (torch.eye(3, 2),))
        >>> ResidentFeatures(stored, torch.device("cpu")).features(torch.tensor([2, 1]))[0].tolist()
        [[0.0, 0.0], [0.0, 1.0]]
    """

    tensors: tuple[Tensor, ...]

    def __init__(
        self,
        data: FeatureDataset,
        device: torch.device,
        include_excitation: bool = True,
        depths: Sequence[Depth] | None = None,
    ):
        count = max(_AT_ONCE // max(_bytes_of_a_sample(data), 1), 1)
        tensors: list[Tensor] = []
        for view in range(data.views):
            for samples in torch.arange(len(data), device="cpu").split(count):
                rows = data.features(samples, view, include_excitation, depths)
                check_finite_rows(rows, samples)
                if not tensors:
                    tensors = [row.new_empty((data.views * len(data), *row.shape[1:]), device=device) for row in rows]
                first = view * len(data) + int(samples[0])
                for tensor, row in zip(tensors, rows, strict=True):
                    tensor[first : first + len(row)] = row
        self.tensors = tuple(tensors)

    def features(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Reads rows, `(B, ...)` of each tensor.

        Args:
            rows: `(B,)`, their numbers, on the device of the features.
        """
        return tuple(tensor.index_select(0, rows) for tensor in self.tensors)


def _bytes_of_a_sample(data: FeatureDataset) -> int:
    return data.layout.row_bytes() * (data.frames or 1)


def _free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, and unused
        return torch.cuda.mem_get_info(device)[0] + kept
    return free_memory()


def resident_features(
    data: FeatureDataset,
    device: torch.device,
    args: CIAOTrainingArguments,
    include_excitation: bool = True,
    depths: Sequence[Depth] | None = None,
) -> ResidentFeatures | None:
    """The features on the device that trains, where the arguments ask for it and they fit; else None.

    On a CPU, `"auto"` leaves them where they are: what was read once stays in the memory of the system anyway.

    Args:
        data: Stored features.
        device: The device that trains.
        args: `feature_device` counts.
        include_excitation: Whether stored u goes with them.
        depths: Which of the stored depths go with them; all when None.

    Raises:
        TrainingError: they must go there, and do not fit.

    Example:
        >>> from ciao_peft.features import FeatureLayout
        >>> key = {"views": 1, "num_samples": 3}
        >>> stored = FeatureDataset(key, FeatureLayout(((2,),), "float32", 3), None, (torch.eye(3, 2),))
        >>> resident_features(stored, torch.device("cpu"), CIAOTrainingArguments()) is None
        True
    """
    choice = args.feature_device
    if choice == "cpu" or (choice == "auto" and device.type == "cpu"):
        return None
    needed = _bytes_of_a_sample(data) * len(data) * data.views
    most = SHARE_OF_DEVICE * _free_bytes(device)
    if needed <= most:
        return ResidentFeatures(data, device, include_excitation, depths)
    if choice == "auto":
        return None
    raise TrainingError(
        f"The stored features take {readable_size(needed)}, and half of what is free on {device} is "
        f"{readable_size(most)}. Leave out feature_device='device', or store them in dtype='bfloat16' or with fewer "
        "views."
    )
