"""Callbacks with the method names of transformers' `TrainerCallback`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..errors import TrainingError, listed
from .arguments import CIAOTrainingArguments

__all__ = ["EVENTS", "Callbacks", "TrainingControl", "TrainingState"]

EVENTS = (
    *("on_train_begin", "on_epoch_begin", "on_step_begin", "on_step_end", "on_log", "on_evaluate", "on_save"),
    *("on_epoch_end", "on_train_end"),
)
"""The methods that are called, where a callback has them."""


@dataclass
class TrainingState:
    """How far a training is, under the names of transformers' `TrainerState`.

    Args:
        global_step, max_steps: Updates made, and those of the whole training.
        epoch, num_train_epochs: Passes over the data, and those of the whole training.
        log_history: Entries of the log.
        best_metric, best_global_step: The best evaluation so far, and after which update.
        is_world_process_zero, is_local_process_zero: Whether this is the first process.

    Example:
        >>> TrainingState(max_steps=30).global_step
        0
    """

    global_step: int = 0
    max_steps: int = 0
    epoch: float = 0.0
    num_train_epochs: float = 0.0
    log_history: list[dict[str, Any]] = field(default_factory=list)
    best_metric: float | None = None
    best_global_step: int | None = None
    is_world_process_zero: bool = True
    is_local_process_zero: bool = True


@dataclass
class TrainingControl:
    """What a callback may ask for by setting it, under the names of transformers' `TrainerControl`.

    Args:
        should_training_stop: End the training after this update.
        should_evaluate, should_save, should_log: Do so after this update, in `on_step_end`.

    Example:
        >>> TrainingControl().should_training_stop
        False
    """

    should_training_stop: bool = False
    should_evaluate: bool = False
    should_save: bool = False
    should_log: bool = False


class Callbacks:
    """Calls the methods of callbacks as `method(args, state, control, **more)`.

    Args:
        callbacks: Objects with some of the methods in `EVENTS`, such as a `transformers.TrainerCallback`; a class is
            called to make one. What a callback raises ends the training.
        args: Settings of the training.
        more: What every method gets besides, such as `model`.

    Attributes:
        state: How far the training is; the loop keeps it up to date.
        control: What callbacks asked for.

    Raises:
        TrainingError: one has none of these methods.

    Example:
        >>> class Count:
        ...     steps = 0
        ...     def on_step_end(self, args, state, control, **more):
        ...         self.steps += 1
        ...         control.should_training_stop = self.steps == 2
        >>> callbacks = Callbacks([count := Count()], CIAOTrainingArguments())
        >>> callbacks.call("on_step_end"), callbacks.call("on_step_end")
        (None, None)
        >>> count.steps, callbacks.control.should_training_stop
        (2, True)
    """

    state: TrainingState
    control: TrainingControl

    def __init__(self, callbacks: Iterable[Any], args: CIAOTrainingArguments, **more: Any):
        self._callbacks = [callback() if isinstance(callback, type) else callback for callback in callbacks]
        for callback in self._callbacks:
            if not any(callable(getattr(callback, event, None)) for event in EVENTS):
                raise TrainingError(
                    f"A callback has some of the methods {listed(EVENTS)}; {type(callback).__name__} has none of them."
                )
        self._args, self._more = args, more
        self.state, self.control = TrainingState(), TrainingControl()

    def call(self, event: str, **more: Any) -> None:
        """Calls a method of every callback that has it; a control that one returns takes the place of ours.

        Args:
            event: One of `EVENTS`.
            more: What this method gets besides, such as `metrics`.

        Example:
            >>> Callbacks([], CIAOTrainingArguments()).call("on_train_begin")
        """
        for callback in self._callbacks:
            method = getattr(callback, event, None)
            if callable(method):
                returned: Any = method(self._args, self.state, self.control, **self._more, **more)
                if returned is not None:
                    self.control = returned

    def asked(self, what: str) -> bool:
        """Whether a callback asked for something once, which is then forgotten.

        Args:
            what: A field of `TrainingControl`.

        Example:
            >>> Callbacks([], CIAOTrainingArguments()).asked("should_save")
            False
        """
        wanted = bool(getattr(self.control, what, False))
        if wanted:
            setattr(self.control, what, False)
        return wanted
