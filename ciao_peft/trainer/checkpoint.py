"""Checkpoints: an adapter's folder that also holds the optimiser's state and the place in training."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..checking import is_number
from ..door import read_file, read_json
from ..errors import AdapterFileError, TrainingError, listed, shortened
from ..hub.adapters import save_with_card
from ..model import CIAOModel
from ..saving.adapter_folder import CONFIG_FILE, check_tensors, load_adapter
from ..saving.aside import restore_moved
from ..saving.digest import DIGEST, check_digest, sha256_of, with_digest
from ..saving.files import MAX_JSON_BYTES, local_path, move_into_place, refusals_told
from ..saving.safetensors_file import MAX_HEADER_BYTES
from .checkpoint_state import MAX_STATE_BYTES, CheckpointState, read_state

STATE_FILE = "trainer_state.json"
"""The place in training, in a checkpoint's folder. It is written last: a folder without it is no checkpoint."""

OPTIMIZER_FILE = "optimizer.safetensors"
"""The optimiser's moments, in a checkpoint's folder."""

BEST_FILE = "best.safetensors"
"""The best adapter so far, in a checkpoint's folder, where it is another one than the checkpoint's."""

AVERAGE_FILE = "average.safetensors"
"""The mean of the weights over the last updates so far, in a checkpoint's folder, where they are averaged."""

BEST_FOLDER = "best"
"""The best adapter so far, in `output_dir`."""

FORMAT_VERSION = 2
"""Of `trainer_state.json`; a newer version is refused."""

_WITHOUT_DIGEST = 1  # the last version whose checkpoints have none

_MAKE_ROOM = (
    "Make room there, or lower `save_total_limit`; then go on from the last checkpoint with "
    "`resume_from_checkpoint='auto'`."
)

