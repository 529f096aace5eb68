"""Pictures of every kind Pillow can open, as 8-bit colour or gray: nothing clipped, nothing sideways."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..errors import DataError, DataNotFoundError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

__all__ = ["RESAMPLES", "Resample", "as_mode", "open_picture"]

Resample = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]

RESAMPLES: tuple[Resample, ...] = get_args(Resample)
"""Names of Pillow's filters in the order of their numbers, which `preprocessor_config.json` holds."""


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
    from PIL import Image, ImageOps, UnidentifiedImageError

    broken = (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError, EOFError)
    broken += (struct.error, TypeError)  # raised where an EXIF tag's value is not of the type it claims
    if isinstance(image, Image.Image):
        try:
            # A copy even where nothing is turned: the caller's picture stays as it is.
            return ImageOps.exif_transpose(image)
        except broken as error:
            raise DataError(f"The picture cannot be decoded: {error}") from error
    if not isinstance(image, str | os.PathLike):
        return _from_array(image)
    where = f"{os.fspath(image)!r}"
    try:
        with Image.open(image) as picture:
            return ImageOps.exif_transpose(picture)
    except FileNotFoundError:
        raise DataNotFoundError(f"There is no picture at {where}.") from None
    except broken as error:
        raise DataError(f"{where} cannot be read as a picture: {error}") from error


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
        picture = picture.convert("LA" if picture.mode == "La" else "RGBA")
    elif "transparency" in picture.info and picture.mode in ("1", "L", "RGB"):  # one colour that means see-through
        picture = picture.convert("RGBA")
    if picture.mode in ("LA", "RGBA"):
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    if picture.mode not in ("L", "RGB"):
        picture = picture.convert("RGB")
    return picture.convert(mode)
