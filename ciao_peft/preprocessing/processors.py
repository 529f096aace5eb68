"""What the image processors of transformers do, in this library's settings."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError

_FILE = "preprocessor_config.json"
# Defaults of the classes, for files that leave these keys out.
_IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
_CONVNEXT_CROP_PCT, _POOLFORMER_CROP_PCT, _LEVIT_SCALE = 224 / 256, 0.9, 256 / 224
# From this size on ConvNeXT's processor squashes and cuts nothing.
_CONVNEXT_SQUASHED = 384
_NOT_DONE = (
    "size_divisor",
    "resize_short",
    "do_pad",
    "do_reduce_labels",
    "do_thumbnail",
    "do_align_long_axis",
    "do_crop_margin",
)


def settings_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `Preprocessing` for the dict of an image processor.

    Raises:
        ConfigError: the processor does something that `Preprocessing` does not.
    """
    kind = str(data.get("image_processor_type") or data.get("feature_extractor_type") or "")
    for ending in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        kind = kind.removesuffix(ending)
    if asked := [key for key in _NOT_DONE if data.get(key)]:
        raise ConfigError(
            f"{kind or 'The'} image processor asks for {', '.join(f'`{key}`' for key in asked)}, which `Preprocessing` "
            "does not do. Give a `Preprocessing` of your own that comes closest."
        )
    if not data.get("do_resize", True):
        raise ConfigError(
            f"{kind or 'The'} image processor does not resize; an encoder needs one size. Give one of your own."
        )
    resized, keeps_ratio, size = _sizes(data, kind)
    mean, std = _mean_and_std(data, kind)
    crop_mode = "center" if keeps_ratio else "squash"
    return {
        "size": size,
        "mode": "BGR" if data.get("do_flip_channel_order", kind == "MobileViT") else "RGB",
        "mean": mean,
        "std": std,
        "resample": _resample(data.get("resample")),
        "crop_pct": _crop_pct(resized, size, kind),
        "crop_mode": crop_mode,
    }


def stored_with(config: Any) -> dict[str, Any] | None:
    """The `preprocessor_config.json` of the model that a transformers config was loaded with, if it is on this disk."""
    name = getattr(config, "_name_or_path", None) or getattr(config, "name_or_path", None)
    if not name:
        return None
    path = Path(name) / _FILE
    if not path.is_file():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            cached = try_to_load_from_cache(str(name), _FILE, revision=getattr(config, "_commit_hash", None))
        except HFValidationError:  # a path that is no longer there
            return None
        if not isinstance(cached, str):
            return None
        path = Path(cached)
    return json.loads(path.read_text(encoding="utf-8"))


def _sizes(data: Mapping[str, Any], kind: str) -> tuple[tuple[int, int], bool, tuple[int, int]]:
    """Height and width after resizing, whether the ratio is kept, and height and width that are cut from the middle."""
    size = data.get("size")
    if isinstance(size, int):  # files older than the dicts: squashed by ViT, the shorter edge elsewhere
        size = {"height": size, "width": size} if kind in ("ViT", "DeiT", "") else {"shortest_edge": size}
    size = {key: value for key, value in size.items() if value} if isinstance(size, Mapping) else size
    if not isinstance(size, dict) or set(size) not in ({"shortest_edge"}, {"height", "width"}):
        raise ConfigError(
            f"`size` of an image processor must have 'height' and 'width' or 'shortest_edge'; got {size!r}."
        )
    if size.get("shortest_edge"):
        edge, keeps_ratio = int(size["shortest_edge"]), True
        want = (edge, edge)
        if kind == "ConvNext":
            if edge >= _CONVNEXT_SQUASHED:
                return want, False, want
            edge = int(edge / (data.get("crop_pct") or _CONVNEXT_CROP_PCT))
            return (edge, edge), True, want
        if kind == "PoolFormer" and data.get("crop_pct", _POOLFORMER_CROP_PCT):
            edge = int(edge / data.get("crop_pct", _POOLFORMER_CROP_PCT))
        if kind == "Levit":
            edge = int(_LEVIT_SCALE * edge)
        have = (edge, edge)
    else:
        have, keeps_ratio = (int(size["height"]), int(size["width"])), False
    if not data.get("do_center_crop", False):
        if keeps_ratio:
            raise ConfigError(
                f"{kind or 'The'} image processor keeps the ratio of the picture and cuts nothing, so that every "
                "picture has another size; an encoder needs one size. Give a `Preprocessing` of your own."
            )
        return have, keeps_ratio, have
    crop = data.get("crop_size") or have
    if isinstance(crop, int):
        crop = (crop, crop)
    want = (int(crop["height"]), int(crop["width"])) if isinstance(crop, Mapping) else tuple(crop)
    return have, keeps_ratio, want


def _crop_pct(resized: tuple[int, int], size: tuple[int, int], kind: str) -> float:
    for have, want in zip(resized, size, strict=True):
        if have < want:
            raise ConfigError(
                f"{kind or 'The'} image processor resizes to {have} and cuts {want} from it, with a black border "
                "around; `Preprocessing` has no such border. Give one of your own."
            )
    share = size[0] / resized[0]
    for crop_pct in (share, math.nextafter(share, 0.0), math.nextafter(share, 2.0)):
        # Rounded down, the sizes must come out again: 289 / (289 / 346) can be a hair below 346.
        if tuple(math.floor(side / crop_pct) for side in size) == resized:
            return crop_pct
    raise ConfigError(f"{kind or 'The'} image processor cuts {size} from {resized}: not one share of both sides.")


def _mean_and_std(data: Mapping[str, Any], kind: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of pixels between 0 and 1, with the processor's own scale and offset folded in."""
    scale, offset = 1.0, 0.0
    if data.get("do_rescale", True):
        scale = float(data.get("rescale_factor") or 1 / 255)
        offset = 1.0 if data.get("rescale_offset") else 0.0  # EfficientNet: pixel * factor - 1
    mean, std = (0.0,) * 3, (1.0,) * 3
    if data.get("do_normalize", kind != "MobileViT"):
        mean, std = (_three(data.get(key) or default) for key, default in _IMAGENET.items())
    if data.get("include_top", kind == "EfficientNet"):  # divided by the deviation once more
        std = tuple(a * b for a, b in zip(std, _three(data.get("image_std") or _IMAGENET["image_std"]), strict=True))
    # (pixel * scale - offset - mean) / std = (pixel / 255 - mean') / std'
    factor = 255 * scale
    return tuple((value + offset) / factor for value in mean), tuple(value / factor for value in std)


def _three(values: Any) -> tuple[float, ...]:
    values = (values,) * 3 if isinstance(values, int | float) else tuple(float(value) for value in values)
    if len(values) != 3:
        raise ConfigError(f"An image processor's mean and deviation must have three numbers; got {values!r}.")
    return values


def _resample(number: Any) -> str:
    from . import RESAMPLES

    number = 2 if number is None else int(number)
    if not 0 <= number < len(RESAMPLES):
        raise ConfigError(f"`resample` must be Pillow's number of a filter, 0 to {len(RESAMPLES) - 1}; got {number}.")
    return RESAMPLES[number]
