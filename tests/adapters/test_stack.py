"""Adapters of equal shape read together, in one product: the answers of each by itself, whatever happens to them.

The tests stack on the CPU, where the library itself does not: its products there are no faster, and not the same bits.
"""

from __future__ import annotations

import copy
import gc
import threading
import weakref

import pytest
import torch
from torch import nn

from ciao_peft import CIAOModel
from ciao_peft.adapters import stack
from helpers.fakes import BACKBONES, SIZE, pixels, small_config, tiny_backbone, train, worlds, wrap
from helpers.kernels import kernels

KINDS = {
    "equal": [{"init_seed": n} for n in range(5)],
    "forms": [{"inhibition_form": form, "init_seed": n} for n, form in enumerate(("divisive", "additive") * 3)],
    "heads": [{"num_labels": 3 + n % 2, "pooling": ("max", "avg")[n // 3], "init_seed": n} for n in range(6)],
    "own units": [{"tuning": "last_conv", "init_seed": n} for n in range(3)],
    "own units alone": [{"tuning": "last_conv", "inhibition": False, "init_seed": n} for n in range(3)],
    "no mask": [{"inhibition": False, "init_seed": n} for n in range(3)],
    "low rank": [{"inhibition_rank": 2, "excitation_rank": 3, "spatial_maps": 2, "init_seed": n} for n in range(3)],
    "gain": [{"inhibition_form": "gain", "excitation_rank": n // 2, "init_seed": n} for n in range(4)],
    "excitation alone": [{"inhibition": False, "excitation_rank": 2, "init_seed": n} for n in range(3)],
    "places": [{"target_modules": place, "init_seed": n} for n, place in enumerate((None, "first") * 2)],
    "depths": [{"depths": 1, "depth_grid": 2, "init_seed": n} for n in range(3)],
    "clips": [{"frames": 2, "recurrent_size": 8, "init_seed": n} for n in range(3)],
}


STACKED_BY_ITSELF = set(stack.STACKED_ON)


def test_on_a_cpu_nothing_is_stacked():
    assert "cpu" not in STACKED_BY_ITSELF


@pytest.fixture(autouse=True)
def stacked(monkeypatch):
    monkeypatch.setattr(stack, "STACKED_ON", {"cpu"})


def model_of(kind, make=tiny_backbone) -> CIAOModel:
    """Adapters with values of their own."""
    model = CIAOModel(make(), input_size=SIZE)
    for number, changes in enumerate(KINDS[kind]):
        if changes.get("target_modules") == "first":
            changes = changes | {"target_modules": ("0",) if make is tiny_backbone else ("stem.0",)}
        model.add_adapter(str(number), small_config(**changes))
        noise = torch.Generator().manual_seed(number)
        for parameter in model.adapters[str(number)].parameters():
            parameter.data += 0.1 * torch.rand(parameter.shape, generator=noise)
    return model.eval()


def alone(do):
    """What something gives without stacks."""
    kept = set(stack.STACKED_ON)
    stack.STACKED_ON.clear()
    try:
        return do()
    finally:
        stack.STACKED_ON.update(kept)


def assert_reads_as_alone(model, x=None):
    x = pixels(4) if x is None else x
    expected = alone(lambda: model.read(x))
    answers = model.read(x)
    assert list(answers) == list(expected)
    torch.testing.assert_close(answers, expected, rtol=1e-5, atol=1e-5)
    return answers


@BACKBONES
@pytest.mark.parametrize("kind", KINDS)
def test_every_world_answers_as_by_itself(make, kind):
    model = model_of(kind, make)
    frames = 2 if kind == "clips" else None
    x = pixels(4) if frames is None else pixels(8).unflatten(0, (4, 2))
    answers = assert_reads_as_alone(model, x)
    assert not torch.allclose(answers["0"], next(v for k, v in answers.items() if k != "0" and v.shape[1] == 3))
    if kind != "places":
        model.set_adapter("0")
        features = model.extract_features(x, include_excitation=True)
        torch.testing.assert_close(model.read(features=features), answers, rtol=1e-5, atol=1e-5)


@BACKBONES
@pytest.mark.parametrize("kind", KINDS)
def test_every_row_of_a_mixed_batch_answers_as_by_itself(make, kind):  # promise 12
    model = model_of(kind, make)
    names = [name for count, name in enumerate(model.adapters, start=1) for _ in range(count)]
    names = names[::2] + names[1::2] + ([] if kind == "clips" else ["__base__"])
    x = pixels(len(names)) if kind != "clips" else pixels(2 * len(names)).unflatten(0, (len(names), 2))
    expected = alone(lambda: model(x, adapter_names=names))
    mixed = model(x, adapter_names=names)
    torch.testing.assert_close(mixed.logits, expected.logits, rtol=1e-5, atol=1e-5)
    for z, other in zip(mixed.embeddings, expected.embeddings, strict=True):
        assert (z is None) == (other is None)
        if z is not None:
            torch.testing.assert_close(z, other, rtol=1e-5, atol=1e-5)


def test_worlds_of_every_kind_at_once():
    assert_reads_as_alone(worlds(tiny_backbone))


@BACKBONES
@pytest.mark.parametrize("how", ["read", "mixed"])
def test_sixteen_worlds_take_about_as_many_kernels_as_two(make, how):
    model = CIAOModel(make(), input_size=SIZE)
    for number in range(16):
        model.add_adapter(str(number), small_config(init_seed=number))
    model.eval()
    names, x = [str(number) for number in range(16)], pixels(16)

    def run(count):
        if how == "read":
            return lambda: model.read(x, adapter_names=names[:count])
        return lambda: model(x, adapter_names=[names[row % count] for row in range(16)])

    for count in (2, 16):
        run(count)()
    few, many = kernels(run(2)), kernels(run(16))
    assert many <= few + 2, (few, many)
    assert alone(lambda: kernels(run(16))) > 2 * many


@pytest.mark.parametrize("trains", ["all", "head"])
def test_gradients_reach_every_adapter_of_a_stack(trains):
    model = CIAOModel(tiny_backbone(), input_size=SIZE)
    for number in range(3):
        model.add_adapter(str(number), small_config(init_seed=number, task_loss_trains=trains))
    model.eval()

    def gradients():
        model.zero_grad()
        for adapter in model.adapters.values():
            adapter.set_trainable(True)
        sum(n * logits.square().sum() for n, logits in enumerate(model.read(pixels(4)).values(), start=1)).backward()
        return [p.grad.clone() for p in model.adapters.parameters() if p.grad is not None]

    torch.testing.assert_close(gradients(), alone(gradients), rtol=1e-4, atol=1e-5)


def retrained(model):
    train(model, "1")


def written_in_place(model):
    model.adapters["2"].head.get_parameter("0.weight").data.mul_(3)  # seen by no counter of versions


def another_tensor(model):
    head = model.adapters["2"].head
    head.get_submodule("0").weight = nn.Parameter(torch.ones(16, 12 * 4))


def wider(model):
    model.adapters["3"].double().head.get_parameter("0.weight").data.mul_(2)


def added(model):
    model.add_adapter("new", small_config(init_seed=9))


def deleted(model):
    model.delete_adapter("0")


def loaded(model):
    tensors = {key: 2 * value for key, value in model.adapters["4"].state_dict().items()}
    model.adapters["4"].load_tensors(tensors)


def hooked(model):
    model.adapters["1"].head.register_forward_hook(lambda *args: (args[-1][0] * 2, args[-1][1]))


def replaced(model):
    adapter = model.adapters["1"]
    adapter.mask = lambda index, features, excitation: excitation()


def another_activation(model):
    layer = model.adapters["1"].inhibition[0]
    setattr(layer, layer.steps[-1], nn.Sigmoid())


CHANGES = [
    *(retrained, written_in_place, another_tensor, wider, added, deleted, loaded, hooked, replaced, another_activation)
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_is_seen_by_the_next_call(change):
    model = model_of("equal")
    before = model.read(pixels(4))
    change(model)
    after = assert_reads_as_alone(model)
    assert list(before) != list(after) or any(not torch.allclose(before[name], after[name]) for name in after)


def test_an_adapter_in_training_mode_drops_what_it_would_drop_alone():
    model = wrap(adapter_name="a", dropout=0.5)
    model.add_adapter("b", small_config(dropout=0.5))
    model.eval()
    model.adapters["a"].train()
    first, second = model.read(pixels(4)), model.read(pixels(4))
    assert not torch.equal(first["a"], second["a"])
    torch.testing.assert_close(first["b"], second["b"])


def test_a_model_keeps_nothing_of_a_stack():
    model = model_of("equal")
    keys, size = list(model.state_dict()), len(list(model.parameters()))
    model.read(pixels(4))
    assert list(model.state_dict()) == keys
    assert len(list(model.parameters())) == size
    gone = weakref.ref(model.adapters["0"])
    held = weakref.ref(model.adapters["0"].head.get_parameter("0.weight"))
    model.delete_adapter("0")
    gc.collect()
    assert gone() is None
    assert held() is None
    torch.testing.assert_close(copy.deepcopy(model).read(pixels(4)), model.read(pixels(4)))


def test_half_precision_backbones_get_their_dtype():
    model = model_of("equal", lambda: tiny_backbone().to(torch.bfloat16))
    assert {logits.dtype for logits in model.read(pixels(4)).values()} == {torch.bfloat16}


def test_threads_read_stacks_of_their_own():
    model, other = model_of("equal"), model_of("heads")
    x = pixels(4)
    expected = [model.read(x), other.read(x)]
    wrong: list[str] = []

    def read():
        for _ in range(20):
            for one, answer in zip((model, other), expected, strict=True):
                got = one.read(x)
                wrong.extend(name for name in got if not torch.allclose(got[name], answer[name], atol=1e-5))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_few_bytes_at_a_time(monkeypatch):
    model = model_of("equal")
    monkeypatch.setattr(stack, "LARGEST", 1)
    assert_reads_as_alone(model)
