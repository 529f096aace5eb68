"""What settings must be, and how what they must not be is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ciao_peft.checking import check_choice, check_flag, check_known, check_number, checked_keys, is_number
from ciao_peft.errors import ConfigError, DataError


@pytest.mark.parametrize("value", [0, -3, 2.5, 1e308, 10**400, np.float64(0.5)])
def test_finite_numbers_of_pythons_are_numbers(value):
    assert is_number(value)


@pytest.mark.parametrize(
    "value",
    [True, False, None, "1", [1], 1j, math.nan, math.inf, -math.inf, np.bool_(True), np.array([1])],
)
def test_truth_values_text_nan_infinities_and_arrays_are_none(value):
    assert not is_number(value)
    with pytest.raises(ConfigError, match="`rate` must be a number; got "):
        check_number("rate", value)


def test_whole_numbers_are_no_floats():
    assert is_number(2, int)
    assert not is_number(2.0, int)
    assert not is_number(True, int)


def test_both_bounds_are_included_and_above_is_not():
    for value in (1, 3):
        check_number("rate", value, float, 1, 3)
    check_number("rate", 1e-300, above=0)
    for value in (0.999, 3.001):
        with pytest.raises(ConfigError):
            check_number("rate", value, float, 1, 3)
    with pytest.raises(ConfigError):
        check_number("rate", 0, above=0)


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((0, int, 1), {}, "`size` must be a whole number of 1 or more; got 0."),
        ((0, int, 2, 1000), {}, "`size` must be a whole number from 2 to 1000; got 0."),
        ((0, float, 1e-12, 1e9), {}, "`size` must be a number from 1e-12 to any size; got 0."),
        ((-1.5,), {"above": 0}, "`size` must be a number above 0; got -1.5."),
        (("1", int, 1), {"of": "a crop"}, "`size` of a crop must be a whole number of 1 or more; got '1'."),
    ],
)
def test_a_message_says_what_is_allowed_and_what_was_given(arguments, settings, message):
    with pytest.raises(ConfigError) as caught:
        check_number("size", *arguments, **settings)
    assert str(caught.value) == message


def test_the_error_is_the_one_that_the_room_raises():
    with pytest.raises(DataError):
        check_number("frames", 0, int, 1, error=DataError)
    with pytest.raises(DataError):
        check_choice("reader", "decord", ("av", "cv2"), DataError)


def test_a_choice_is_one_of_those_listed():
    check_choice("pooling", "max", ("max", "avg"))
    for value in ("min", None, [], ["max"]):
        with pytest.raises(ConfigError, match="`pooling` must be one of 'avg', 'max'; got "):
            check_choice("pooling", value, ("max", "avg"))


def test_a_flag_is_true_or_false_and_no_number():
    check_flag("bf16", False)
    for value in (0, 1, None, "true", np.bool_(True)):
        with pytest.raises(ConfigError, match="`bf16` must be true or false; got "):
            check_flag("bf16", value)


def test_an_unknown_name_is_answered_with_the_one_that_was_meant_or_with_all():
    check_known("setting", ["dropout"], ["dropout", "temperature"], "of a head")
    with pytest.raises(ConfigError) as caught:
        check_known("setting", ["dropout", "temprature"], ["dropout", "temperature"], "of a head")
    assert str(caught.value) == "Unknown setting 'temprature' of a head; did you mean 'temperature'?"
    with pytest.raises(ConfigError) as caught:
        check_known("setting", [3], ["dropout", "temperature"], "of a head")
    assert str(caught.value) == "Unknown setting 3 of a head; known settings: 'dropout', 'temperature'."


def test_checked_keys_are_a_copy():
    given = {"seeds": 3}
    kept = checked_keys("a plan", given, iter(["seeds"]))
    assert kept == given
    assert kept is not given


@pytest.mark.parametrize("values", [None, ["seeds"], "seeds"])
def test_what_has_no_keys_is_refused(values):
    with pytest.raises(ConfigError, match="A plan must map keys to values; got"):
        checked_keys("a plan", values, ["seeds"])


@pytest.mark.parametrize("value", [np.int64(1), np.uint8(1), np.float32(1), np.float64(1)])
def test_scalars_of_numpy_are_numbers(value):
    assert is_number(value, low=0)
    assert is_number(value, int) is isinstance(value, np.integer)
    assert not is_number(value, low=2)
    check_number("rate", value)
