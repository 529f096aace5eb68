"""Checkpoints: an adapter's folder with the optimiser's state and the place in training beside it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..errors import TrainingError, listed
from ..hub.adapters import save_with_card
from ..model import CIAOModel
from ..saving.adapter_folder import check_tensors, load_adapter
from ..saving.files import move_into_place

STATE_FILE = "trainer_state.json"
"""The place in training, in a checkpoint's folder. It is written last: a folder without it is no checkpoint."""

OPTIMIZER_FILE = "optimizer.safetensors"
"""The optimiser's moments, in a checkpoint's folder."""

BEST_FILE = "best.safetensors"
"""The best adapter so far, in a checkpoint's folder, where it is another one than the checkpoint's."""

BEST_FOLDER = "best"
"""The best adapter so far, in `output_dir`."""

FORMAT_VERSION = 1
"""Of `trainer_state.json`; another version is refused."""

_FOLDER = re.compile(r"checkpoint-(\d+)")


def checkpoint_folders(output_dir: Path) -> list[Path]:
    """Complete checkpoints in a folder, in the order in which they were written.

    That is not the order of their numbers where a training went on from an older one, or began anew in the same folder.

    Args:
        output_dir: A folder that may be missing.

    Returns:
        The folders `checkpoint-<step>`, the one written last at the end.

    Example:
        >>> checkpoint_folders(Path("no such folder"))
        []
    """
    found = []
    for entry in output_dir.iterdir() if output_dir.is_dir() else ():
        if (match := _FOLDER.fullmatch(entry.name)) and (entry / STATE_FILE).is_file():
            found.append((place_in_order(entry), int(match[1]), entry))
    return [entry for _, _, entry in sorted(found)]


def place_in_order(folder: Path) -> int:
    """Place of a checkpoint among those of its folder, counted from 1 in the order of writing.

    Args:
        folder: `checkpoint-<step>`.

    Returns:
        Its number; 0 for a checkpoint that does not say, because an earlier version wrote it or it is damaged.

    Example:
        >>> place_in_order(Path("no such folder"))
        0
    """
    try:
        return int(json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))["place_in_order"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0  # loading it says what is wrong


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """The optimiser's state as named tensors.

    Args:
        optimizer: Any torch optimiser whose state is tensors and numbers.
        names: Name of each parameter that it trains.

    Returns:
        Copies on the CPU by `<parameter>/<moment>`, such as `head.1.weight/exp_avg`.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> optimizer_tensors(optimizer, {weight: "weight"})
        {'weight/momentum_buffer': tensor([1., 1.])}
    """
    tensors: dict[str, Tensor] = {}
    for parameter, state in optimizer.state.items():
        for moment, value in state.items():
            if value is not None:
                tensor = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64, device="cpu")
                tensors[f"{names[parameter]}/{moment}"] = tensor.detach().cpu().contiguous().clone()
    return tensors


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str], tensors: Mapping[str, Tensor], where: Path
) -> None:
    """Puts back what `optimizer_tensors` gave; the optimiser's present state is dropped.

    Args:
        optimizer: Of the same kind, over the same parameters.
        names: Name of each parameter that it trains.
        tensors: By `<parameter>/<moment>`.
        where: The checkpoint they came from, for the message.

    Raises:
        TrainingError: it is the state of other parameters.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
        >>> moments = {"weight/momentum_buffer": torch.tensor([1.0, 2.0])}
        >>> restore_optimizer(optimizer, {weight: "weight"}, moments, Path("checkpoint-1"))
        >>> optimizer.state[weight]
        {'momentum_buffer': tensor([1., 2.])}
    """
    by_name = {name: parameter for parameter, name in names.items()}
    states: dict[Tensor, dict[str, Tensor]] = {}
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


