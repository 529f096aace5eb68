"""Writes a model as a folder that runs without torch: the trunk once, each adapter by itself, and what runs them."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from .._version import __version__
from ..adapters import Adapter
from ..backbone import CutBackbone, FrozenBackbone, backbone_name, backbone_revision
from ..checking import check_choice, check_number
from ..errors import AdapterFileError, AdapterNameError, ConfigError, ExportError, listed
from ..preprocessing import Preprocessing
from ..preprocessing.landmarks import landmark_trees
from ..saving import local_path, move_into_place, refusals_told
from ..saving.digest import sha256_of, with_digest
from ..surroundings import outside_inference
from .graphs import AdapterGraph, Part, TrunkGraph, WholeGraph, example_rows, in_float32, parts_of
from .int8 import calibration_pixels, quantized
from .manifest import (
    ALIGN_FILE,
    FORMAT,
    FORMAT_VERSION,
    LANDMARKS_FILE,
    MANIFEST_FILE,
    RUNNER_FILE,
    TRUNK_FILE,
    adapter_file,
    adapter_record,
    check_folder,
    preprocessing_record,
)
from .onnx_files import OPSETS, answers_of, check_alike, check_installed, open_session, write_onnx

__all__ = ["export_onnx"]

_EXAMPLE_ROWS, _CHECKED_ROWS = 2, (1, 3)


def export_onnx(
    folder: str | os.PathLike[str],
    adapters: Mapping[str, Adapter],
    frozen: FrozenBackbone,
    preprocessing: Preprocessing | None,
    *,
    opset: int = OPSETS[0],
    quantize: str | None = None,
    calibration: Any = None,
) -> Path:
    """Exports adapters and the trunk that they share: the body of `CIAOModel.export_onnx`.

    Args:
        folder: Where; made, or replaced as a whole where an earlier export is.
        adapters: Those to export, by name.
        frozen: The backbone that they sit on.
        preprocessing: What it must be fed, or None where that is unknown.
        opset: Of ONNX, 18 to 23.
        quantize: `"int8"` for a trunk of 8 bits; adapters stay float32.
        calibration: For that, a list of pictures or pixel values `(N, C, H, W)`.

    Returns:
        The folder.

    Raises:
        ConfigError: a setting that cannot work.
        AdapterNameError: two names differ in capitals alone, which some disks take for one.
        AdapterFileError: the folder cannot be written.
        ExportError: something else is in the folder, or a part cannot be written as ONNX.
        MissingExtraError: a package of the extra `onnx` is missing.

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> from ciao_peft import CIAOConfig
        >>> frozen = FrozenBackbone(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), (3, 16, 16))
        >>> adapter = Adapter(CIAOConfig(problem_type="regression", num_labels=2), frozen.open())
        >>> folder = export_onnx(tempfile.mkdtemp() + "/onnx", {"arousal": adapter}, frozen, None)
        >>> sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))
        ['adapters/arousal.onnx', 'manifest.json', 'runner.py', 'trunk.onnx']
    """
    target = local_path(folder)
    _check_settings(adapters, opset, quantize, calibration)
    check_folder(target)
    check_installed()
    with outside_inference():
        pixels = None if quantize is None else calibration_pixels(calibration, preprocessing, frozen.input_size)
        whole_numbers = in_float32(frozen)
        exporting = _Exporting(whole_numbers, parts_of(dict(adapters), whole_numbers), opset)
    with refusals_told(AdapterFileError, target, "Make room, or give another folder; what was there is unchanged."):
        target = target.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        try:
            (aside / "adapters").mkdir(parents=True)
            with outside_inference(), torch.no_grad():
                exporting.write(aside, pixels)
            shutil.copyfile(Path(__file__).with_name(RUNNER_FILE), aside / RUNNER_FILE)
            if preprocessing is not None and preprocessing.align is not None:
                exporting.add_alignment(aside)
            exporting.describe(aside, frozen, preprocessing)
            move_into_place(aside, target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return local_path(folder)


def _check_settings(adapters: Mapping[str, Adapter], opset: int, quantize: str | None, calibration: Any) -> None:
    check_number("opset", opset, int, *OPSETS)
    check_choice("quantize", quantize, (None, "int8"))
    if quantize is None and calibration is not None:
        raise ConfigError("`calibration` is for `quantize='int8'`; give both, or neither.")
    if not adapters:
        raise ConfigError("There is no adapter to export; name one of the model's in `adapter_names`.")
    folded = [name.casefold() for name in adapters]
    if len(set(folded)) < len(folded):
        twice = [name for name in adapters if folded.count(name.casefold()) > 1]
        raise AdapterNameError(
            f"{listed(twice)} differ in capitals alone, and some disks keep one file for both. Export them into "
            "folders of their own, with `adapter_names`."
        )


class _Exporting:
    """One export on its way: which trunk each adapter reads, and what was written so far."""

    def __init__(self, frozen: FrozenBackbone, parts: Mapping[str, Part], opset: int) -> None:
        self.parts, self.opset, self.input_size = parts, opset, frozen.input_size
        self.files: dict[str, str] = {}
        self.inputs: dict[str, list[str]] = {}
        self.quantization: dict[str, Any] | None = None
        self.worst = 0.0
        groups: dict[tuple[str, ...], list[str]] = {}
        for name, part in parts.items():
            if part.is_split:
                groups.setdefault(part.opened.targets, []).append(name)
        self.trunks: dict[str, TrunkGraph] = {}
        self.trunk_of: dict[str, str] = {}
        for index, names in enumerate(groups.values()):
            file = TRUNK_FILE if index == 0 else f"trunk-{index + 1}.onnx"
            needs_u = any(not len(parts[name].adapter.excitation) for name in names)
            depths = dict.fromkeys(depth for name in names for depth in parts[name].adapter.depths)
            self.trunks[file] = TrunkGraph(cast(CutBackbone, parts[names[0]].opened), needs_u, tuple(depths))
            self.trunk_of |= dict.fromkeys(names, file)

    def write(self, folder: Path, pixels: Tensor | None) -> None:
        """Writes and checks all ONNX files; with pixels, the trunks are quantised on them."""
        example, *checked = [
            example_rows([self.input_size], rows, None, rows)[0] for rows in (_EXAMPLE_ROWS, *_CHECKED_ROWS)
        ]
        for file, graph in self.trunks.items():
            write_onnx(graph, [example], folder / file, ["pixel_values"], graph.names, self.opset)
            batches = [{"pixel_values": rows} for rows in checked]
            self._note(check_alike(folder / file, graph, batches, graph.names))
        for name, part in self.parts.items():
            self._write_adapter(folder, name, part)
        if pixels is not None and self.trunks:
            before = self._answers(folder, pixels)
            for file in self.trunks:
                quantized(folder / file, pixels)
            self.quantization = {
                "kind": "int8",
                "files": [*self.trunks],
                "calibration_pictures": len(pixels),
                "on_them": _compared(before, self._answers(folder, pixels), self.parts),
            }
        for path in folder.rglob("*.onnx"):
            self.files[path.relative_to(folder).as_posix()] = sha256_of(path.read_bytes())

    def _write_adapter(self, folder: Path, name: str, part: Part) -> None:
        file, frames = adapter_file(name), part.adapter.config.frames
        outputs = ["logits", "embeddings"] + ["probabilities"] * (part.adapter.config.problem_type != "regression")
        batches: list[dict[str, Tensor]] = []
        for rows in (_EXAMPLE_ROWS, *_CHECKED_ROWS):
            pixels = example_rows([self.input_size], rows, frames, rows)[0]
            if part.is_split:
                graph = self.trunks[self.trunk_of[name]]
                features = graph(pixels if frames is None else pixels.flatten(0, 1))
                split = [f if frames is None else f.unflatten(0, (-1, frames)) for f in features]
                batches.append(dict(zip(graph.names, split, strict=True)))
            else:
                batches.append({"pixel_values": pixels})
        depths = self.trunks[self.trunk_of[name]].depths if part.is_split else ()
        module = AdapterGraph(part, depths) if part.is_split else WholeGraph(part)
        example = batches.pop(0)
        try:
            given = write_onnx(module, list(example.values()), folder / file, [*example], outputs, self.opset)
            self._note(check_alike(folder / file, module, batches, outputs))
        except ExportError as error:
            if part.is_split or part.adapter.encoder is not None:
                raise
            raise ExportError(
                f"The adapter {name!r} cannot be exported: its backbone cannot be cut, so that it would be written as "
                f"a whole, and that failed. {error}"
            ) from error
        self.inputs[name] = given

    def add_alignment(self, folder: Path) -> None:
        """Writes what aligns faces: the program, and the trees that find landmarks."""
        import numpy as np

        shutil.copyfile(Path(__file__).with_name(ALIGN_FILE), folder / ALIGN_FILE)
        trees: dict[str, Any] = landmark_trees()
        np.savez(folder / LANDMARKS_FILE, **trees)
        self.files[LANDMARKS_FILE] = sha256_of((folder / LANDMARKS_FILE).read_bytes())

    def _note(self, difference: float) -> None:
        self.worst = max(self.worst, difference)

    def _answers(self, folder: Path, pixels: Tensor) -> dict[str, Tensor]:
        """Logits of adapters for pictures, by name, from the files; of those that read clips none."""
        answers: dict[str, Tensor] = {}
        for file in self.trunks:
            trunk = open_session(folder / file)
            names = [n for n, own in self.trunk_of.items() if own == file and not self.parts[n].adapter.config.frames]
            sessions = {name: open_session(folder / adapter_file(name)) for name in names}
            rows: dict[str, list[Tensor]] = {name: [] for name in names}
            for some in pixels.split(8):
                features = {k: torch.from_numpy(v) for k, v in answers_of(trunk, {"pixel_values": some}).items()}
                for name, session in sessions.items():
                    rows[name].append(torch.from_numpy(answers_of(session, features)["logits"]))
            answers |= {name: torch.cat(parts) for name, parts in rows.items()}
        return answers

    def describe(self, folder: Path, frozen: FrozenBackbone, preprocessing: Preprocessing | None) -> None:
        """Writes the manifest, with a digest over all of it and the files."""
        import onnx
        import onnxruntime

        records = {
            name: {
                **adapter_record(part.adapter.config),
                "file": adapter_file(name),
                "trunk": self.trunk_of.get(name),
                "inputs": self.inputs[name],
            }
            for name, part in self.parts.items()
        }
        record = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "opset": self.opset,
            "backbone": {"name": backbone_name(frozen.backbone), "revision": backbone_revision(frozen.backbone)},
            "input": {"name": "pixel_values", "dtype": "float32", "shape": ["batch", *self.input_size]},
            "preprocessing": preprocessing_record(preprocessing, self.input_size),
            "adapters": records,
            "largest_difference": float(f"{self.worst:.2g}"),
            "quantization": self.quantization,
            "versions": {
                "ciao_peft": __version__,
                "torch": str(torch.__version__),
                "onnx": onnx.__version__,
                "onnxruntime": onnxruntime.__version__,
            },
            "files": self.files,
        }
        (folder / MANIFEST_FILE).write_bytes(with_digest(record, self.files))


def _compared(before: Mapping[str, Tensor], after: Mapping[str, Tensor], parts: Mapping[str, Part]) -> dict[str, Any]:
    """For each adapter the share of pictures whose answer stays, or how far values move."""
    compared: dict[str, Any] = {}
    for name, logits in before.items():
        other, kind = after[name], parts[name].adapter.config.problem_type
        moved = {"mean_difference": float(f"{float((other - logits).abs().mean()):.3g}")}
        if kind == "single_label_classification":
            moved["same_class"] = round(float((logits.argmax(1) == other.argmax(1)).float().mean()), 4)
        elif kind == "multi_label_classification":
            moved["same_labels"] = round(float(((logits > 0) == (other > 0)).float().mean()), 4)
        compared[name] = moved
    return compared
