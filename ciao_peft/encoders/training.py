"""What the scripts that train encoders keep between epochs: checkpoints, and what each epoch came to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelerate import Accelerator

HISTORY_FILE = "history.json"


def newest_checkpoint(folder: Path) -> Path | None:
    """The `checkpoint-<epochs>` with the most epochs, or None."""
    return max(_checkpoints(folder), key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]


def save_checkpoint(accelerator: Accelerator, folder: Path, history: list[dict[str, Any]]) -> None:
    """Writes what was prepared and registered, under its name only once it is whole; older ones go afterwards.

    Args:
        accelerator: Knows what there is to keep.
        folder: Of the training. The history is copied to `history.json` in it.
        history: One record per epoch so far, plain data; its length is the checkpoint's number.
    """
    aside, name = folder / "checkpoint-unfinished", f"checkpoint-{len(history)}"
    accelerator.save_state(str(aside))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        content = json.dumps(history, indent=1, allow_nan=False) + "\n"
        (aside / HISTORY_FILE).write_text(content, encoding="utf-8")
        aside.rename(folder / name)
        (folder / HISTORY_FILE).write_text(content, encoding="utf-8")
        for older in _checkpoints(folder):
            if older.name != name:
                shutil.rmtree(older)
    accelerator.wait_for_everyone()


def resume(accelerator: Accelerator, folder: Path) -> list[dict[str, Any]]:
    """Puts the newest checkpoint's state back, and returns its history: empty where there is no checkpoint."""
    checkpoint = newest_checkpoint(folder)
    if checkpoint is None:
        return []
    accelerator.load_state(str(checkpoint))
    accelerator.print(f"resumed from '{checkpoint}'")
    return json.loads((checkpoint / HISTORY_FILE).read_text(encoding="utf-8"))
