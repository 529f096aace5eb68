"""Modules as ONNX files with a batch of any size, and the comparison of a file with its module."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import ExportError, MissingExtraError, quoted, shortened

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime

__all__ = ["OPSETS", "TOLERANCE", "answers_of", "check_alike", "check_installed", "open_session", "write_onnx"]

OPSETS = (18, 23)
"""The lowest and the highest opset of ONNX that is written."""

TOLERANCE = 1e-5
"""How far a number of a file may be from the module's, in parts of the largest of its tensor, or of 1."""

_BATCH = "batch"
_MOST_BYTES = 2**31 - 2**20  # of a message of protobuf


def check_installed() -> None:
    """Refuses where a package that exporting needs is missing.

    Raises:
        MissingExtraError: it names the extra.

    Example:
        >>> check_installed()
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(package)
        except ImportError as error:
            raise MissingExtraError(package, "An export to ONNX", "onnx") from error


@contextlib.contextmanager
def quietly(*names: str) -> Iterator[None]:
    """A `with` block in which the exporters' remarks on their own insides are not shown.

    Args:
        names: Of loggers that keep silent, beside those of the exporters.
    """
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", *names)]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


def write_onnx(
    module: nn.Module, example: Sequence[Tensor], path: Path, inputs: Sequence[str], outputs: Sequence[str], opset: int
) -> list[str]:
    """Writes a module as one ONNX file that takes a batch of any size.

    Args:
        module: In float32 on the CPU; from tensors to a tuple of tensors.
        example: What it is called with once, two rows or more of each.
        path: The file.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        opset: Of ONNX.

    Returns:
        Names of the inputs that the file takes: those that count.

    Raises:
        ExportError: `torch.export` cannot follow the module, or the file would be larger than ONNX allows.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "relu.onnx")
        >>> write_onnx(Tupled(nn.ReLU()), [torch.rand(2, 3)], path, ["x"], ["y"], opset=18)
        ['x']
        >>> answers_of(open_session(path), {"x": -torch.ones(5, 3)})["y"].shape
        (5, 3)
    """
    import onnx

    if sum(t.numel() * t.element_size() for t in module.state_dict().values()) > _MOST_BYTES:
        raise ExportError(f"{path.name} would be larger than 2 GB, the most that one ONNX file holds.")
    batch = torch.export.Dim(_BATCH)
    rows = tuple({0: batch} for _ in example)
    takes_any = type(module).forward.__code__.co_flags & 4  # *args
    try:
        with torch.no_grad(), quietly():
            program = torch.export.export(
                module, tuple(example), dynamic_shapes=(rows,) if takes_any else rows, strict=False
            )
            converted = torch.onnx.export(
                program,
                (),
                dynamo=True,
                opset_version=opset,
                input_names=list(inputs),
                output_names=list(outputs),
                external_data=False,
                verbose=False,
            )
        assert converted is not None
        model = converted.model_proto
    except Exception as error:  # each layer below has errors of its own
        said = shortened(" ".join(str(error).split()), 300)
        raise ExportError(f"{path.name} cannot be written as ONNX: {type(error).__name__}: {said}") from error
    initial = {tensor.name for tensor in model.graph.initializer}
    taken = [value for value in model.graph.input if value.name not in initial]
    # torch 2.8 gives one tensor under two names the last of them
    named = dict(zip([v.name for v in [*taken, *model.graph.output]], [*inputs, *outputs], strict=True))
    for value in [*taken, *model.graph.output]:
        value.name = named[value.name]
    for node in model.graph.node:
        node.input[:] = [named.get(name, name) for name in node.input]
        node.output[:] = [named.get(name, name) for name in node.output]
    read = {name for node in model.graph.node for name in node.input}
    kept = [value for value in taken if value.name in read]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    del model.graph.value_info[:]
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = _BATCH
    model.doc_string, model.producer_name = "", "ciao_peft"
    for node in model.graph.node:  # where in the code each came from
        node.doc_string = ""
        del node.metadata_props[:]
    onnx.save(model, path)
    return [value.name for value in kept]


class Tupled(nn.Module):
    """A module whose answer comes in a tuple.

    Args:
        module: From a tensor to a tensor.

    Shapes:
        As the module has them.

    Example:
        >>> Tupled(nn.ReLU())(-torch.ones(1))
        (tensor([0.]),)
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.module(x),)


def open_session(path: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """Opens an ONNX file in ONNX Runtime, on the CPU.

    Args:
        path: The file.
        threads: That one call uses.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def answers_of(session: onnxruntime.InferenceSession, inputs: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """What a file answers, by name; of what is given, it takes what it knows.

    Args:
        session: The open file.
        inputs: By name.
    """
    import numpy as np

    known = {value.name for value in session.get_inputs()}
    given = {name: tensor.detach().numpy() for name, tensor in inputs.items() if name in known}
    names = [value.name for value in session.get_outputs()]
    return {name: np.asarray(answer) for name, answer in zip(names, session.run(names, given), strict=True)}


def check_alike(path: Path, module: nn.Module, batches: Sequence[dict[str, Tensor]], outputs: Sequence[str]) -> float:
    """Compares what a file answers with what its module answers.

    Args:
        path: The file.
        module: Called with the tensors of each batch.
        batches: Inputs by name, of several batch sizes.
        outputs: Names of what the module returns.

    Returns:
        The largest difference, in parts of the largest number of its tensor, or of 1.

    Raises:
        ExportError: it is above `TOLERANCE`, or the file cannot be run.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "relu.onnx")
        >>> _ = write_onnx(Tupled(nn.ReLU()), [torch.rand(2, 3)], path, ["x"], ["y"], opset=18)
        >>> check_alike(path, Tupled(nn.ReLU()), [{"x": -torch.ones(5, 3)}], ["y"])
        0.0
    """
    worst = 0.0
    try:
        session = open_session(path)
        for batch in batches:
            answers = answers_of(session, batch)
            with torch.no_grad():
                expected = module(*batch.values())
            for name, tensor in zip(outputs, expected, strict=True):
                got = torch.from_numpy(answers[name])
                if got.shape != tensor.shape:
                    raise ExportError(f"{path.name} gives {name} of {tuple(got.shape)}, not {tuple(tensor.shape)}.")
                largest = max(1.0, float(tensor.abs().max()))
                worst = max(worst, float((got - tensor).abs().max()) / largest)
    except ExportError:
        raise
    except Exception as error:  # ONNX Runtime has many kinds
        raise ExportError(f"{path.name} cannot be run by ONNX Runtime: {quoted(str(error), 300)}") from error
    if not worst <= TOLERANCE:
        raise ExportError(
            f"{path.name} would not compute what the model does: it is off by {worst:.1e} where {TOLERANCE:g} is "
            "allowed. Its network has a layer that ONNX Runtime computes differently; nothing was written."
        )
    return worst


def plain_shapes(session: Any) -> dict[str, list[int | str]]:
    """Shapes of what a file takes, by name; `"batch"` for any number of rows."""
    return {value.name: list(value.shape) for value in session.get_inputs()}
