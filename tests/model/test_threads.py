"""One model in many threads: every answer is the one that a single thread gets."""

from __future__ import annotations

import copy
import functools
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from ciao_peft import CIAOModel, CIAOTrainer, CIAOTrainingArguments, get_ciao_model
from ciao_peft.errors import AdapterNameError, AdapterNotFoundError, TrainingError
from helpers.fakes import SIZE, bits, pixels, same_bits, small_config, tiny_backbone
from helpers.training import assert_same, faces, weights

CALL, GETATTR = vars(nn.Module)["__call__"], vars(nn.Module)["__getattr__"]
DROPPING = {"dropout": 0.5, "hidden_sizes": (16,)}


def together(*jobs: Callable[[], None]) -> list[BaseException]:
    """Runs each in a thread of its own, all at once; what they raised."""
    raised: list[BaseException] = []
    start = threading.Barrier(len(jobs))

    def run(job: Callable[[], None]) -> None:
        start.wait()
        try:
            job()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def trainer(model: CIAOModel, name: str, **hooks: object) -> CIAOTrainer:
    settings = {"num_train_epochs": 4, "per_device_train_batch_size": 8, "logging_steps": 4, "report_to": "none"}
    return CIAOTrainer(model, CIAOTrainingArguments(**settings), name, **hooks)  # pyright: ignore[reportArgumentType]


def three_worlds() -> CIAOModel:
    """Worlds `a` and `b` at the end, with dropout, and `early`, which masks the first convolution."""
    model = get_ciao_model(tiny_backbone(), small_config(**DROPPING), "a", input_size=SIZE)
    model.add_adapter("b", small_config(**DROPPING, init_seed=5))
    model.add_adapter("early", small_config(target_modules=("0",), init_seed=6))
    return model.eval()


@functools.cache
def undisturbed(name: str = "a") -> dict[str, torch.Tensor]:
    model = three_worlds()
    trainer(model, name).train(faces())
    return weights(model, name)


def test_everything_at_once_gives_the_answers_of_a_single_thread(tmp_path: Path):
    model = three_worlds()
    model.add_adapter("trained", small_config(**DROPPING, init_seed=7))
    for name in ("b", "early"):
        model.save_pretrained(tmp_path / name, name)
    alone = three_worlds()
    alone.add_adapter("trained", small_config(**DROPPING, init_seed=7))
    trainer(alone, "trained").train(faces())
    x, names = pixels(3), ["a", "early", "b"]
    answers: dict[str | int, torch.Tensor] = {
        name: logits.detach() for name, logits in model.read(x, adapter_names=names).items()
    }
    answers |= dict(enumerate(logits.detach() for logits in model(x, adapter_names=names).logits))
    before, training = bits(model.backbone), threading.Event()
    counts = [0] * 8

    def read(number: int) -> Callable[[], None]:
        def job() -> None:
            while not training.is_set() or counts[number] < 5:
                kind = counts[number] % 4
                if kind == 0:
                    found = model.read(x, adapter_names=names)
                elif kind == 1:
                    found = {name: logits for name, logits in model.read(x).items() if name in names}
                elif kind == 2:
                    found = dict(enumerate(model(x, adapter_names=names).logits))
                else:
                    model.set_adapter(names[number % 3])
                    found = {names[number % 3]: model(x).logits}
                assert all(torch.equal(found[key], answers[key]) for key in found)
                counts[number] += 1

        return job

    def come_and_go() -> None:
        while not training.is_set():
            model.add_adapter("fresh", small_config())
            for name in ("b", "early"):
                model.load_adapter(tmp_path / name, adapter_name=f"{name}-again")
                again = model.read(x, adapter_names=[f"{name}-again"])
                assert torch.equal(again[f"{name}-again"], answers[name])
                model.delete_adapter(f"{name}-again")
            model.delete_adapter("fresh")

    def make() -> None:
        while not training.is_set():
            other = get_ciao_model(tiny_backbone(), small_config(), input_size=SIZE).eval()
            assert other.traceable

    def train() -> None:
        try:
            trainer(model, "trained").train(faces())
        finally:
            training.set()

    assert together(*(read(number) for number in range(8)), come_and_go, make, train) == []
    assert min(counts) >= 5
    assert_same(weights(model, "trained"), weights(alone, "trained"))
    assert sorted(model.adapters) == ["a", "b", "early", "trained"]
    assert same_bits(before, bits(model.backbone))
    assert vars(nn.Module)["__call__"] is CALL and vars(nn.Module)["__getattr__"] is GETATTR


