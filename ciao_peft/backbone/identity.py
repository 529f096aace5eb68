"""Which backbone this is: its name, the pixels it was made for, and a signature of its weights."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import BackboneError, BackboneMismatchError

__all__ = [
    "backbone_name",
    "backbone_revision",
    "backbone_signature",
    "check_same_backbone",
    "example_pixels",
    "find_input_size",
    "same_backbone",
    "size_of",
    "without_compiler",
]

_BUCKETS = 16
_ENTRIES = 2048  # of each tensor: enough to tell two trainings apart, few enough to be quick
_TOLERANCE = 0.02  # per square root of the tensors in a bucket; rounding to bfloat16 moves it by about 0.002
_COMMON_SIZES = (224, 112, 96, 64, 48, 32, 28)


def without_compiler(backbone: nn.Module) -> nn.Module:
    """The network inside what `torch.compile` made of it, or the network itself.

    Example:
        >>> layer = nn.Conv2d(3, 8, 3)
        >>> without_compiler(torch.compile(layer)) is layer, without_compiler(layer) is layer
        (True, True)
    """
    inside = getattr(backbone, "_orig_mod", None)
    return inside if isinstance(inside, nn.Module) else backbone


def backbone_name(backbone: nn.Module) -> str:
    """The name by which the backbone can be loaded: its own `name`, timm's, transformers', else that of its class.

    Example:
        >>> from ciao_peft import load_encoder
        >>> backbone_name(load_encoder("small-face")), backbone_name(nn.Sequential())
        ('small-face', 'Sequential')
    """
    backbone = without_compiler(backbone)
    pretrained = getattr(backbone, "pretrained_cfg", None) or {}
    config = getattr(backbone, "config", None)
    own = getattr(backbone, "name", None)
    if isinstance(own, str) and own:
        return own
    if isinstance(pretrained, dict) and pretrained.get("architecture"):
        tag = pretrained.get("tag")
        return f"timm/{pretrained['architecture']}{'.' + tag if tag else ''}"
    return getattr(config, "_name_or_path", None) or type(backbone).__qualname__


def backbone_revision(backbone: nn.Module) -> str | None:
    """The revision that the backbone's weights came from, or None where it does not know.

    Example:
        >>> net = nn.Sequential()
        >>> net.revision = "v1"
        >>> backbone_revision(net), backbone_revision(nn.Sequential())
        ('v1', None)
    """
    revision = getattr(backbone, "revision", None) or getattr(getattr(backbone, "config", None), "_commit_hash", None)
    return revision if isinstance(revision, str) else None


def example_pixels(backbone: nn.Module, size: tuple[int, int, int]) -> Tensor:
    """Two images of noise on the backbone's device and in its dtype. The global random state is not touched.

    Args:
        backbone: The network.
        size: `(C, H, W)` of its pixels.

    Returns:
        `(2, C, H, W)`, uniform in 0 to 1, the same at every call.

    Example:
        >>> pixels = example_pixels(nn.Conv2d(3, 8, 3).bfloat16(), (3, 16, 16))
        >>> tuple(pixels.shape), pixels.dtype
        ((2, 3, 16, 16), torch.bfloat16)
    """
    noise = torch.rand((2, *size), generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu")
    parameter = next(backbone.parameters(), torch.empty(0, dtype=torch.float32, device="cpu"))
    dtype = parameter.dtype if parameter.is_floating_point() else torch.float32
    return noise.to(device=parameter.device, dtype=dtype)


def size_of(pixels: Tensor) -> tuple[int, int, int]:
    """`(C, H, W)` of pixels `(B, C, H, W)`.

    Example:
        >>> size_of(torch.rand(2, 3, 16, 8))
        (3, 16, 8)
    """
    _, channels, height, width = pixels.shape
    return channels, height, width


def find_input_size(backbone: nn.Module) -> tuple[int, int, int]:
    """The size of pixels that the backbone was made for: what it says, or the first common size that it accepts.

    Returns:
        `(C, H, W)`.

    Raises:
        BackboneError: it does not say, and accepts none.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(8 * 62 * 62, 10))
        >>> find_input_size(net)  # the linear layer accepts pixels of 64 x 64 alone
        (1, 64, 64)
    """
    for size in _declared_sizes(backbone):
        return size
    first = next((m for m in backbone.modules() if isinstance(m, nn.Conv2d)), None)
    channels = first.in_channels if first is not None else 3
    for side in _COMMON_SIZES:
        try:
            with torch.no_grad():
                backbone(example_pixels(backbone, (channels, side, side)))
            return channels, side, side
        except (RuntimeError, ValueError, AssertionError):
            continue
    raise BackboneError(
        f"{type(backbone).__name__} does not say which pixels it takes, and accepts none of "
        f"{', '.join(f'{channels}x{s}x{s}' for s in _COMMON_SIZES)}. Give `input_size=(channels, height, width)`."
    )


def _declared_sizes(backbone: nn.Module) -> Iterator[tuple[int, int, int]]:
    own = getattr(backbone, "input_size", None)
    if isinstance(own, (tuple, list)) and len(own) == 3:
        yield int(own[0]), int(own[1]), int(own[2])
    for source in (getattr(backbone, "pretrained_cfg", None), getattr(backbone, "default_cfg", None)):
        if isinstance(source, dict) and source.get("input_size"):
            channels, *sides = source["input_size"]
            yield cast(tuple[int, int, int], (getattr(backbone, "in_chans", channels), *sides))
    config = getattr(backbone, "config", None)
    side = getattr(config, "image_size", None)
    if side:
        height, width = side if isinstance(side, (tuple, list)) else (side, side)
        yield int(getattr(config, "num_channels", 3)), int(height), int(width)


def backbone_signature(backbone: nn.Module) -> dict[str, Any]:
    """A short signature that tells this backbone from every other, but not from itself in another dtype.

    For `weights`, each tensor belongs to one of sixteen sums, to which it adds the product of its scaled values with
    fixed pseudo-random signs, and plus or minus the logarithm of its norm. Rounding to half precision moves the sums by
    less than `same_backbone` allows.

    Returns:
        Plain data: `architecture`, a hash of the names and shapes of its tensors; `weights`, the sixteen sums; and
        `tensors`, the number of tensors in each.

    Example:
        >>> layer = nn.Conv2d(3, 8, 3)
        >>> one, other = backbone_signature(layer), backbone_signature(nn.Conv2d(3, 8, 3))
        >>> same_backbone(one, backbone_signature(layer.bfloat16())), same_backbone(one, other)
        (True, False)
    """
    backbone = without_compiler(backbone)
    tensors = dict(sorted((n, t) for n, t in backbone.state_dict().items() if isinstance(t, Tensor)))
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    counted = {n: t for n, t in tensors.items() if t.is_floating_point() and t.numel() > 0 and not t.is_meta}
    weights, counts = [0.0] * _BUCKETS, [0] * _BUCKETS
    for name, product, norm in _products_and_norms(counted):
        bucket = zlib.crc32(name.encode()[::-1]) % _BUCKETS
        if norm > 0:
            # The logarithm, so that scaled weights are others, while rounding hardly counts.
            weights[bucket] += product / norm + (-1) ** zlib.adler32(name.encode()) * math.log(norm)
        counts[bucket] += 1
    return {
        "architecture": hashlib.sha256(json.dumps(shapes).encode()).hexdigest()[:16],
        "weights": [round(value, 3) for value in weights],
        "tensors": counts,
    }


def _products_and_norms(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, float, float]]:
    """The product of some values of each tensor with signs, and their norm; all at once, as every load needs them."""
    rows: list[Tensor] = []
    for tensor in tensors.values():
        flat = tensor.detach().flatten()
        if flat.numel() > _ENTRIES:
            flat = flat[:: flat.numel() // _ENTRIES][:_ENTRIES]
        rows.append(flat.to(torch.float64 if flat.dtype == torch.float64 else torch.float32))
    if not rows:
        return
    if len({row.device for row in rows}) > 1:
        rows = [row.to("cpu") for row in rows]
    values = torch.cat(rows).to("cpu").double()  # one copy from a GPU, for which the host waits once
    signs, lengths = _signs(tuple(zip(tensors, map(len, rows), strict=True)))
    products = torch.segment_reduce(values * signs, "sum", lengths=lengths)
    norms = torch.segment_reduce(values.square(), "sum", lengths=lengths).sqrt()
    yield from zip(tensors, products.tolist(), norms.tolist(), strict=True)


@functools.lru_cache(maxsize=16)
def _signs(entries: tuple[tuple[str, int], ...]) -> tuple[Tensor, Tensor]:
    """Pseudo-random signs for so many values of each tensor in a row, and these numbers."""
    rows: list[Tensor] = []
    for name, count in entries:
        # A generator of its own for each name, so that neither order nor number of the other tensors matters.
        noise = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        signs = torch.randint(0, 2, (count,), generator=noise, dtype=torch.float64, device="cpu") * 2 - 1
        rows.append(signs.to(torch.int8))
    return torch.cat(rows), torch.tensor([count for _, count in entries], device="cpu")


def same_backbone(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two signatures belong to the same weights, up to their dtype.

    Args:
        one, other: What `backbone_signature` returned.

    Example:
        >>> layer = nn.Conv2d(3, 8, 3)
        >>> same_backbone(backbone_signature(layer), backbone_signature(layer.half()))
        True
    """
    if one["architecture"] != other["architecture"]:
        return False
    pairs = zip(one["weights"], other["weights"], one["tensors"], strict=True)
    return all(abs(a - b) <= _TOLERANCE * max(count, 1) ** 0.5 for a, b, count in pairs)


def check_same_backbone(saved: dict[str, Any], name: str, present: nn.Module) -> None:
    """Refuses another backbone than the one an adapter was trained on.

    Args:
        saved: The signature stored with the adapter.
        name: The name stored with it.
        present: The backbone it is to be put on.

    Raises:
        BackboneMismatchError: says whether architecture or weights differ, and names both.

    Example:
        >>> saved = backbone_signature(nn.Conv2d(3, 8, 3))
        >>> check_same_backbone(saved, "user/encoder", nn.Conv2d(3, 8, 5))
        Traceback (most recent call last):
        ...
        ciao_peft.errors.BackboneMismatchError: The adapter was trained on 'user/encoder'; the backbone given, \
'Conv2d', has another architecture. Load it onto the backbone it was trained on, or pass `check_backbone=False` to \
use it here all the same.
    """
    signature = backbone_signature(present)
    if same_backbone(saved, signature):
        return
    what = "other weights" if saved["architecture"] == signature["architecture"] else "another architecture"
    raise BackboneMismatchError(
        f"The adapter was trained on {name!r}; the backbone given, {backbone_name(present)!r}, has {what}. Load it "
        "onto the backbone it was trained on, or pass `check_backbone=False` to use it here all the same."
    )
