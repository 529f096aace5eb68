"""A trunk in whole numbers of 8 bits: static quantisation, calibrated on pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..backbone import check_pixels
from ..errors import ConfigError, ExportError, quoted
from ..preprocessing import Preprocessing
from .onnx_files import quietly

if TYPE_CHECKING:
    import numpy as np

__all__ = ["calibration_pixels", "quantized"]

_ROWS = 8


def calibration_pixels(pictures: Any, preprocessing: Preprocessing | None, input_size: tuple[int, int, int]) -> Tensor:
    """The pixel values of the pictures that a quantisation is calibrated on.

    Args:
        pictures: What a `Preprocessing` takes, a list of pictures, or pixel values `(N, C, H, W)`.
        preprocessing: The model's, or None where that is unknown.
        input_size: `(C, H, W)`.

    Returns:
        `(N, C, H, W)`, float32, on the CPU.

    Raises:
        ConfigError: there are none, or only pixel values can be given.
        DataError: a picture cannot be read.
        InputError: pixel values of another shape.

    Example:
        >>> calibration_pixels(torch.rand(4, 3, 8, 8), None, (3, 8, 8)).shape
        torch.Size([4, 3, 8, 8])
    """
    if isinstance(pictures, Tensor):
        return check_pixels(pictures.detach().cpu(), input_size, torch.float32)
    if pictures is None or not hasattr(pictures, "__iter__") or isinstance(pictures, (str, bytes)):
        raise ConfigError(
            "`quantize='int8'` needs `calibration`, a list of pictures such as the model will see, a hundred or more; "
            f"got {quoted(pictures)}."
        )
    if preprocessing is None:
        raise ConfigError("This model does not say how pictures are prepared: give `calibration` as pixel values.")
    listed = list(pictures)
    if not listed:
        raise ConfigError("`calibration` is empty; give pictures such as the model will see, a hundred or more.")
    return preprocessing(listed)


def quantized(path: Path, pixels: Tensor) -> None:
    """Puts a quantised network in the place of a file: weights of a channel each, and what flows, in 8 bits.

    Args:
        path: An ONNX file that takes `pixel_values`; its answers stay float32.
        pixels: What the ranges are measured on, `(N, C, H, W)`.

    Raises:
        ExportError: ONNX Runtime cannot quantise it.

    Example:
        >>> import tempfile
        >>> from ciao_peft.deploy.onnx_files import Tupled, write_onnx
        >>> path = Path(tempfile.mkdtemp(), "trunk.onnx")
        >>> net, pixels = torch.nn.Conv2d(3, 64, 5), torch.rand(8, 3, 16, 16)
        >>> _ = write_onnx(Tupled(net), [pixels], path, ["pixel_values"], ["y"], opset=18)
        >>> before = path.stat().st_size
        >>> quantized(path, pixels)
        >>> path.stat().st_size < before
        True
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = self._go()

        def _go(self) -> Iterator[dict[str, np.ndarray]]:
            for rows in pixels.split(_ROWS):
                yield {"pixel_values": rows.numpy()}

        def get_next(self) -> Any:
            return next(self._batches, None)

    ready, made = path.with_suffix(".ready"), path.with_suffix(".int8")
    try:
        with quietly(""):  # its advice goes to the root
            quant_pre_process(str(path), str(ready), skip_symbolic_shape=True)
            quantize_static(
                str(ready),
                str(made),
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        made.replace(path)
    except Exception as error:  # ONNX Runtime has many kinds
        said = f"{type(error).__name__}: {quoted(str(error), 300)}"
        raise ExportError(f"{path.name} cannot be quantised: {said}") from error
    finally:
        for left in (ready, made):
            left.unlink(missing_ok=True)
