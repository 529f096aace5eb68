"""`python -m ciao_peft.cli ...` is `ciao ...`: what launchers such as torchrun can start."""

from __future__ import annotations

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
