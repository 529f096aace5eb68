"""Many trainings of one adapter each on the same stored features: at once, and one after the other.

    python benchmarks/bench_many_trainings.py

Takes about four minutes. "At once" is what `train_adapters` does on a GPU, forced here: all adapters stacked in one
loop. "As chosen" is what it does on this device. The difference is the largest of any number of two adapters between a
training at once and the same training by `CIAOTrainer`; "disturbed" is that between two trainings by `CIAOTrainer`, one
of which starts from values a rounding error apart.
"""

from __future__ import annotations

import copy

import torch
from measuring import arguments, in_turns, medians, ratio, recorded, small_face, stacked, tiny

from ciao_peft import (
    AdapterJob,
    CIAOConfig,
    CIAOTrainer,
    CIAOTrainingArguments,
    cache_features,
    get_ciao_model,
    train_adapters,
)

CONFIG = CIAOConfig(problem_type="single_label_classification", num_labels=7)
CASES = {  # backbone, size, faces, batch, trainings, updates, updates before the comparison, turns
    "small-face": (small_face, None, 256, 64, 16, 8, 100, 3),
}


def measured(make, size, faces: int, batch_size: int, count: int, updates: int, compared: int, turns: int) -> dict:
    backbone = make()
    model = get_ciao_model(copy.deepcopy(backbone), CONFIG, "0", input_size=size)
    for seed in range(1, count):
        model.add_adapter(str(seed), CONFIG)
    pixels = torch.rand(faces, *model.input_size)
    data = [{"pixel_values": own, "labels": torch.tensor(n % 7)} for n, own in enumerate(pixels)]
    stored = cache_features(model, data, include_excitation=True)
    fixed = {"per_device_train_batch_size": batch_size, "report_to": "none", "disable_tqdm": True}

    def args(seed: int, steps: int) -> CIAOTrainingArguments:
        return CIAOTrainingArguments.recipe("paper", seed=seed, max_steps=steps, logging_steps=steps, **fixed)

    def jobs(names: list[str], steps: int) -> list[AdapterJob]:
        return [AdapterJob(adapter_name=name, args=args(int(name), steps)) for name in names]

    def one_by_one(names: list[str], steps: int) -> None:
        for name in names:
            CIAOTrainer(model, args(int(name), steps), name).train(stored)

    def at_once(names: list[str], steps: int) -> None:
        with stacked():
            train_adapters(model, jobs(names, steps), stored)

    names = list(model.adapters)
    runs = {
        "one after the other": lambda: one_by_one(names, updates),
        "as chosen": lambda: train_adapters(model, jobs(names, updates), stored),
        "at once": lambda: at_once(names, updates),
    }
    seconds = in_turns(runs, turns)

    def trained(run, disturbed: bool = False) -> list[torch.Tensor]:
        """Two fresh adapters after a training each; disturbed: from values that are rounded otherwise."""
        nonlocal model
        model = get_ciao_model(copy.deepcopy(backbone), CONFIG, "0", input_size=size)
        model.add_adapter("1", CONFIG)
        generator = torch.Generator().manual_seed(0)
        for name, parameter in model.adapters.named_parameters():
            if disturbed and "decay" not in name:  # where `a` starts is found before the first update
                parameter.data *= 1 + torch.finfo().eps * torch.randn(parameter.shape, generator=generator)
        run(["0", "1"], compared)
        return [tensor for adapter in model.adapters.values() for tensor in adapter.state_dict().values()]

    alone = trained(one_by_one)
    others = {"at once": trained(at_once), "disturbed": trained(one_by_one, disturbed=True)}
    difference = {
        name: max(float((a - b).abs().max()) for a, b in zip(alone, other, strict=True))
        for name, other in others.items()
    }
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
