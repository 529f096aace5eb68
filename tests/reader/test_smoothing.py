"""Smoothers against their formulas, whatever the time between frames."""

from __future__ import annotations

import math

import pytest

from ciao_peft.errors import ConfigError
from ciao_peft.reader import Exponential, OneEuro
from ciao_peft.reader.smoothing import make_smoother


def run(smooth, series):
    """The values shown of a series of (seconds since the last one, values)."""
    state, shown = None, []
    for seconds, values in series:
        state, now = smooth(state, values, seconds)
        shown.append(now)
    return shown


def test_exponential_halves_the_way_in_its_half_life_however_it_is_divided():
    smooth = Exponential(half_life=0.2)
    at_once = run(smooth, [(0, [0.0]), (0.2, [1.0])])[-1]
    in_parts = run(smooth, [(0, [0.0]), (0.05, [1.0]), (0.01, [1.0]), (0.14, [1.0])])[-1]
    assert at_once == pytest.approx([0.5]) and in_parts == pytest.approx([0.5])


def test_one_euro_is_the_filter_of_its_paper():
    """Written out for two frames after the first: alpha = 1 / (1 + tau / Te), tau = 1 / (2 pi fc)."""

    def alpha(cutoff, seconds):
        return 1 / (1 + (1 / (2 * math.pi * cutoff)) / seconds)

    x, times = [0.2, 0.9, 0.4], [0.0, 0.04, 0.10]
    speed, y, expected = 0.0, x[0], [x[0]]
    for k in (1, 2):
        te = times[k] - times[k - 1]
        speed += alpha(1.5, te) * ((x[k] - x[k - 1]) / te - speed)
        y += alpha(0.7 + 0.3 * abs(speed), te) * (x[k] - y)
        expected.append(y)
    smooth = OneEuro(min_cutoff=0.7, beta=0.3, speed_cutoff=1.5)
    shown = run(smooth, [(0.0, x[:1]), (0.04, x[1:2]), (0.06, x[2:])])
    assert [value for (value,) in shown] == pytest.approx(expected)
    # The fastest value sets the pace of all, downwards as upwards.
    pairs = run(smooth, [(0.0, [1 - x[0], x[0]]), (0.04, [1 - x[1], x[1]]), (0.06, [1 - x[2], x[2]])])
    assert [value for _, value in pairs] == pytest.approx(expected)


def test_one_euro_is_steadier_than_what_it_is_given_and_quicker_where_much_changes():
    noise = [0.5 + 0.05 * (-1) ** k for k in range(60)]
    shown = run(OneEuro(), [(1 / 30, [value]) for value in noise])[30:]
    assert max(shown)[0] - min(shown)[0] < 0.03
    jump = [(1 / 30, [0.0])] * 10 + [(1 / 30, [1.0])] * 6
    slow, quick = (run(OneEuro(min_cutoff=0.5, beta=beta), jump)[-1][0] for beta in (0.0, 1.0))
    assert quick > slow + 0.2


@pytest.mark.parametrize("smooth", [OneEuro(), Exponential()])
def test_probabilities_still_add_up_to_1_and_stay_between_0_and_1(smooth):
    series = [(0.03 * (1 + k % 3), [0.1 * (k % 5), 0.4 - 0.05 * (k % 5), 0.6 - 0.05 * (k % 5)]) for k in range(20)]
    for shown in run(smooth, series):
        assert sum(shown) == pytest.approx(1) and min(shown) >= 0


@pytest.mark.parametrize("smooth", [OneEuro(), Exponential()])
def test_two_frames_of_one_time_change_nothing(smooth):
    assert run(smooth, [(0.0, [0.3]), (0.0, [0.9])]) == [[0.3], [0.3]]


def test_smoothers_go_by_name_and_one_word_turns_them_off():
    def own(state, values, seconds):
        return None, list(values)

    assert make_smoother("off") is None is make_smoother(None)
    assert (make_smoother("one-euro"), make_smoother("exponential")) == (OneEuro(), Exponential())
    assert make_smoother(own) is own
    with pytest.raises(ConfigError, match="`smoothing` must be 'one-euro', 'exponential', 'off' or a smoother; got 3"):
        make_smoother(3)


@pytest.mark.parametrize(
    ("kind", "setting"), [(OneEuro, "min_cutoff"), (OneEuro, "speed_cutoff"), (Exponential, "half_life")]
)
def test_settings_out_of_range_are_named(kind, setting):
    with pytest.raises(ConfigError, match=f"`{setting}` must be a number above 0; got 0"):
        kind(**{setting: 0})
    with pytest.raises(ConfigError, match="`beta` must be a number of 0 or more"):
        OneEuro(beta=-1)
