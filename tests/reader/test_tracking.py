"""People keep their numbers: where they move, cross, are missed, or the frames change their size."""

from __future__ import annotations

import pytest

from ciao_peft.detection import Box
from ciao_peft.errors import ConfigError, InputError
from ciao_peft.reader import Tracker


def box(x, y=0, side=40):
    return Box(round(x), round(y), side, side)


def test_numbers_are_kept_whatever_the_order_of_the_faces():
    tracker = Tracker()
    assert tracker.update([box(0), box(100)], 0.0) == [1, 2]
    assert tracker.update([box(103), box(4)], 0.04) == [2, 1]
    assert tracker.update([box(300), box(8), box(106)], 0.08) == [3, 1, 2]


def test_two_people_who_pass_each_other_keep_their_numbers():
    """At equal height and speed: in the middle, both boxes lie on each other."""
    tracker = Tracker()
    for k in range(41):
        one, other = box(5 * k), box(200 - 5 * k, y=4)
        assert tracker.update([other, one] if k % 2 else [one, other], 0.04 * k) == ([2, 1] if k % 2 else [1, 2])


def test_who_was_missed_for_a_moment_is_found_where_the_movement_led():
    tracker = Tracker()
    for k in range(10):
        assert tracker.update([box(10 * k)], 0.04 * k) == [1]
    for k in range(10, 15):
        assert tracker.update([], 0.04 * k) == []
    assert tracker.update([box(150)], 0.6) == [1]


def test_who_was_away_for_long_is_somebody_new():
    tracker = Tracker(max_gap=0.5)
    assert tracker.update([box(0)], 0.0) == [1] and tracker.followed == {1}
    assert tracker.update([box(0)], 0.6) == [2] and tracker.followed == {2}


def test_numbers_are_never_given_twice():
    tracker = Tracker(max_gap=0.1)
    assert [tracker.update([box(0)], float(k))[0] for k in range(4)] == [1, 2, 3, 4]


def test_two_faces_on_one_place_are_two_people():
    tracker = Tracker()
    assert tracker.update([box(0), box(0)], 0.0) == [1, 2]
    assert sorted(tracker.update([box(0), box(0)], 0.1)) == [1, 2]


def test_frames_of_another_size_scale_all_places():
    tracker = Tracker()
    assert tracker.update([Box(100, 100, 40, 40), Box(300, 100, 40, 40)], 0.0, (640, 480)) == [1, 2]
    assert tracker.update([Box(75, 50, 10, 20), Box(25, 50, 10, 20)], 0.04, (160, 240)) == [2, 1]


def test_a_frame_before_the_last_one_is_refused():
    tracker = Tracker()
    tracker.update([], 1.0)
    with pytest.raises(InputError, match=r"one at 0.5 s follows one at 1 s"):
        tracker.update([], 0.5)


def test_settings_out_of_range_are_named():
    with pytest.raises(ConfigError, match="`overlap` must be"):
        Tracker(overlap=0)
    with pytest.raises(ConfigError, match="`max_gap` must be"):
        Tracker(max_gap=-1)
