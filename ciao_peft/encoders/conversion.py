"""Converts VGG16 weights in common layouts into a `vggface2` folder, and checks it by running both networks."""

from __future__ import annotations

import hashlib
import io
import math
import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from ..checking import check_choice
from ..door import open_file, read_file, read_member
from ..errors import AdapterFileError, ConfigError, quoted
from ..preprocessing import Preprocessing
from ..saving.safetensors_file import parse_tensors
from ..surroundings import random_state_kept
from .vggface2 import POOL, VGG16, VGGFace2

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ChannelOrder", "Layout", "convert_encoder"]

Layout = Literal["auto", "torchvision", "vggface", "keras"]
"""How a file names and orders the weights of VGG16; `"auto"` detects it."""

ChannelOrder = Literal["auto", "rgb", "bgr"]
"""Order of the colours that a network was fed; `"auto"` takes it from the layout."""

# Means and standard deviations in RGB, of pixels from 0 to 255.
_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_IMAGENET_CAFFE = ((123.68, 116.779, 103.939), (1.0, 1.0, 1.0))
_VGGFACE = ((129.1863, 104.7624, 93.5940), (1.0, 1.0, 1.0))
MAX_SOURCE_BYTES = 2**30
"""Of a file to convert: VGG16 with its classifier has 553 MB."""

_MOST_UNPACKED = 50  # times the size of an archive: trained weights hardly shrink, and what does is a bomb

_LARGEST_KERNEL = 512 * 512 * 3 * 3


@dataclass(frozen=True)
class _Source:
    """The content of a file: thirteen kernels and biases in its own order of axes, and the pixels they expect."""

    layout: str
    axes: str  # the order of a kernel's axes
    kernels: list[torch.Tensor]
    biases: list[torch.Tensor]
    channel_order: str
    mean: tuple[float, ...]  # in RGB, of pixels from 0 to 255
    std: tuple[float, ...]  # as `mean`
    left_out: list[str]


