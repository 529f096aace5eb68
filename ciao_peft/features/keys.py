"""Keys of stored features: what tells by content which model, settings and pictures they belong to."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import torch

from ..backbone import HookedBackbone
from ..errors import UntraceableBackboneError
from ..model import CIAOModel
from .layout import DTYPES, FeatureLayout
from .processes import Processes
from .samples import Samples
from .stored_depths import as_key, depths_of

if TYPE_CHECKING:
    from .streams import StreamSamples

_HASHED_AT_ONCE = 1024

__all__ = ["feature_bytes", "features_layout", "fingerprint", "model_key", "storage_dtype"]


def model_key(model: CIAOModel) -> dict[str, Any]:
    """The part of a key that says which model made features: backbone, cut, depths and preprocessing.

    Args:
        model: Its active adapter says where to cut, and which depths it reads.

    Returns:
        Plain data: signature and dtype of the backbone, target modules, preprocessing and input size; and the depths,
        if there are any.

    Raises:
        UntraceableBackboneError: the backbone could not be cut.

    Example:
        >>> from torch import nn
        >>> model = CIAOModel(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), input_size=(3, 8, 8))
        >>> key = model_key(model)
        >>> key["targets"], key["backbone_dtype"], key["input_size"]
        (['0'], 'float32', [3, 8, 8])
    """
    opened = model.opened
    if isinstance(opened, HookedBackbone):
        raise UntraceableBackboneError(
            f"{type(model.backbone).__name__} could not be cut in two, so there are no features to keep "
            f"({opened.reason}). Train with `feature_cache='never'`."
        )
    return {
        "backbone": model.backbone_signature(),
        "backbone_dtype": str(next(model.backbone.parameters()).dtype).removeprefix("torch."),
        "targets": list(opened.targets),
        "preprocessing": None if model.preprocessing is None else model.preprocessing.to_dict(),
        "input_size": list(model.input_size),
        **as_key(model.depths),
    }


def feature_bytes(model: CIAOModel, include_excitation: bool = False) -> int:
    """Bytes that the features of one picture take, in the backbone's dtype.

    Args:
        model: Its active adapter says where to cut.
        include_excitation: Count the bytes of u as well.

    Example:
        >>> from torch import nn
        >>> model = CIAOModel(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), input_size=(3, 8, 8))
        >>> feature_bytes(model)  # 3 x 8 x 8 numbers of 4 bytes reach the only convolution
        768
    """
    key = {"excitation": include_excitation, "dtype": storage_dtype(next(model.backbone.parameters()).dtype)}
    key |= as_key(model.depths)
    return features_layout(model, key | {"num_samples": 1, "views": 1}).row_bytes()


def features_layout(model: CIAOModel, key: dict[str, Any]) -> FeatureLayout:
    """Shapes and number of the rows that are stored under a key.

    Args:
        model: Its active adapter says where to cut.
        key: Has `excitation`, `dtype`, `num_samples` and `views`, and `depths` if there are any.
    """
    opened = model.opened
    depths = [(size,) for size in opened.depth_sizes(depths_of(key))]
    shapes = (*opened.feature_shapes, *depths, *(opened.excitation_shapes if key["excitation"] else ()))
    return FeatureLayout(shapes, key["dtype"], key["num_samples"] * key["views"])


def storage_dtype(dtype: torch.dtype) -> str:
    """The name of the dtype in which features are stored by default: the backbone's own where that can be stored.

    Args:
        dtype: Of the backbone.

    Example:
        >>> storage_dtype(torch.bfloat16), storage_dtype(torch.float64)
        ('bfloat16', 'float32')
    """
    name = str(dtype).removeprefix("torch.")
    return name if name in DTYPES else "float32"


def fingerprint(samples: Samples | StreamSamples, processes: Processes) -> str:
    """A hash that changes with the pictures and their order, and with nothing else.

    Args:
        samples: One split.
        processes: Those that share the work; each reads its share of the pictures.

    Returns:
        32 hexadecimal digits, the same in every process.

    Example:
        >>> faces = [{"pixel_values": torch.full((3, 8, 8), n / 2), "labels": n} for n in range(2)]
        >>> relabelled = [face | {"labels": 1} for face in faces]
        >>> first, second = (fingerprint(Samples(dataset, None), Processes()) for dataset in (faces, relabelled))
        >>> first == second
        True
    """
    share = processes.share(len(samples))
    starts = range(share.start, share.stop, _HASHED_AT_ONCE)
    parts = (samples.digests(range(first, min(first + _HASHED_AT_ONCE, share.stop))) for first in starts)
    digest = blake2b(digest_size=16)
    if processes.count == 1 and isinstance(samples, Samples):
        for part in parts:  # no memory holds the digests of a billion pictures
            digest.update(b"".join(part))
        return digest.hexdigest()
    own: list[bytes] = []
    for part in parts:
        own += part
        processes.sign()
    digest.update(b"".join(processes.collect(own)))
    return digest.hexdigest()
