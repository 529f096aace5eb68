"""Clips out of rows: grouped, in order, and of one length."""

from __future__ import annotations

import pytest

from ciao_peft.data import clips
from ciao_peft.errors import DataError


def table(**columns):
    from datasets import Dataset

    return Dataset.from_dict({name: list(values) for name, values in columns.items()})


def test_rows_are_grouped_by_clip_in_order():
    found = clips(table(label=[0, 1, 0, 0, 1], clip="abaab"), frames=3)
    assert found.rows.tolist() == [[0, 2, 3], [1, 4, 4]]
    assert found.names == ["a", "b"]
    assert [clip["label"] for clip in (found[0], found[1])] == [0, 1]
    assert found.select([1]).rows.tolist() == [[1, 4, 4]]
    assert len(found) == 2
    assert found.frames == 3


def test_long_clips_are_thinned_evenly_and_short_ones_stand_still():
    names = "a" * 7 + "b"
    assert clips(table(clip=names), frames=3).rows.tolist() == [[1, 3, 5], [7, 7, 7]]
    assert clips(table(clip=names), frames=1).rows.tolist() == [[3], [7]]


def test_the_number_of_the_frame_says_its_place():
    assert clips(table(clip="aaa", frame=[30, 10, 20]), frames=3).rows.tolist() == [[1, 2, 0]]


def test_each_split_of_several_is_grouped_by_itself():
    found = clips({"train": table(who="ab"), "test": table(who="aa")}, frames=2, column="who")
    assert {split: part.rows.tolist() for split, part in found.items()} == {
        "train": [[0, 0], [1, 1]],
        "test": [[0, 1]],
    }


def test_what_makes_no_clips_is_refused():
    with pytest.raises(DataError, match="which clip a row is of; there is no 'clip'"):
        clips(table(label=[0]))
    with pytest.raises(DataError, match="The rows of the clip 'a' differ in 'label'"):
        clips(table(label=[[0.0, 1.0], [1.0, 1.0]], clip="aa"))
    for frames in (0, True, 2.0):
        with pytest.raises(DataError, match="`frames` must be a whole number of 1 or more"):
            clips(table(clip="a"), frames)
