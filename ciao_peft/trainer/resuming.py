"""Checkpoints: an adapter's folder with the optimiser's state and the place in training beside it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from ..checkpoints import check_tensors, load_adapter
from ..errors import TrainingError, listed
from ..model import CIAOModel

STATE_FILE = "trainer_state.json"
OPTIMIZER_FILE = "optimizer.safetensors"
FORMAT_VERSION = 1
_FOLDER = re.compile(r"checkpoint-(\d+)")


def checkpoint_folders(output_dir: Path) -> list[Path]:
    """Complete checkpoints in a folder, oldest first."""
    found = []
    for entry in output_dir.iterdir() if output_dir.is_dir() else ():
        if (match := _FOLDER.fullmatch(entry.name)) and (entry / STATE_FILE).is_file():
            found.append((int(match[1]), entry))
    return [entry for _, entry in sorted(found)]


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: dict[nn.Parameter, str]) -> dict[str, Tensor]:
    """The optimiser's state as named tensors, `<parameter>/<moment>`."""
    found = {}
    for parameter, state in optimizer.state.items():
        for moment, value in state.items():
            if value is not None:
                tensor = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
                found[f"{names[parameter]}/{moment}"] = tensor.detach().cpu().contiguous().clone()
    return found


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: dict[nn.Parameter, str], tensors: dict[str, Tensor], where: Path
) -> None:
    """Puts back what `optimizer_tensors` gave.

    Raises:
        TrainingError: it is the state of other parameters.
    """
    by_name = {name: parameter for parameter, name in names.items()}
    states: dict[nn.Parameter, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, moment = key.rpartition("/")
        if name not in by_name or (tensor.ndim and tensor.shape != by_name[name].shape):
            raise TrainingError(f"'{where}' holds the optimiser's state of {key!r}, which this adapter does not train.")
        parameter = by_name[name]
        # Counters of steps stay on the CPU, as torch keeps them, unless the optimiser is a fused one on a GPU.
        fused = any(group.get("fused") for group in optimizer.param_groups)
        device = parameter.device if tensor.ndim or fused else tensor.device
        states.setdefault(parameter, {})[moment] = tensor.to(device)
    optimizer.state.clear()
    optimizer.state.update(states)


def save_checkpoint(
    folder: Path, model: CIAOModel, adapter_name: str, optimizer: dict[str, Tensor], state: dict[str, Any]
) -> None:
    """Writes a checkpoint aside and moves it into place: there is a whole one or none.

    Args:
        folder: `checkpoint-<step>`; replaced if it is there.
        model: Its adapter is saved as `save_pretrained` does, so a checkpoint can be loaded as an adapter.
        adapter_name: Which.
        optimizer: What `optimizer_tensors` gave.
        state: Plain data.
    """
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside, adapter_name, training={"global_step": state["global_step"]})
    content = save(optimizer)
    files = {OPTIMIZER_FILE: hashlib.sha256(content).hexdigest()}
    _write(aside / OPTIMIZER_FILE, content)
    # Last, and only with everything else on the disk: its presence marks the checkpoint as complete.
    record = {"format_version": FORMAT_VERSION, **state, "files": files}
    _write(aside / STATE_FILE, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        aside.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        aside.rename(folder)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def load_checkpoint(
    folder: Path, model: CIAOModel, adapter_name: str, record: dict[str, Any], total_steps: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Puts a checkpoint's adapter into the model, and returns its state and the optimiser's tensors.

    Nothing in it is unpickled.

    Args:
        folder: `checkpoint-<step>`.
        model: Takes the adapter.
        adapter_name: Under which name.
        record: What the training that goes on is made of; must be what it was.
        total_steps: Updates it is to have.

    Raises:
        TrainingError: the folder is no complete checkpoint, of another format version, or of another training.
        AdapterFileError, AdapterConfigError: its adapter is damaged, or another one.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        there = listed(entry.name for entry in checkpoint_folders(folder)) if folder.is_dir() else "none"
        raise TrainingError(
            f"'{folder}' is no complete checkpoint: it has no '{STATE_FILE}'. Checkpoints in it: {there}."
        )
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        version, files = state["format_version"], state["files"]
        content = (folder / OPTIMIZER_FILE).read_bytes()
        if version != FORMAT_VERSION:
            raise TrainingError(f"'{path}' has format version {version!r}; this version reads {FORMAT_VERSION}.")
        if hashlib.sha256(content).hexdigest() != files[OPTIMIZER_FILE]:
            raise TrainingError(
                f"'{folder / OPTIMIZER_FILE}' does not have the checksum its state promises: it is damaged."
            )
        tensors = load(content)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        if isinstance(error, TrainingError):
            raise
        raise TrainingError(f"The checkpoint '{folder}' is damaged ({type(error).__name__}: {error}).") from error
    saved = load_adapter(folder)
    adapter = model.adapters[adapter_name]
    if saved.config != adapter.config:
        mine, theirs = adapter.config.to_dict(), saved.config.to_dict()
        raise TrainingError(
            f"The checkpoint '{folder}' is of an adapter with other settings: "
            f"{differences(theirs, mine)}. Resume with the same config, or start anew."
        )
    there, here = dict(state["record"]), dict(record)
    _check_same(there.pop("arguments"), here.pop("arguments"), folder)
    _check_same(there, here, folder)
    if state["global_step"] > total_steps:
        raise TrainingError(
            f"The checkpoint '{folder}' is after {state['global_step']} updates; training has {total_steps}."
        )
    expected = adapter.state_dict()
    check_tensors(saved.tensors, expected, str(folder))
    adapter.load_state_dict(saved.tensors)
    return state, tensors


def differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """What differs between two records, in words.

    Example:
        >>> differences({"seed": 1, "optim": "sgd"}, {"seed": 2, "optim": "sgd"})
        "'seed' is 1 there and 2 here"
    """
    names = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
    return "; ".join(f"{name!r} is {there.get(name)!r} there and {here.get(name)!r} here" for name in names)


def load_best(folder: Path, adapter: nn.Module) -> dict[str, Tensor] | None:
    """Tensors of the best adapter so far, or None where it was not kept."""
    if not folder.is_dir():
        return None
    tensors = load_adapter(folder).tensors
    check_tensors(tensors, adapter.state_dict(), str(folder))
    return tensors


def _check_same(there: dict[str, Any], here: dict[str, Any], where: Path) -> None:
    if changed := differences(there, here):
        raise TrainingError(
            f"Training in '{where}' cannot be resumed with other settings: {changed}. Give it the same, or start anew "
            "with `resume_from_checkpoint=None`."
        )


def clean_up(output_dir: Path, keep: int | None) -> None:
    """Removes what interrupted saves left, and the oldest checkpoints beyond the number to keep."""
    for entry in output_dir.glob(".checkpoint-*"):
        shutil.rmtree(entry, ignore_errors=True)
    for entry in checkpoint_folders(output_dir)[:-keep] if keep else ():
        shutil.rmtree(entry, ignore_errors=True)


def find_checkpoint(output_dir: str | None, wanted: bool | str | None) -> Path | None:
    """The folder that `resume_from_checkpoint` means, or None to start from the beginning.

    Raises:
        TrainingError: `True` and there is none.
    """
    if not wanted:
        return None
    if isinstance(wanted, str) and wanted != "auto":
        return Path(wanted)
    found = checkpoint_folders(Path(output_dir))
    if not found and wanted is True:
        raise TrainingError(
            f"There is no complete checkpoint in '{output_dir}' to resume from. `resume_from_checkpoint='auto'` starts "
            "from the beginning where there is none."
        )
    return found[-1] if found else None
