"""`trainer_state.json` of a checkpoint: checked once when it is read, and then used as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checking import is_number
from ..door import check_types, read_json
from ..errors import TrainingError, shortened

MAX_STATE_BYTES = 512 * 2**20
"""Of a `trainer_state.json`, which holds the log of the whole training."""

_LARGEST = 2**53
_TYPES = {
    "format_version": int,
    "files": dict,
    "global_step": int,
    "record": dict,
    "best": (dict, type(None)),
    "evaluations_without_gain": int,
    "stopped_early": bool,
    "window": list,
    "sums": list,
    "scaler": (dict, type(None)),
    "log_history": list,
}
_SCALER = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")


@dataclass(frozen=True, kw_only=True)
class CheckpointState:
    """The place in a training, and what the training is made of.

    Args:
        global_step: Updates made.
        record: What the training is made of, with `arguments`.
        best_value, best_step: The best score so far, and after which update; None before the first evaluation.
        evaluations_without_gain, stopped_early: Of the search for a better one.
        window, sums: Sums of the losses since the last entry of the log, and of all updates; four numbers each.
        scaler: State of the gradients' scaler in float16.
        log_history: Entries of the log.
        files: SHA-256 by file.
        averaged: Updates over which weights were averaged.
        unlabelled: Running means of what the adapter said of samples without labels.
    """

    global_step: int
    record: dict[str, Any]
    best_value: float | None
    best_step: int | None
    evaluations_without_gain: int
    stopped_early: bool
    window: list[float]
    sums: list[float]
    scaler: dict[str, Any] | None
    log_history: list[dict[str, Any]]
    files: dict[str, str]
    averaged: int = 0
    unlabelled: list[float] | None = None


def read_state(
    path: Path, format_version: int, check_files: Callable[[dict[str, Any]], object] = lambda state: None
) -> CheckpointState:
    """Reads and checks the state of a checkpoint.

    Args:
        path: Of `trainer_state.json`.
        format_version: The newest one that this version reads.
        check_files: Raises where a file of the checkpoint is not as it was saved.

    Raises:
        TrainingError: it is missing, damaged, of another format version, or a value is not what it must be.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "trainer_state.json")
        >>> _ = path.write_text('{"format_version": 7}')
        >>> read_state(path, 1)
        Traceback (most recent call last):
        ...
        ciao_peft.errors.TrainingError: '...trainer_state.json' has format version 7; this version reads 1.
    """
    state = read_json(path, max_bytes=MAX_STATE_BYTES, error=TrainingError)
    if isinstance(state, dict) and "format_version" in state and not _is_known(state["format_version"], format_version):
        version = shortened(repr(state["format_version"]))
        raise TrainingError(f"'{path}' has format version {version}; this version reads {format_version}.")
    check_types(state, _TYPES, path, error=TrainingError)

    def check(fits: bool, name: str, value: Any, expected: str) -> None:
        if not fits:
            raise TrainingError(f"'{path}' is damaged: `{name}` is {shortened(repr(value))}; {expected} was expected.")

    for name in ("global_step", "evaluations_without_gain"):
        check(is_number(state[name], int, 0, _LARGEST), name, state[name], "a whole number of 0 or more")
    averaged = state.get("averaged", 0)
    check(is_number(averaged, int, 0, state["global_step"]), "averaged", averaged, "a number of updates that were made")
    means = state.get("unlabelled")
    fits = means is None or (isinstance(means, list) and all(is_number(value, float, 0, 1 + 1e-9) for value in means))
    check(fits, "unlabelled", means, "running means from 0 to 1")
    for name in ("window", "sums"):
        fits = len(state[name]) == 4 and all(is_number(value, float, -1e30, 1e30) for value in state[name])
        fits = fits and is_number(state[name][3], float, 0, state["global_step"])
        check(fits, name, state[name], "three sums of losses and the number of updates")
    files, best, scaler, record = (state[name] for name in ("files", "best", "scaler", "record"))
    check(all(isinstance(digest, str) for digest in files.values()), "files", files, "a checksum by file")
    check_files(state)
    check(isinstance(record.get("arguments"), dict), "record", record, "an object with `arguments`")
    if best is not None:
        fits = is_number(best.get("metric")) and is_number(best.get("step"), int, 0, state["global_step"])
        check(fits, "best", best, "a score and an update that was made")
    if scaler:
        check(all(is_number(scaler.get(name)) for name in _SCALER), "scaler", scaler, f"a number for {_SCALER}")
    for entry in state["log_history"]:
        fits = isinstance(entry, dict) and is_number(entry.get("step"), int, 0, _LARGEST)
        fits = (
            fits
            and is_number(entry.get("epoch"))
            and all(entry.get(name) is None or is_number(entry[name]) for name in ("loss", "eval_loss"))
        )
        check(fits, "log_history", entry, "an entry with a number as `step`, `epoch` and each loss")
    return CheckpointState(
        **{name: state[name] for name in CheckpointState.__dataclass_fields__ if name in state},
        best_value=best and best["metric"],
        best_step=best and best["step"],
    )


def _is_known(version: Any, newest: int) -> bool:
    return is_number(version, int, 1, newest)
