"""Tasks and methods that a plan may name."""

from __future__ import annotations

from .methods import BASELINES, GROUPS, METHODS, method_from_file, methods_named, preset_method
from .tasks import TASKS, task_from

__all__ = [
    "BASELINES",
    "GROUPS",
    "METHODS",
    "TASKS",
    "method_from_file",
    "methods_named",
    "preset_method",
    "task_from",
]
