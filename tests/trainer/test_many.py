"""Many trainings at once: each comes out as `CIAOTrainer` trains it by itself.

The tests stack on the CPU, where the library itself trains one after the other.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ciao_peft import (
    AdapterJob,
    CIAOConfig,
    CIAOModel,
    CIAOTrainer,
    CIAOTrainingArguments,
    cache_features,
    train_adapters,
)
from ciao_peft.adapters import stack
from ciao_peft.errors import AdapterNameError, TrainingError
from ciao_peft.features import Augmentation
from ciao_peft.losses import total_loss
from ciao_peft.trainer.many import loop, losses
from helpers.fakes import SIZE, residual_backbone, tiny_backbone
from helpers.kernels import kernels
from helpers.training import BALANCED, CLASSES, TASKS, faces, weights


@pytest.fixture(autouse=True)
def stacked(monkeypatch):
    monkeypatch.setattr(stack, "STACKED_ON", {"cpu"})


@pytest.fixture
def loops(monkeypatch):
    """How many trainings each loop ran."""
    counts: list[int] = []
    init = loop.StackedLoop.__init__

    def counted(self, model, members):
        counts.append(len(members))
        init(self, model, members)

    monkeypatch.setattr(loop.StackedLoop, "__init__", counted)
    return counts


def config(**changes):
    values = {**CLASSES, "hidden_sizes": (16,), "pooling": "max", "embedding_source": "hidden", "decay_init": 1.0}
    return CIAOConfig(**(values | {"excitation_rank": 0, "contrastive_weight": 1.0} | changes))


def model_with(configs, make=tiny_backbone) -> CIAOModel:
    model = CIAOModel(make(), input_size=SIZE)
    for number, each in enumerate(configs):
        model.add_adapter(str(number), each)
    return model


def arguments(**changes):
    values = BALANCED | {
        "num_train_epochs": 4,
        "per_device_train_batch_size": 8,
        "logging_steps": 3,
        "report_to": "none",
    }
    return CIAOTrainingArguments(**(values | changes))


def assert_as_alone(
    configs,
    args,
    data,
    eval_data=None,
    *,
    labels=None,
    make=tiny_backbone,
    dtype=torch.float64,
    tolerance=1e-6,
    **how,
):
    """Trains all at once and each by itself, and compares adapters, logs and outputs.

    In float64, unless a test is about rounding: where gradients are nothing but that, AdamW makes steps of it.
    """
    labels = labels or [None] * len(configs)
    together, alone = model_with(configs, make).to(dtype), model_with(configs, make).to(dtype)
    stored, eval_stored = (None if d is None else cache_features(together, d, **how) for d in (data, eval_data))
    named = enumerate(zip(args, labels, strict=True))
    jobs = [AdapterJob(adapter_name=str(number), args=each, labels=own) for number, (each, own) in named]
    results = train_adapters(together, jobs, stored, eval_stored)
    for number, (each, own) in enumerate(zip(args, labels, strict=True)):
        name = str(number)
        trainer = CIAOTrainer(alone, each, name)
        output = trainer.train(stored if own is None else stored.with_labels(own), eval_stored)
        result = results[name]
        assert result.error is None
        assert result.output.global_step == output.global_step
        assert result.output.training_loss == pytest.approx(output.training_loss, rel=1e-4, abs=1e-5)
        torch.testing.assert_close(weights(together, name), weights(alone, name), rtol=tolerance, atol=tolerance)
        assert [sorted(entry) for entry in result.log_history] == [sorted(entry) for entry in trainer.log_history]
        for entry, other in zip(result.log_history, trainer.log_history, strict=True):
            timed = {key for key in entry if "runtime" in key or "per_second" in key}
            assert {k: v for k, v in entry.items() if k not in timed} == pytest.approx(
                {k: v for k, v in other.items() if k not in timed}, rel=1e-3, abs=1e-4
            )
        assert together.adapters[name].config == alone.adapters[name].config
        made, expected = result.trainer.training_record(), trainer.training_record()
        assert made.pop("arguments") == expected.pop("arguments")
        assert made == pytest.approx(expected, rel=1e-3, abs=1e-4)
    return results


FORMS = {
    "plain": {},
    "own units": {"tuning": "last_conv"},
    "excitation": {"excitation_rank": 8, "contrastive_weight": 0.1},
    "no mask": {"inhibition": False},
    "no contrast": {"contrastive_weight": 0.0},
    "rare classes": {"contrastive_denominator": "class_average", "logit_adjustment": 0.5},
    "low rank": {"inhibition_form": "gain", "inhibition_rank": 2, "excitation_rank": 2, "spatial_maps": 2},
    "task loss for the head": {"task_loss_trains": "head"},
    "task loss for the head, z of the map": {"task_loss_trains": "head", "embedding_source": "features"},
    "dropout": {"dropout": 0.5, "hidden_sizes": (16, 8)},
    "no dropout, no hidden layer": {"dropout": 0.0, "hidden_sizes": ()},
    "additive, negatives": {"inhibition_form": "additive", "contrastive_denominator": "negatives"},
    "sum, fixed a": {"contrastive_reduction": "sum", "learn_decay": False},
    "a from the data": {"decay_init": None},
}


@pytest.mark.parametrize("form", FORMS)
def test_seeds_at_once_are_the_seeds_one_by_one(form, loops):
    configs = [config(**({"init_seed": seed} | FORMS[form])) for seed in range(3)]
    args = [arguments(seed=seed) for seed in range(3)]
    assert_as_alone(configs, args, faces(24))
    assert loops == [3]


@pytest.mark.parametrize("form", ["plain", "own units", "dropout", "a from the data"])
def test_in_float32_they_are_so_to_rounding(form, loops):  # after 100 updates of each
    configs = [config(**({"init_seed": seed} | FORMS[form])) for seed in range(2)]
    args = [arguments(seed=seed, max_steps=100) for seed in range(2)]
    assert_as_alone(configs, args, faces(24), dtype=torch.float32, tolerance=1e-5)
    assert loops == [2]


@pytest.mark.parametrize("task", TASKS)
def test_every_kind_of_labels(task, loops):
    problem, label_of = TASKS[task]
    configs = [config(**{**problem, "init_seed": seed, "temperature": 0.1 + 0.2 * seed}) for seed in range(3)]
    assert_as_alone(configs, [arguments(seed=seed) for seed in range(3)], faces(24, label_of))
    assert loops == [3]


def test_a_residual_network_and_overlapping_label_sets(loops):
    problem, label_of = TASKS["sets"]
    configs = [config(**problem, init_seed=seed, multi_label_positives="jaccard") for seed in range(2)]
    assert_as_alone(configs, [arguments(seed=n) for n in range(2)], faces(21, label_of), make=residual_backbone)
    assert loops == [2]


def test_rates_schedules_lengths_temperatures_and_weights_differ(loops):
    configs = [
        config(init_seed=1, temperature=temperature, contrastive_weight=weight, dropout=dropout)
        for temperature, weight, dropout in ((0.1, 1.0, 0.5), (0.5, 0.2, 0.25), (0.1, 1.0, 0.5), (0.2, 2.0, 0.1))
    ]
    args = [
        arguments(learning_rate=1e-3, num_train_epochs=3),
        arguments(learning_rate=3e-3, mask_learning_rate=1e-2, lr_scheduler_type="linear", warmup_steps=3),
        arguments(learning_rate=1e-3, optim="sgd", max_grad_norm=0.0, class_balanced_batches=False, logging_steps=2),
        arguments(learning_rate=1e-3, num_train_epochs=3, weight_decay=0.5, seed=9),
    ]
    assert_as_alone(configs, args, faces(24))
    assert loops == [4]


def test_other_worlds_on_the_same_faces(loops):
    configs = [config(init_seed=n) for n in range(3)]
    labels = [None, torch.arange(24) // 8, torch.arange(24) % 2]
    assert_as_alone(configs, [arguments(seed=n) for n in range(3)], faces(24), labels=labels)
    assert loops == [3]


NO_COLOURS = Augmentation(brightness=0, contrast=0, saturation=0)


@pytest.mark.parametrize("seeds", [(0, 1), (0, 0)], ids=["apart", "shared"])
def test_several_views_of_each_face(seeds, loops):
    configs = [config(init_seed=n) for n in range(2)]
    args = [arguments(seed=seed) for seed in seeds]
    assert_as_alone(configs, args, faces(24), views=3, augment=NO_COLOURS, include_excitation=True)
    assert loops == [2]


def test_early_stops_and_the_best_evaluation(loops):
    configs = [config(init_seed=n) for n in range(4)]
    stopping = {"load_best_model_at_end": True, "early_stopping_patience": 2, "num_train_epochs": 12}
    args = [arguments(seed=n, learning_rate=rate, **stopping) for n, rate in enumerate((1e-4, 1e-2, 3e-2, 1e-3))]
    results = assert_as_alone(configs, args, faces(24), faces(16, seed=5))
    steps = {result.output.global_step for result in results.values()}
    assert len(steps) > 1, "nobody stopped earlier than the others"
    assert loops == [4]


def test_what_is_not_alike_trains_apart(loops):
    configs = [
        config(),
        config(hidden_sizes=(8,)),
        config(init_seed=1),
        config(tuning="last_conv"),
        config(init_seed=2),
    ]
    args = [*(arguments() for _ in range(4)), arguments(two_steps=True)]
    results = assert_as_alone(configs, args, faces(24))
    assert [results[str(n)].together for n in range(5)] == [2, 1, 2, 1, 1]
    assert loops == [2]


def test_the_mode_of_the_model_is_nobodys_business(loops):
    model = model_with([config(), config(init_seed=1)]).train()
    jobs = [AdapterJob(adapter_name=name, args=arguments()) for name in "01"]
    train_adapters(model, jobs, cache_features(model, faces(16)))
    assert loops == [2]
    assert model.training
    assert all(adapter.training for adapter in model.adapters.values())


def test_pictures_are_stored_once(monkeypatch):
    configs = [config(init_seed=n) for n in range(3)]
    model, calls = model_with(configs), []
    model.backbone[0].register_forward_hook(lambda *_: calls.append(1))
    jobs = [AdapterJob(adapter_name=str(n), args=arguments(seed=n)) for n in range(3)]
    train_adapters(model, jobs, faces(16))
    alone = model_with(configs)
    CIAOTrainer(alone, arguments(seed=2), "2").train(faces(16))
    torch.testing.assert_close(weights(model, "2"), weights(alone, "2"), rtol=1e-5, atol=1e-5)
    assert len(calls) <= 2


def test_one_that_diverges_ends_alone():
    configs = [config(init_seed=n) for n in range(3)]
    model, alone = model_with(configs), model_with(configs)
    stored = cache_features(model, faces(24), None)
    args = [arguments(seed=0), arguments(seed=1, learning_rate=1e9, max_grad_norm=0.0, optim="sgd"), arguments(seed=2)]
    results = train_adapters(model, [AdapterJob(adapter_name=str(n), args=a) for n, a in enumerate(args)], stored)
    assert results["1"].output is None
    assert "diverged" in str(results["1"].error)
    assert all(bool(tensor.isfinite().all()) for tensor in weights(model, "1").values())
    for name in ("0", "2"):
        CIAOTrainer(alone, args[int(name)], name).train(stored)
        torch.testing.assert_close(weights(model, name), weights(alone, name), rtol=1e-5, atol=1e-5)


def test_nothing_but_the_adapters_is_changed():
    configs = [config(init_seed=n) for n in range(3)]
    model = model_with(configs)
    model.set_adapter("2")
    stored = cache_features(model, faces(24), None)
    backbone = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    before, random, own = weights(model, "2"), torch.get_rng_state(), dict(model.adapters["0"].named_parameters())
    grads = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    train_adapters(model, [AdapterJob(adapter_name=name, args=arguments()) for name in "01"], stored)
    assert model.active_adapter == "2"
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(backbone[key], value) for key, value in model.backbone.state_dict().items())
    assert all(torch.equal(before[key], value) for key, value in weights(model, "2").items())
    assert grads == {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(own[name] is parameter for name, parameter in model.adapters["0"].named_parameters())
    assert not any(adapter.hold.in_training or adapter.training for adapter in model.adapters.values())


def test_what_a_log_raises_ends_all_and_leaves_what_was_trained():
    model = model_with([config(init_seed=n) for n in range(2)])
    stored, before = cache_features(model, faces(24), None), weights(model, "1")

    def stop(entry):
        if entry["step"] == 6:
            raise KeyboardInterrupt

    jobs = [AdapterJob(adapter_name=name, args=arguments(), on_log=stop) for name in "01"]
    with pytest.raises(KeyboardInterrupt):
        train_adapters(model, jobs, stored)
    assert any(not torch.equal(before[key], value) for key, value in weights(model, "1").items())
    assert not model.adapters["1"].hold.in_training
    assert train_adapters(model, [dataclasses.replace(job, on_log=None) for job in jobs], stored).keys() == {"0", "1"}


@pytest.mark.parametrize("size", [None, 1])
def test_contrastive_losses_of_many_are_those_of_each(size, monkeypatch):
    if size is not None:
        monkeypatch.setattr(losses, "MOST_AT_ONCE", size)
    configs = [config(temperature=0.1), config(temperature=0.7, contrastive_weight=0.3)]
    generator = torch.Generator().manual_seed(0)
    logits, z = (torch.randn(2, 6, width, generator=generator) for width in (3, 8))
    z[0, 2] = 0
    labels = torch.tensor([[0, 0, 1, 1, 2, 0], [0, 1, 2, 0, 1, 0]])
    together = losses.stacked_losses(logits, z, labels, labels, configs)
    each = [torch.stack(total_loss(*own)) for own in zip(logits, z, labels, configs, strict=True)]
    torch.testing.assert_close(together, torch.stack(each), rtol=1e-6, atol=1e-6)


def test_an_update_of_eight_takes_about_as_many_kernels_as_one_of_two():
    def training(count, steps):
        configs = [config(init_seed=n, dropout=0.0, temperature=0.1 + n / 10) for n in range(count)]
        model = model_with(configs)
        stored = cache_features(model, faces(64), include_excitation=True)
        args = [arguments(seed=n, max_steps=steps, logging_steps=100) for n in range(count)]
        jobs = [AdapterJob(adapter_name=str(n), args=each) for n, each in enumerate(args)]
        return kernels(lambda: train_adapters(model, jobs, stored))

    two, eight = (training(count, 6) - training(count, 3) for count in (2, 8))
    assert eight <= two + 6, (two, eight)


def test_on_a_cpu_trainings_run_one_after_the_other_to_the_bit(monkeypatch, loops):
    monkeypatch.setattr(stack, "STACKED_ON", {"cuda"})
    configs = [config(init_seed=n) for n in range(2)]
    assert_as_alone(configs, [arguments(seed=n) for n in range(2)], faces(24), tolerance=0)
    assert loops == []


def test_jobs_may_come_from_a_generator():
    model = model_with([config(), config(init_seed=1)])
    jobs = (AdapterJob(adapter_name=name, args=arguments(max_steps=1)) for name in "01")
    assert [*train_adapters(model, jobs, faces(24))] == ["0", "1"]


def test_jobs_that_are_none_are_refused():
    model = model_with([config()])
    one = AdapterJob(adapter_name="0")
    for jobs in (None, one, {"0": one}, "0", ["0"], [None], 3):
        with pytest.raises(TrainingError, match="give a list of them; got"):
            train_adapters(model, jobs, faces(24))
    for name in (None, ["0"]):
        with pytest.raises(AdapterNameError):
            train_adapters(model, [AdapterJob(adapter_name=name)], faces(24))


def test_jobs_that_cannot_be_are_refused_before_anything_is_trained(tmp_path):
    model = model_with([config(), config(init_seed=1)])
    before = weights(model, "0")
    stored = cache_features(model, faces(24), None)
    job = AdapterJob(adapter_name="0", args=arguments())
    for jobs, data, message in (
        ([], stored, "got none"),
        ([job, job], stored, "several for '0'"),
        ([job, AdapterJob(adapter_name="1", labels=torch.zeros(3, dtype=torch.long))], stored, "3 rows for 24"),
        ([job, AdapterJob(adapter_name="1", eval_labels=torch.zeros(24))], stored, "eval_dataset"),
        ([AdapterJob(adapter_name="0", labels=torch.zeros(24, dtype=torch.long))], faces(24), "stored features"),
        ([job, AdapterJob(adapter_name="1", args=arguments(early_stopping_patience=1))], stored, "needs evaluations"),
        ([AdapterJob(adapter_name="0", labels=torch.tensor(0))], stored, "a row for each sample"),
        ([AdapterJob(adapter_name="0", labels=[0] * 24)], stored, "torch.as_tensor"),
        ([AdapterJob(adapter_name=n, args=arguments(output_dir=str(tmp_path))) for n in "01"], stored, "of its own"),
    ):
        with pytest.raises(TrainingError, match=message):
            train_adapters(model, jobs, data)
    assert all(torch.equal(before[key], value) for key, value in weights(model, "0").items())