@dataclass(frozen=True)
class AdapterCheckpoints:
    """Saves and loads the checkpoints of one adapter in training.

    Args:
        model: Holds the adapter.
        adapter_name: Which adapter.

    Shapes:
        Tensors have the shapes of the adapter's own; an optimiser's moments those of their parameters, and its
        counters `()`.

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> from ciao_peft import CIAOConfig, get_ciao_model
        >>> config = CIAOConfig(problem_type="regression", num_labels=1)
        >>> model = get_ciao_model(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), config, input_size=(3, 8, 8))
        >>> state = {"global_step": 5, "record": {"arguments": {}}, "best": None}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpoint = Path(folder) / "checkpoint-5"
        ...     AdapterCheckpoints(model, "default").save(checkpoint, {}, None, state)
        ...     sorted(path.name for path in checkpoint.iterdir() if path.suffix == ".json")
        ['adapter_config.json', 'trainer_state.json']
    """

    model: CIAOModel
    adapter_name: str

    def save(
        self, folder: Path, optimizer: dict[str, Tensor], best: dict[str, Tensor] | None, state: dict[str, Any]
    ) -> None:
        """Writes a checkpoint aside and moves it into place: there is a whole one or none.

        Args:
            folder: `checkpoint-<step>`; replaced if it is there. It can be loaded as an adapter, too.
            optimizer: What `optimizer_tensors` gave.
            best: The adapter at its best, where training may return to it and it is not this one.
            state: Plain data without NaN and infinity: the place in training, and what the training is made of.
        """
        aside = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(aside, ignore_errors=True)
        saved = self.model.saved_adapter(self.adapter_name, training={"global_step": state["global_step"]})
        save_with_card(aside, saved, name=str(folder))
        files = {}
        for name, tensors in ((OPTIMIZER_FILE, optimizer), (BEST_FILE, best)):
            if tensors is not None:
                content = save({key: tensor.contiguous() for key, tensor in tensors.items()})
                files[name] = hashlib.sha256(content).hexdigest()
                (aside / name).write_bytes(content)
        record = {"format_version": FORMAT_VERSION, **state, "files": files}
        (aside / STATE_FILE).write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        move_into_place(aside, folder)

    def save_best(self, output_dir: Path, record: dict[str, Any]) -> None:
        """Saves the adapter as it is as the best one so far, in the folder `best`.

        Args:
            output_dir: Of the training.
            record: Goes into the adapter's card: the update, and the scores there.
        """
        self.model.save_pretrained(output_dir / BEST_FOLDER, self.adapter_name, training=record)

    def load(
        self, folder: Path, record: dict[str, Any], total_steps: int, with_best: bool
    ) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor] | None]:
        """Puts a checkpoint's adapter into the model. Nothing in it is unpickled.

        Args:
            folder: `checkpoint-<step>`.
            record: What the training that goes on is made of; must be the same as in the checkpoint.
            total_steps: Updates that training is to have in all.
            with_best: Whether the best adapter so far is of use.

        Returns:
            The checkpoint's state, the optimiser's tensors, and the tensors of the best adapter so far, or None where
            there is none or it is of no use.

        Raises:
            TrainingError: the folder is no complete checkpoint, of another format version, or of another training; or
                the best adapter is lost.
            AdapterFileError, AdapterConfigError: its adapter is damaged, or another one.
        """
        path = folder / STATE_FILE
        if not path.is_file():
            inside = listed(entry.name for entry in checkpoint_folders(folder)) if folder.is_dir() else "none"
            raise TrainingError(
                f"'{folder}' is no complete checkpoint: it has no '{STATE_FILE}'. Checkpoints in it: {inside}."
            )
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            version, files = state["format_version"], state["files"]
            if version != FORMAT_VERSION:
                raise TrainingError(f"'{path}' has format version {version!r}; this version reads {FORMAT_VERSION}.")
            tensors = _tensors_in(folder / OPTIMIZER_FILE, files)
            best = _tensors_in(folder / BEST_FILE, files) if BEST_FILE in files else None
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            if isinstance(error, TrainingError):
                raise
            raise TrainingError(f"The checkpoint '{folder}' is damaged ({type(error).__name__}: {error}).") from error
        saved = load_adapter(folder)
        adapter = self.model.adapters[self.adapter_name]
        config = adapter.config
        if config.decay_init is None:  # calibrated before the first update, and noted
            config = dataclasses.replace(config, decay_init=saved.config.decay_init)
        if saved.config != config:
            mine, theirs = config.to_dict(), saved.config.to_dict()
            raise TrainingError(
                f"The checkpoint '{folder}' is of an adapter with other settings: "
                f"{differences(theirs, mine)}. Resume with the same config, or start anew."
            )
        theirs, mine = dict(state["record"]), dict(record)
        _check_same(theirs.pop("arguments"), mine.pop("arguments"), folder)
        _check_same(theirs, mine, folder)
        if state["global_step"] > total_steps:
            raise TrainingError(
                f"The checkpoint '{folder}' is after {state['global_step']} updates; training has {total_steps}."
            )
        expected = adapter.state_dict()
        check_tensors(saved.tensors, expected, str(folder))
        if not with_best or state["best"] is None:
            best = None
        elif state["best"]["step"] == state["global_step"]:
            best = {name: tensor.clone() for name, tensor in saved.tensors.items()}
        elif best is None:
            best = _best_in_output_dir(folder, state["best"]["step"])
        if best is not None:
            check_tensors(best, expected, str(folder))
        adapter.load_state_dict(saved.tensors)
        adapter.config = config
        return state, tensors, best


