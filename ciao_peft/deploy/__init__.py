"""A model as a folder of ONNX files that runs with numpy and onnxruntime alone.

`runner.py` of this room is a program by itself, which every exported folder has a copy of.
"""

from __future__ import annotations

from .export import export_onnx
from .manifest import MANIFEST_FILE, RUNNER_FILE, TRUNK_FILE
from .onnx_files import OPSETS

__all__ = ["MANIFEST_FILE", "OPSETS", "RUNNER_FILE", "TRUNK_FILE", "export_onnx"]