def convert_encoder(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    layout: Layout = "auto",
    channel_order: ChannelOrder = "auto",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Path:
    """Writes a `vggface2` encoder from a file of VGG16 or VGGFace weights.

    Nothing is written unless all thirteen convolutions are there in VGG16's shapes, and the encoder gives a picture the
    answer that the source's own kernels give, in their own order of axes and channels. Dense layers are left out.

    Args:
        source: Safetensors, a PyTorch state dict (read with `weights_only`), or a Keras file: HDF5 of any version, or
            `.keras` (both need h5py).
        folder: The folder to write; `load_encoder("vggface2", weights=folder)` reads it.
        layout: `"torchvision"` (`features.0.weight`), `"vggface"` (`conv1_1.weight`, PyTorch) or `"keras"` (layers
            `block1_conv1` or `conv1_1`, or Keras 3's `layers/conv2d`; kernels height x width x in x out). By default
            it is detected.
        channel_order: The channel order of the pixels that the source was trained on. It is known for `torchvision`
            (`"rgb"`) and `keras` (`"bgr"`) and must be given for names like `conv1_1.weight`, which exist in both.
        mean: Red, green and blue from 0 to 255, subtracted from the pixels; by default the layout's usual values:
            ImageNet's, or VGGFace's for names like `conv1_1`. Networks of VGGFace2 had 131.0912 103.8827 91.4953.
        std: Red, green and blue from 1 to 255, what the pixels from 0 to 255 are divided by then: 58.395 where others
            write 0.229 for pixels between 0 and 1. By default ImageNet's for `torchvision` and 1 for the rest. A file
            named as torchvision's `vgg16_features-amdegroot-88682ab5.pth` does not say that it needs 1, so say it here.

    Returns:
        The folder.

    Raises:
        ConfigError: the layout is unknown or not the given one, or a setting that the file does not contain is missing.
        AdapterFileError: the file is missing, damaged, or holds no VGG16.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "classifier.pt"
        >>> torch.save({"linear.weight": torch.zeros(2, 2)}, path)
        >>> try:
        ...     convert_encoder(path, "mine")
        ... except AdapterFileError as error:
        ...     print("no layout known here" in str(error))
        True
    """
    path = Path(source)
    check_choice("layout", layout, get_args(Layout))
    check_choice("channel_order", channel_order, get_args(ChannelOrder))
    with random_state_kept():  # of a network whose random weights are replaced at once
        return _convert(path, Path(folder), layout, channel_order, mean, std)


def _convert(
    path: Path,
    folder: Path,
    layout: str,
    channel_order: str,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Path:
    from .folder import save_encoder

    content = _content(path)
    parsed = _parse(_tensors(path, content, layout), path, layout, channel_order, mean, std)
    encoder = VGGFace2()
    state = {}
    places = [i for i, module in enumerate(encoder.chain) if isinstance(module, torch.nn.Conv2d)]
    for place, kernel, bias in zip(places, parsed.kernels, parsed.biases, strict=True):
        if kernel.ndim != 4:
            raise AdapterFileError(
                f"'{path}' is no VGG16: chain.{place}.weight would have {kernel.ndim} axes, must have 4."
            )
        kernel = kernel.permute([parsed.axes.index(axis) for axis in "OIHW"])
        if place == 0 and parsed.channel_order == "bgr":
            kernel = kernel.flip(1)
        state |= {f"chain.{place}.weight": kernel, f"chain.{place}.bias": bias}
    _check_shapes(state, encoder.state_dict(), path)
    encoder.load_state_dict(state)
    encoder.eval().preprocessing = VGGFace2.preprocessing.replace(
        mean=tuple(value / 255 for value in parsed.mean), std=tuple(value / 255 for value in parsed.std)
    )
    difference = _difference(encoder, parsed)
    training = {
        "converted_from": {
            "file": path.name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "layout": parsed.layout,
            "channel_order": parsed.channel_order,
            "left_out": parsed.left_out,
            "largest_difference_of_answers": difference,
        }
    }
    return save_encoder(encoder, folder, training=training)


# -- files -------------------------------------------------------------------------------------------------------------


def _content(path: Path) -> bytes:
    with open_file(path, MAX_SOURCE_BYTES, error=AdapterFileError) as file:
        head = file.read(8)
    if len(head) == 8 and not any(head):  # a hole, of which a gigabyte need not be read
        raise AdapterFileError(f"'{path}' is empty or damaged: it begins with zeros, as no file of weights does.")
    return read_file(path, MAX_SOURCE_BYTES, error=AdapterFileError)


def _tensors(path: Path, content: bytes, layout: str) -> dict[str, torch.Tensor]:
    if path.suffix == ".keras":
        content = _inside_keras(path, content)
    if content.startswith(b"\x89HDF"):
        return _from_hdf5(path, content, layout)
    if path.suffix == ".safetensors":
        return parse_tensors(content, path)
    try:
        _check_unpacked(path, content)
        # Never without `weights_only`: a pickle runs whatever it says.
        data = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except AdapterFileError:
        raise
    except pickle.UnpicklingError as error:
        raise AdapterFileError(
            f"'{path}' is no state dict that can be read without running code from it: {_first_line(error)} "
            "Save `model.state_dict()` where the model can be loaded, and convert that."
        ) from error
    except Exception as error:  # damaged bytes can make the unpickler raise anything
        raise AdapterFileError(
            f"'{path}' is empty, cut off, damaged or nothing that `torch.save` wrote ({_first_line(error)}). Its "
            f"{len(content):,} bytes are not those of a state dict: copy or download it anew."
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(data, Mapping) and isinstance(data.get(key), Mapping):
            data = data[key]
    if not isinstance(data, Mapping) or not all(isinstance(value, torch.Tensor) for value in data.values()):
        raise AdapterFileError(f"'{path}' holds {type(data).__name__}, not a state dict of tensors alone.")
    for key, tensor in data.items():
        if tensor.numel() * tensor.element_size() > len(content):  # a few numbers, said to be repeated without an end
            raise AdapterFileError(
                f"'{path}' is damaged: {quoted(key)} would have {tensor.numel():,} numbers, more than fit into its "
                f"{len(content):,} bytes. Copy or download it anew."
            )
    return {str(key): value for key, value in data.items()}


def _check_unpacked(path: Path, content: bytes) -> None:
    """Refuses an archive that unpacks to more than it is: `torch.save` compresses nothing."""
    if not content.startswith(b"PK"):
        return
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > len(content):
        raise AdapterFileError(
            f"'{path}' is damaged, or nothing that `torch.save` wrote: its {len(content):,} bytes would unpack to "
            f"{unpacked:,}. Copy or download it anew."
        )


def _first_line(error: Exception) -> str:
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


def _inside_keras(path: Path, content: bytes) -> bytes:
    """The weights in an archive of Keras 3; nothing else in it is read."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            most = min(MAX_SOURCE_BYTES, _MOST_UNPACKED * len(content))
            return read_member(archive, "model.weights.h5", most, error=AdapterFileError)
    except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, NotImplementedError, AdapterFileError) as error:
        raise AdapterFileError(f"'{path}' cannot be read as a model of Keras: {error}") from error


def _from_hdf5(path: Path, content: bytes, layout: str) -> dict[str, torch.Tensor]:
    """Reads the convolutions of the layout; all other names in the file get an empty tensor.

    Nothing outside the file is opened, and nothing larger than VGG16's largest kernel is read, whatever the file says.
    """
    try:
        import h5py
    except ImportError as error:
        raise ConfigError(f"'{path}' is HDF5, which needs h5py: pip install 'ciao_peft[convert]'.") from error
    arrays: dict[str, h5py.Dataset] = {}

    def collect_floats(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or name.startswith("optimizer_weights"):
            return
        if item.is_virtual or item.external:
            raise AdapterFileError(
                f"'{path}' keeps the numbers of {quoted(name)} in other files, which are not opened for it. Save the "
                "weights anew, all in one file."
            )
        if item.dtype.kind == "f":
            arrays[name] = item

    def read(name: str) -> torch.Tensor:
        item = arrays[name]
        # A chunk is decompressed as a whole, and may be larger than the part that is read.
        if item.shape is None or max(item.size or 0, math.prod(item.chunks or ())) > _LARGEST_KERNEL:
            raise AdapterFileError(
                f"'{path}' is no VGG16: {quoted(name)} has shape {item.shape}; the largest kernel has "
                f"{_LARGEST_KERNEL:,} numbers."
            )
        return torch.from_numpy(item[()].astype("float32"))

    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            file.visititems(collect_floats)
            _, units = _find(arrays, path, layout)
            tensors = {name: read(name) for name in units.values()}
    except AdapterFileError:  # which is an OSError too
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise AdapterFileError(f"'{path}' cannot be read as HDF5: {error}.") from error
    return {name: tensors.get(name, torch.empty(0)) for name in arrays}


# -- layouts -----------------------------------------------------------------------------------------------------------

_Place = tuple[tuple[int, int], str]  # block and number of a convolution, and "weight" or "bias"
_UNITS = [(block, i) for block, count in enumerate((2, 2, 3, 3, 3), start=1) for i in range(1, count + 1)]
_TORCHVISION: dict[int, tuple[int, int]] = dict(
    zip((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), _UNITS, strict=True)
)


def _torchvision(name: str) -> _Place | None:
    match = re.fullmatch(r"(?:.+\.)?features\.(\d+)\.(weight|bias)", name)
    return (_TORCHVISION[int(match[1])], match[2]) if match and int(match[1]) in _TORCHVISION else None


def _vggface(name: str) -> _Place | None:
    match = re.fullmatch(r"(?:.+\.)?conv_?([1-5])_([1-3])\.(weight|bias)", name)
    return ((int(match[1]), int(match[2])), match[3]) if match else None


def _keras(name: str) -> _Place | None:
    # `block1_conv1/block1_conv1/kernel:0`, or `block1_conv1/block1_conv1_W_1:0` as Keras 1 wrote it.
    match = re.search(
        r"(?:^|/)(?:block([1-5])_conv|conv([1-5])_)([1-3])/(?:.*[/_])?(kernel|bias|W|b)(?:_\d+)?(?::0)?$", name
    )
    if match:
        return (int(match[1] or match[2]), int(match[3])), "weight" if match[4] in ("kernel", "W") else "bias"
    # Keras 3 counts the convolutions from the first to the last: `layers/conv2d_12/vars/0`.
    match = re.fullmatch(r"(?:.*/)?layers/conv2d(?:_(\d+))?/vars/([01])", name)
    if not match or int(match[1] or 0) >= len(_UNITS):
        return None
    return _UNITS[int(match[1] or 0)], ("weight", "bias")[int(match[2])]


_NAMES = {"torchvision": _torchvision, "vggface": _vggface, "keras": _keras}


def _find(names: Iterable[str], path: Path, layout: str) -> tuple[str, dict[_Place, str]]:
    """The layout, and the names of the kernels and biases of its thirteen convolutions."""
    names = list(names)
    matches: dict[str, dict[_Place, str]] = {}
    for candidate in _NAMES if layout == "auto" else [layout]:
        units: dict[_Place, str] = {}
        for name in names:
            if unit := _NAMES[candidate](name):
                if unit in units:
                    raise AdapterFileError(
                        f"'{path}' holds two networks: both {quoted(units[unit])} and {quoted(name)} fit."
                    )
                units[unit] = name
        matches[candidate] = units
    layout, units = max(matches.items(), key=lambda item: len(item[1]))
    missing = [f"conv{b}_{i}.{part}" for b, i in _UNITS for part in ("weight", "bias") if ((b, i), part) not in units]
    if missing:
        problem = "no layout known here" if len(missing) == 26 else f"layout {layout!r}, but lacks {_few(missing)}"
        raise AdapterFileError(
            f"'{path}' is in {problem}. It holds {_few(names)}. Known are VGG16's convolutions as `features.0.weight` "
            "(torchvision), `conv1_1.weight` (vggface) and Keras layers `block1_conv1`, `conv1_1` or `layers/conv2d`."
        )
    return layout, units


def _parse(
    tensors: Mapping[str, torch.Tensor],
    path: Path,
    layout: str,
    channel_order: str,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> _Source:
    layout, units = _find(tensors, path, layout)
    faces = layout == "vggface" or (layout == "keras" and "conv1_1" in units[(1, 1), "weight"])
    if channel_order == "auto":
        if layout == "vggface":
            raise ConfigError(
                f"'{path}' does not say whether its network was fed RGB or BGR, and files with these names exist in "
                "both (Caffe's own are BGR, those by way of MatConvNet RGB). Say `channel_order` ('rgb' or 'bgr'; on "
                "the command line --channel_order)."
            )
        channel_order = "bgr" if layout == "keras" else "rgb"
    usual_mean, usual_std = _VGGFACE if faces else _IMAGENET_CAFFE if layout == "keras" else _IMAGENET
    return _Source(
        layout=layout,
        axes="HWIO" if layout == "keras" else "OIHW",
        kernels=[tensors[units[unit, "weight"]].float() for unit in _UNITS],
        biases=[tensors[units[unit, "bias"]].float() for unit in _UNITS],
        channel_order=channel_order,
        mean=usual_mean if mean is None else _colours("mean", mean, least=0),
        std=usual_std if std is None else _colours("std", std, least=1),
        left_out=sorted(set(tensors) - set(units.values())),
    )


def _colours(name: str, values: Sequence[float], least: int) -> tuple[float, ...]:
    if len(values) != 3 or not all(least <= value <= 255 for value in values):
        raise ConfigError(
            f"`{name}` must be red, green and blue from {least} to 255, in the units of pixels from 0 to 255 (what is "
            f"0.229 for pixels from 0 to 1 is 58.395 here); got {list(values)}."
        )
    return tuple(map(float, values))


def _few(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(map(quoted, names[:4])) + (f" and {len(names) - 4} more" if len(names) > 4 else "") or "nothing"


# -- checks ------------------------------------------------------------------------------------------------------------


def _check_shapes(state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], path: Path) -> None:
    for name, tensor in expected.items():
        if state[name].shape != tensor.shape:
            raise AdapterFileError(
                f"'{path}' is no VGG16: {name} would be {tuple(state[name].shape)}, must be {tuple(tensor.shape)}."
            )
        if not state[name].isfinite().all():
            raise AdapterFileError(f"'{path}' holds NaN or infinite values in what becomes {name}.")


def _difference(encoder: VGGFace2, source: _Source) -> float:
    """The largest difference between the outputs of encoder and source, relative to the source's largest output."""
    import numpy as np

    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    preprocessing: Preprocessing = encoder.preprocessing.replace(size=(32, 32))
    with torch.no_grad():
        answer = encoder(preprocessing(picture))[0].numpy()
    expected = _source_forward(source, picture).transpose(2, 0, 1).ravel()
    largest = float(np.abs(expected).max())
    difference = float(np.abs(answer - expected).max()) / (largest or 1.0)
    if not difference < 1e-3:
        raise AdapterFileError(
            f"The converted encoder's answers differ from the source's by {difference:.2g} of the largest one."
        )
    return difference


def _source_forward(source: _Source, picture: np.ndarray) -> np.ndarray:
    """Runs the source network in NumPy, with its own channel order and with its kernels as the file has them."""
    import numpy as np

    values = (picture.astype(np.float32) - np.array(source.mean, np.float32)) / np.array(
        source.std, np.float32
    )  # (H, W, RGB)
    if source.channel_order == "bgr":
        values = values[:, :, ::-1]
    convolutions = zip(source.kernels, source.biases, strict=True)
    for step in [*VGG16, POOL]:
        if step == POOL:
            height, width = values.shape[0] // 2, values.shape[1] // 2
            values = values.reshape(height, 2, width, 2, -1).max(axis=(1, 3))
            continue
        kernel, bias = next(convolutions)
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, ((1, 1), (1, 1), (0, 0))), (3, 3), (0, 1))
        axes = [source.axes.index(axis) for axis in "IHW"]  # windows are (H, W, I, 3, 3)
        values = np.maximum(np.tensordot(windows, kernel.numpy(), axes=([2, 3, 4], axes)) + bias.numpy(), 0)
    return values
