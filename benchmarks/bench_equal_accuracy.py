"""Whole trainings on the same faces to the same accuracy: an adapter here, and PEFT's LoRA in transformers' `Trainer`.

    python benchmarks/bench_equal_accuracy.py --data_dir ../shared/faces

Takes about five minutes; painted faces stand in where the folder is missing. Both start from the bundled encoder and a
decision head of one shape, have the same pixels in memory, batches, epochs and falling learning rate, and are scored
after every epoch. Each may choose among three learning rates, by one training and people of their own; what is
reported was scored on other people. Ours runs the trunk once, counted in its time; LoRA is on every convolution, with
the settings of PEFT's guide for images, and runs the whole encoder in every step.
"""

from __future__ import annotations

import itertools
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from datasets import concatenate_datasets
from measuring import arguments, processor_seconds, recorded
from torch import Tensor, nn
from torch.utils.data import Subset

from ciao_peft import (
    CIAOConfig,
    CIAOTrainer,
    CIAOTrainingArguments,
    cache_features,
    get_ciao_model,
    load_encoder,
    load_faces,
)
from ciao_peft.data import hold_out, labels_of

RATES = {"ciao_peft": (5e-4, 1e-3, 2e-3), "PEFT": (5e-4, 1e-3, 2e-3)}
EPOCHS, SEEDS, BATCH_SIZE = 5, 2, 64
HAIR = 0.005  # of accuracy, that the target lies below what both reach


class Pixels(torch.utils.data.Dataset):
    """Faces as the encoder takes them, prepared once for both."""

    def __init__(self, faces, preprocessing):
        self.pixels = torch.cat([preprocessing(batch["image"]) for batch in faces.iter(256)])
        self.labels = list(faces["label"])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        return {"pixel_values": self.pixels[index], "labels": self.labels[index]}


class Clock:
    """Processor and wall seconds since a training began, with the scores of each evaluation."""

    def __init__(self) -> None:
        self.start = processor_seconds(), time.perf_counter()
        self.curve: list[dict[str, float]] = []

    def note(self, metrics: dict[str, float]) -> None:
        seconds, wall = processor_seconds() - self.start[0], time.perf_counter() - self.start[1]
        scores = {k.removeprefix("eval_"): v for k, v in metrics.items() if k.removeprefix("eval_") in SCORES}
        self.curve.append({"seconds": seconds, "wall": wall} | scores)


SCORES = ("choosing", "accuracy", "balanced")


def scored(logits: Tensor, labels: Tensor, first: int) -> dict[str, float]:
    """Accuracy on the people a rate is chosen by, which come first, and both accuracies on the others."""
    right = logits.argmax(dim=1) == labels
    rest, classes = right[first:].double(), labels[first:]
    balanced = torch.stack([rest[classes == k].mean() for k in classes.unique()]).mean()
    return {
        "choosing": right[:first].double().mean().item(),
        "accuracy": rest.mean().item(),
        "balanced": float(balanced),
    }


def ours(data: dict, config: CIAOConfig, rate: float, seed: int, epochs: int, first: int) -> dict:
    clock = Clock()
    model = get_ciao_model(load_encoder("small-face"), config)
    stored = cache_features(model, data, include_excitation=True, disable_tqdm=True)
    caching = processor_seconds() - clock.start[0]
    settings = {"learning_rate": rate, "lr_scheduler_type": "linear", "num_train_epochs": epochs, "seed": seed}
    # Samples as often as the data has them, as Trainer draws them: accuracy is what is compared.
    settings |= {"per_device_train_batch_size": BATCH_SIZE, "class_balance": 0.0, "report_to": "none"}
    trainer = CIAOTrainer(
        model,
        CIAOTrainingArguments.recipe("paper", **settings),
        compute_metrics=lambda logits, labels: scored(logits, labels, first),
        on_log=lambda entry: clock.note(entry) if "eval_loss" in entry else None,
    )
    trainer.train(stored["train"], stored["validation"])
    trained = sum(p.numel() for group in model.adapter_parameters("default").values() for p in group)
    return {"curve": clock.curve, "caching": caching, "parameters": trained}


class Classifier(nn.Module):
    """The bundled encoder's convolutions and a decision head like an adapter's, as transformers' `Trainer` wants it."""

    def __init__(self, config: CIAOConfig):
        super().__init__()
        encoder = load_encoder("small-face")
        self.chain, self.pool = encoder.chain, encoder.pool
        sizes = (self.pool(self.chain(torch.zeros(1, *encoder.input_size))).numel(), *config.hidden_sizes)
        layers = [
            m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU(), nn.Dropout(config.dropout))
        ]
        self.head = nn.Sequential(*layers, nn.Linear(sizes[-1], config.num_labels))

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.head(self.pool(self.chain(pixel_values)).flatten(1))
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


