"""Checkpoints of the scripts that train encoders: state, history, and a description of the training."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...door import check_types, read_json
from ...errors import TrainingError, quoted
from ...saving.files import move_into_place, write_file

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = [
    "DESCRIPTION_FILE",
    "HISTORY_FILE",
    "describe_training",
    "digest",
    "newest_checkpoint",
    "resume_training",
    "save_training_checkpoint",
]

HISTORY_FILE, DESCRIPTION_FILE = "history.json", "ingredients.json"
# Settings that may change when a training is resumed: its length and its device.
_DESCRIBED = {"settings": dict, "data": dict}
_FREE = {"num_train_epochs", "cpu"}


def describe_training(accelerator: Accelerator, settings: Mapping[str, Any], **data: Any) -> dict[str, Any]:
    """Describes the settings and data that decide the result of a training; a resumed training must have the same.

    Args:
        accelerator: Knows the number of processes.
        settings: Settings of the script. Folders, the number of epochs and `cpu` are left out.
        data: A description of the faces, as plain data.

    Returns:
        Plain data with the keys `settings`, `data` and `num_processes`.

    Example:
        >>> from types import SimpleNamespace
        >>> alone = SimpleNamespace(num_processes=1)  # in a script, the Accelerator
        >>> describe_training(alone, {"seed": 3, "output_dir": "runs/a"}, num_faces=10)
        {'settings': {'seed': 3}, 'data': {'num_faces': 10}, 'num_processes': 1}
    """
    kept = {name: value for name, value in settings.items() if name not in _FREE and not name.endswith("_dir")}
    return {"settings": kept, "data": data, "num_processes": accelerator.num_processes}


def digest(values: Iterable[object]) -> str:
    """Hashes a list of texts and numbers; the order counts.

    Args:
        values: Texts and numbers.

    Returns:
        16 hexadecimal digits.

    Example:
        >>> digest(["ann", "bea"]) == digest(["bea", "ann"])
        False
    """
    return hashlib.sha256(json.dumps(list(values)).encode()).hexdigest()[:16]


def newest_checkpoint(folder: Path) -> Path | None:
    """Finds the `checkpoint-<epochs>` with the most epochs.

    Args:
        folder: The folder of the training.

    Returns:
        The folder of the checkpoint, or None if there is none.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for epochs in (9, 10):
        ...     (folder / f"checkpoint-{epochs}").mkdir()
        >>> newest_checkpoint(folder).name
        'checkpoint-10'
    """
    return max(_checkpoints(folder), key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]


def save_training_checkpoint(
    accelerator: Accelerator, folder: Path, history: list[dict[str, Any]], description: Mapping[str, Any]
) -> None:
    """Saves the accelerator's state. The checkpoint gets its name once it is complete; older ones are deleted then.

    Args:
        accelerator: Everything to be saved must have been prepared by it or registered with it.
        folder: The folder of the training. The history is copied to `history.json` in it.
        history: One record per epoch so far, plain data; its length is the checkpoint's number.
        description: What `describe_training` returned.
    """
    aside, name = folder / "checkpoint-unfinished", f"checkpoint-{len(history)}"
    accelerator.save_state(str(aside))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        content = json.dumps(history, indent=1, allow_nan=False) + "\n"
        (aside / HISTORY_FILE).write_text(content, encoding="utf-8")
        (aside / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        move_into_place(aside, folder / name)
        write_file(folder / HISTORY_FILE, content)
        for older in _checkpoints(folder):
            if older.name != name:
                shutil.rmtree(older)
    accelerator.wait_for_everyone()


def resume_training(accelerator: Accelerator, folder: Path, description: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Restores the newest checkpoint and returns its history; an empty list where there is no checkpoint.

    Args:
        accelerator: Receives the state.
        folder: The folder of the training.
        description: What `describe_training` returned; it must equal the checkpoint's.

    Returns:
        One record per epoch so far.

    Raises:
        TrainingError: the descriptions differ. Nothing is loaded then.
    """
    checkpoint = newest_checkpoint(folder)
    if checkpoint is None:
        return []
    path = checkpoint / DESCRIPTION_FILE
    if path.is_file():
        saved = check_types(read_json(path, error=TrainingError), _DESCRIBED, path, error=TrainingError)
        _check_same(saved, json.loads(json.dumps(description)), checkpoint)
    else:
        accelerator.print(f"'{checkpoint}' does not say what it was made of: settings and faces cannot be compared")
    accelerator.load_state(str(checkpoint))
    accelerator.print(f"resumed from '{checkpoint}'")
    return read_json(checkpoint / HISTORY_FILE, error=TrainingError)


def _check_same(saved: dict[str, Any], current: dict[str, Any], checkpoint: Path) -> None:
    was, now = ({**part.pop("settings"), **part.pop("data"), **part} for part in (saved, current))
    names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    if names:
        changed = "; ".join(
            f"{quoted(name)} was {quoted(was.get(name))} and is {quoted(now.get(name))}" for name in names
        )
        raise TrainingError(
            f"The training in '{checkpoint}' cannot go on: {changed}. Start it as it was (only --num_train_epochs, "
            "--cpu and folders may change), or start a new one in another --output_dir."
        )
