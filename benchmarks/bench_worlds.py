"""Reading one batch in several worlds against reading it in one, in PEFT's way, and against the bare encoder.

    python benchmarks/bench_worlds.py

Takes a minute or two. PEFT, where it is installed, has one conv LoRA (r = 16) on the same convolution for each world,
chosen with `set_adapter` before each pass; its worlds have no heads of their own, which is to its advantage.
"""

from __future__ import annotations

import torch
from measuring import in_turns, medians, ratio, recorded, small_face, vgg16
from torch.utils.flop_counter import FlopCounterMode

from ciao_peft import CIAOConfig, get_ciao_model

CONFIG = CIAOConfig(problem_type="single_label_classification", num_labels=7)
CASES = {"VGG16, 96x96": (vgg16, (3, 96, 96), 8, 3), "small-face": (small_face, None, 16, 9)}
WORLDS = (1, 4, 16)


def ours(make, size):
    model = get_ciao_model(make(), CONFIG, "0", input_size=size)
    for name in range(1, max(WORLDS)):
        model.add_adapter(str(name), CONFIG)
    return model.eval()


def theirs(make):
    from peft import LoraConfig, get_peft_model
    from torch import nn

    backbone = make()
    last = [name for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d)][-1]
    config = LoraConfig(r=16, target_modules=[last])
    model = get_peft_model(backbone, config, adapter_name="0")
    for name in range(1, max(WORLDS)):
        model.add_adapter(str(name), config)
    return model.eval()


def measured(make, size, batch_size: int, turns: int, with_peft: bool) -> dict:
    model = ours(make, size)
    pixels = torch.rand(batch_size, *model.input_size)
    names = [str(n) for n in range(max(WORLDS))]
    runs = {f"read {n}": lambda n=n: model.read(pixels, adapter_names=names[:n]) for n in WORLDS}
    runs |= {"encoder": lambda: model.backbone(pixels), "one adapter": lambda: model(pixels)}
    if with_peft:
        peft = theirs(make)

        def loop(count: int) -> None:
            for name in names[:count]:
                peft.set_adapter(name)
                peft(pixels)

        runs |= {f"PEFT {n}": lambda n=n: loop(n) for n in WORLDS}
    operations = {}
    with torch.inference_mode():
        seconds = in_turns(runs, turns)
        for name in ("encoder", *(f"read {n}" for n in WORLDS)):
            with FlopCounterMode(display=False) as counter:
                runs[name]()
            operations[name] = counter.get_total_flops() / batch_size
    ratios = {f"read {n}": ratio(seconds, f"read {n}", "read 1") for n in WORLDS[1:]}
    ratios["one adapter"] = ratio(seconds, "one adapter", "encoder")
    if with_peft:
        ratios |= {f"PEFT {n}": ratio(seconds, f"PEFT {n}", "PEFT 1") for n in WORLDS[1:]}
        ratios["PEFT one adapter"] = ratio(seconds, "PEFT 1", "encoder")
    return {"batch_size": batch_size, "seconds": medians(seconds), "ratio": ratios, "flop_per_sample": operations}


def main() -> None:
    try:
        import peft  # noqa: F401
    except ImportError:
        with_peft = False
    else:
        with_peft = True
    with recorded("worlds") as record:
        record["cases"] = {name: measured(*case, with_peft and case[0] is vgg16) for name, case in CASES.items()}


if __name__ == "__main__":
    main()
