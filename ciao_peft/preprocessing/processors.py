"""Translates the settings of transformers' image processors into those of `Preprocessing`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..door import read_json
from ..errors import ConfigError, quoted, shortened
from .pictures import RESAMPLES, Resample

__all__ = ["PROCESSOR_TYPE", "settings_of", "stored_with"]

PROCESSOR_TYPE = {"image_processor_type": "CIAOImageProcessor"}
"""What the file of an adapter's preprocessing holds besides: by this name, `AutoImageProcessor` knows whose it is."""

_FILE = "preprocessor_config.json"


class _Defaults(NamedTuple):
    """What a class of image processors does where its file leaves a key out.

    Args:
        mean, std: None where the class does not tell.
        resample: Pillow's number of a filter.
        square: Whether one number as `size` is both sides, rather than the shorter edge.
        cuts: Whether the middle is cut out.
        crop: Side of what is cut out; `size` where it is None.
    """

    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    resample: int = 3
    square: bool = False
    cuts: bool = False
    crop: int | None = None


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5,) * 3, (0.5,) * 3)
_OF_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_UNKNOWN = _Defaults(None, None, resample=2)
# As transformers 5 has them; LeViT and PoolFormer had no `crop_size` once and cut out what `size` said.
_CLASSES = {
    "": _UNKNOWN._replace(square=True),
    "Beit": _Defaults(*_HALF, square=True, crop=224),
    "Bit": _Defaults(*_OF_CLIP, cuts=True, crop=224),
    "Blip": _Defaults(*_OF_CLIP, square=True),
    "CLIP": _Defaults(*_OF_CLIP, cuts=True, crop=224),
    "ChineseCLIP": _Defaults(*_OF_CLIP, cuts=True, crop=224),
    "ConvNext": _Defaults(*_HALF),
    "DINOv3ViT": _Defaults(*_IMAGENET, resample=2, square=True),
    "DPT": _Defaults(*_HALF, square=True),
    "DeiT": _Defaults(*_HALF, square=True, cuts=True, crop=224),
    "EfficientNet": _Defaults(*_HALF, square=True, crop=289),
    "Flava": _Defaults(*_OF_CLIP, square=True, cuts=True, crop=224),
    "Levit": _Defaults(*_IMAGENET, cuts=True),
    "MobileNetV1": _Defaults(*_HALF, resample=2, cuts=True, crop=224),
    "MobileNetV2": _Defaults(*_HALF, resample=2, cuts=True, crop=224),
    "MobileViT": _Defaults(*_HALF, cuts=True, crop=256),
    "PoolFormer": _Defaults(*_IMAGENET, cuts=True),
    "Pvt": _Defaults(*_IMAGENET, square=True),
    "Segformer": _Defaults(*_IMAGENET, resample=2, square=True),
    "Siglip": _Defaults(*_HALF),
    "ViT": _Defaults(*_HALF, resample=2, square=True),
}
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
    "keep_aspect_ratio",
)


def settings_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """Translates the dict of an image processor into arguments of `Preprocessing`.

    Args:
        data: What the processor's `to_dict` returns, or the content of a `preprocessor_config.json`.

    Returns:
        Every argument of `Preprocessing` by name.

    Raises:
        ConfigError: the processor does something that `Preprocessing` does not.

    Example:
        >>> settings = settings_of({"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 256}})
        >>> settings["size"], settings["crop_pct"], settings["crop_mode"]
        ((224, 224), 0.875, 'center')
    """
    kind = shortened(str(data.get("image_processor_type") or data.get("feature_extractor_type") or ""), 80)
    for ending in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        kind = kind.removesuffix(ending)
    if not_done := [key for key in _NOT_DONE if data.get(key)]:
        raise ConfigError(
            f"{kind or 'The'} image processor asks for {', '.join(f'`{key}`' for key in not_done)}, which "
            "`Preprocessing` does not do. Give a `Preprocessing` of your own that comes closest."
        )
    if not data.get("do_resize", True):
        raise ConfigError(
            f"{kind or 'The'} image processor does not resize; an encoder needs one size. Give one of your own."
        )
    defaults = _CLASSES.get(kind, _UNKNOWN)
    resized, keeps_ratio, size = _sizes(data, kind, defaults)
    mean, std = _mean_and_std(data, kind, defaults)
    crop_mode = "center" if keeps_ratio else "squash"
    return {
        "size": size,
        "mode": "BGR" if data.get("do_flip_channel_order", kind == "MobileViT") else "RGB",
        "mean": mean,
        "std": std,
        "resample": _resample(data.get("resample"), defaults),
        "crop_pct": _crop_pct(resized, size, kind),
        "crop_mode": crop_mode,
    }


