"""The loss of an update by its definition, and the test of a drifting stream."""

from __future__ import annotations

import math

import pytest
import torch

from ciao_peft.online import PageHinkley, distillation_loss
from helpers.fakes import small_config

CLASSES = small_config()
SETS = small_config(problem_type="multi_label_classification")
VALUES = small_config(problem_type="regression")


def noise(seed, rows=5, columns=3):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_distillation_of_classes_is_its_definition(temperature):
    s, s0 = noise(1), noise(2)
    total = 0.0
    for row, before in zip(s.tolist(), s0.tolist(), strict=True):
        p, q = ([math.exp(v / temperature) for v in values] for values in (before, row))
        p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert distillation_loss(s, s0, CLASSES, temperature).item() == pytest.approx(temperature**2 * total / 5)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_distillation_of_sets_is_its_definition(temperature):
    s, s0 = noise(1), noise(2)
    total = 0.0
    for value, before in zip(s.flatten().tolist(), s0.flatten().tolist(), strict=True):
        p, q = (1 / (1 + math.exp(-v / temperature)) for v in (before, value))
        total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert distillation_loss(s, s0, SETS, temperature).item() == pytest.approx(temperature**2 * total / 15)


def test_distillation_of_values_is_the_mean_squared_error():
    assert distillation_loss(noise(1), noise(2), VALUES).item() == pytest.approx(
        ((noise(1) - noise(2)) ** 2).mean().item()
    )


@pytest.mark.parametrize("config", [CLASSES, SETS, VALUES])
def test_where_nothing_changed_distillation_and_its_gradient_are_zero(config):
    logits = noise(1).requires_grad_()
    loss = distillation_loss(logits, logits.detach().clone(), config)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert logits.grad.abs().max() < 1e-12


def test_classes_that_came_since_are_left_out():
    s, s0 = noise(1, columns=5), noise(2)
    assert torch.equal(distillation_loss(s, s0, CLASSES), distillation_loss(s[:, :3], s0, CLASSES))


def by_definition(values, threshold, tolerance):
    """Page-Hinkley over a whole stream, with sums from the start of each test."""
    said, start = [], 0
    for end in range(1, len(values) + 1):
        part = values[start:end]
        m = [sum(part[i] - sum(part[: i + 1]) / (i + 1) - tolerance for i in range(t + 1)) for t in range(len(part))]
        drift = m[-1] - min([0.0, *m]) > threshold
        said.append(drift)
        start = end if drift else start
    return said


@pytest.mark.parametrize("threshold", [0.5, 2.0, 5.0])
def test_drift_is_told_by_its_definition(threshold):
    values = noise(3, rows=60, columns=1).flatten().abs()
    values[30:] += 1.5
    test = PageHinkley(threshold, 0.1)
    said = [test.add(value) for value in values.tolist()]
    assert said == by_definition(values.tolist(), threshold, 0.1)
    assert any(said)
