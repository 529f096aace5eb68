"""Measures of a stream, against sums worked by hand and loops over the definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ciao_peft.errors import InputError
from ciao_peft.metrics import average_accuracy, backward_transfer, forgetting, forward_transfer

MEASURES = (average_accuracy, backward_transfer, forgetting)
# Three experiences. The first falls from 0.9 to 0.5 and comes back to 0.6; the second falls from 0.8 to 0.7.
TABLE = [[0.9, 0.3, 0.1], [0.5, 0.8, 0.2], [0.6, 0.7, 1.0]]
BEFORE = [0.25, 0.2, 0.3]


def test_three_experiences_worked_by_hand():
    assert average_accuracy(TABLE) == pytest.approx((0.6 + 0.7 + 1.0) / 3)
    assert backward_transfer(TABLE) == pytest.approx(((0.6 - 0.9) + (0.7 - 0.8)) / 2)
    assert forgetting(TABLE) == pytest.approx(((0.9 - 0.6) + (0.8 - 0.7)) / 2)
    assert forward_transfer(TABLE, BEFORE) == pytest.approx(((0.3 - 0.2) + (0.2 - 0.3)) / 2)


def test_forgetting_counts_from_the_best_not_from_the_first_score():
    table = [[0.5, 0.0, 0.0], [0.9, 0.8, 0.0], [0.7, 0.8, 0.6]]  # the second experience helped the first
    assert forgetting(table) == pytest.approx(((0.9 - 0.7) + 0.0) / 2)
    assert backward_transfer(table) == pytest.approx(((0.7 - 0.5) + 0.0) / 2)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_as_the_definitions_say_in_loops(count):
    rng = np.random.default_rng(count)
    r, b = rng.random((count, count)), rng.random(count)
    last, others = count - 1, range(count - 1)
    lost = sum(max(r[i][j] for i in range(last)) - r[last][j] for j in others) / last
    assert forgetting(r) == pytest.approx(lost)
    assert backward_transfer(r) == pytest.approx(sum(r[last][j] - r[j][j] for j in others) / last)
    assert forward_transfer(r, b) == pytest.approx(sum(r[j - 1][j] - b[j] for j in range(1, count)) / last)


def test_one_experience_has_an_accuracy_and_nothing_to_forget():
    assert average_accuracy([[0.5]]) == 0.5
    assert all(math.isnan(value) for value in (forgetting([[0.5]]), backward_transfer([[0.5]])))
    assert math.isnan(forward_transfer([[0.5]], [0.1]))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    "table, message",
    [
        ([[0.5, 0.5]], "must be a square table"),
        ([], "must be a square table"),
        ([[50.0, 20.0], [30.0, 70.0]], "not percent"),
        ([[0.5, float("nan")], [0.5, 0.5]], "no NaN"),
        ([[0.5], [0.5, 0.5]], "rows of one length"),
        ([["a", "b"], ["c", "d"]], "must be numbers"),
    ],
)
def test_what_is_no_table_of_accuracies_is_refused(measure, table, message):
    with pytest.raises(InputError, match=message):
        measure(table)


def test_a_start_for_another_number_of_experiences_is_refused():
    with pytest.raises(InputError, match="each of the 3 experiences"):
        forward_transfer(TABLE, [0.2])
