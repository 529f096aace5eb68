"""What an import costs, each in a fresh interpreter.

    python benchmarks/bench_imports.py

Takes less than a minute.
"""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.util import find_spec

from measuring import arguments, in_turns, medians, ratio, recorded

CODE = {
    "torch": "import torch",
    "ciao_peft": "import ciao_peft",
    "ciao_peft, its model": "from ciao_peft import CIAOConfig, CIAOModel, get_ciao_model",
}


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    code = CODE | ({"peft": "import peft"} if find_spec("peft") and not args.smoke else {})
    with recorded("imports", args) as record:
        runs = {
            name: lambda text=text: subprocess.run([sys.executable, "-c", text], check=True)
            for name, text in code.items()
        }
        start = time.perf_counter()
        seconds = in_turns(runs, 1, warm_up=0 if args.smoke else 1)
        if not args.smoke:
            turns = 5 if time.perf_counter() - start < 20 else 2
            seconds = {name: [*seconds[name], *more] for name, more in in_turns(runs, turns, warm_up=0).items()}
        record["import_seconds"] = medians(seconds)
        record["ratio"] = {name: ratio(seconds, name, "torch") for name in code}


if __name__ == "__main__":
    main()
