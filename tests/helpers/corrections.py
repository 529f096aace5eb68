"""Faces to correct: a tiny model that knows three kinds of noise, and the same kinds from other people."""

from __future__ import annotations

import copy
import functools

import torch

from ciao_peft import CIAOTrainer, CIAOTrainingArguments, FeatureMemory, OnlineArguments, OnlineTrainer

from .fakes import SIZE
from .training import BALANCED, make_model
from .training import faces as noisy_faces

MIX, KIND = 0.5, 2
MOODS = {0: "angry", 1: "bored", 2: "calm"}
KEEP_ALL = OnlineArguments(max_forgetting=100, learning_rate=3e-3, mask_learning_rate=3e-3)


def faces(count=24, seed=0):
    """The faces of `training`, with less noise: most of them can be told."""
    clean = [face["pixel_values"] for face in noisy_faces(3, seed=seed)]
    noise = torch.randn(3, *clean[0].shape, generator=torch.Generator().manual_seed(seed))
    kinds = [face - more for face, more in zip(clean, noise, strict=True)]
    some = noisy_faces(count, seed=seed)
    return [
        face | {"pixel_values": (face["pixel_values"] + MIX * kinds[n % 3]) / (1 + MIX)} for n, face in enumerate(some)
    ]


@functools.lru_cache(maxsize=8)
def _trained(changes):
    chosen = {"excitation_rank": 0, "contrastive_weight": 1.0}  # whatever the defaults become
    model = make_model(**({"id2label": MOODS} | chosen | dict(changes)))
    args = CIAOTrainingArguments(
        max_steps=60,
        per_device_train_batch_size=24,
        learning_rate=3e-3,
        report_to="none",
        disable_tqdm=True,
        **BALANCED,
    )
    CIAOTrainer(model, args).train(faces(48))
    return model.eval()


def trained(**changes):
    """A model that tells three kinds of faces apart, each time a new copy."""
    return copy.deepcopy(_trained(tuple(sorted(changes.items()))))


def pixels_of(some):
    """Pixels of faces, `(B, 3, 16, 16)`."""
    return torch.stack([face["pixel_values"] for face in some])


def filled(model, count=48, max_bytes=400_000, **changes):
    """A memory of faces that the model was trained on."""
    return FeatureMemory.from_dataset(model, faces(count), max_bytes=max_bytes, **changes)


def learner(model=None, args=KEEP_ALL, **changes):
    """A trainer with a memory."""
    model = trained() if model is None else model
    memory = changes.pop("memory", None) or filled(model)
    return OnlineTrainer(model, memory=memory, args=args, **changes)


def mislabelled(count=3, seed=5):
    """Faces of a kind that the model has never seen and reads wrongly, and what they are called."""
    kind = torch.randn(*SIZE, generator=torch.Generator().manual_seed(KIND))
    noise = torch.randn(count, *SIZE, generator=torch.Generator().manual_seed(seed))
    return kind + noise / 2, ["bored"] * count


def contrary(count=3, seed=5):
    """Faces that the model knows, called by the name of another kind: nothing else can stay if these are learned."""
    return pixels_of(faces(3 * count, seed=seed)[::3]), ["bored"] * count


def state_of(online):
    """Everything that an update may change, as copies."""
    rows = [(row.tensors, row.label, row.kind, row.held) for row in online.memory.state().rows]
    adapter = {key: value.clone() for key, value in online.model.adapters[online.adapter_name].state_dict().items()}
    return adapter, rows, online.model.peft_config[online.adapter_name], online.versions


def assert_same_state(one, other):
    """Bit by bit."""
    assert one[0].keys() == other[0].keys()
    assert all(torch.equal(one[0][key], other[0][key]) for key in one[0])
    assert len(one[1]) == len(other[1])
    for mine, theirs in zip(one[1], other[1], strict=True):
        assert all(map(torch.equal, mine[0], theirs[0]))
        assert torch.equal(mine[1], theirs[1])
        assert mine[2:] == theirs[2:]
    assert one[2:] == other[2:]
