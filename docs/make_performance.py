"""Writes docs/scaling.md and the first part of docs/performance.md from what the benchmarks measured.

python docs/make_performance.py
"""

from __future__ import annotations

from pathlib import Path

from capacity_tables import capacity
from pages import wrapped
from speed_tables import (
    BFLOAT16,
    SUBJECTS,
    decoding,
    equal_accuracy,
    faces_of,
    gpu,
    growth,
    imports,
    loading,
    losses,
    many_trainings,
    ms,
    on_disk,
    one_frame,
    result,
    size,
    storing,
    storing_on_gpu,
    table,
    training,
    with_update,
    worlds,
)

HERE = Path(__file__).parent
BEGIN, END = "<!-- speed: written by docs/make_performance.py -->", "<!-- end of speed -->"
FACES = {"AffectNet": 287_651, "a billion faces": 1_000_000_000}


def judged(found: float, target: float, at_least: bool = False) -> str:
    return "met" if (found >= target if at_least else found <= target) else "**not met**"


def verdicts() -> str:
    rows = [*of_training(), *of_worlds(), *of_features(), *of_loading(), *of_losses(), *of_whole_trainings()]
    rows += of_many_trainings()
    return table(["", "measured", "target", "", "bound"], rows)


def of_training() -> list[list[str]]:
    vgg = result("training")["cases"]["VGG16, 96x96"]
    rows = []
    for run, target, what in (("cached", 11, "stored features"), ("with_u", 15, "stored features and u")):
        found, bound = vgg["ratio"][run], f"{vgg['limit'][run]:.1f}x by operations, {with_update(vgg, run):.1f}x"
        rows.append(
            [
                f"training step from {what}, VGG16 at 96x96, against the live trunk",
                f"{found:.1f}x",
                f"at least {target}x",
                judged(found, target, at_least=True),
                f"{bound} with the update",
            ]
        )
    return rows


def of_worlds() -> list[list[str]]:
    case = result("worlds")["cases"]["VGG16, 96x96, many worlds"]
    flop, rows = case["flop_per_sample"], []
    for count, target in ((4, 1.1), (16, 1.4), (64, 2.7)):
        found = case["ratio"][f"read {count}"]
        bound = f"{flop[f'read {count}'] / flop['read 1']:.2f}x by operations"
        what = f"reading {case['batch_size']} faces in {count} worlds against one"
        rows.append([what, f"{found:.2f}x", f"{target}x", judged(found, target), bound])
    for name, target in (("VGG16, 96x96, many worlds", 1.06), ("small-face", 1.1)):
        case = result("worlds")["cases"][name]
        found, flop = case["ratio"]["one adapter"], case["flop_per_sample"]
        what = f"one adapter against the bare encoder, {name.removesuffix(', many worlds')}"
        bound = f"{flop['read 1'] / flop['encoder']:.2f}x by operations"
        rows.append([what, f"{found:.2f}x", f"{target}x", judged(found, target), bound])
    return rows


def of_many_trainings() -> list[list[str]]:
    case = result("many_trainings")["cases"]["small-face"]
    found, apart = case["ratio"]["as chosen"], case["difference"]
    what = f"{case['trainings']} trainings at once, one after the other against `train_adapters`, small-face"
    bound = "1x by operations: a CPU is busy with one"
    rows = [[what, f"{found:.2f}x", "at least 1.5x", judged(found, 1.5, at_least=True), bound]]
    what = f"largest difference of a stacked training from a single one after {case['compared_after']} updates"
    bound = f"{apart['disturbed']:.0e} where a single one starts a rounding error apart"
    return [*rows, [what, f"{apart['at once']:.0e}", "1e-05", judged(apart["at once"], 1e-5), bound]]


