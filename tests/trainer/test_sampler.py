"""Which samples make a batch, and which of them each process reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ciao_peft import CIAOConfig, cache_features
from ciao_peft.errors import ConfigError, InputError
from ciao_peft.trainer import BalancedBatchSampler
from ciao_peft.trainer.accelerator import rows_per_process
from ciao_peft.trainer.loader import BatchDataset, BatchLoader
from ciao_peft.trainer.sampler import draws_per_group, plan_epoch, positive_groups, smallest_batch
from helpers.fakes import tiny_backbone
from helpers.training import CLASSES, faces


@pytest.mark.parametrize("balance", [None, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("epoch", [0, 1])
def test_an_epoch_has_as_many_draws_as_samples_in_batches_of_one_size(balance, epoch):
    groups = np.array([0] * 50 + [1] * 12 + [2] * 3)
    batches = plan_epoch(groups, 16, seed=1, epoch=epoch, balance=balance)
    assert [len(batch) for batch in batches] == [13] * 5  # 65 samples: no last batch of a single one
    again = plan_epoch(groups, 16, seed=1, epoch=epoch, balance=balance)
    assert all(np.array_equal(one, other) for one, other in zip(batches, again, strict=True))
    other = plan_epoch(groups, 16, seed=1, epoch=epoch + 1, balance=balance)
    assert not np.array_equal(np.concatenate(batches), np.concatenate(other))
    if balance is None:
        assert sorted(np.concatenate(batches)) == list(range(65))


def test_classes_are_drawn_by_the_power_of_their_size():
    sizes = np.array([81, 16, 1])
    rng = np.random.default_rng(0)
    assert draws_per_group(sizes, 0.0, rng).tolist() == [81, 16, 1]
    drawn = np.array([draws_per_group(sizes, 0.5, rng) for _ in range(50)])
    assert (drawn.sum(axis=1) == 98).all()
    assert drawn.mean(axis=0) == pytest.approx([98 * 9 / 14, 98 * 4 / 14, 98 * 1 / 14], abs=0.5)
    assert draws_per_group(np.array([90, 6]), 1.0, rng).tolist() == [48, 48]


@pytest.mark.parametrize("batch_size", [3, 8])
@pytest.mark.parametrize("seed", range(4))
def test_every_balanced_batch_has_two_samples_of_one_group(batch_size, seed):
    groups = np.array([*([0] * 20), *([1] * 9), 2, 3, 4, 5, 5])
    for batch in plan_epoch(groups, batch_size, seed=seed, epoch=0, balance=0.5):
        kinds = {group: {i for i in batch if groups[i] == group} for group in groups[batch]}
        assert max(map(len, kinds.values())) >= 2


def test_where_nobody_has_a_partner_there_are_batches_all_the_same():
    batches = plan_epoch(np.arange(7), 3, seed=0, epoch=0, balance=1.0)
    assert sorted(np.concatenate(batches)) == list(range(7))
    assert [batch.tolist() for batch in plan_epoch(np.array([0]), 8, seed=0, epoch=0, balance=0.5)] == [[0]]


def test_groups_are_classes_cells_or_sets():
    values = CIAOConfig(problem_type="regression", num_labels=2, num_bins=2)
    assert positive_groups(torch.tensor([[0.9, 0.1], [-0.9, 0.1], [0.2, 0.3]]), values).tolist() == [1, 0, 1]
    sets = CIAOConfig(problem_type="multi_label_classification", num_labels=2)
    assert positive_groups(torch.tensor([[1.0, 0], [0, 1], [1, 0]]), sets).tolist() == [1, 0, 1]
    classes = CIAOConfig(**CLASSES)
    assert positive_groups(torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.4, 0.0], [0.1, 0.8, 0.1]]), classes).tolist() == [
        1,
        0,
        1,
    ]


@pytest.mark.parametrize(("rows", "processes"), [(8, 3), (5, 2), (4, 1)])
def test_the_shares_of_all_processes_make_the_batch(rows, processes):
    data = cache_features(tiny_backbone(), faces(8))
    source = BatchDataset(data, torch.arange(8))
    plan = [np.arange(rows)[::-1].copy()]
    parts = [next(BatchLoader(source, r, processes, 0, torch.device("cpu")).read(plan, [0])) for r in range(processes)]
    assert torch.cat([part.labels for part in parts]).tolist() == plan[0].tolist()
    assert [len(part.labels) for part in parts] == parts[0].counts == rows_per_process(rows, processes)


@pytest.mark.parametrize("per_device", [1, 2, 3])
@pytest.mark.parametrize("processes", [2, 3, 5])
def test_only_a_batch_of_one_sample_each_can_be_too_small_for_the_processes(per_device, processes):
    for count in range(processes, 40):
        plan = plan_epoch(np.zeros(count, dtype=int), per_device * processes, seed=0, epoch=0)
        smallest = min(map(len, plan))
        assert smallest_batch(count, per_device * processes) == smallest
        assert (smallest < processes) is (per_device == 1 and count % processes > 0)


@pytest.mark.parametrize("balance", [None, 0.0, 0.5, 1.0])
def test_the_sampler_gives_the_batches_of_the_trainer(balance):
    labels = torch.tensor([0] * 20 + [1] * 9 + [2] * 2)
    sampler = BalancedBatchSampler(labels, CIAOConfig(**CLASSES), 8, class_balance=balance, seed=3)
    for epoch in (0, 1, 5):
        sampler.set_epoch(epoch)
        plan = plan_epoch(labels.numpy(), 8, seed=3, epoch=epoch, balance=balance)
        assert list(sampler) == [batch.tolist() for batch in plan]
        assert len(sampler) == len(plan) == 4
    assert list(sampler) == list(sampler)  # the epoch moves on by `set_epoch` alone


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_plain_loader_reads_the_batches_of_the_sampler(num_workers):
    labels = torch.tensor([0, 1, 2] * 5)
    data = torch.utils.data.TensorDataset(torch.arange(15), labels)
    sampler = BalancedBatchSampler(labels, CIAOConfig(**CLASSES), 4)
    loader = torch.utils.data.DataLoader(data, batch_sampler=sampler, num_workers=num_workers)
    sampler.set_epoch(2)
    assert [rows.tolist() for rows, _ in loader] == list(sampler)
    assert len(loader) == 4
    assert all(len(classes.unique()) < len(classes) for _, classes in loader)


def test_iterating_the_sampler_leaves_every_global_generator_alone():
    sampler = BalancedBatchSampler(torch.tensor([0, 1, 2] * 5), CIAOConfig(**CLASSES), 4)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    list(sampler)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_the_sampler_pairs_cells_and_sets_as_the_loss_does():
    sets = CIAOConfig(problem_type="multi_label_classification", num_labels=2)
    labels = torch.tensor([[1, 0], [0, 1], [1, 1]] * 4)
    for batch in BalancedBatchSampler(labels, sets, 3, class_balance=1.0):
        assert len(labels[batch].unique(dim=0)) < len(batch)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"batch_size": 0}, ConfigError, "batch_size"),
        ({"batch_size": 4.0}, ConfigError, "batch_size"),
        ({"class_balance": 1.5}, ConfigError, "class_balance"),
        ({"seed": -1}, ConfigError, "seed"),
        ({"labels": torch.tensor([0, 3])}, InputError, "Class ids run from 0 to 2"),
        ({"labels": torch.zeros(0, dtype=torch.long)}, InputError, "`labels` is empty"),
    ],
)
def test_the_sampler_refuses_what_it_cannot_make_batches_of(change, error, message):
    settings = {"labels": torch.tensor([0, 1]), "config": CIAOConfig(**CLASSES), "batch_size": 2} | change
    with pytest.raises(error, match=message):
        BalancedBatchSampler(**settings)
