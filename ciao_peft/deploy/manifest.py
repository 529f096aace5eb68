"""What an exported folder says about itself: files and their checksums, labels, and how pictures are prepared."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ..config import CIAOConfig
from ..errors import AdapterFileError, CIAOError, ExportError, listed
from ..preprocessing import Preprocessing
from ..saving import read_json

__all__ = [
    "ALIGN_FILE",
    "FORMAT",
    "FORMAT_VERSION",
    "LANDMARKS_FILE",
    "MANIFEST_FILE",
    "RUNNER_FILE",
    "TRUNK_FILE",
    "adapter_file",
    "adapter_record",
    "is_export",
    "preprocessing_record",
]

FORMAT = "ciao_peft.onnx"
"""What `format` is in a manifest of ours."""

FORMAT_VERSION = 1
"""The version of the folder's format."""

MANIFEST_FILE = "manifest.json"
"""The file that describes the others; it is written last."""

TRUNK_FILE = "trunk.onnx"
"""The file of the trunk; where adapters mask other convolutions, there is a `trunk-2.onnx`, and so on."""

RUNNER_FILE = "runner.py"
"""The file that runs the others."""


ALIGN_FILE = "align.py"
"""The file by which the runner aligns faces, where the encoder is fed aligned ones."""

LANDMARKS_FILE = "landmarks.npz"
"""The trees that find the landmarks for that."""


def adapter_file(name: str) -> str:
    """Where the file of an adapter lies in the folder.

    Example:
        >>> adapter_file("fer")
        'adapters/fer.onnx'
    """
    return f"adapters/{name}.onnx"


def is_export(folder: Path) -> bool:
    """Whether a folder holds an earlier export, which another one may replace.

    Example:
        >>> is_export(Path("."))
        False
    """
    try:
        return read_json(folder / MANIFEST_FILE).get("format") == FORMAT
    except (CIAOError, OSError):
        return False


def check_folder(folder: Path) -> None:
    """Refuses a place where something else than an earlier export is.

    Args:
        folder: Where an export is to be written.

    Raises:
        AdapterFileError: it is a file.
        ExportError: it is a folder with other things in it, beside an earlier export or without.

    Example:
        >>> check_folder(Path("no/such/folder"))
    """
    if folder.exists() and not folder.is_dir():
        raise AdapterFileError(f"'{folder}' is a file; give a folder to export into.")
    if folder.is_dir() and any(folder.iterdir()) and not is_export(folder):
        raise ExportError(
            f"'{folder}' is not empty and holds no earlier export. Give a new folder, such as '{folder / 'onnx'}': an "
            "export replaces its folder as a whole."
        )
    if folder.is_dir() and (others := list(islice(_others(folder), 3))):
        raise ExportError(
            f"'{folder}' holds more than the earlier export: {listed(others)}. An export replaces its folder as a "
            "whole; move them away, or give a new folder."
        )


def _others(folder: Path) -> Iterator[str]:
    """What is in an export's folder and not of the export."""
    if not any(folder.iterdir()):
        return
    files = read_json(folder / MANIFEST_FILE).get("files")
    own = {MANIFEST_FILE, RUNNER_FILE, ALIGN_FILE, *(files if isinstance(files, dict) else ())}
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if name.as_posix() not in own and "__pycache__" not in name.parts and (path.is_symlink() or not path.is_dir()):
            yield name.as_posix()


def adapter_record(config: CIAOConfig) -> dict[str, Any]:
    """What a manifest says of an adapter's answers, as plain data.

    Args:
        config: The adapter's.

    Example:
        >>> config = CIAOConfig(problem_type="regression", num_labels=2, id2label={0: "arousal", 1: "valence"})
        >>> adapter_record(config)
        {'problem_type': 'regression', 'labels': ['arousal', 'valence'], 'frames': None}
    """
    labels = [config.id2label[index] for index in range(config.num_labels)]
    return {"problem_type": config.problem_type, "labels": labels, "frames": config.frames}


def preprocessing_record(preprocessing: Preprocessing | None, input_size: tuple[int, int, int]) -> dict[str, Any]:
    """How pictures become pixel values: the settings, and each step in words that leave nothing open.

    Args:
        preprocessing: The model's, or None where that is unknown.
        input_size: `(C, H, W)` of the pixels.

    Returns:
        `settings`, which `Preprocessing.from_dict` takes, or None; `steps`, a list of sentences; and `down_first`, how
        this Pillow resizes: since version 13 it takes the rows first where far more of them go than columns.

    Example:
        >>> record = preprocessing_record(Preprocessing(size=(64, 48)), (3, 64, 48))
        >>> record["settings"]["size"], record["steps"][-1]
        ({'height': 64, 'width': 48}, 'Bring the channels to the front: float32, (batch, 3, 64, 48).')
    """
    channels, height, width = input_size
    front = f"Bring the channels to the front: float32, (batch, {channels}, {height}, {width})."
    if preprocessing is None:
        return {
            "settings": None,
            "down_first": False,
            "steps": ["Unknown: the backbone does not say how pictures are prepared.", front],
        }
    settings, down_first = preprocessing.to_dict(), _resizes_down_first()
    colour = "8-bit gray, L = (19595 R + 38470 G + 7471 B + 32768) >> 16" if channels == 1 else "8-bit RGB"
    steps = ["Turn the picture upright by its EXIF tag; lay transparent parts on white."]
    if (align := settings.get("align")) is not None:
        steps.append(
            f"Align the face: landmarks {align['landmarks']!r} of the picture as a whole, then a chip of "
            f"{align['size']} x {align['size']} with padding {align['padding']:g}, as `ciao align` and dlib's "
            f"get_face_chip make it; without landmarks: {align['missing']}. `align.py` has the steps."
        )
    steps.append(f"Convert it to {colour}.")
    target = (
        f"{height} x {width}" if preprocessing.crop_pct == 1 else f"({height} x {width}) / {preprocessing.crop_pct:g}"
    )
    ways = {
        "squash": f"Resize both sides to {target} (height x width, rounded down).",
        "center": f"Resize it, its ratio kept, so that it just covers {target}.",
        "border": f"Resize it, its ratio kept, so that it just fits into {target}.",
    }
    steps.append(
        f"{ways[preprocessing.crop_mode]} Pillow's filter {preprocessing.resample!r}: across, then down, each pass "
        "rounded to 8 bits; down first where "
        + ("more than twice as many rows as columns go." if down_first else "more than 100 times as high as wide.")
    )
    steps.append(
        f"Cut out the middle {height} x {width}; where the picture is smaller, fill up with the mean, in 8 bits."
    )
    if preprocessing.mode == "BGR":
        steps.append("Reverse the order of the channels: BGR.")
    mean, std = list(preprocessing.mean), list(preprocessing.std)
    steps.append(f"In float32, channel by channel: (pixel / 255 - mean) / std with mean {mean} and std {std}.")
    return {"settings": settings, "down_first": down_first, "steps": [*steps, front]}


def _resizes_down_first() -> bool:
    import PIL

    return int(PIL.__version__.partition(".")[0]) >= 13