def of_features() -> list[list[str]]:
    record, rows = result("features"), []
    for name, case in record["storing"].items():
        found = case["ratio"]["memory"]
        spent = case["seconds"]["memory"] - case["seconds"]["trunk"]
        bound = f"{1000 * spent:.2f} ms a picture to hash, check and keep it"
        what = f"bare trunk against storing its features, decoded pictures, {name}"
        rows.append([what, f"{found:.2f}", "at least 0.9", judged(found, 0.9, at_least=True), bound])
    for name, case in record["one_frame"].items():
        found, flop = case["ratio"]["predict"], case["flop"]
        what = f"one array through encoder and two worlds against the bare encoder, {case['how']}, {name}"
        weights = size(4 * (case["numbers"]["read"] - case["numbers"]["encoder"]))
        bound = f"{flop['read'] / flop['encoder']:.2f}x by operations, and {weights} of weights that the worlds add"
        rows.append([what, f"{found:.2f}x", "1.3x", judged(found, 1.3), bound])
    return rows


def of_loading() -> list[list[str]]:
    rows = []
    for name, case in result("loading")["cases"].items():
        slower, own = case["last"] / case["first"], case["median"]
        what = f"loading adapter {case['loads']} against the first, {name}"
        rows.append([what, f"{slower:.2f}x", "flat (1.2x)", judged(slower, 1.2), ""])
        what = f"loading one adapter of {size(case['bytes'])}, {name}, beyond the time of hashing"
        bound = f"{ms(case['checksum'])} ms for its SHA-256 at {size(case['bytes'] / case['checksum'])}/s"
        beyond = own - case["checksum"]
        rows.append([what, f"{ms(beyond)} ms", "5 ms", judged(beyond, 0.005), f"all {ms(own)} ms, {bound}"])
    return rows


def of_losses() -> list[list[str]]:
    record, rows = result("losses"), []
    at = record["sizes"]["4096"]
    found = at["ratio"]["ciao_peft"]
    rows.append(["contrastive loss at B = 4096 against SupContrast", f"{found:.2f}x", "0.5x", judged(found, 0.5), ""])
    found = at["memory"]["ciao_peft"]
    rows.append(["its memory there, in numbers of float32", f"{found:.3f} B²", "0.2 B²", judged(found, 0.2), ""])
    found = max(max(pair) for pair in record["errors"]["ciao_peft"].values())
    what = "its error against float64, down to τ = 0.005, value and gradient"
    rows.append([what, f"{found:.0e}", "1e-05", judged(found, 1e-5), ""])
    found = result("imports")["ratio"]["ciao_peft, its model"]
    return [*rows, ["import of the model's classes against torch", f"{found:.2f}x", "1.2x", judged(found, 1.2), ""]]


def of_whole_trainings() -> list[list[str]]:
    record, rows = result("equal_accuracy"), []
    seconds = record["seconds_to_target"]
    if "PEFT" in seconds:
        found = seconds["PEFT"] / seconds["ciao_peft"]
        what = f"whole training to {100 * record['target']:.1f}% on {record['faces']}, PEFT's conv LoRA against ours"
        rows.append([what, f"{found:.1f}x", "at least 10x", judged(found, 10, at_least=True), peft_bound()])
    for name, sizes in result("growth")["cases"].items():
        first, last = sizes[0], sizes[-1]
        times = last["samples"] / first["samples"]
        costs = [sum(case["stored"]["seconds"].values()) / case["samples"] for case in (first, last)]
        what = f"storing and an epoch, each of {times:.0f} times the faces against each of {first['samples']:,}, {name}"
        found = costs[1] / costs[0]
        rows.append([what, f"{found:.2f}x", "flat (1.2x)", judged(found, 1.2), ""])
    return rows


def peft_bound() -> str:
    """Operations of a step of LoRA, at least, against those of a step from features and u, of the bundled encoder."""
    flop = result("training")["cases"]["small-face"]["flop_per_sample"]
    last = flop["cached"] - flop["with_u"]  # the conv unit behind the trunk
    # Every convolution forward, and backward to its input; what LoRA itself and the head take is left out.
    return f"{2 * (flop['trunk'] + last) / flop['with_u']:.1f}x by operations, at equal numbers of steps"