_ADDED_SINCE = {"views": 1, "average_last": 0.0}
"""Settings of a training that checkpoints of earlier versions do not name, and what those trainings did."""

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
    restore_moved(output_dir)  # one that was moved away for another one, when the process was killed
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
        place = read_json(folder / STATE_FILE, max_bytes=MAX_STATE_BYTES)["place_in_order"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0  # loading it says what is wrong
    return place if is_number(place, int, 0, 2**53) else 0


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
        ['adapter_config.json', 'config.json', 'trainer_state.json']
    """

    model: CIAOModel
    adapter_name: str

    def save(
        self,
        folder: Path,
        optimizer: dict[str, Tensor],
        best: dict[str, Tensor] | None,
        state: dict[str, Any],
        average: dict[str, Tensor] | None = None,
    ) -> None:
        """Writes a checkpoint aside and moves it into place: there is a whole one or none.

        Args:
            folder: `checkpoint-<step>`; replaced if it is there. It can be loaded as an adapter, too.
            optimizer: What `optimizer_tensors` gave.
            best: The adapter at its best, where training may return to it and it is not this one.
            state: Plain data without NaN and infinity: the place in training, and what the training is made of.
            average: The mean of the weights over the last updates, where there is one.

        Raises:
            AdapterFileError: the disk refuses; what was there stays, and nothing else is left.
        """
        with refusals_told(AdapterFileError, folder, _MAKE_ROOM):
            self._save(folder, {OPTIMIZER_FILE: optimizer, BEST_FILE: best, AVERAGE_FILE: average}, state)

    def _save(self, folder: Path, parts: dict[str, dict[str, Tensor] | None], state: dict[str, Any]) -> None:
        aside = folder.with_name(f".{folder.name}.tmp")
        restore_moved(folder.parent, folder.name)
        shutil.rmtree(aside, ignore_errors=True)
        try:
            saved = self.model.saved_adapter(self.adapter_name, training={"global_step": state["global_step"]})
            save_with_card(aside, saved, name=str(folder))
            files = {CONFIG_FILE: sha256_of((aside / CONFIG_FILE).read_bytes())}  # it covers the adapter's other files
            for name, tensors in parts.items():
                if tensors is not None:
                    content = save({key: tensor.contiguous() for key, tensor in tensors.items()})
                    files[name] = sha256_of(content)
                    (aside / name).write_bytes(content)
            record = {"format_version": FORMAT_VERSION, **state, "files": files}
            (aside / STATE_FILE).write_bytes(with_digest(record, files))
            move_into_place(aside, folder)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)  # of a full disk, its room comes back
            raise

    def save_best(self, output_dir: Path, record: dict[str, Any]) -> None:
        """Saves the adapter as it is as the best one so far, in the folder `best`.

        Args:
            output_dir: Of the training.
            record: Goes into the adapter's card: the update, and the scores there.
        """
        self.model.save_pretrained(output_dir / BEST_FOLDER, self.adapter_name, training=record)

    def load(
        self,
        folder: Path,
        record: dict[str, Any],
        total_steps: int,
        with_best: bool,
        check_optimizer: Callable[[dict[str, Tensor]], object] = lambda tensors: None,
        check_average: Callable[[dict[str, Tensor]], object] = lambda tensors: None,
    ) -> tuple[CheckpointState, dict[str, Tensor], dict[str, Tensor] | None, dict[str, Tensor]]:
        """Puts a checkpoint's adapter into the model. Nothing in it is unpickled.

        Args:
            folder: `checkpoint-<step>`.
            record: What the training that goes on is made of; must be the same as in the checkpoint.
            total_steps: Updates that training is to have in all.
            with_best: Whether the best adapter so far is of use.
            check_optimizer: Raises where the optimiser's tensors do not fit; the adapter stays as it was then.
            check_average: The same for the mean of the weights, where there is one.

        Returns:
            The checkpoint's state; the optimiser's tensors; the tensors of the best adapter so far, or None where there
            is none or it is of no use; and the mean of the weights so far.

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
        state = read_state(path, FORMAT_VERSION, lambda state: _check_files(folder, state))
        owned = sum(tensor.nbytes for tensor in self.model.adapters[self.adapter_name].state_dict().values())
        most = MAX_HEADER_BYTES + 4 * owned  # no optimiser keeps more than a few tensors for each
        tensors = _tensors_in(folder / OPTIMIZER_FILE, state.files, most)
        best = _tensors_in(folder / BEST_FILE, state.files, most) if BEST_FILE in state.files else None
        average = _tensors_in(folder / AVERAGE_FILE, state.files, most) if state.averaged else {}
        saved = load_adapter(folder)
        adapter = self.model.adapters[self.adapter_name]
        config = adapter.config
        noted = ("decay_init", "class_prior")  # before the first update
        left_open = {name: getattr(saved.config, name) for name in noted if getattr(config, name) is None}
        config = dataclasses.replace(config, **left_open)
        if saved.config != config:
            mine, theirs = config.to_dict(), saved.config.to_dict()
            raise TrainingError(
                f"The checkpoint '{folder}' is of an adapter with other settings: "
                f"{differences(theirs, mine)}. Resume with the same config, and name in it a setting whose default "
                "has changed; or start anew."
            )
        theirs, mine = dict(state.record), dict(record)
        # A training may go on for longer than it was to; the rates then follow the schedule of its new length.
        theirs_asked, mine_asked = (_any_length(part.pop("arguments")) for part in (theirs, mine))
        _check_same(_ADDED_SINCE | theirs_asked, _ADDED_SINCE | mine_asked, folder)
        _check_same(theirs, mine, folder)
        if state.global_step > total_steps:
            raise TrainingError(
                f"The checkpoint '{folder}' is after {state.global_step} updates; training has {total_steps}."
            )
        expected = adapter.state_dict()
        check_tensors(saved.tensors, expected, str(folder))
        if not with_best or state.best_step is None:
            best = None
        elif state.best_step == state.global_step and best is None:
            best = {name: tensor.clone() for name, tensor in saved.tensors.items()}
        elif best is None:
            best = _best_in_output_dir(folder, state.best_step)
        if best is not None:
            check_tensors(best, expected, str(folder))
        check_optimizer(tensors)
        if average:
            check_average(average)
        adapter.load_state_dict(saved.tensors)
        adapter.config = config
        return state, tensors, best, average


def _any_length(arguments: Any) -> Any:
    if not isinstance(arguments, dict):
        return arguments
    return {name: value for name, value in arguments.items() if name not in ("num_train_epochs", "max_steps")}


def _check_files(folder: Path, state: dict[str, Any]) -> None:
    """Refuses a checkpoint of which anything was altered; tensors and adapter are compared where they are read."""
    if state["format_version"] == _WITHOUT_DIGEST and DIGEST not in state:
        return
    path, files = folder / STATE_FILE, dict(state["files"])
    check_digest(state, files, path, version=_WITHOUT_DIGEST, error=TrainingError)
    if sha256_of(read_file(folder / CONFIG_FILE, MAX_JSON_BYTES, error=TrainingError)) != files.get(CONFIG_FILE):
        raise TrainingError(
            f"'{folder / CONFIG_FILE}' is not the one that this checkpoint was saved with. Resume from another "
            "checkpoint."
        )


def _tensors_in(path: Path, checksums: Mapping[str, str], max_bytes: int) -> dict[str, Tensor]:
    content = read_file(path, max_bytes, error=TrainingError)
    if sha256_of(content) != checksums.get(path.name):
        raise TrainingError(f"'{path}' does not have the checksum its state promises: it is damaged.")
    try:
        return load(content)
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise TrainingError(f"'{path}' is no safetensors file: {shortened(str(error))}.") from error


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


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
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
    return shortened(
        "; ".join(
            f"{_short(name)} is {_short(there.get(name))} there and {_short(here.get(name))} here" for name in names
        ),
        2000,
    )


def _short(value: object) -> str:
    return shortened(repr(value))


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
    restore_moved(output_dir)
    for entry in output_dir.glob(".checkpoint-*"):
        shutil.rmtree(entry, ignore_errors=True)
    for entry in checkpoint_folders(output_dir)[:-keep] if keep else ():
        gone = output_dir / f".{entry.name}.gone"  # what a kill leaves of it is found again by this name
        with contextlib.suppress(OSError):
            os.replace(entry, gone)
        shutil.rmtree(gone if gone.is_dir() else entry, ignore_errors=True)


def refuse_old_checkpoints(output_dir: Path) -> None:
    """Refuses a folder with checkpoints: nobody could tell those of two trainings apart.

    Raises:
        TrainingError: there is one.
    """
    if old := checkpoint_folders(output_dir):
        raise TrainingError(
            f"'{output_dir}' holds {old[-1].name} of an earlier training. Go on from it with "
            "`CIAOTrainingArguments(resume_from_checkpoint=True)`, give another `output_dir`, or delete the "
            "checkpoints."
        )


def refuse_unwritable(output_dir: Path) -> None:
    """Refuses a folder in which nothing can be written, before anything is computed for it. It need not exist yet.

    Args:
        output_dir: Of the training.

    Raises:
        TrainingError: nothing can be written there, or it is a file.

    Example:
        >>> refuse_unwritable(Path("not/yet/made"))
    """
    existing = output_dir
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise TrainingError(f"`output_dir` {str(output_dir)!r} cannot be made: '{existing}' is no folder.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise TrainingError(
            f"`output_dir` {str(output_dir)!r} cannot be written: this user may not change '{existing}'. Give "
            "another one, or none to write nothing."
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
        return local_path(wanted)
    folders = [] if output_dir is None else checkpoint_folders(local_path(output_dir))
    if not folders and wanted is True:
        raise TrainingError(
            f"There is no complete checkpoint in '{output_dir}' to resume from. `resume_from_checkpoint='auto'` starts "
            "from the beginning where there is none."
        )
    return folders[-1] if folders else None
