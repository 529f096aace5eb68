"""An adapter that is published, and the models that load it."""

from __future__ import annotations

import torch

from ciao_peft import CIAOConfig, get_ciao_model

from .fakes import SIZE, tiny_backbone

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
CLASSES = CIAOConfig(
    problem_type="single_label_classification", num_labels=3, id2label={0: "sad", 1: "happy", 2: "odd"}
)
PROBLEMS = {
    "classes": CLASSES,
    "values": CIAOConfig(problem_type="regression", num_labels=2, id2label={0: "arousal", 1: "valence"}),
    "labels": CIAOConfig(problem_type="multi_label_classification", num_labels=4),
}


def trained_model(config=CLASSES, name="faces"):
    """A model whose adapter is none that a fresh one could be."""
    model = get_ciao_model(tiny_backbone(), config, name, input_size=SIZE)
    with torch.no_grad():
        for parameter in model.adapters[name].parameters():
            parameter += torch.rand_like(parameter) / 4
    return model.eval()


def fresh_model():
    """Another copy of the backbone, with an adapter of its own."""
    return get_ciao_model(tiny_backbone(), CLASSES, "own", input_size=SIZE).eval()


def state_of(model):
    tensors = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    return tensors, list(model.adapters), model.active_adapter, model.preprocessing, model.training


def assert_unchanged(model, before):
    tensors, *rest = state_of(model)
    assert rest == list(before[1:])
    assert tensors.keys() == before[0].keys()
    assert all(torch.equal(tensor, before[0][key]) for key, tensor in tensors.items())


PIXELS = torch.rand((4, *SIZE), generator=torch.Generator().manual_seed(1))


def flip(content):
    return content[:-1] + bytes([content[-1] ^ 1])