def where() -> str:
    known = [result(subject)["machine"] for subject in SUBJECTS]
    here, loads = known[0], [entry["load"] for entry in known]
    return (
        f"{here['cpu']}, {here['cores']} cores of which each benchmark uses {here['threads']}, torch {here['torch']}, "
        f"Python {here['python']}. Others used the machine meanwhile (load average "
        f"{min(loads)} to {max(loads)}): seconds are of the processor, cases take turns, and a ratio is "
        "the median of the ratios within a turn. One thread multiplies matrices at "
        f"{here['flop'] / 1e9:,.0f} GFLOP/s and copies memory at {here['bytes'] / 1e9:,.0f} GB/s, as "
        "`measuring.rates` finds."
    )


def performance() -> str:
    return f"""## Speed

    make bench

{wrapped(where())}

{verdicts()}

What is not met, and why: a bound is what `t = max(bytes / BW, FLOP / F) + t_opt` leaves, with F the rate at which the
trunk itself ran and t_opt the optimiser's update. Beyond its operations, each world reads weights of its own from
memory, which counts where a batch is small. Loading maps the file of weights and copies nothing; what is left is the
SHA-256 of every byte, the search for NaN, the signature of the backbone and the making of modules. No check is skipped
to be quicker. Storing features hashes every picture once, looks for NaN and copies, which counts where the trunk is
small. One frame of a small encoder costs what its worlds compute, which are not compiled. A whole training with the
bundled encoder gains little, as its trunk is no more work than the step behind it; what a larger trunk gains is in the
first rows.

Not measured: anything on a GPU. `benchmarks/bench_gpu_*.py` print wall time, time in kernels and share busy beside each
other, and their tables come here once they ran on one. On a CPU a study and a search take as long as their trainings
one after another: the goal of a third of that time is not met there.

What more faces cost is in [scaling.md](scaling.md).

### A training step

One adapter with the library's defaults; forward, both losses, backward, update. "Stored" starts from the features that
`cache_features` keeps, in memory, "with u" from those of `include_excitation=True`; "operations" is the ratio of their
numbers of multiplications and additions.

{training()}

A face takes, with one stored view:

{on_disk()}

### A whole training to equal accuracy

{faces_of(result("equal_accuracy"))};
the bundled encoder, the same batches, epochs and head, and a falling learning rate that each chose by further people.
PEFT's model is trained by transformers' `Trainer`. Ours includes the pass
that stores features and u ({result("equal_accuracy")["caching"]:.1f} s). The target is the accuracy that every training
of both reaches, less half a point; seconds are of the processor, with the evaluation after each epoch.

{equal_accuracy()}

### More faces

Storing the features once and training an epoch from them, and an epoch from the live trunk. Memory is that of the
process beyond what it held before it saw the faces; "mapped" are pages of the files of features, which the system takes
back when it needs them.

{growth()}

### Storing features, and reading one frame

Processor seconds of one thread. "Storing" is `cache_features` over pictures that are decoded already, hashed, checked
and kept, in memory or in a folder; the bare trunk runs over batches that were made before.

{storing()}

`predict` over a folder of JPEG files of 224x224 pixels, in seconds that a user waits, with others on the machine:

{decoding()}

One array of the encoder's size, to the named answers of two worlds. "Read" is the model's part, from pixels to logits;
the ratio is to the compiled encoder.

{one_frame()}{storing_on_gpu()}

### Reading in several worlds

`read` runs the trunk once. "PEFT 4" is `set_adapter` and a pass for each of four worlds, with a conv LoRA of rank 16 on
the same convolution and no heads of its own; "PEFT adapter_names 4" is one pass over four copies of the batch, each
with an adapter of its own. In "mixed", each row of one batch has its own world. Ratios are to one world of the same
library; that of "one adapter" is to the bare encoder. "Stacked" is what a GPU is given: all worlds in one product. A
CPU gains little or nothing by it, and keeps the bits of each world by itself.

{worlds()}

### Many trainings on the same features

`train_adapters` against `CIAOTrainer` for each adapter in turn. On a CPU it does the same ("as chosen"): one training
keeps a CPU at work, and products of sixteen adapters ("at once", what a GPU is given) only leave its caches.

{many_trainings()}

### Loading adapters, one after another

{loading()}

### The contrastive loss

Value and gradient, D = {result("losses")["dim"]}. Peak memory is that of tensors made meanwhile, in units of a float32
matrix of all pairs. Errors are relative, against the formula in float64, for 256 samples of which half have a near
neighbour.

{losses()}

### Imports

{imports()}{gpu()}"""


