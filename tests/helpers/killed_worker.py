"""A study of several processes, one of which `test_reproduce.py` has killed at the start of its first training.

Usage: python killed_worker.py <file that the killed one leaves> <words after `ciao`> ...
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from ciao_peft.cli import main
from ciao_peft.study.training import Fold, Training


def die_once(mark: str) -> None:
    """From now on whoever trains first dies, if no other process has."""
    fit = Training.fit

    def fit_or_die(training: Training, fold: Fold):
        try:
            Path(mark).touch(exist_ok=False)
        except FileExistsError:
            return fit(training, fold)
        os.kill(os.getpid(), signal.SIGKILL)

    Training.fit = fit_or_die


if __name__ == "__mp_main__":  # a process that the one below has started
    die_once(sys.argv[1])

if __name__ == "__main__":
    sys.exit(main(sys.argv[2:]))
