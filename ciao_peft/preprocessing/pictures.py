"""Pictures of every kind Pillow can open, as 8-bit colour or gray: nothing clipped, nothing sideways."""

from __future__ import annotations

import functools
import math
import os
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..door import open_file
from ..errors import DataError, DataNotFoundError, FileReadError, shortened

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

__all__ = [
    "MAX_PICTURE_BYTES",
    "MAX_PIXELS",
    "MAX_RATIO",
    "RESAMPLES",
    "Resample",
    "as_mode",
    "check_picture_size",
    "normalised",
    "open_picture",
    "resized_to",
]

Resample = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]

RESAMPLES: tuple[Resample, ...] = get_args(Resample)
"""Names of Pillow's filters in the order of their numbers, which `preprocessor_config.json` holds."""

MAX_PIXELS = 64 * 10**6
"""Of one picture; a camera's largest have 61 million."""

MAX_RATIO = 2000
"""Of a picture's longer side to its shorter one."""

MAX_PICTURE_BYTES = 2**30
"""Of a picture's file."""


def is_broken_picture(error: BaseException) -> bool:
    """Whether an error says of a picture that it cannot be opened: Pillow raises many kinds.

    Example:
        >>> is_broken_picture(OSError("truncated")), is_broken_picture(KeyboardInterrupt())
        (True, False)
    """
    if isinstance(error, (DataError, OSError, ValueError, SyntaxError)):  # SyntaxError for a damaged PNG
        return True
    from PIL.Image import DecompressionBombError

    return isinstance(error, DecompressionBombError)


def open_picture(image: Any) -> Image:
    """Opens a picture of any kind as a PIL image, turned upright by its EXIF tag.

    Args:
        image: A PIL image, which stays as it is; a path; or an array `(H, W)` or `(H, W, C)` of uint8 or uint16 with 1
            (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha) channels.

    Returns:
        A new image, in whatever mode the picture has; `as_mode` converts it. 16-bit arrays are scaled to 8 bits.

    Raises:
        DataError: the picture cannot be read or understood.
        DataNotFoundError: there is no file at this path.

    Example:
        >>> import numpy as np
        >>> open_picture(np.zeros((4, 6, 3), dtype=np.uint8)).size
        (6, 4)
    """
    from PIL import Image, ImageOps

    if isinstance(image, Image.Image):
        try:
            check_picture_size(*image.size)
            # A copy even where nothing is turned: the caller's picture stays as it is.
            return ImageOps.exif_transpose(image)
        except DataError as error:
            raise DataError(f"The picture {error}") from None
        except Exception as error:  # damaged files make Pillow's decoders raise nearly anything
            raise DataError(f"The picture cannot be decoded: {_said(error)}") from error
    if not isinstance(image, str | os.PathLike):
        return _from_array(image)
    where = shortened(repr(os.fspath(image)), 1000)
    if not os.path.exists(image):
        raise DataNotFoundError(f"There is no picture at {where}.")
    try:
        file = open_file(image, MAX_PICTURE_BYTES)
    except FileReadError as error:
        raise DataError(f"{where} cannot be read as a picture: {error}") from None
    with file:
        try:
            with Image.open(file) as picture:
                if picture.format == "EPS":
                    raise DataError("is a program in PostScript, which is not run. Convert it to PNG.")
                check_picture_size(*picture.size)
                return ImageOps.exif_transpose(picture)
        except DataError as error:
            raise DataError(f"{where} {error}") from None
        except Exception as error:  # damaged files make Pillow's decoders raise nearly anything
            raise DataError(f"{where} cannot be read as a picture: {_said(error)}") from error