def scaling() -> str:
    record, rows, cases = result("training"), [], []
    for name, case in record["cases"].items():
        per_sample = {run: seconds / case["batch_size"] for run, seconds in case["seconds"].items()}
        stored = BFLOAT16 * case["feature_numbers"]
        cases.append(
            [
                name,
                size(stored),
                f"{case['flop_per_sample']['trunk'] / 1e9:.2f}",
                f"{case['flop_per_sample']['cached'] / 1e9:.2f}",
                ms(per_sample["trunk"]),
                ms(per_sample["cached"]),
                size(stored / per_sample["cached"]) + "/s",
            ]
        )
        for faces, number in FACES.items():
            hours = {run: number * seconds / 3600 for run, seconds in per_sample.items()}
            rows.append(
                [
                    f"{faces} ({number:,})",
                    name,
                    size(number * stored),
                    size(number * case["pixel_bytes"]),
                    *(f"{hours[run]:,.1f}" for run in ("trunk", "cached", "live")),
                    f"{max(1, -(-hours['trunk'] // 24)):,.0f}",
                ]
            )
    machine = record["machine"]
    per_face = ["encoder", "bytes", "GFLOP, trunk", "GFLOP, step", "trunk, ms", "step, ms", "disk read while training"]
    header = ["faces", "encoder", "features", "pixels", "trunk once", "epoch, stored", "epoch, live", "cores for a day"]
    return f"""# What more faces cost

Written by `python docs/make_performance.py` from what `benchmarks/bench_training.py` measured on one core of
{machine["cpu"]} (torch {machine["torch"]}).

For N faces, V stored views, n numbers that cross the cut for each, b bytes a number (2 in bfloat16), and t seconds of
one core for each face:

    disk     = N * V * n * b
    trunk    = N * V * t_trunk / cores           once
    epoch    = N * t_step / cores                t = max(bytes / BW, FLOP / F) + t_opt / batch
    BW       = n * b / t_step                    what the disk must give each core while training

Measured for each face:

{table(per_face, cases)}

With u stored as well (`include_excitation=True`), a step is shorter and n larger; [performance.md](performance.md) has
both. The trunk's work divides over processes without communication (`cache_features` under `torchrun` or
`accelerate launch`), and so does training of different adapters, one for each process: `ciao reproduce --num_processes`
works through a plan this way: each process claims the next training that no other has claimed. Training one adapter on
many processes exchanges its gradients: 4 bytes for each trained number and step, which the table leaves out. A dataset
that is larger than the disk can be streamed: with `cache_features(model, load_faces(..., streaming=True), folder)`,
each process reads the shards that `split_dataset_by_node` gives it. In core-hours, for V = 1:

{table(header, rows)}

"Cores for a day" is the number of cores that run the trunk over all faces in 24 hours. Without room to store the
features, every epoch runs the trunk again, at about the cost of "trunk once". So storing pays from the second epoch on.
{capacity()}"""


def put_into(page: Path, text: str) -> None:
    """Replaces this script's part of the page, or puts it first below the title."""
    before = page.read_text(encoding="utf-8") if page.is_file() else "# Performance\n"
    if BEGIN in before:
        head, _, rest = before.partition(BEGIN)
        tail = rest.partition(END)[2]
    else:
        head, _, tail = before.partition("\n")
        head, tail = f"{head}\n\n", f"\n{tail}"
    page.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}", encoding="utf-8")


def main() -> None:
    put_into(HERE / "performance.md", performance())
    (HERE / "scaling.md").write_text(scaling(), encoding="utf-8")
    print(f"wrote {HERE / 'performance.md'} and {HERE / 'scaling.md'}")


if __name__ == "__main__":
    main()