def theirs(data: dict, config: CIAOConfig, rate: float, seed: int, epochs: int, first: int) -> dict:
    import transformers
    from peft import LoraConfig, get_peft_model

    transformers.logging.set_verbosity_error()
    clock = Clock()
    transformers.set_seed(seed)
    net = Classifier(config)
    convolutions = [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    lora = LoraConfig(
        r=16, lora_alpha=16, lora_dropout=0.1, target_modules=convolutions, modules_to_save=["head"], bias="none"
    )
    model = get_peft_model(net, lora)

    class Notes(transformers.TrainerCallback):
        def on_evaluate(self, args, state, control, metrics=None, **kwargs):
            clock.note(metrics)

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = transformers.Trainer(
            model,
            transformers.TrainingArguments(
                folder,
                use_cpu=True,
                num_train_epochs=epochs,
                per_device_train_batch_size=BATCH_SIZE,
                per_device_eval_batch_size=128,
                learning_rate=rate,
                weight_decay=0.01,
                seed=seed,
                eval_strategy="epoch",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                logging_strategy="no",
                remove_unused_columns=False,
                label_names=["labels"],
            ),
            train_dataset=data["train"],
            eval_dataset=data["validation"],
            compute_metrics=lambda found: scored(
                torch.as_tensor(found.predictions), torch.as_tensor(found.label_ids), first
            ),
            callbacks=[Notes()],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"curve": clock.curve, "parameters": trained}


def reached(curve: list[dict[str, float]], target: float, kind: str = "seconds") -> float | None:
    """Seconds after which a curve was at the target first; None where it never was."""
    return next((point[kind] for point in curve if point["accuracy"] >= target), None)


def compared(runs: dict[str, list[dict]]) -> dict:
    """Both at the accuracy that every training of both reaches, less a hair."""
    best = {side: [max(p["accuracy"] for p in run["curve"]) for run in own] for side, own in runs.items()}
    target = min(min(values) for values in best.values()) - HAIR
    found = {side: [reached(run["curve"], target) for run in own] for side, own in runs.items()}
    walls = {side: [reached(run["curve"], target, "wall") for run in own] for side, own in runs.items()}
    return {
        "target": target,
        "best": best,
        "seconds_to_target": {side: median(values) for side, values in found.items()},
        "wall_to_target": {side: median(values) for side, values in walls.items()},
    }


def faces_of(folder: Path, smoke: bool) -> tuple[str, dict]:
    if folder.is_dir() and not smoke:
        faces = load_faces("imagefolder", folder, label_column="expression", min_images_per_class=20)["train"]
        train, held_out = hold_out(faces, 0.3, group_by="identity", seed=0)
        name = "real faces"
    else:
        if not smoke:
            print(f"'{folder}' is missing: painted faces stand in for real ones.")
        sizes = (24, 16) if smoke else (3000, 1500)
        painted = load_faces("painted_faces", num_train=sizes[0], num_validation=sizes[1], num_test=0)
        train, held_out, name = painted["train"], painted["validation"], "painted faces"
    return name, {"train": train, "held_out": held_out}


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__, argv, data_dir=Path("../shared/faces"), train_faces=1920, held_out_faces=1200)
    try:
        import peft  # noqa: F401
    except ImportError:
        sides: dict[str, Callable] = {"ciao_peft": ours}
        print("PEFT is not installed: nothing to compare with.")
    else:
        sides = {"ciao_peft": ours, "PEFT": theirs}
    epochs, seeds = (1, 1) if args.smoke else (EPOCHS, SEEDS)
    with recorded("equal_accuracy", args) as record:
        name, faces = faces_of(args.data_dir, args.smoke)
        config = CIAOConfig(**labels_of(faces["train"]).as_config())
        prepare = load_encoder("small-face").preprocessing
        train = faces["train"].shuffle(seed=0)
        train = train.select(range(min(args.train_faces, len(train))))
        # People: half of those held out choose the rate, the others are what is reported.
        some = faces["held_out"].shuffle(seed=0)
        some = some.select(range(min(args.held_out_faces, len(some))))
        choosing, others = hold_out(some, 0.5, group_by="identity", seed=1)
        held_out = concatenate_datasets([choosing, others])
        data = {"train": Pixels(train, prepare), "validation": Pixels(held_out, prepare)}
        few = {split: Subset(own, range(16)) for split, own in data.items()}
        runs, chosen, tried = {}, {}, {}
        for side, run in sides.items():
            run(few, config, RATES[side][0], 0, 1, 8)  # whatever is imported or allocated once
            rates = RATES[side][:2] if args.smoke else RATES[side]
            first = {rate: run(data, config, rate, 0, epochs, len(choosing)) for rate in rates}
            tried[side] = {str(rate): max(p["choosing"] for p in own["curve"]) for rate, own in first.items()}
            chosen[side] = max(rates, key=lambda rate: tried[side][str(rate)])
            more = [run(data, config, chosen[side], seed, epochs, len(choosing)) for seed in range(1, seeds)]
            runs[side] = [first[chosen[side]], *more]
        record |= {
            "faces": name,
            "samples": {"train": len(train), "choosing": len(choosing), "scored": len(others)},
            "epochs": epochs,
            "rates": tried,
            "chosen": chosen,
            "parameters": {side: own[0]["parameters"] for side, own in runs.items()},
            "caching": median(run["caching"] for run in runs["ciao_peft"]),
            "curves": {side: [run["curve"] for run in own] for side, own in runs.items()},
            **compared(runs),
        }


if __name__ == "__main__":
    main()