def _tensors_in(path: Path, checksums: dict[str, str]) -> dict[str, Tensor]:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != checksums[path.name]:
        raise TrainingError(f"'{path}' does not have the checksum its state promises: it is damaged.")
    return load(content)


def _best_in_output_dir(checkpoint: Path, step: int) -> dict[str, Tensor]:
    """The best adapter from the folder next to a checkpoint of an earlier version, which does not hold it itself."""
    folder = checkpoint.parent / BEST_FOLDER
    saved = load_adapter(folder) if folder.is_dir() else None
    saved_step = None if saved is None else saved.training.get("global_step")
    if saved is None or saved_step != step:
        holds = "is missing" if saved is None else f"holds that after update {saved_step}"
        raise TrainingError(
            f"Training in '{checkpoint}' was at its best after update {step}; it does not hold that adapter, and "
            f"'{folder}' {holds}. Resume from a checkpoint that was written later, or start anew with "
            "`resume_from_checkpoint=None`."
        )
    return saved.tensors


def differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """What differs between two records, in words.

    Args:
        there: The record of a checkpoint.
        here: The record of the training that is to go on from it.

    Returns:
        Empty text where they are equal.

    Example:
        >>> differences({"seed": 1, "optim": "sgd"}, {"seed": 2, "optim": "sgd"})
        "'seed' is 1 there and 2 here"
    """
    names = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
    return "; ".join(f"{name!r} is {there.get(name)!r} there and {here.get(name)!r} here" for name in names)


def _check_same(there: dict[str, Any], here: dict[str, Any], where: Path) -> None:
    if changed := differences(there, here):
        raise TrainingError(
            f"Training in '{where}' cannot be resumed with other settings: {changed}. Give it the same, or start anew "
            "with `resume_from_checkpoint=None`."
        )


def clean_up(output_dir: Path, keep: int | None) -> None:
    """Removes what interrupted saves left, and the checkpoints written first, beyond the number to keep.

    Args:
        output_dir: Of the training.
        keep: Checkpoints to keep, 1 or more; None keeps all.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / ".checkpoint-3.tmp").mkdir()
        ...     clean_up(Path(folder), keep=None)
        ...     list(Path(folder).iterdir())
        []
    """
    for entry in output_dir.glob(".checkpoint-*"):
        shutil.rmtree(entry, ignore_errors=True)
    for entry in checkpoint_folders(output_dir)[:-keep] if keep else ():
        shutil.rmtree(entry, ignore_errors=True)


def refuse_old_checkpoints(output_dir: Path) -> None:
    """Refuses a folder with checkpoints: nobody could tell those of two trainings apart.

    Raises:
        TrainingError: there is one.
    """
    if old := checkpoint_folders(output_dir):
        raise TrainingError(
            f"'{output_dir}' holds {old[-1].name} of an earlier training. Go on from it with "
            "`resume_from_checkpoint=True`, give another `output_dir`, or delete the checkpoints."
        )


def find_checkpoint(output_dir: str | None, wanted: bool | str | None) -> Path | None:
    """The folder that `resume_from_checkpoint` means, or None to start from the beginning.

    Args:
        output_dir: Of the training.
        wanted: A folder; `True` for the checkpoint in `output_dir` that was written last; `"auto"` for that one, if
            there is one; `False` or None for none.

    Raises:
        TrainingError: `True` and there is none.

    Example:
        >>> find_checkpoint("no such folder", "auto") is None
        True
    """
    if not wanted:
        return None
    if isinstance(wanted, str) and wanted != "auto":
        return Path(wanted)
    folders = [] if output_dir is None else checkpoint_folders(Path(output_dir))
    if not folders and wanted is True:
        raise TrainingError(
            f"There is no complete checkpoint in '{output_dir}' to resume from. `resume_from_checkpoint='auto'` starts "
            "from the beginning where there is none."
        )
    return folders[-1] if folders else None
