"""Studies: tasks x encoders x methods x seeds, as the paper compares them, and what came out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy_names
from .plan import Encoder, Method, Plan, Run, Task
from .plan_file import plan_from_dict, plan_from_flags, plan_to_dict, read_plan, write_plan
from .presets import GROUPS, METHODS, TASKS, method_from_file, methods_named
from .records import RESULTS_FILE, Record, append_record, key_of, read_records

if TYPE_CHECKING:
    from .tuning import TuneResult as TuneResult
    from .tuning import tune as tune

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
    "TuneResult",
    "append_record",
    "key_of",
    "method_from_file",
    "methods_named",
    "plan_from_dict",
    "plan_from_flags",
    "plan_to_dict",
    "read_plan",
    "read_records",
    "tune",
    "write_plan",
]

__getattr__, __dir__ = lazy_names(__name__, {"TuneResult": "tuning", "tune": "tuning"})  # they bring torch along