def check_picture_size(width: int, height: int) -> None:
    """Refuses a picture that would fill the memory once it is decoded; a few bytes can claim billions of pixels.

    Args:
        width, height: In pixels, as the file's header says.

    Raises:
        DataError: it has more than `MAX_PIXELS` pixels, or a side that is `MAX_RATIO` times the other one.

    Example:
        >>> check_picture_size(1, 10_000_000)
        Traceback (most recent call last):
        ...
        ciao_peft.errors.DataError: has 1 x 10,000,000 pixels; one side may be at most 2,000 times the other.
    """
    if width * height > MAX_PIXELS:
        raise DataError(f"has {width:,} x {height:,} pixels; at most {MAX_PIXELS:,} are read. Make it smaller.")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise DataError(f"has {width:,} x {height:,} pixels; one side may be at most {MAX_RATIO:,} times the other.")


def _said(error: Exception) -> str:
    return shortened(" ".join(str(error).split())) or type(error).__name__


def _from_array(array: Any) -> Image:
    import numpy as np
    from PIL import Image

    try:
        array = np.asarray(array)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"A picture must be a PIL image, a path or an array; got {type(array).__name__}.") from error
    if array.dtype.kind == "f":
        detail = " (with NaN or infinite values)" if not np.isfinite(array).all() else ""
        raise DataError(
            f"Arrays of pixels must be uint8 (0 to 255) or uint16; got {array.dtype}{detail}. For values between 0 and "
            "1 pass `(array * 255).round().astype('uint8')`."
        )
    if array.dtype not in (np.uint8, np.uint16):
        raise DataError(f"A picture must be a PIL image, a path or an array of uint8 or uint16; got {_what(array)}.")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or 0 in array.shape or (array.ndim == 3 and array.shape[2] not in (2, 3, 4)):
        hint = " Channels come last: pass `array.transpose(1, 2, 0)`." if array.ndim == 3 and len(array) <= 4 else ""
        raise DataError(f"A picture's array must be (H, W) or (H, W, 1 to 4); got shape {array.shape}.{hint}")
    try:
        check_picture_size(array.shape[1], array.shape[0])
    except DataError as error:
        raise DataError(f"A picture's array {error}") from None
    if array.dtype == np.uint16:
        array = _sixteen_to_eight(array)
    return Image.fromarray(np.ascontiguousarray(array))


def _what(array: np.ndarray) -> str:
    return f"an array of {array.dtype}" if array.ndim else f"{type(array.item()).__name__}"


