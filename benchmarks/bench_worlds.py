"""Reading one batch in several worlds against reading it in one, in PEFT's way, and against the bare encoder.

    python benchmarks/bench_worlds.py

Takes about five minutes. "Stacked" is what `read` does on a GPU, forced here: all worlds in one product. PEFT, where it
is installed, has one conv LoRA (r = 16) on the same convolution for each world; its worlds have no heads of their own,
which is to its advantage. It reads a batch in N worlds by a loop over `set_adapter`, or as N copies of the batch with
`adapter_names`. "Mixed" is one batch in which each row has its world.
"""

from __future__ import annotations

import torch
from measuring import arguments, in_turns, medians, ratio, recorded, small_face, stacked, tiny, vgg16
from torch.utils.flop_counter import FlopCounterMode

from ciao_peft import CIAOConfig, get_ciao_model

CONFIG = CIAOConfig(problem_type="single_label_classification", num_labels=7)
WORLDS = (1, 4, 16)
MANY = (*WORLDS, 64)
CASES = {  # backbone, size, faces, turns, worlds, whether PEFT reads them too
    "VGG16, 96x96": (vgg16, (3, 96, 96), 8, 3, WORLDS, True),
    "VGG16, 96x96, many worlds": (vgg16, (3, 96, 96), 32, 3, MANY, False),
    "small-face": (small_face, None, 16, 9, MANY, True),
}


def ours(make, size, count: int):
    model = get_ciao_model(make(), CONFIG, "0", input_size=size)
    for name in range(1, count):
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


def measured(make, size, batch_size: int, turns: int, worlds: tuple[int, ...], with_peft: bool) -> dict:
    model = ours(make, size, max(worlds))
    pixels = torch.rand(batch_size, *model.input_size)
    names = [str(n) for n in range(max(worlds))]
    runs = {f"read {n}": lambda n=n: model.read(pixels, adapter_names=names[:n]) for n in worlds}

    def read_stacked() -> None:
        with stacked():
            model.read(pixels, adapter_names=names[: max(WORLDS)])

    runs[f"read {max(WORLDS)}, stacked"] = read_stacked
    runs |= {"encoder": lambda: model.backbone(pixels), "one adapter": lambda: model(pixels)}
    own = [names[row % len(names)] for row in range(batch_size)]
    runs["mixed"] = lambda: model(pixels, adapter_names=own)
    refused = None
    if with_peft:
        peft = theirs(make)

        def loop(count: int) -> None:
            for name in names[:count]:
                peft.set_adapter(name)
                peft(pixels)

        def copies(count: int) -> None:
            peft(pixels.repeat(count, 1, 1, 1), adapter_names=[name for name in names[:count] for _ in pixels])

        runs |= {f"PEFT {n}": lambda n=n: loop(n) for n in WORLDS}
        try:
            copies(2)
        except (TypeError, ValueError) as error:  # PEFT mixes batches for some kinds of layers only
            refused = f"{type(error).__name__}: {error}"
        else:
            runs |= {f"PEFT adapter_names {n}": lambda n=n: copies(n) for n in WORLDS[1:]}
            runs["PEFT mixed"] = lambda: peft(pixels, adapter_names=own)
    operations = {}
    with torch.inference_mode():
        seconds = in_turns(runs, turns)
        for name in ("encoder", *(f"read {n}" for n in worlds)):
            with FlopCounterMode(display=False) as counter:
                runs[name]()
            operations[name] = counter.get_total_flops() / batch_size
    together = [f"read {n}" for n in worlds[1:]] + [f"read {max(WORLDS)}, stacked"]
    ratios = {name: ratio(seconds, name, "read 1") for name in together}
    ratios |= {name: ratio(seconds, name, "encoder") for name in ("read 1", "one adapter", "mixed")}
    ratios |= {name: ratio(seconds, name, "PEFT 1") for name in runs if name.startswith("PEFT ") and name != "PEFT 1"}
    if with_peft:
        ratios["PEFT 1"] = ratio(seconds, "PEFT 1", "encoder")
    return {
        "batch_size": batch_size,
        "seconds": medians(seconds),
        "ratio": ratios,
        "flop_per_sample": operations,
        "refused": refused,
    }


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    try:
        import peft  # noqa: F401
    except ImportError:
        with_peft = False
    else:
        with_peft = True
    with recorded("worlds", args) as record:
        cases = {"tiny": (tiny, (3, 16, 16), 2, 1, WORLDS, True)} if args.smoke else CASES
        record["cases"] = {name: measured(*case, peft and with_peft) for name, (*case, peft) in cases.items()}


if __name__ == "__main__":
    main()
