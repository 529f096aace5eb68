#!/usr/bin/env python3
"""Reads faces with a trunk and adapters in ONNX files: needs numpy and onnxruntime, and Pillow for picture files.

python runner.py face.png                    # in the exported folder: all adapters
python runner.py face.png --adapter fer

runner = Runner("folder")                    # checks every file against its checksum
runner("face.png")                           # {"fer": {"happy": 0.9, ...}, ...}; the trunk runs once
runner.choose("fer")                         # from now on this adapter alone
runner.load("arousal"), runner.unload("fer")
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

__all__ = ["Runner"]

_FILE = re.compile(r"(adapters/)?\w[\w.-]*\.(onnx|npz)")
_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by Pillow's numbers
_MARK = "ciao_peft aligned "
_REACH = {"box": 0.5, "bilinear": 1.0, "hamming": 1.0, "bicubic": 2.0, "lanczos": 3.0}


class Runner:
    """One trunk and any number of adapters, which are swapped while it runs.

    Args:
        folder: What `model.export_onnx` wrote.
        adapters: Names of those to load at once; all when left out.
        threads: Of one call; as many as there are cores when left out.

    Attributes:
        manifest: What the folder says about itself.
        loaded: The sessions of loaded adapters, by name.

    Raises:
        ValueError: the folder is damaged, altered or no export, or an adapter is not in it.
    """

    manifest: dict[str, Any]
    loaded: dict[str, Any]

    def __init__(self, folder: Any, adapters: Any = None, threads: int = 0) -> None:
        self.folder = Path(folder)
        self.manifest = _checked_manifest(self.folder / "manifest.json")
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads, self._options.log_severity_level = threads, 3
        self._trunks: dict[str, Any] = {}
        self._chosen: list[str] | None = None
        self._aligner: Any = None
        self.loaded = {}
        for name in self.manifest["adapters"] if adapters is None else adapters:
            self.load(name)

    def load(self, name: str) -> None:
        """Loads an adapter, and its trunk if that is not loaded yet."""
        record = self._record(name)
        trunk, file = record["trunk"], record["file"]
        if trunk is not None and trunk not in self._trunks:
            self._trunks[trunk] = self._session(trunk, ["pixel_values"], [])
        given = ["pixel_values"] if trunk is None else [output.name for output in self._trunks[trunk].get_outputs()]
        session = self._session(file, given, ["logits"])
        last = next(output.shape[-1:] for output in session.get_outputs() if output.name == "logits")
        if last and isinstance(last[0], int) and last[0] != len(record["labels"]):
            raise ValueError(f"{file[:80]!r} answers {last[0]} values, and the manifest names {len(record['labels'])}.")
        self.loaded[name] = session

    def unload(self, name: str) -> None:
        """Frees an adapter; the trunk stays."""
        self._record(name)
        self.loaded.pop(name, None)
        self._chosen = self._chosen and [other for other in self._chosen if other != name]

    def choose(self, *names: str) -> None:
        """Reads with these adapters from now on, and loads those that are not loaded; with none given, all loaded."""
        for name in names:
            if name not in self.loaded:
                self.load(name)
        self._chosen = list(names) or None

    def __call__(self, pictures: Any, *, aligned: bool = False) -> Any:
        """Named answers: `{adapter: {label: probability}}`, likeliest first; for a list of pictures a list of these.

        Args:
            pictures: A path or an array `(H, W)` or `(H, W, 3)` of uint8, or a list of them; clips are lists of these.
            aligned: Says that the pictures are aligned faces already.
        """
        several = isinstance(pictures, (list, tuple))
        if several and pictures and self._frames():  # one clip is a list as well
            several = isinstance(pictures[0], (list, tuple))
        samples = list(pictures) if several else [pictures]
        if not samples:
            return []
        rows = [np.stack([self.prepare(p, aligned) for p in (s if self._frames() else [s])]) for s in samples]
        worlds = self.read(np.stack(rows) if self._frames() else np.concatenate(rows))
        answers = [{name: self._named(name, worlds[name], row) for name in worlds} for row in range(len(samples))]
        return answers if several else answers[0]

    def read(self, pixel_values: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
        """From pixel values `(B, C, H, W)`, float32, to `logits`, `probabilities` and `embeddings` by adapter.

        Of clips `(B, frames, C, H, W)`. Where values are regressed, `logits` are the values.
        """
        frames, shape = self._frames(), tuple(self.manifest["input"]["shape"][1:])
        pixels = np.asarray(pixel_values, np.float32)
        expected = (frames, *shape) if frames else shape
        if pixels.shape[1:] != expected or not len(pixels):
            raise ValueError(f"Pixel values must be (batch, {str(expected)[1:-1]}); got {pixels.shape}.")
        if not np.isfinite(pixels).all():
            raise ValueError("Pixel values hold NaN or infinite values.")
        features: dict[str, dict[str, np.ndarray]] = {}
        results = {}
        for name in self._names():
            record, session = self.manifest["adapters"][name], self.loaded[name]
            trunk, given = record["trunk"], {"pixel_values": pixels}
            if trunk is not None and trunk not in features:
                flat = pixels.reshape(-1, *shape)
                outputs = [output.name for output in self._trunks[trunk].get_outputs()]
                values = self._trunks[trunk].run(outputs, {"pixel_values": flat})
                features[trunk] = {
                    key: v.reshape(-1, frames, *v.shape[1:]) if frames else v
                    for key, v in zip(outputs, values, strict=True)
                }
            given = features[trunk] if trunk is not None else given
            outputs = [output.name for output in session.get_outputs()]
            answers = session.run(outputs, {i.name: given[i.name] for i in session.get_inputs()})
            results[name] = dict(zip(outputs, answers, strict=True))
        return results

    def prepare(self, picture: Any, aligned: bool = False) -> np.ndarray:
        """The pixel values `(C, H, W)` of one picture, to the bit those of `ciao_peft.Preprocessing`."""
        settings = self.manifest["preprocessing"]["settings"]
        if settings is None:
            raise ValueError("The manifest does not say how pictures are prepared; give pixel values to `read`.")
        pixels, mark = _pixels_of(picture)
        if (mark is not None or settings.get("align")) and not aligned:
            pixels = self._aligned(pixels, mark, settings.get("align"))
        gray, size = settings["mode"] == "L", (settings["size"]["height"], settings["size"]["width"])
        pixels = _cropped(_in_mode(pixels, gray), size, settings, self.manifest["preprocessing"]["down_first"])
        pixels = pixels[:, :, ::-1] if settings["mode"] == "BGR" else pixels
        values = np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32)
        mean, std = (np.array(settings[key], np.float32)[:, None, None] for key in ("image_mean", "image_std"))
        return (values / np.float32(255) - mean) / std

    def _aligned(self, pixels: np.ndarray, mark: str | None, align: dict[str, Any] | None) -> np.ndarray:
        """The face as the encoder must see it; a copy that `ciao align` wrote says how it was aligned."""
        asked = (
            None if align is None else json.dumps({k: v for k, v in align.items() if k != "missing"}, sort_keys=True)
        )
        if mark is not None:
            if mark != asked:
                raise ValueError(f"The picture was aligned in another way: {mark[:200]} there, {asked} here.")
            return pixels
        if align is None or align["landmarks"] != "five-points":
            raise ValueError("These faces are aligned by landmarks of your own: align them, and pass `aligned=True`.")
        if self._aligner is None:
            spec = importlib.util.spec_from_file_location("align", Path(__file__).with_name("align.py"))
            if spec is None or spec.loader is None:
                raise ValueError("`align.py` is missing: it belongs beside this file.")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            trees = self._content("landmarks.npz")
            self._aligner = module.Aligner(trees, align["size"], align["padding"], align["missing"])
        return self._aligner(np.ascontiguousarray(_in_mode(pixels, False)))

    def _names(self) -> list[str]:
        return list(self.loaded) if self._chosen is None else self._chosen

    def _frames(self) -> int | None:
        frames = {self._record(name)["frames"] for name in self._names()}
        if len(frames) != 1:
            text = "No adapter is loaded." if not frames else "Some adapters read clips, others pictures: `choose`."
            raise ValueError(text)
        return frames.pop()

    def _named(self, name: str, answers: dict[str, np.ndarray], row: int) -> dict[str, float]:
        values = answers.get("probabilities", answers["logits"])[row].tolist()
        named = dict(zip(self._record(name)["labels"], values, strict=True))
        if self._record(name)["problem_type"] == "regression":
            return named
        return dict(sorted(named.items(), key=lambda pair: -pair[1]))

    def _record(self, name: str) -> dict[str, Any]:
        known = self.manifest["adapters"]
        if name not in known:
            raise ValueError(f"No adapter {str(name)[:80]!r} in '{self.folder}'; there are: {', '.join(known)}.")
        return known[name]

    def _session(self, file: str, given: list[str], asked: list[str]) -> Any:
        content = self._content(file)
        try:
            session = onnxruntime.InferenceSession(content, self._options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own have no class in common
            raise ValueError(f"{file[:80]!r} cannot be run by onnxruntime: {str(error)[:200]}.") from None
        missing = [i.name for i in session.get_inputs() if i.name not in given]
        missing += [name for name in asked if name not in [output.name for output in session.get_outputs()]]
        if missing:
            raise ValueError(f"{file[:80]!r} does not fit to this folder: nothing gives {missing[0][:80]!r}.")
        return session

    def _content(self, file: str) -> bytes:
        expected = self.manifest["files"].get(file)
        if not _FILE.fullmatch(file) or expected is None:
            raise ValueError(f"The manifest names {file[:80]!r}, which is none of its files.")
        if not (self.folder / file).is_file():
            raise ValueError(f"'{self.folder / file}' is missing: copy it anew.")
        content = (self.folder / file).read_bytes()
        if hashlib.sha256(content).hexdigest() != expected:
            raise ValueError(f"'{self.folder / file}' has another checksum than the manifest says: copy it anew.")
        return content


def _checked_manifest(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"'{path}' is missing: give the folder that `model.export_onnx` wrote.")
    try:
        manifest = json.loads(path.read_bytes())
        said, files = manifest.pop("digest"), manifest["files"]
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise ValueError(f"'{path}' is no manifest of an export.") from None
    if manifest.get("format") != "ciao_peft.onnx" or manifest.get("format_version") != 1:
        raise ValueError(f"'{path}' has a format that this runner does not know; take the runner beside it.")
    covered = json.dumps([manifest, files], sort_keys=True, separators=(",", ":")).encode()
    if hashlib.sha256(covered).hexdigest() != said:
        raise ValueError(f"'{path}' was altered: its digest is another one. Export the model again.")
    manifest["files"] = files
    for keys, what, fits in _ENTRIES:
        _check(path, manifest, keys.split("."), what, fits)
    return manifest


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_side(value: Any) -> bool:
    return type(value) is int and 0 < value <= 2**14


def _are(kind: Any, value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(entry, kind) for entry in value)


# What is read of a manifest; `*` stands for each key, `?` for what may be null or left out.
_ENTRIES: list[tuple[str, str, Any]] = [
    ("files", "checksums by file", lambda v: isinstance(v, dict)),
    ("files.*", "a checksum", lambda v: isinstance(v, str)),
    ("input.shape", "batch, C, H, W", lambda v: isinstance(v, list) and len(v) == 4 and all(map(_is_side, v[1:]))),
    ("adapters", "adapters by name", lambda v: isinstance(v, dict) and len(v) > 0),
    ("adapters.*.file", "a file", lambda v: isinstance(v, str)),
    ("adapters.*.trunk", "a file or null", lambda v: v is None or isinstance(v, str)),
    ("adapters.*.frames", "a count or null", lambda v: v is None or _is_side(v)),
    ("adapters.*.labels", "a list of names", lambda v: _are(str, v)),
    ("adapters.*.problem_type", "a problem", lambda v: isinstance(v, str)),
    ("preprocessing.down_first", "true or false", lambda v: isinstance(v, bool)),
    ("preprocessing.settings", "settings or null", lambda v: v is None or isinstance(v, dict)),
    ("preprocessing.settings?.mode", "RGB, BGR or L", lambda v: v in ("RGB", "BGR", "L")),
    ("preprocessing.settings?.size.height", "pixels", _is_side),
    ("preprocessing.settings?.size.width", "pixels", _is_side),
    ("preprocessing.settings?.crop_mode", "squash, center or border", lambda v: v in ("squash", "center", "border")),
    ("preprocessing.settings?.crop_pct", "a share", lambda v: _is_number(v) and v > 0),
    ("preprocessing.settings?.resample", "a filter's number", lambda v: type(v) is int and 0 <= v < len(_FILTERS)),
    ("preprocessing.settings?.image_mean", "numbers", lambda v: _are((int, float), v) and all(map(_is_number, v))),
    ("preprocessing.settings?.image_std", "numbers", lambda v: _are((int, float), v) and all(map(_is_number, v))),
    ("preprocessing.settings?.align?.landmarks", "a name", lambda v: isinstance(v, str)),
    ("preprocessing.settings?.align?.size", "pixels", _is_side),
    ("preprocessing.settings?.align?.padding", "a number", lambda v: _is_number(v) and 0 <= v <= 100),
    ("preprocessing.settings?.align?.missing", "what to do", lambda v: isinstance(v, str)),
]


def _check(path: Path, values: Any, keys: list[str], what: str, fits: Any, place: str = "") -> None:
    """Refuses a manifest in which an entry is missing, or is something else than what is read."""
    if not keys:
        if not fits(values):
            shown = f"'{path}' has {str(values)[:80]!r} for {place[:80]!r}, not {what}"
            raise ValueError(f"{shown}. Export the model again.")
        return
    key, rest = keys[0].rstrip("?"), keys[1:]
    for name in values if keys[0] == "*" and isinstance(values, dict) else [key]:
        inside = f"{place}.{name}" if place else name
        if not isinstance(values, dict) or (name not in values and key == keys[0]):
            raise ValueError(f"'{path}' lacks {inside[:80]!r}, {what}. Export the model again.")
        if key == keys[0] or values.get(name) is not None:
            _check(path, values[name], rest, what, fits, inside)


def _pixels_of(picture: Any) -> tuple[np.ndarray, str | None]:
    """`(H, W, 1)` or `(H, W, 3)` of uint8, and how a file says it was aligned; Pillow opens files."""
    mark = None
    if isinstance(picture, (str, Path)):
        try:
            from PIL import Image, ImageOps
        except ImportError:
            raise ValueError("Picture files need Pillow: `pip install pillow`, or give arrays.") from None
        with Image.open(picture) as file:
            opened = ImageOps.exif_transpose(file)
        said = str(opened.getexif().get(0x010E, ""))
        mark = said[len(_MARK) :] if said.startswith(_MARK) else None
        if opened.mode in ("F", "I") or opened.mode.startswith("I;"):
            raise ValueError(f"'{picture}' has {opened.mode} pixels; convert it to 8 bits first.")
        if "transparency" in opened.info or opened.mode in ("LA", "RGBA", "PA", "La", "RGBa"):
            opened = opened.convert("RGBA")
            opened = Image.alpha_composite(Image.new("RGBA", opened.size, "white"), opened)
        picture = np.asarray(opened if opened.mode == "L" else opened.convert("RGB"))
    pixels = np.asarray(picture)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise ValueError(f"A picture is (H, W) or (H, W, 3) of uint8; got {pixels.shape} of {pixels.dtype}.")
    return pixels, mark


def _in_mode(pixels: np.ndarray, gray: bool) -> np.ndarray:
    if gray and pixels.shape[2] == 3:
        red, green, blue = (pixels[:, :, k].astype(np.int64) for k in range(3))
        return ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).astype(np.uint8)[:, :, None]
    return pixels if gray else np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def _cropped(pixels: np.ndarray, size: tuple[int, int], settings: dict[str, Any], down_first: bool) -> np.ndarray:
    """The picture resized, and its middle; what is missing around it has the colour of the mean."""
    (height, width), share = pixels.shape[:2], settings["crop_pct"]
    if max(height, width) > 2000 * min(height, width) or height * width > 64 * 10**6:
        raise ValueError(f"A picture of {width} x {height} pixels is too long or too large; cut the face out first.")
    target = [max(1, math.floor(side / share)) for side in size]
    if settings["crop_mode"] == "squash":
        resized = target
    elif settings["crop_mode"] == "center" and target[0] == target[1]:
        short = min(height, width)
        resized = [target[0] if side == short else int(target[0] * side / short) for side in (height, width)]
    else:
        ratio = (min if settings["crop_mode"] == "center" else max)(height / target[0], width / target[1])
        resized = [max(1, round(side / ratio)) for side in (height, width)]
    boxes: list[tuple[float, float]] = [(0, height), (0, width)]
    most = max(height * width, size[0] * size[1])
    if resized[0] * resized[1] > max(4 * most, min(16 * most, 2**24)):  # what is cut off is not made first
        for axis, side in enumerate((height, width)):
            if resized[axis] > size[axis]:
                start, scale = round((resized[axis] - size[axis]) / 2), side / resized[axis]
                boxes[axis] = (start * scale, min((start + size[axis]) * scale, side))
                resized[axis] = size[axis]
    kind = _FILTERS[settings["resample"]]
    # As Pillow: across first, but for pictures like a rope; from version 13 on, where far more rows than columns go.
    rows_gone, columns_gone = height - resized[0], width - resized[1]
    down_first = rows_gone > max(0, 2 * columns_gone) if down_first else height > 100 * width and rows_gone > 0
    for axis in (0, 1) if down_first else (1, 0):
        pixels = _resized(pixels, axis, resized[axis], kind, *boxes[axis])
    if tuple(resized) == tuple(size):
        return pixels
    fill = [min(255, max(0, round(255 * value))) for value in settings["image_mean"]]
    canvas = np.empty((*size, pixels.shape[2]), np.uint8)
    canvas[:] = fill[::-1] if settings["mode"] == "BGR" else fill
    ends = []
    for side, whole in zip(size, resized, strict=True):
        start = round((whole - side) / 2)
        ends.append((slice(max(0, -start), min(side, whole - start)), slice(max(0, start), min(whole, start + side))))
    canvas[ends[0][0], ends[1][0]] = pixels[ends[0][1], ends[1][1]]
    return canvas


def _resized(pixels: np.ndarray, axis: int, size: int, kind: str, start: float, end: float) -> np.ndarray:
    """One side of `(H, W, C)`, from start to end, resized as Pillow does it: in whole numbers of 2^-22."""
    length, first, last = pixels.shape[axis], np.float32(start), np.float32(end)
    if size == length and (start, end) == (0, length):
        return pixels
    scale = float(last - first) / size
    if kind == "nearest":
        places = np.cumsum(np.r_[float(first) + scale * 0.5, np.full(size - 1, scale)])
        return pixels.take(np.minimum(places.astype(np.int64), length - 1), axis=axis)
    wide = max(scale, 1.0)
    reach, centers = _REACH[kind] * wide, float(first) + (np.arange(size) + 0.5) * scale
    low = np.maximum(np.trunc(centers - reach + 0.5), 0)[:, None]
    high = np.minimum(np.trunc(centers + reach + 0.5), length)[:, None]
    place = np.arange(length)
    weights = np.where((place >= low) & (place < high), _weight(kind, (place - centers[:, None] + 0.5) / wide), 0.0)
    weights /= np.cumsum(weights, axis=1)[:, -1:]  # added one after the other
    whole = np.trunc(weights * 2.0**22 + np.where(weights < 0, -0.5, 0.5))
    moved = np.moveaxis(pixels, axis, 0)
    sums = whole @ moved.reshape(length, -1).astype(np.float64)  # whole numbers below 2^53: exact
    result = np.clip(np.floor((sums + 2.0**21) / 2.0**22), 0, 255).astype(np.uint8)
    return np.moveaxis(result.reshape(size, *moved.shape[1:]), 0, axis)


def _weight(kind: str, x: np.ndarray) -> np.ndarray:
    a = np.abs(x)
    if kind == "box":
        return ((x > -0.5) & (x <= 0.5)).astype(np.float64)
    if kind == "bilinear":
        return np.maximum(1.0 - a, 0.0)
    if kind == "bicubic":
        near, far = ((1.5 * a - 2.5) * a) * a + 1.0, (((a - 5.0) * a + 8.0) * a - 4.0) * -0.5
        return np.where(a < 1, near, np.where(a < 2, far, 0.0))
    result, within = np.zeros_like(x), a < _REACH[kind]
    result[within] = [(_hamming if kind == "hamming" else _lanczos)(value) for value in x[within].tolist()]
    return result


# With the sine of C, as Pillow: NumPy's own may differ in its last bit.
def _hamming(x: float) -> float:
    return _sinc(abs(x)) * (0.54 + 0.46 * math.cos(abs(x) * math.pi))


def _lanczos(x: float) -> float:
    return _sinc(x) * _sinc(x / 3)


def _sinc(x: float) -> float:
    return 1.0 if x == 0 else math.sin(x * math.pi) / (x * math.pi)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Reads a picture of a face with exported adapters.")
    parser.add_argument("picture")
    parser.add_argument("--adapter", action="append", help="name of an adapter; again for more; all when left out")
    parser.add_argument("--folder", default=Path(__file__).parent, help="the exported folder; that of this file")
    parser.add_argument("--aligned", action="store_true", help="the picture is an aligned face already")
    given = parser.parse_args()
    try:
        print(json.dumps(Runner(given.folder, given.adapter)(given.picture, aligned=given.aligned), indent=2))
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
