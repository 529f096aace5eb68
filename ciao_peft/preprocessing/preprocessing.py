"""From pictures to an encoder's pixel values: size, colour, mean, deviation, resampling, in one object."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..checking import check_choice, is_number, make_plain
from ..errors import CIAOError, ConfigError, DataError, listed, quoted, shortened
from .alignment import Alignment, aligned, alignment_of
from .pictures import RESAMPLES, Resample, as_mode, normalised, open_picture, resized_to
from .processors import PROCESSOR_TYPE

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

__all__ = ["MAX_SIDE", "CropMode", "Mode", "Preprocessing"]

MAX_SIDE = 4096
"""Of the pixels that an encoder is fed."""
Mode = Literal["RGB", "BGR", "L"]
CropMode = Literal["squash", "center", "border"]

_CONSTANTS = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
_KEYS = {*_CONSTANTS, "size", "mode", "image_mean", "image_std", "resample", "crop_pct", "crop_mode"}


@contextmanager
def _as_config_error(what: str) -> Iterator[None]:
    """Inside, a value of a kind that nobody expected is a `ConfigError`."""
    try:
        yield
    except CIAOError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        said = shortened(f"{type(error).__name__}: {error}")
        raise ConfigError(f"This cannot be {what}: a value is missing, or of another type ({said}).") from error


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    r"""Turns pictures into the pixel values that one encoder takes, the same way for training and inference.

    $$x = \frac{p / 255 - \mu}{\sigma}$$

    `p` is a pixel of the resized picture, 0 to 255; µ and σ are `mean` and `std` of its channel. Pictures of any kind
    are understood: they are turned upright by their EXIF tag, 16-bit gray is scaled to 8 bits, palettes are looked up,
    and transparent parts are laid on white, before they are converted to `mode`.

    Plain data: two objects are equal when they do the same, and `to_dict` writes a `preprocessor_config.json`.

    Args:
        size: Height and width of the output, in pixels.
        mode: `"RGB"`, `"BGR"` (the order of Caffe's networks) or `"L"`, one channel of gray.
        mean: µ, one number per channel, in the order of `mode`, for pixels between 0 and 1.
        std: σ, likewise; above 0.
        resample: Pillow's filter. Every filter but `"nearest"` averages over the pixels that it shrinks.
        crop_pct: Share of the resized picture that is kept, above 0: the picture is resized to `size / crop_pct`
            (rounded down), then its middle is cut out.
        crop_mode: `"squash"` resizes both sides, whatever their ratio was, so that all of a face stays; `"center"`
            keeps the ratio and cuts off what the longer side has too much; `"border"` keeps the ratio and fills the
            rest with the mean.
        align: `"five-points"` turns, scales and shifts each face before all else so that its landmarks lie where those
            of a mean face do, as dlib does; see `Alignment`, which has more settings. By default nothing is aligned.

    Raises:
        ConfigError: a value that cannot work.

    Shapes:
        - images: one picture or a list of B pictures, of any sizes.
        - output: `(B, C, height, width)`, float32, with B = 1 for one picture, and C = 1 for `mode="L"`, else 3.

    Example:
        >>> import numpy as np
        >>> preprocessing = Preprocessing(size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
        >>> white = np.full((48, 40), 255, dtype=np.uint8)
        >>> pixel_values = preprocessing([white, white // 255])
        >>> pixel_values.shape, pixel_values[0].unique().tolist()
        (torch.Size([2, 3, 32, 32]), [1.0])
    """

    size: tuple[int, int] = (64, 64)
    mode: Mode = "RGB"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    resample: Resample = "bilinear"
    crop_pct: float = 1.0
    crop_mode: CropMode = "squash"
    align: Alignment | Literal["five-points"] | None = None

    def __post_init__(self) -> None:
        make_plain(self)
        object.__setattr__(self, "align", alignment_of(self.align))
        for name, choices in (("mode", Mode), ("resample", Resample), ("crop_mode", CropMode)):
            check_choice(name, getattr(self, name), get_args(choices))
        size = tuple(self.size) if isinstance(self.size, Sequence) else ()
        if len(size) != 2 or not all(is_number(side, int, 1) for side in size):
            raise ConfigError(f"`size` must be height and width, two whole numbers from 1 up; got {_short(self.size)}.")
        if max(size) > MAX_SIDE:
            raise ConfigError(f"`size` may be at most {MAX_SIDE} pixels each way; got {_short(self.size)}.")
        object.__setattr__(self, "size", size)
        channels = 1 if self.mode == "L" else 3
        for name in ("mean", "std"):
            setting = getattr(self, name)
            try:
                values = tuple(float(value) for value in setting)
            except (TypeError, ValueError, OverflowError):
                values = ()
            if len(values) != channels or not all(map(math.isfinite, values)):
                raise ConfigError(
                    f"`{name}` must have {channels} numbers for mode {quoted(self.mode)}; got {_short(setting)}."
                )
            if name == "std" and min(values) <= 0:
                raise ConfigError(f"`std` must be above 0; got {_short(setting)}.")
            object.__setattr__(self, name, values)
        if not is_number(self.crop_pct) or self.crop_pct <= 0:
            raise ConfigError(f"`crop_pct` must be above 0; got {_short(self.crop_pct)}.")
        if max(size) > 2 * MAX_SIDE * self.crop_pct:
            raise ConfigError(f"`crop_pct` of {self.crop_pct} would make pictures of more than {2 * MAX_SIDE} pixels.")
        object.__setattr__(self, "crop_pct", float(self.crop_pct))

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of the pixel values, `(C, height, width)`.

        Example:
            >>> Preprocessing(size=(64, 48)).input_size
            (3, 64, 48)
        """
        return (len(self.mean), *self.size)

    def __call__(self, images: Any) -> Tensor:
        """Makes the pixel values of one picture or several.

        Args:
            images: A picture or a list of pictures. A picture is a PIL image, a path, or an array `(H, W)` or
                `(H, W, C)` of uint8 or uint16 with 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha) channels.

        Returns:
            `(B, C, height, width)`, float32, with B = 1 for a single picture.

        Raises:
            DataError: a picture cannot be read or understood; the message has its path or its index.
            DataNotFoundError: there is no file at a path.
        """
        return self.normalise(self.fit_all(images))

    def fit_all(self, images: Any) -> np.ndarray:
        """Opens and fits one picture or several: what `normalise` makes pixel values of.

        Args:
            images: As for a call of this object.

        Returns:
            `(B, height, width, C)`, uint8, with the channels in the order of `mode`.

        Raises:
            DataError, DataNotFoundError: as for a call of this object.
        """
        import numpy as np

        if not isinstance(images, list | tuple):
            return self.fit(open_picture(images))[None]
        if not images:
            raise DataError("There is no picture to preprocess: the list is empty.")
        pictures = []
        for index, image in enumerate(images):
            try:
                pictures.append(self.fit(open_picture(image)))
            except DataError as error:
                raise type(error)(f"Picture {index} of {len(images)}: {error}") from error
        return np.stack(pictures)

    def fit(self, picture: Image) -> np.ndarray:
        """Converts, resizes and crops a picture to what the encoder sees of it, before normalisation.

        Args:
            picture: PIL image in any mode, upright.

        Returns:
            `(height, width, C)`, uint8, with the channels in the order of `mode`.

        Raises:
            DataError: the range of the pixels is unknown, as for floating-point ones.

        Example:
            >>> from PIL import Image
            >>> pixels = Preprocessing(size=(2, 2), mode="BGR").fit(Image.new("RGB", (6, 4), (255, 0, 0)))
            >>> pixels.shape, pixels[0, 0].tolist()
            ((2, 2, 3), [0, 0, 255])
        """
        import numpy as np
        from PIL import Image

        picture = aligned(picture, self.align)
        picture = as_mode(picture, "L" if self.mode == "L" else "RGB")
        (width, height), (crop_height, crop_width) = picture.size, self.size
        resized_height, resized_width = self._resized(height, width)
        if (height, width) != (resized_height, resized_width):
            picture = resized_to(picture, (resized_width, resized_height), (crop_width, crop_height), self.resample)
            resized_width, resized_height = picture.size
        if (resized_height, resized_width) != (crop_height, crop_width):
            # As torchvision's CenterCrop places it: a half is rounded to the even number.
            top, left = round((resized_height - crop_height) / 2), round((resized_width - crop_width) / 2)
            canvas = Image.new(picture.mode, (crop_width, crop_height), self._fill(picture.mode))
            canvas.paste(picture, (-left, -top))
            picture = canvas
        pixels = np.asarray(picture).reshape(*self.size, -1)
        return np.ascontiguousarray(pixels[:, :, ::-1]) if self.mode == "BGR" else pixels

    def normalise(self, pixels: np.ndarray | Tensor) -> Tensor:
        """Normalises the pixels that `fit` returned: `(pixel / 255 - mean) / std`, channel by channel.

        Args:
            pixels: `(height, width, C)`, or those of several pictures, `(B, height, width, C)`, uint8, with the
                channels in the order of `mode`. The numbers of a picture depend neither on the others nor on the
                device.

        Returns:
            `(C, height, width)` or `(B, C, height, width)`, float32, on the device of the pixels.

        Example:
            >>> import numpy as np
            >>> gray = Preprocessing(size=(1, 2), mode="L", mean=(0.5,), std=(0.5,))
            >>> gray.normalise(np.array([[[0], [255]]], dtype=np.uint8)).tolist()
            [[[-1.0, 1.0]]]
        """
        return normalised(pixels, self.mean, self.std)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width before the middle is cut out."""
        # A size of 1 and a share above 1 would give 0.
        target_height, target_width = (max(1, math.floor(side / self.crop_pct)) for side in self.size)
        if self.crop_mode == "squash":
            return max(1, target_height), max(1, target_width)
        if self.crop_mode == "center" and target_height == target_width:
            # torchvision's rule for one number: the shorter side gets it, the longer one is rounded down.
            if height <= width:
                return target_height, int(target_height * width / height)
            return int(target_height * height / width), target_height
        pick = min if self.crop_mode == "center" else max
        ratio = pick(height / target_height, width / target_width)
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def _fill(self, mode: str) -> int | tuple[int, ...]:
        fill = tuple(min(255, max(0, round(255 * value))) for value in self.mean)
        return fill[0] if mode == "L" else fill[::-1] if self.mode == "BGR" else fill

    # -- as plain data -------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Turns the settings into the content of a `preprocessor_config.json`.

        Returns:
            Plain data for JSON, with the keys that image processors of transformers use. `from_dict` makes an equal
            object of it.

        Example:
            >>> Preprocessing(size=(64, 48)).to_dict()["size"]
            {'height': 64, 'width': 48}
        """
        return {
            **_CONSTANTS,
            "size": {"height": self.size[0], "width": self.size[1]},
            "mode": self.mode,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            "resample": RESAMPLES.index(self.resample),
            "crop_pct": self.crop_pct,
            "crop_mode": self.crop_mode,
            # Only where it is set: what was written before there was alignment says the same as ever.
            **({"align": self.align.to_dict()} if isinstance(self.align, Alignment) else {}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocessing:
        """Makes a `Preprocessing` of what `to_dict` returned.

        Args:
            data: Exactly the keys that `to_dict` writes. `from_image_processor` reads files of transformers.

        Raises:
            ConfigError: a key is missing, unknown or has a value that this class cannot have.

        Example:
            >>> Preprocessing.from_dict(Preprocessing(mode="L", mean=(0.5,), std=(0.2,)).to_dict()).mode
            'L'
        """
        own = {key for key, value in PROCESSOR_TYPE.items() if data.get(key) == value}
        unknown, missing = set(data) - _KEYS - {"align"} - own, _KEYS - set(data)
        if unknown or missing:
            what = f"unknown keys {listed(unknown)}" if unknown else f"no {listed(missing)}"
            raise ConfigError(
                f"The preprocessing has {what}; it has exactly these: {listed(_KEYS)}. A file of another library is "
                "read by `Preprocessing.from_image_processor`, one of a newer version by that version."
            )
        for key, value in _CONSTANTS.items():
            if data[key] != value:
                raise ConfigError(f"`{key}` is always {value} here; got {quoted(data[key])}.")
        size = data["size"]
        if not isinstance(size, Mapping) or set(size) != {"height", "width"}:
            raise ConfigError(f"`size` must be {{'height': ..., 'width': ...}}; got {quoted(size)}.")
        return cls(
            size=(size["height"], size["width"]),
            mode=data["mode"],
            mean=data["image_mean"],
            std=data["image_std"],
            resample=_resample_name(data["resample"]),
            crop_pct=data["crop_pct"],
            crop_mode=data["crop_mode"],
            align=Alignment.from_dict(data["align"]) if "align" in data else None,
        )

    # -- of other libraries --------------------------------------------------------------------------------------------

    @classmethod
    def from_timm(cls, data_config: Mapping[str, Any]) -> Preprocessing:
        """Makes a `Preprocessing` that does the same as timm's evaluation transform.

        Args:
            data_config: What `timm.data.resolve_data_config` returns.

        Raises:
            ConfigError: the transform does something that this class does not.

        Example:
            >>> config = {"input_size": (3, 224, 224), "interpolation": "bicubic", "crop_pct": 0.875,
            ...           "crop_mode": "center", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
            >>> Preprocessing.from_timm(config).size
            (224, 224)
        """
        with _as_config_error("a data config of timm"):
            channels, height, width = data_config["input_size"]
            mean, std = tuple(data_config["mean"]), tuple(data_config["std"])
            resample, crop_pct, crop_mode = (data_config[key] for key in ("interpolation", "crop_pct", "crop_mode"))
        if channels not in (1, 3):
            raise ConfigError(
                f"A network with {quoted(channels)} input channels is fed neither gray nor colour pictures."
            )
        return cls(
            size=(height, width),
            mode="L" if channels == 1 else "RGB",
            mean=mean,
            std=std,
            resample=resample,
            crop_pct=crop_pct,
            crop_mode=crop_mode,
        )

    @classmethod
    def from_image_processor(cls, processor: Any) -> Preprocessing:
        """Makes a `Preprocessing` that does the same as an image processor of transformers.

        The result equals that of the processors that use Pillow, except for the place of the crop: where an odd number
        of pixels is cut off, it may lie one pixel further on. Processors that use torchvision also differ by one or
        two of 256 steps.

        Args:
            processor: The image processor, what its `to_dict` returns, or the content of a `preprocessor_config.json`.

        Raises:
            ConfigError: the processor does something that this class does not.

        Example:
            >>> Preprocessing.from_image_processor({"image_processor_type": "ViTImageProcessor", "size": 224}).mean
            (0.5, 0.5, 0.5)
        """
        from .processors import settings_of

        data = processor if isinstance(processor, Mapping) else processor.to_dict()
        with _as_config_error("the settings of an image processor"):
            return cls(**settings_of(data))

    @classmethod
    def for_backbone(cls, backbone: Any) -> Preprocessing | None:
        """Finds the preprocessing that a backbone itself tells.

        These are read, the first that exists: its attribute `preprocessing`; timm's `pretrained_cfg`, which
        transformers' wrapper of timm's models keeps in its config; its attribute `image_processor`; and the
        `preprocessor_config.json` that was stored with the files from which transformers loaded it, as far as it is on
        this disk. Nothing is downloaded.

        Args:
            backbone: Any network.

        Returns:
            None where the backbone tells nothing, or is a model of timm whose pixels have neither one channel nor
            three.

        Raises:
            ConfigError: the backbone tells something that this class does not do.

        Example:
            >>> import torch
            >>> Preprocessing.for_backbone(torch.nn.Conv2d(3, 8, 3)) is None
            True
        """
        own = getattr(backbone, "preprocessing", None)
        if isinstance(own, cls):
            return own
        if isinstance(own, Mapping):
            return cls.from_dict(own)
        if "timm" in sys.modules:
            from .timm_models import data_config_of, is_of_timm

            if is_of_timm(backbone):
                data_config = data_config_of(backbone)
                return None if data_config is None else cls.from_timm(data_config)
        if (processor := getattr(backbone, "image_processor", None)) is not None:
            return cls.from_image_processor(processor)
        if (config := getattr(backbone, "config", None)) is not None and "transformers" in sys.modules:
            from .processors import stored_with

            data = stored_with(config)
            return None if data is None else cls.from_image_processor(data)
        return None

    def replace(self, **changes: Any) -> Preprocessing:
        """Makes a copy with some settings changed.

        Args:
            changes: New values by the name of the setting.

        Raises:
            ConfigError: a value that cannot work.

        Example:
            >>> Preprocessing().replace(size=(96, 96)).size
            (96, 96)
        """
        return dataclasses.replace(self, **changes)


def _short(value: object) -> str:
    return shortened(repr(value))


def _resample_name(number: Any) -> Resample:
    if not is_number(number, int, 0, len(RESAMPLES) - 1):
        raise ConfigError(
            f"`resample` must be Pillow's number of a filter, 0 to {len(RESAMPLES) - 1}; got {quoted(number)}."
        )
    return RESAMPLES[number]
