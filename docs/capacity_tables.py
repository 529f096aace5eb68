"""The part of docs/scaling.md that says what `ciao plan-capacity` says, and how far that is from what was measured."""

from __future__ import annotations

from speed_tables import result, size, table

from ciao_peft.capacity import Rates, capacity_table, plan_capacity

FACES = (287_651, 10**8, 10**9)
WORLDS = (1, 16)
CORES, DAYS, VIEWS, EPOCHS = 16, 7, 2, 12
TARGET_DISK, TARGET_MEMORY = 16e9, 1e9


def capacity() -> str:
    """Commands, formulas as code, plans beside measurements, and the index of many rows."""
    record = result("capacity")
    growth, rates = record["growth"], Rates.from_dict(record["growth"]["rates"])
    plans = [
        plan_capacity(rates, faces, worlds=worlds, views=VIEWS, epochs=EPOCHS, cores=CORES, days=DAYS)
        for faces in FACES
        for worlds in WORLDS
    ]
    rows = [
        [
            f"{row['faces']:,}",
            row["worlds"],
            *(f"{row[name]:.2f} / {row['planned'][name]:.2f}" for name in ("storing", "training")),
            *(f"{row[name] / row['planned'][name]:.2f}" for name in ("storing", "training", "disk")),
        ]
        for row in growth["rows"]
    ]
    head = ["faces", "worlds", "storing, s: measured / planned", "training, s", "storing", "training", "disk"]
    exponents = growth["exponents"]
    index = [
        [
            f"{row['rows']:,}",
            size(row["disk"]),
            size(row["memory"]),
            f"{1e6 * row['lookup']:.1f}",
            f"{1000 * row['opening']:.1f}",
        ]
        for row in record["index"]
    ]
    last = record["index"][-1]
    times = last["lookup"] / record["index"][0]["lookup"]
    met = last["disk"] <= TARGET_DISK and last["memory"] <= TARGET_MEMORY
    return f"""
## From one laptop to a cluster

    ciao train --data_dir faces --output_dir runs/moods                     # one process
    torchrun --nproc_per_node 4 examples/train.py ...                       # processes of one machine
    ciao reproduce --plan plan.yaml --output_dir runs/plan --num_processes 8  # trainings of a plan, on one machine
    ciao plan-capacity --faces 1e9 --worlds 16 --days 7                     # what it would cost

Across machines, features and adapters go through an object store: `cache_features(model, faces, "s3://bucket/part-3")`
on each machine for its part of the faces, `load_features("s3://bucket/part-3", labels)` where they are trained on, and
`model.save_pretrained("s3://bucket/fer")`; see [the how-to](howto/stores.md). Ray shares one call among machines:
[howto/ray.md](howto/ray.md). Without it, one call of `cache_features` shares its
rows among the processes of one machine alone, and holds a list of the rows that are left, some 36 bytes each: give a
billion faces to it in parts. Each machine was tried as a process of its own with a cache of its own, on one machine.

## Plans

`ciao plan-capacity` and `ciao_peft.capacity.plan_capacity` compute, for N faces, V views, E epochs and K worlds,

    disk     = N * V * (bytes of features + bytes of the index)
    storing  = N * V * (t_decode + t_trunk)                          once, whatever K is
    training = N * E * K * t_step
    machines = (storing + training) / (24 h * days * cores)

from what one face costs on this machine. For {rates.encoder}, in bfloat16, on one core of {record["machine"]["cpu"]}:
{rates.feature_bytes:,} bytes, {1000 * rates.decode_seconds:.2f} ms to decode a JPEG file,
{1000 * rates.trunk_seconds:.2f} ms to store, {1000 * rates.step_seconds:.2f} ms for a step.
{VIEWS} views of each face, {EPOCHS} epochs, machines of {CORES} cores, done in {DAYS} days:

{capacity_table(plans)}

A plan knows no network, no disk that is too slow, and no machine that waits: the first table of this page says what the
disk must give.

### Beside what was measured

`benchmarks/bench_capacity.py` stores and trains an epoch of 1, 4, 16 and 64 times as many faces, and of more worlds on
as many, and compares them with plans from rates that were measured before. Seconds are of the processor, of pixels that
need no decoding; others used the machine.

{table(head, rows)}

Seconds grow with the faces to the power {exponents["storing"]:.2f} while storing and {exponents["training"]:.2f} while
training, the disk to the power {exponents["disk"]:.2f}; the last three columns are measured over planned. What a small
run pays once (opening files, making an optimiser) makes the powers less than 1, and a plan from few faces errs on the
dear side for many: `--num_probe` takes more of them. Every run shared its cores with others.

### An index of many rows

A store has one `index.json`, whatever its size, 4 bytes of checksum for each row of each tensor, and no other index:
row n of a tensor lies at n times its size. The targets for a billion rows, 16 GB on disk and
1 GB of memory, are {"met" if met else "**not met**"}; to look up a row and compare its checksum
takes {times:.1f} times as long among {last["rows"]:,} rows as among
{record["index"][0]["rows"]:,}, for the pages that no cache holds:

{table(["rows", "disk, index", "memory", "lookup of a row, µs", "opening, ms"], index)}

Each number of rows was opened by a process of its own; memory is that beyond what it held before.
Checksums of more than 64 MB are mapped, and which rows were looked at is a bit each. Of a billion rows the file of
features was an empty one of {size(last["rows"] * 2048)} that took no disk; their checksums were
all there, and each row that was read was compared with its own.
"""


__all__ = ["capacity"]
