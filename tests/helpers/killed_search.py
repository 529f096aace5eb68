"""A search that `study/test_search.py` kills in the middle of a trial, or lets run beside another one.

Usage: python -m helpers.killed_search <folder> <number of the trial to be killed in, -1 for none>
"""

from __future__ import annotations

import os
import signal
import sys

from ciao_peft.study.search.objective import Objective

from .searches import search


def main(folder: str, fatal: int) -> None:
    score, begun = Objective.score, []

    def score_or_die(self, method, report):
        def report_or_die(step, value):
            report(step, value)
            if len(begun) - 1 == fatal:
                os.kill(os.getpid(), signal.SIGKILL)

        begun.append(method)
        return score(self, method, report_or_die)

    Objective.score = score_or_die
    search(folder)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
