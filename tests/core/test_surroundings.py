"""What the process has set elsewhere: default dtype and device, inference mode, random state; and casts of a model."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

import ciao_peft
from ciao_peft import AutoCIAOModel, CIAOConfig, CIAOModel, Preprocessing, cache_features, get_ciao_model, load_encoder
from ciao_peft.encoders import save_encoder
from ciao_peft.features import Augmentation
from ciao_peft.surroundings import outside_inference
from helpers.fakes import SIZE, bits, pixels, same_bits, small_config, tiny_backbone
from helpers.training import assert_same, faces, make_trainer, weights

PACKAGE = Path(ciao_peft.__file__).parent
CLIPS = {"frames": 3, "recurrent_size": 4}
LOOKS = Preprocessing(size=SIZE[1:], mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


SURROUNDINGS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": lambda: default_device("meta"),
    "with meta": lambda: torch.device("meta"),
    "inference": lambda: torch.inference_mode(),
    "no_grad": lambda: torch.no_grad(),
}
EVERY = pytest.mark.parametrize("around", SURROUNDINGS.values(), ids=SURROUNDINGS)


def everything(folder: Path, net: nn.Module) -> tuple[CIAOModel, dict[str, Any]]:
    """Makes, adds, saves, loads, stores, trains, reads and predicts; the model, and what came out."""
    model = get_ciao_model(net, small_config(dropout=0.5), input_size=SIZE, preprocessing=LOOKS)
    model.add_adapter("fresh", small_config(inhibition_start="random", decay_init=None))
    model.add_adapter("clips", small_config(**CLIPS))
    model.add_adapter("early", small_config(target_modules=("0",), tuning="last_conv"))
    model.add_adapter("deep", small_config(depths=1, depth_grid=2, dropout=0.5))
    model.save_pretrained(folder / "early", "early")
    model.load_adapter(folder / "early", adapter_name="loaded")
    data = FACES
    stored = cache_features(model, data, views=2, augment=Augmentation(brightness=0.2), disable_tqdm=True)
    found: dict[str, Any] = {"stored": stored.tensors}
    trainer = make_trainer(model, report_to="none", num_train_epochs=1)
    trainer.adapter_name = "default"
    trainer.train(data, data)
    trainer.train(stored)
    deep = make_trainer(model, report_to="none", num_train_epochs=1)
    deep.adapter_name = "deep"
    deep.train(data)
    with model.reading_with("deep"):
        found["depths"] = cache_features(model, data, disable_tqdm=True).tensors
        found["deep"] = (model.eval()(features=model.extract_features(PIXELS)).logits,)
    model.set_adapter("default")
    model.eval()
    found["features"] = model.extract_features(PIXELS)
    found["logits"] = tuple(model.read(PIXELS, adapter_names=["default", "deep", "loaded"]).values())
    found["scores"] = trainer.evaluate(data)
    found["answers"] = model.predict(np.full((20, 20, 3), 77, dtype=np.uint8), adapter_names=["default", "loaded"])
    found["signature"] = model.backbone_signature()
    return model, found


FACES, PIXELS = faces(12), pixels()


@EVERY
def test_everything_is_as_it_is_elsewhere(around, tmp_path: Path):
    expected_model, expected = everything(tmp_path / "plain", tiny_backbone())
    net = tiny_backbone()
    before = bits(net)
    with around():
        recording = torch.is_grad_enabled()
        model, found = everything(tmp_path / "around", net)
        assert torch.is_grad_enabled() == recording
    assert same_bits(before, bits(net))
    for name in model.adapters:
        assert_same(weights(model, name), weights(expected_model, name))
        assert {(t.dtype, t.device.type) for t in model.adapters[name].parameters()} == {(torch.float32, "cpu")}
    for name, value in expected.items():
        if isinstance(value, tuple):
            assert all(torch.equal(a, b) for a, b in zip(value, found[name], strict=True)), name
        else:
            assert value == found[name], name
    for name in model.adapters:  # what was made there can be trained and read elsewhere
        if name != "clips":
            model.train_adapter(name)
            model(PIXELS, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    model.set_adapter("default")
    features = tuple(f.requires_grad_() for f in found["features"])
    model(features=features, labels=torch.tensor([0, 1, 2, 0])).loss.backward()


class ChosenDevices(TorchFunctionMode):
    """Notes where a file of the package makes a tensor without saying on which device."""

    def __init__(self) -> None:
        super().__init__()
        self.places: set[str] = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in _device_constructors() and (kwargs or {}).get("device") is None:
            frame = inspect.currentframe()
            while frame is not None:
                path = Path(frame.f_code.co_filename)
                if PACKAGE in path.parents:
                    self.places.add(f"{path.relative_to(PACKAGE)}:{frame.f_lineno} {func.__name__}")
                    break
                frame = frame.f_back
        return func(*args, **(kwargs or {}))


def test_no_tensor_is_made_on_a_device_that_nobody_chose(tmp_path: Path):
    """With `torch.set_default_device("cuda")` it would be on the GPU, and what it meets is not."""
    net = tiny_backbone()
    with ChosenDevices() as watched:
        everything(tmp_path, net)
    assert watched.places == set()
    with ChosenDevices() as watched:  # the watch sees what it should; a fresh encoder is on the default device
        load_encoder("small-face")
    assert {place.partition(":")[0] for place in watched.places} == {str(Path("encoders", "small_face.py"))}


def test_a_training_learns_under_no_grad_of_its_caller():
    one, other = make_trainer(), make_trainer()
    one.train(FACES)
    for around in (torch.no_grad, torch.inference_mode):
        other = make_trainer()
        with around():
            other.train(FACES)
        assert_same(weights(one.model), weights(other.model))


def test_leaving_inference_mode_switches_no_gradients_on():
    for recording in (True, False):
        with torch.set_grad_enabled(recording), outside_inference():
            assert torch.is_grad_enabled() == recording
    with torch.inference_mode(), outside_inference():
        assert not torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    with torch.inference_mode(), outside_inference(gradients=True):
        assert torch.is_grad_enabled()


def state() -> tuple[object, ...]:
    numpy = np.random.get_state()  # noqa: NPY002
    return random.getstate(), str(numpy), torch.get_rng_state().tolist()


def test_loading_moves_no_random_state(tmp_path: Path):
    encoder = load_encoder("small-face")
    save_encoder(encoder, tmp_path / "mine")
    config = CIAOConfig(problem_type="regression", num_labels=2)
    folder = get_ciao_model(encoder, config).save_pretrained(tmp_path / "adapter")
    for load in (
        lambda: load_encoder("small-face"),
        lambda: load_encoder(tmp_path / "mine"),
        lambda: AutoCIAOModel.from_pretrained(folder),
    ):
        before = state()
        load()
        assert state() == before


def test_random_weights_are_drawn_as_torch_draws_them():
    torch.manual_seed(1)
    first, second = (next(load_encoder("small-face", pretrained=False).parameters()) for _ in range(2))
    torch.manual_seed(1)
    again = next(load_encoder("small-face", pretrained=False).parameters())
    assert torch.equal(first, again) and not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_an_encoder_is_in_float32(dtype: torch.dtype):
    with default_dtype(dtype):
        assert {p.dtype for p in load_encoder("small-face").parameters()} == {torch.float32}


@pytest.mark.parametrize("tuning", ["decision_layer", "last_conv", "full"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_cast_of_the_model_reaches_the_backbone_alone(dtype: torch.dtype, tuning: str):
    model = get_ciao_model(tiny_backbone(), small_config(tuning=tuning), input_size=SIZE).eval()
    before = weights(model)
    cast = {torch.float16: model.half, torch.bfloat16: model.bfloat16}[dtype]
    for change in (cast, lambda: model.float(), lambda: model.to(dtype), lambda: model.to("cpu", dtype)):
        change()
        assert_same(before, weights(model))
    assert model.backbone[0].weight.dtype == dtype
    assert model(pixels()).logits.dtype == dtype
    model(pixels(), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    assert {p.grad.dtype for p in model.adapters["default"].parameters() if p.grad is not None} == {torch.float32}


def test_a_model_computes_in_float64_where_that_is_asked_for_and_comes_back_exactly():
    model = get_ciao_model(tiny_backbone(), small_config(), input_size=SIZE).eval()
    before = weights(model)
    assert {p.dtype for p in model.double().adapters["default"].parameters()} == {torch.float64}
    model.half()
    assert {p.dtype for p in model.adapters["default"].parameters()} == {torch.float64}
    model.float()
    assert_same(before, weights(model))


def test_half_a_model_still_learns():
    trainer = make_trainer(num_train_epochs=6)
    trainer.model.half()
    output = trainer.train(FACES)
    expected = make_trainer(num_train_epochs=6).train(FACES)
    assert output.training_loss == pytest.approx(expected.training_loss, abs=0.05)
    assert all(t.isfinite().all() for t in weights(trainer.model).values())


def test_an_adapter_still_moves_between_devices():
    model = get_ciao_model(tiny_backbone(), small_config(), input_size=SIZE)
    model.to("meta", torch.float16)
    assert {(p.device.type, p.dtype) for p in model.adapters["default"].parameters()} == {("meta", torch.float32)}
