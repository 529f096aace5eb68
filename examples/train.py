"""Train one adapter and save it: `ciao train`, for launchers that start a script.

    accelerate launch examples/train.py --dataset painted_faces --world eight --output_dir runs/eight
    accelerate launch examples/train.py --data_dir ../shared/faces --label_column expression

On several processes of a machine without GPU start it with `ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2`
(`accelerate launch --cpu --num_processes 2` starts a single one). What to expect on real faces is in docs/results.md.
"""

from __future__ import annotations

import sys

from ciao_peft.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
