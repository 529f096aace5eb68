"""Tasks by the names that plans and tables give them."""

from __future__ import annotations

import dataclasses
from typing import Any

from ...checking import checked_keys
from ...errors import ConfigError, listed, quoted
from ..plan import Task

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(name="affectnet", dataset="affectnet", options={"task": "categorical"}, metric="accuracy"),
        Task(name="affectnet_av", dataset="affectnet", options={"task": "dimensional"}, metric="concordance"),
        Task(name="fer", dataset="fer2013", metric="accuracy"),
        Task(name="ferplus", dataset="ferplus", metric="accuracy"),
        # The paper's words, and what measures faces that were never seen.
        Task(
            name="jaffe",
            dataset="jaffe",
            metric="accuracy",
            options={"protocol": "leave-one-emotion-out", "fold": "all"},
        ),
        Task(
            name="jaffe_subjects",
            dataset="jaffe",
            metric="accuracy",
            options={"protocol": "leave-one-subject-out", "fold": "all"},
            group_by="identity",
        ),
        Task(name="emoreact", dataset="emoreact", metric="macro_f1", group_by="clip", average_by="clip"),
        Task(
            name="faces",
            dataset="imagefolder",
            options={"label_column": "expression", "min_images_per_class": 20},
            group_by="identity",
        ),
        Task(name="painted_faces", dataset="painted_faces", group_by="identity"),
    )
}
"""Every task of the library by its name."""


def task_from(name: str, changes: Any = None) -> Task:
    """A task by its name.

    Args:
        name: Of a preset, or of a task of one's own.
        changes: The folder of a preset; or what differs from the preset (from an empty task, where there is none).

    Raises:
        ConfigError: no preset of this name, or an unknown key.

    Example:
        >>> task_from("fer", "data/fer").dataset
        'fer2013'
        >>> task_from("moods", {"dataset": "imagefolder", "data_dir": "moods"}).data_dir
        'moods'
    """
    if changes is None or isinstance(changes, str):
        changes = {} if changes is None else {"data_dir": changes}
        if name not in TASKS:
            raise ConfigError(
                f"There is no task {quoted(name)}. Tasks: {listed(TASKS)}. Another one needs at least its `dataset`, "
                "in a plan file."
            )
    keys = [part.name for part in dataclasses.fields(Task) if part.name != "name"]
    changes = checked_keys(f"the task {quoted(name)}", changes, keys)
    if name not in TASKS and "dataset" not in changes:
        raise ConfigError(f"The task {quoted(name)} is none of {listed(TASKS)}, so it needs a `dataset`.")
    return dataclasses.replace(TASKS[name], **changes) if name in TASKS else Task(name=name, **changes)
