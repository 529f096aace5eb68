"""A dataset in two parts, and nobody in both."""

from __future__ import annotations

import pytest
from datasets import Dataset, DatasetDict

from ciao_peft.data import hold_out, labels_of
from ciao_peft.errors import DataError


def grouped(*people):
    return Dataset.from_dict({"identity": list(people), "row": list(range(len(people)))})


def test_rows_without_a_group_are_each_their_own():
    assert len(hold_out(grouped(None, None, None, None), 0.5)[1]) == 2


def test_something_always_stays_in_both_parts():
    for fraction in (0.01, 0.99):
        rest, held = hold_out(grouped("a", "a", "b"), fraction)
        assert len(rest) and len(held)


def test_one_group_cannot_be_split():
    with pytest.raises(DataError, match="Nothing can be held out of 1 group"):
        hold_out(grouped("a", "a"))


def test_labels_of_says_what_it_cannot_read():
    with pytest.raises(DataError, match=r"no column 'label' with labels. Columns: 'identity', 'row'"):
        labels_of(grouped("a"))
    with pytest.raises(DataError, match=r"class_encode_column\('identity'\)"):
        labels_of(grouped("a"), "identity")


def test_holding_out_keeps_groups_whole_and_loses_no_row():
    faces = grouped(*"aaabbbbccddddde")
    for seed in range(20):
        rest, held = hold_out(faces, 0.3, seed=seed)
        assert not set(rest["identity"]) & set(held["identity"])
        assert sorted([*rest["row"], *held["row"]]) == list(range(15))
        assert len(held) >= 0.3 * 15 or len(set(rest["identity"])) == 1


def test_of_several_splits_the_training_split_is_divided():
    faces = DatasetDict(train=grouped(*"aabb"), test=grouped("c"))
    rest, held = hold_out(faces, 0.4)
    assert {*rest["identity"], *held["identity"]} == {"a", "b"}
    assert len(faces["train"]) == 4


def test_holding_out_of_several_splits_without_train_asks_for_one_of_them():
    faces = DatasetDict(test=Dataset.from_dict({"identity": ["ann", "bob"]}))
    with pytest.raises(DataError, match=r"splits \('test'\) and none.*`hold_out\(faces\['test'\], 0.2\)`"):
        hold_out(faces, 0.2)


def test_holding_out_is_decided_by_the_seed():
    faces = grouped(*"abcdefghijklmnop")
    assert hold_out(faces, 0.3, seed=1)[1]["row"] == hold_out(faces, 0.3, seed=1)[1]["row"]
    assert hold_out(faces, 0.3, seed=1)[1]["row"] != hold_out(faces, 0.3, seed=2)[1]["row"]
    assert len(hold_out(faces, 0.25)[1]) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fraction": 0}, "`fraction` must lie between 0 and 1; got 0"),
        ({"group_by": "person"}, "no column 'person' to group by. Columns: 'identity', 'row'"),
    ],
)
def test_holding_out_nonsense_is_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        hold_out(grouped("a", "b"), **arguments)
