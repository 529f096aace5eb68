"""Successive halving whose trainings are made by Ray's workers."""

from __future__ import annotations

from collections.abc import Callable

from ...engine import ray_running
from ..on_ray import RayWorklist
from ..worklist import Progress
from .halving import Halving

__all__ = ["RayHalving"]


class RayHalving(Halving, RayWorklist):
    """The trainings of all rungs, as `Halving` has them, handed to Ray's workers, as `RayWorklist` does.

    This process alone says who goes on to the next rung, by the records.

    Args:
        plan: As for `Halving`.
        folder: As for `Halving`.
        say: Called with every line for people.
        engine: As for `RayWorklist`.
        num_threads: As for `RayWorklist`.
    """

    of_workers = Halving

    def work(self, on_progress: Callable[[Progress, str], None] = lambda progress, doing: None) -> Progress:
        """Does what `Halving.work` does, with one Ray for all rungs.

        Args:
            on_progress: As for `Worklist.work`.

        Raises:
            KeyboardInterrupt: as it comes; the trainings at work are lost, and no other.
            LaunchError: Ray cannot be reached, or was lost.
        """
        with ray_running(self._engine):
            return super().work(on_progress)
