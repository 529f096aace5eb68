"""The paper's protocol: tasks x encoders x methods x seeds, and what came out of it."""

from __future__ import annotations

from .plan import Encoder, Method, Plan, Run, Task
from .presets import GROUPS, METHODS, TASKS, method_from_file, methods_named
from .records import RESULTS_FILE, Record, append_record, key_of, read_records

__all__ = [
    "GROUPS",
    "METHODS",
    "RESULTS_FILE",
    "TASKS",
    "Encoder",
    "Method",
    "Plan",
    "Record",
    "Run",
    "Task",
    "append_record",
    "key_of",
    "method_from_file",
    "methods_named",
    "read_records",
]