@pytest.mark.parametrize(
    "disturb",
    [
        lambda model: model.train_adapter("b"),
        lambda model: model.set_adapter("b"),
        lambda model: model.eval(),
        lambda model: model.train(),
        lambda model: model.adapters["a"].set_trainable(False),
        lambda model: model.adapters["a"].eval(),
        lambda model: trainer(model, "b").evaluate(faces(8)),
        lambda model: trainer(model, "a").evaluate(faces(8)),
        lambda model: trainer(model, "b").predict(faces(8)),
        lambda model: trainer(model, "b").train(faces(8)),
        lambda model: model.delete_adapter("b") if "b" in model.adapters else model.add_adapter("b", small_config()),
    ],
)
def test_what_is_done_in_on_log_changes_nothing_in_the_training(disturb: Callable[[CIAOModel], object]):
    model = three_worlds()
    trainer(model, "a", on_log=lambda entry: disturb(model)).train(faces(), faces(8))
    assert_same(weights(model, "a"), undisturbed())


def test_what_another_thread_does_changes_nothing_in_the_training():
    model, ended = three_worlds(), threading.Event()

    def train() -> None:
        try:
            trainer(model, "a").train(faces())
        finally:
            ended.set()

    def disturb() -> None:
        while not ended.is_set():
            model.train_adapter("b")
            model.adapters["a"].set_trainable(False)
            model.eval()
            model.train()
            model.adapters["a"].eval()

    assert together(train, disturb) == []
    assert_same(weights(model, "a"), undisturbed())


def test_two_adapters_are_trained_at_once():
    model = three_worlds()
    assert together(lambda: trainer(model, "a").train(faces()), lambda: trainer(model, "b").train(faces())) == []
    for name in ("a", "b"):
        assert_same(weights(model, name), undisturbed(name))


def test_one_adapter_is_in_one_training_and_stays_until_its_end():
    model, refused = three_worlds(), []

    def again(entry: dict[str, object]) -> None:
        for use in (lambda: trainer(model, "a").train(faces()), lambda: model.delete_adapter("a")):
            with pytest.raises(TrainingError, match="'a' is being trained"):
                use()
            refused.append(use)

    trainer(model, "a", on_log=again).train(faces())
    assert refused
    assert_same(weights(model, "a"), undisturbed())
    trainer(model, "a").train(faces())  # the next one is free to
    model.delete_adapter("a")


def test_evaluation_gives_back_what_it_takes():
    model = three_worlds().train()
    model.train_adapter("b")
    grads = [p.requires_grad for p in model.parameters()]
    trainer(model, "a").evaluate(faces(8))
    trainer(model, "a").predict(faces(8))
    assert model.active_adapter == "b" and model.training and model.adapters["a"].training
    assert grads == [p.requires_grad for p in model.parameters()]


def test_of_six_threads_that_load_one_name_one_wins(tmp_path: Path):
    three_worlds().save_pretrained(tmp_path / "early", "early")
    model = get_ciao_model(tiny_backbone(), small_config(), input_size=SIZE)
    for _ in range(3):
        raised = together(*[lambda: model.load_adapter(tmp_path / "early") and None] * 6)
        assert [type(error) for error in raised] == [AdapterNameError] * 5
        raised = together(*[lambda: model.add_adapter("fresh", small_config())] * 6)
        assert [type(error) for error in raised] == [AdapterNameError] * 5
        assert sorted(model.adapters) == ["default", "early", "fresh"]
        model.delete_adapter("early")
        model.delete_adapter("fresh")


def test_a_reader_gets_an_answer_or_the_name_of_the_adapter_that_has_gone():
    model, x, ended = three_worlds(), pixels(), time.perf_counter() + 1.5
    expected = model.read(x, adapter_names=["a"])["a"].detach()

    def come_and_go() -> None:
        while time.perf_counter() < ended:
            model.add_adapter("guest", small_config(target_modules=("0",)))
            model.delete_adapter("guest")

    def read() -> None:
        while time.perf_counter() < ended:
            assert torch.equal(model.read(x)["a"], expected)
            assert {"a", "b"} <= {*model.peft_config} and model.get_nb_trainable_parameters() and model.state_dict()
            for use in (
                lambda: model.read(x, adapter_names=["guest"]),
                lambda: model(x, adapter_names=["guest"] * 4),
                lambda: (model.set_adapter("guest"), model(x)),
                lambda: model.adapter_parameters("guest"),
            ):
                try:
                    use()
                except AdapterNotFoundError as error:
                    assert "'guest'" in str(error)
            model.set_adapter("a")

    assert together(come_and_go, read, read, read) == []


def test_a_copy_and_a_pickle_have_open_locks_of_their_own():
    model = three_worlds()
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with model._lock, model.adapters["a"].held(training=True):
            assert together(lambda copied=copied: copied.add_adapter("c", small_config())) == []
            assert copied.adapters["a"].train().training
        assert_same(weights(copied, "a"), weights(model, "a"))