def _sixteen_to_eight(values: np.ndarray) -> np.ndarray:
    # 65535 = 257 * 255: white stays white. Pillow's own conversion clips at 255 instead.
    return ((values.astype("uint32") + 128) // 257).astype("uint8")


def as_mode(picture: Image, mode: str) -> Image:
    """Converts a picture to 8-bit colour or gray, whatever its mode is.

    16-bit gray is scaled and not clipped, palettes are looked up, and transparent parts are laid on white.

    Args:
        picture: Image in any of Pillow's modes.
        mode: `"RGB"` or `"L"`.

    Returns:
        An image in that mode; the picture itself where it has it already.

    Raises:
        DataError: the range of the pixels is unknown, as for floating-point ones.

    Example:
        >>> from PIL import Image
        >>> see_through = Image.new("RGBA", (2, 2), (255, 0, 0, 0))  # red, and fully transparent
        >>> as_mode(see_through, "RGB").getpixel((0, 0))
        (255, 255, 255)
    """
    import numpy as np
    from PIL import Image

    if picture.mode == mode and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith("I"):  # 16-bit gray; "I" is how Pillow holds it after some operations
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 65535:
            raise DataError(f"A picture of mode 'I' must hold 16-bit gray; it has {values.min()} to {values.max()}.")
        picture = Image.fromarray(_sixteen_to_eight(values))
    elif picture.mode == "F":
        raise DataError("A floating-point picture (mode 'F') has no known white; convert it to 8 or 16 bits first.")
    elif picture.mode in ("PA", "La", "RGBa") or (picture.mode == "P" and "transparency" in picture.info):
        picture = _converted(picture, "LA" if picture.mode == "La" else "RGBA")
    elif "transparency" in picture.info and picture.mode in ("1", "L", "RGB"):  # one colour that means see-through
        picture = _converted(picture, "RGBA")
    if picture.mode in ("LA", "RGBA"):
        picture = _converted(picture, "RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    if picture.mode not in ("L", "RGB"):
        picture = _converted(picture, "RGB")
    return _converted(picture, mode)


def _converted(picture: Image, mode: str) -> Image:
    try:
        return picture.convert(mode)
    except Exception as error:  # pixels that name no colour of the palette, or a file that is damaged further on
        raise DataError(f"The picture cannot be decoded: {_said(error)}") from error


def resized_to(picture: Image, size: tuple[int, int], crop: tuple[int, int], resample: Resample) -> Image:
    """Resizes a picture of which the middle will be cut out.

    Args:
        picture: Of any size.
        size: Width and height that it gets.
        crop: Width and height of the middle.
        resample: Pillow's filter.

    Returns:
        A picture of this size; of a long, thin one, whose size would be a multiple of its own, the middle alone.

    Raises:
        DataError: there is no memory for it.

    Example:
        >>> from PIL import Image
        >>> resized_to(Image.new("L", (1, 1000)), (64, 64000), (64, 64), "bilinear").size
        (64, 64)
    """
    from PIL import Image

    filter_, box = Image.Resampling(RESAMPLES.index(resample)), None
    most = max(math.prod(picture.size), math.prod(crop))
    if math.prod(size) > max(4 * most, min(16 * most, 2**24)):
        # What is cut off is not made first. The numbers differ by a hair of rounding from the way above.
        kept = [_middle(*sides) for sides in zip(picture.size, size, crop, strict=True)]
        box, size = (kept[0][0], kept[1][0], kept[0][1], kept[1][1]), (kept[0][2], kept[1][2])
    try:
        return picture.resize(size, filter_, box=box)
    except (MemoryError, OverflowError, ValueError) as error:
        raise DataError(f"A picture of {picture.size} cannot be resized to {size}: {_said(error)}") from error


def _middle(side: int, resized: int, crop: int) -> tuple[float, float, int]:
    """Where the part of a side begins and ends that is kept, and its length once it is resized."""
    if resized <= crop:
        return 0, side, resized
    start, scale = round((resized - crop) / 2), side / resized
    return start * scale, min((start + crop) * scale, side), crop


def normalised(pixels: np.ndarray | Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Turns 8-bit pixels into `(pixel / 255 - mean) / std`, channel by channel: the same bits on every device.

    Args:
        pixels: `(..., height, width, C)`, uint8.
        mean, std: One number for each channel.

    Returns:
        `(..., C, height, width)`, float32, on the device of the pixels.

    Example:
        >>> import numpy as np
        >>> normalised(np.array([[[0], [255]]], dtype=np.uint8), (0.5,), (0.5,)).tolist()
        [[[-1.0, 1.0]]]
    """
    import numpy as np
    import torch

    if not isinstance(pixels, torch.Tensor):
        usual = (
            pixels.flags.c_contiguous and pixels.flags.writeable
        )  # of others, PyTorch refuses some and warns of some
        pixels = torch.from_numpy(pixels if usual else np.array(pixels, order="C"))
    # One pass brings the channels to the front and makes numbers of bytes.
    values = pixels.movedim(-1, -3).to(torch.float32, memory_format=torch.contiguous_format)
    most, mu, sigma = _constants(mean, std, str(values.device))
    return values.div_(most).sub_(mu).div_(sigma)


@functools.lru_cache(maxsize=16)
def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: str) -> tuple[Tensor, Tensor, Tensor]:
    """255, mean and deviation, `(C, 1, 1)` each; sent to a device once, as sending waits for it."""
    import torch

    # 255 is a tensor as well: a GPU would multiply by the rounded inverse of a plain number.
    with torch.inference_mode(False):
        rows = [torch.tensor(row, dtype=torch.float32, device=device) for row in ([255.0] * len(mean), mean, std)]
    most, mu, sigma = (row.view(-1, 1, 1) for row in rows)
    return most, mu, sigma
