"""A training step from stored features against the same step from pixels, and what the features take on disk.

    python benchmarks/bench_training.py

Takes a minute or two. A step is forward, both losses, backward and an update by AdamW (fused, as the trainer's), of one
adapter with the library's default settings; the frozen trunk keeps nothing for gradients in either. "With u" starts
from features behind which u of the frozen conv units is stored as well: no frozen convolution is left in the step.
"""

from __future__ import annotations

from statistics import median

import torch
from measuring import arguments, in_turns, medians, ratio, recorded, resnet50, small_face, tiny, vgg16
from torch.utils.flop_counter import FlopCounterMode

from ciao_peft import CIAOConfig, get_ciao_model

CASES = {
    "VGG16, 96x96": (vgg16, (3, 96, 96), 32, 3),
    "ResNet-50, 224x224": (resnet50, (3, 224, 224), 4, 3),
    "small-face": (small_face, None, 64, 7),
}
CONFIG = CIAOConfig(problem_type="single_label_classification", num_labels=7)


def measured(make, size, batch_size: int, turns: int) -> dict:
    model = get_ciao_model(make(), CONFIG, input_size=size).train()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand((batch_size, *model.input_size), generator=generator)
    labels = torch.arange(batch_size) % 7
    with_u = model.extract_features(pixels, include_excitation=True)
    features = with_u[: len(model.opened.feature_shapes)]
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)

    def step(**given) -> None:
        optimiser.zero_grad()
        model(**given, labels=labels).loss.backward()
        optimiser.step()

    def update() -> None:
        optimiser.step()

    runs = {
        "live": lambda: step(pixel_values=pixels),
        "cached": lambda: step(features=features),
        "with_u": lambda: step(features=with_u),
        "update": update,
        "trunk": lambda: model.extract_features(pixels),
    }
    seconds = in_turns(runs, turns)
    operations = {}
    for name in ("live", "cached", "with_u", "trunk"):
        with FlopCounterMode(display=False) as counter:
            runs[name]()
        operations[name] = counter.get_total_flops() / batch_size
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {
        "batch_size": batch_size,
        "seconds": medians(seconds),
        "ratio": {name: ratio(seconds, "live", name) for name in ("cached", "with_u")},
        "flop_per_sample": operations,
        "limit": {name: operations["live"] / operations[name] for name in ("cached", "with_u")},
        # A step from features without its update, at the speed the trunk ran at: how far from that bound it is.
        "flops_per_second": median(operations["trunk"] * batch_size / s for s in seconds["trunk"]),
        "feature_numbers": sum(f[0].numel() for f in features),
        "numbers_with_u": sum(f[0].numel() for f in with_u),
        "pixel_bytes": pixels[0].numel(),
        "trained_parameters": parameters,
    }


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    with recorded("training", args) as record:
        cases = {"tiny": (tiny, (3, 16, 16), 4, 1)} if args.smoke else CASES
        record["cases"] = {name: measured(*case) for name, case in cases.items()}


if __name__ == "__main__":
    main()
