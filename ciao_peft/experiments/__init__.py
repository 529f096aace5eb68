"""The paper's protocol: tasks x encoders x methods x seeds, and what came out of it."""

from __future__ import annotations

from .methods import GROUPS, METHODS, method_from_file, methods_named
from .protocol import Encoder, Method, Plan, Run, Task
from .records import RESULTS_FILE, Record, append_record, key_of, read_records
from .tasks import TASKS

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