def stored_with(config: Any) -> dict[str, Any] | None:
    """Reads the `preprocessor_config.json` that belongs to a model of transformers, if it is on this disk.

    Args:
        config: The model's config; it knows the folder or the repository that it was loaded from.

    Returns:
        The content of the file; None where the folder or the cache of the Hub has none. Nothing is downloaded.

    Example:
        >>> from types import SimpleNamespace
        >>> stored_with(SimpleNamespace(_name_or_path="")) is None
        True
    """
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
    return read_json(path, error=ConfigError)


def _sizes(data: Mapping[str, Any], kind: str, defaults: _Defaults) -> tuple[tuple[int, int], bool, tuple[int, int]]:
    """Height and width after resizing, whether the ratio is kept, and height and width that are cut from the middle."""
    size = data.get("size")
    if isinstance(size, int):  # files older than the dicts
        size = {"height": size, "width": size} if defaults.square else {"shortest_edge": size}
    size = {key: value for key, value in size.items() if value} if isinstance(size, Mapping) else size
    if not isinstance(size, dict) or set(size) not in ({"shortest_edge"}, {"height", "width"}):
        raise ConfigError(
            f"`size` of an image processor must have 'height' and 'width' or 'shortest_edge'; got "
            f"{shortened(repr(size))}."
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
        want, keeps_ratio = (int(size["height"]), int(size["width"])), False
        have = want
    # PoolFormer's older files have one key for both.
    if not data.get("do_center_crop", data.get("do_resize_and_center_crop", defaults.cuts)):
        if keeps_ratio:
            raise ConfigError(
                f"{kind or 'The'} image processor keeps the ratio of the picture and cuts nothing, so that every "
                "picture has another size; an encoder needs one size. Give a `Preprocessing` of your own."
            )
        return have, keeps_ratio, have
    crop = data.get("crop_size") or defaults.crop or want
    if isinstance(crop, int):
        crop = (crop, crop)
    height, width = (int(crop["height"]), int(crop["width"])) if isinstance(crop, Mapping) else crop
    return have, keeps_ratio, (height, width)


def _crop_pct(resized: tuple[int, int], size: tuple[int, int], kind: str) -> float:
    for have, want in zip(resized, size, strict=True):
        if have < want:
            raise ConfigError(
                f"{kind or 'The'} image processor resizes to {quoted(have)} and cuts {quoted(want)} from it, with a "
                "black border around; `Preprocessing` has no such border. Give one of your own."
            )
    share = size[0] / resized[0]
    for crop_pct in (share, math.nextafter(share, 0.0), math.nextafter(share, 2.0)):
        # Rounded down, the sizes must come out again: 289 / (289 / 346) can be a hair below 346.
        if tuple(math.floor(side / crop_pct) for side in size) == resized:
            return crop_pct
    raise ConfigError(
        f"{kind or 'The'} image processor cuts {quoted(size)} from {quoted(resized)}: not one share of both sides."
    )


def _mean_and_std(
    data: Mapping[str, Any], kind: str, defaults: _Defaults
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation for pixels between 0 and 1, with the processor's own scale and offset folded in."""
    scale, offset = 1.0, 0.0
    if data.get("do_rescale", True):
        scale = float(data.get("rescale_factor") or 1 / 255)
        offset = 1.0 if data.get("rescale_offset") else 0.0  # EfficientNet: pixel * factor - 1
    mean, std = (0.0,) * 3, (1.0,) * 3
    if kind != "MobileViT" and data.get("do_normalize", True):  # MobileViT never does
        mean, std = data.get("image_mean") or defaults.mean, data.get("image_std") or defaults.std
        if mean is None or std is None:
            raise ConfigError(
                f"{kind or 'The'} image processor normalises, and its file does not say with which `image_mean` and "
                "`image_std`. Give a `Preprocessing` of your own."
            )
        mean, std = _three(mean), _three(std)
    if data.get("include_top", kind == "EfficientNet"):  # divided by the deviation once more
        std = tuple(a * b for a, b in zip(std, _three(data.get("image_std") or defaults.std or 1.0), strict=True))
    # (pixel * scale - offset - mean) / std = (pixel / 255 - mean') / std'
    factor = 255 * scale
    return tuple((value + offset) / factor for value in mean), tuple(value / factor for value in std)


def _three(values: Any) -> tuple[float, ...]:
    values = (values,) * 3 if isinstance(values, int | float) else tuple(float(value) for value in values)
    if len(values) != 3:
        raise ConfigError(
            f"An image processor's mean and deviation must have three numbers; got {shortened(repr(values))}."
        )
    return values


def _resample(number: Any, defaults: _Defaults) -> Resample:
    number = defaults.resample if number is None else int(number)
    if not 0 <= number < len(RESAMPLES):
        raise ConfigError(
            f"`resample` must be Pillow's number of a filter, 0 to {len(RESAMPLES) - 1}; got {quoted(number)}."
        )
    return RESAMPLES[number]
