"""What two processes do together; a test of `trainer/` starts it with torchrun and reads the file it leaves.

Usage: torchrun --nproc_per_node 2 -m helpers.two_processes <folder>
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from ciao_peft import CIAOTrainer, CIAOTrainingArguments, cache_features, get_ciao_model
from ciao_peft.errors import TrainingError
from ciao_peft.trainer.accelerator import data_parallel
from ciao_peft.trainer.job import LogitsAndEmbeddings
from ciao_peft.trainer.loader import Batch
from ciao_peft.trainer.optimizer import batch_losses

from .fakes import SIZE, small_config, tiny_backbone
from .training import BALANCED

LEARNED = {"contrastive_prototypes": "learned"}
AVERAGED = {"average_last": 0.5, "report_to": "none"}


def faces(count: int, num_classes: int = 3) -> list[dict]:
    """Noise around one picture per class."""
    generator = torch.Generator().manual_seed(5)
    kinds = torch.randn(num_classes, *SIZE, generator=generator)
    noise = torch.randn(count, *SIZE, generator=generator)
    return [{"pixel_values": kinds[n % num_classes] + noise[n], "labels": n % num_classes} for n in range(count)]


def model_of(**changes: object):
    """The same in every process and in the test that started them. No dropout: it would differ by row."""
    return get_ciao_model(tiny_backbone(), small_config(dropout=0.0, decay_init=None, **changes), input_size=SIZE)


PLAIN = {"class_balanced_batches": False, "warmup_ratio": 0.1, "views": None}
"""As where nothing is said: batches in random order, of pictures and their mirror images."""


def arguments(**changes: object) -> CIAOTrainingArguments:
    """Without stored features: those of another batch size may be rounded differently."""
    values = BALANCED | {"num_train_epochs": 2, "feature_cache": "never", "learning_rate": 0.01, "weight_decay": 0.1}
    return CIAOTrainingArguments(**(values | changes))


def gradients(trainer: CIAOTrainer, batch: Batch) -> dict[str, torch.Tensor]:
    """Of the loss of one batch, to everything that is trained."""
    trainer.model.train_adapter("default")
    wrapped = data_parallel(LogitsAndEmbeddings(trainer.model), trainer.accelerator, False)
    loss = batch_losses(wrapped, batch, trainer.config, trainer.accelerator.autocast())[0]
    trainer.accelerator.backward(loss)
    found = {n: p.grad.clone() for n, p in trainer.model.adapters["default"].named_parameters() if p.requires_grad}
    trainer.model.zero_grad()
    return found | {"loss": loss.detach()}


def refusals(data: list[dict]) -> list[str]:
    """What each process says to batches of a single sample."""
    said = "nothing"
    try:
        CIAOTrainer(model_of(), arguments(per_device_train_batch_size=1)).train(data)
    except TrainingError as error:
        said = str(error)
    found = [""] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, said)
    return found


def main(folder: Path) -> None:
    data = faces(21)
    model = model_of()
    # 11 samples: six for one process, five for the other.
    run = {"output_dir": folder / "run", "save_strategy": "epoch", "per_device_train_batch_size": 4}
    trainer = CIAOTrainer(model, arguments(**run))
    rank = trainer.accelerator.process_index
    own = data[:6] if rank == 0 else data[6:11]
    pixels, labels = torch.stack([f["pixel_values"] for f in own]), torch.tensor([f["labels"] for f in own])
    tensors = gradients(trainer, Batch({"pixel_values": pixels}, labels, [6, 5]))
    stored = cache_features(model, data, folder / "features", batch_size=4)
    tensors |= {f"stored.{index}": tensor for index, tensor in enumerate(stored.tensors)}
    trainer.train(data, data[:7])
    tensors |= {f"trained.{name}": tensor for name, tensor in model.adapters["default"].state_dict().items()}
    tensors["logits"] = trainer.predict(data[:7]).logits
    learned = CIAOTrainer(model_of(**LEARNED), arguments(**AVERAGED, per_device_train_batch_size=4))
    found = gradients(learned, Batch({"pixel_values": pixels}, labels, [6, 5]))
    learned.train(data)
    found |= {f"trained.{name}": tensor for name, tensor in learned.model.adapters["default"].state_dict().items()}
    tensors |= {f"learned.{name}": tensor for name, tensor in found.items()}
    plain = CIAOTrainer(model_of(), arguments(**PLAIN, per_device_train_batch_size=4))
    plain.train(data)
    state = plain.model.adapters["default"].state_dict()
    tensors |= {f"plain.trained.{name}": tensor for name, tensor in state.items()}
    result = {"num_processes": trainer.accelerator.num_processes, "log": trainer.log_history}
    result["start"] = trainer.config.decay_init
    result["refusals"] = refusals(data[:5])
    if trainer.accelerator.is_main_process:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "result.safetensors")
        (folder / "result.json").write_text(json.dumps(result))
    trainer.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
