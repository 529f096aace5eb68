"""A study that `study/test_reproduce.py` kills in the middle of a training.

Usage: python -m helpers.killed_study <number of the training to be killed in> <words after `ciao`> ...
"""

from __future__ import annotations

import os
import signal
import sys

from ciao_peft.cli import main
from ciao_peft.trainer.loop import TrainingLoop


def dying(fatal: int) -> None:
    """From now on the process dies in the first update of the training of this number."""
    start, begun = TrainingLoop.__init__, []

    def start_or_die(self, *given, **named):
        start(self, *given, **named)
        begun.append(self)
        if len(begun) - 1 == fatal:
            self._update = lambda *_: os.kill(os.getpid(), signal.SIGKILL)

    TrainingLoop.__init__ = start_or_die


if __name__ == "__main__":
    dying(int(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
