"""Many trainings of one adapter each on the same stored features: at once, and one after the other.

    python benchmarks/bench_many_trainings.py

Takes about three minutes. "At once" is what `train_adapters` does on a GPU, forced here: all adapters stacked in one
loop. "As chosen" is what it does on this device. The difference is the largest of any number of any adapter between a
training at once and the same training by `CIAOTrainer`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from measuring import arguments, in_turns, medians, ratio, recorded, small_face, tiny

from ciao_peft import (
    AdapterJob,
    CIAOConfig,
    CIAOTrainer,
    CIAOTrainingArguments,
    cache_features,
    get_ciao_model,
    train_adapters,
)
from ciao_peft.adapters import stack

CONFIG = CIAOConfig(problem_type="single_label_classification", num_labels=7)
CASES = {  # backbone, size, faces, batch, trainings, updates, updates before the comparison, turns
    "small-face": (small_face, None, 256, 64, 16, 8, 100, 3),
}


@contextmanager
def stacked_on(*devices: str) -> Iterator[None]:
    """A context in which adapters are stacked on these kinds of devices."""
    before = set(stack.STACKED_ON)
    stack.STACKED_ON.clear()
    stack.STACKED_ON.update(devices)
    try:
        yield
    finally:
        stack.STACKED_ON.clear()
        stack.STACKED_ON.update(before)


def measured(make, size, faces: int, batch_size: int, count: int, updates: int, compared: int, turns: int) -> dict:
    model = get_ciao_model(make(), CONFIG, "0", input_size=size)
    for seed in range(1, count):
        model.add_adapter(str(seed), CONFIG)
    pixels = torch.rand(faces, *model.input_size)
    data = [{"pixel_values": own, "labels": torch.tensor(n % 7)} for n, own in enumerate(pixels)]
    stored = cache_features(model, data, include_excitation=True)
    start = {name: {k: v.clone() for k, v in a.state_dict().items()} for name, a in model.adapters.items()}
    fixed = {"per_device_train_batch_size": batch_size, "report_to": "none", "disable_tqdm": True}

    def args(seed: int, steps: int) -> CIAOTrainingArguments:
        return CIAOTrainingArguments(seed=seed, max_steps=steps, logging_steps=steps, **fixed)

    def jobs(names: list[str], steps: int) -> list[AdapterJob]:
        return [AdapterJob(adapter_name=name, args=args(int(name), steps)) for name in names]

    def one_by_one(names: list[str], steps: int) -> None:
        for name in names:
            CIAOTrainer(model, args(int(name), steps), name).train(stored)

    def at_once(names: list[str], steps: int) -> None:
        with stacked_on("cpu", "cuda"):
            train_adapters(model, jobs(names, steps), stored)

    names = list(model.adapters)
    runs = {
        "one after the other": lambda: one_by_one(names, updates),
        "as chosen": lambda: train_adapters(model, jobs(names, updates), stored),
        "at once": lambda: at_once(names, updates),
    }
    seconds = in_turns(runs, turns)
    results = []
    for run in (one_by_one, at_once):
        for name in names[:2]:
            model.adapters[name].load_state_dict(start[name])
        run(names[:2], compared)
        results.append([p.clone() for name in names[:2] for p in model.adapters[name].state_dict().values()])
    difference = max(float((a - b).abs().max()) for a, b in zip(*results, strict=True))
    return {
        "batch_size": batch_size,
        "trainings": count,
        "updates": updates,
        "compared_after": compared,
        "difference": difference,
        "seconds": medians(seconds),
        "ratio": {name: ratio(seconds, "one after the other", name) for name in ("as chosen", "at once")},
    }


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    with recorded("many_trainings", args) as record:
        cases = {"tiny": (tiny, (3, 16, 16), 16, 8, 3, 2, 4, 1)} if args.smoke else CASES
        record["cases"] = {name: measured(*case) for name, case in cases.items()}


if __name__ == "__main__":
    main()
