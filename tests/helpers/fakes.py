"""Tiny things that tests share: backbones small enough to train in a blink, and far from blind."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from ciao_peft.config import CIAOConfig
from ciao_peft.model import CIAOModel, get_ciao_model
from ciao_peft.saving.adapter_folder import CONFIG_FILE, PREPROCESSOR_FILE, WEIGHTS_FILE
from ciao_peft.saving.digest import DIGEST, digest_of_folder, sha256_of

SIZE = (3, 16, 16)
"""`(C, H, W)` of the pixels that the backbones here take."""


Network = TypeVar("Network", bound=nn.Module)


class _Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


def _fill(module: Network, seed: int) -> Network:
    """Seeded values for everything: gains, biases and statistics of batch norm are none of them 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            tensor.fill_(7)
            continue
        noise = torch.rand(tensor.shape, generator=generator)
        if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.copy_(0.5 + noise)
        elif tensor.ndim > 1:
            tensor.copy_((2 * noise - 1) * math.sqrt(6 / tensor[0].numel()))
        else:
            tensor.copy_((noise - 0.5) / 4)
    module.input_size = SIZE  # as encoders of our own say it
    return module.eval()


def tiny_backbone(seed: int = 0) -> nn.Sequential:
    """A chain conv-bn-relu, conv-bn-relu, max pool, linear; 3x16x16 in, 5 answers out. Terminal convolution: `3`."""
    chain = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.MaxPool2d(2),
        _Flat(),
        nn.Linear(12, 5),
    )
    return _fill(chain, seed)


class Residual(nn.Module):
    """A residual network whose last shortcut crosses the cut: what the tail adds to the mask comes from the trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x = self.stem(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)) + shortcut)
        return self.classifier(x.mean(dim=(2, 3)))


def residual_backbone(seed: int = 0) -> Residual:
    """A residual network with a shortcut over the cut; 3x16x16 in, 5 answers out. Terminal convolution: `conv2`.

    The gains of its last batch norm are not zero, as fresh ones of timm are: with those, no adapter could be seen.
    """
    return _fill(Residual(), seed)


def small_config(**changes: object) -> CIAOConfig:
    """Three classes, a head of one layer of sixteen units; change what a test is about.

    What the library chooses by measuring is fixed here, so that no test depends on the choice.
    """
    settings = {
        "problem_type": "single_label_classification",
        "num_labels": 3,
        "hidden_sizes": (16,),
        "pooling": "max",
        "embedding_source": "hidden",
        "contrastive_weight": 1.0,
        "temperature": 0.1,
        "decay_init": 1.0,
        "excitation_rank": 0,
    }
    return CIAOConfig(**(settings | changes))


def pixels(batch_size: int = 4, seed: int = 1) -> Tensor:
    """Noise that the backbones here take, `(B, 3, 16, 16)`."""
    return torch.rand((batch_size, *SIZE), generator=torch.Generator().manual_seed(seed))


class Undecided(nn.Module):
    """A network that looks at what it computes: its graph cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.chain = tiny_backbone()
        self.input_size = SIZE

    def forward(self, x: Tensor) -> Tensor:
        return self.chain(x if x.mean() > -100 else -x)


def wrap(backbone: nn.Module | None = None, adapter_name: str = "default", **changes: object) -> CIAOModel:
    """A model with one fresh adapter, of `small_config(**changes)`."""
    return get_ciao_model(tiny_backbone() if backbone is None else backbone, small_config(**changes), adapter_name)


def train(model: CIAOModel, name: str | None = None, steps: int = 3, learning_rate: float = 0.05) -> CIAOModel:
    """A few real optimiser steps, after which every trained value is another one."""
    if name is not None:
        model.train_adapter(name)
    config = model.peft_config[model.active_adapter]
    labels = {
        "single_label_classification": torch.tensor([0, 0, 1, 1, 2, 2]),
        "regression": torch.rand(6, config.num_labels),
        "multi_label_classification": (torch.rand(6, config.num_labels) > 0.5).float(),
    }[config.problem_type]
    was_training = model.training
    model.train()
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    for _ in range(steps):
        optimiser.zero_grad()
        model(torch.rand(6, *SIZE), labels=labels).loss.backward()
        optimiser.step()
    return model.train(was_training)


def bits(module: nn.Module) -> dict[str, Tensor]:
    """What a module holds now."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two states have the same keys and the same bits."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


BACKBONES = pytest.mark.parametrize("make", [tiny_backbone, residual_backbone], ids=["chain", "residual"])
NETWORKS = pytest.mark.parametrize(
    "network",
    [{"tuning": t, "inhibition": i} for t in ("decision_layer", "last_conv", "full") for i in (True, False)],
    ids=lambda n: n["tuning"] + ("" if n["inhibition"] else "-without"),
)


def forge(folder: Path, tensors: dict[str, Tensor] | bytes | None = None, **entries: object) -> None:
    """Puts other tensors or config entries into a saved adapter, and the checksum and digest that belong to them."""
    record = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
    if tensors is not None:
        weights = tensors if isinstance(tensors, bytes) else save(tensors)
        (folder / WEIGHTS_FILE).write_bytes(weights)
        record |= {"weights_sha256": hashlib.sha256(weights).hexdigest(), "weights_bytes": len(weights)}
    record = {name: value for name, value in (record | entries).items() if value is not ...}
    (folder / CONFIG_FILE).write_text(json.dumps(sealed(record, folder)), encoding="utf-8")


def sealed(record: dict, folder: Path, covered: tuple[str, ...] = (WEIGHTS_FILE, PREPROCESSOR_FILE)) -> dict:
    """A record with the digest that belongs to it and to the files in the folder."""
    files = {name: sha256_of((folder / name).read_bytes()) for name in covered if (folder / name).is_file()}
    return record | {DIGEST: digest_of_folder(record, files)}


class Branches(nn.Module):
    """Two last convolutions side by side, of different width, so that two units answer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
        self.one = nn.Sequential(nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.two = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.stem(x)
        return torch.cat([self.one(x), self.two(x)], dim=1).mean(dim=(2, 3))


def branched_backbone():
    return _fill(Branches(), seed=2)


def default_config(problem_type="single_label_classification", num_labels=3, **changes):
    """The library's own settings for a problem."""
    return CIAOConfig(problem_type=problem_type, num_labels=num_labels, **changes)


def worlds(make=tiny_backbone):
    """One adapter of each problem, trained, on one backbone."""
    model = wrap(make(), "classes", num_labels=8)
    model.add_adapter("values", small_config(problem_type="regression", num_labels=2, hidden_sizes=()))
    model.add_adapter("labels", small_config(problem_type="multi_label_classification", num_labels=8, inhibition=False))
    model.add_adapter("own", small_config(tuning="last_conv"))
    model.add_adapter("early", small_config(target_modules=("0",) if make is tiny_backbone else ("conv1",)))
    model.add_adapter("encoder", small_config(tuning="full"))
    for name in model.adapters:
        train(model, name, steps=2)
    model.set_adapter("classes")
    return model.eval()
