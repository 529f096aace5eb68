"""Small backbones as other people save and publish them."""

from __future__ import annotations

import json

import torch
from torch import nn

from ciao_peft import (
    CIAOConfig,
    Preprocessing,
)

CONFIG = CIAOConfig(problem_type="single_label_classification", num_labels=3, hidden_sizes=(8,))
PROCESSOR = {"size": {"height": 48, "width": 40}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
EXPECTED = Preprocessing(size=(48, 40), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def of_transformers(kind="ResNetModel", **changes):
    import transformers

    settings = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"} | changes
    return getattr(transformers, kind)(transformers.ResNetConfig(**settings)).eval()


def written(model, folder):
    """As transformers saves a model and its image processor."""
    from transformers import ViTImageProcessorPil

    model.save_pretrained(folder)
    ViTImageProcessorPil(**PROCESSOR).save_pretrained(folder)
    return folder


def in_repository(hub, name, folder):
    hub.add(name, {path.name: path.read_bytes() for path in folder.iterdir()})
    return name


def of_timm(**settings):
    import timm

    torch.manual_seed(3)
    model = timm.create_model("test_resnet", pretrained=False, **settings).eval()
    for parameter in model.parameters():  # fresh ones have last gains of zero
        nn.init.normal_(parameter, std=0.3) if parameter.ndim > 1 else nn.init.uniform_(parameter, 0.5, 1)
    return model


def of_timm_in(tmp_path, model=None):
    """As timm writes it for the Hub."""
    from timm.models import save_for_hf

    model = of_timm(num_classes=4) if model is None else model
    folder = tmp_path / "timms"
    save_for_hf(model, folder, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= {"mean": [0.1, 0.2, 0.3]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
