"""Checkpoints of the scripts that train encoders: state, history, and a description of the training."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import TrainingError
from ...saving.files import move_into_place, write_file

if TYPE_CHECKING:
    from accelerate import Accelerator

HISTORY_FILE, DESCRIPTION_FILE = "history.json", "ingredients.json"
# Settings that may change when a training is resumed: its length and its device.
_FREE = {"num_train_epochs", "cpu"}


def describe_training(accelerator: Accelerator, settings: Mapping[str, Any], **data: Any) -> dict[str, Any]:
    """The settings and data that decide a training's result. A resumed training must have the same.

    Args:
        accelerator: Knows the number of processes.
        settings: Settings of the script. Folders, the number of epochs and `cpu` are left out.
        data: A description of the faces, as plain data.
    """
    kept = {name: value for name, value in settings.items() if name not in _FREE and not name.endswith("_dir")}
    return {"settings": kept, "data": data, "num_processes": accelerator.num_processes}


def digest(values: Iterable[object]) -> str:
    """A hash of sixteen characters of a list of texts and numbers; the order counts.

    Example:
        >>> digest(["ann", "bea"]) == digest(["bea", "ann"])
        False
    """
    return hashlib.sha256(json.dumps(list(values)).encode()).hexdigest()[:16]


def newest_checkpoint(folder: Path) -> Path | None:
    """The `checkpoint-<epochs>` with the most epochs, or None."""
    return max(_checkpoints(folder), key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]


def save_training_checkpoint(
    accelerator: Accelerator, folder: Path, history: list[dict[str, Any]], description: Mapping[str, Any]
) -> None:
    """Saves the accelerator's state. The checkpoint gets its name once it is complete; older ones are deleted then.

    Args:
        accelerator: Has prepared or registered everything that is to be saved.
        folder: The training's folder. The history is copied to `history.json` in it.
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


def resume(accelerator: Accelerator, folder: Path, description: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Restores the newest checkpoint and returns its history; an empty list where there is no checkpoint.

    Args:
        accelerator: Gets the state.
        folder: The training's folder.
        description: What `describe_training` returned; it must equal the checkpoint's.

    Raises:
        TrainingError: the descriptions differ. Nothing was loaded.
    """
    checkpoint = newest_checkpoint(folder)
    if checkpoint is None:
        return []
    path = checkpoint / DESCRIPTION_FILE
    if path.is_file():
        _check_same(json.loads(path.read_text(encoding="utf-8")), json.loads(json.dumps(description)), checkpoint)
    else:
        accelerator.print(f"'{checkpoint}' does not say what it was made of: settings and faces cannot be compared")
    accelerator.load_state(str(checkpoint))
    accelerator.print(f"resumed from '{checkpoint}'")
    return json.loads((checkpoint / HISTORY_FILE).read_text(encoding="utf-8"))


def _check_same(there: dict[str, Any], here: dict[str, Any], checkpoint: Path) -> None:
    was, now = ({**one.pop("settings"), **one.pop("data"), **one} for one in (there, here))
    names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    if names:
        changed = "; ".join(f"{name!r} was {was.get(name)!r} and is {now.get(name)!r}" for name in names)
        raise TrainingError(
            f"The training in '{checkpoint}' cannot go on: {changed}. Start it as it was (only --num_train_epochs, "
            "--cpu and folders may change), or start a new one in another --output_dir."
        )
