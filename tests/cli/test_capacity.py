"""`ciao plan-capacity`, and the arithmetic behind it."""

from __future__ import annotations

import json

import pytest

from ciao_peft import load_encoder
from ciao_peft.capacity import Rates, capacity_table, measure_rates, plan_capacity
from ciao_peft.cli import main
from ciao_peft.errors import ConfigError

RATES = Rates(
    encoder="by hand", feature_bytes=1000, index_bytes=8, decode_seconds=0.5, trunk_seconds=1.5, step_seconds=0.25
)


def test_a_plan_by_hand():
    plan = plan_capacity(RATES, 36_000, worlds=4, views=2, epochs=10, cores=8, days=2)
    assert plan.disk_bytes == 36_000 * 2 * 1008
    assert plan.index_bytes == 36_000 * 2 * 8
    assert plan.store_hours == pytest.approx(36_000 * 2 * 2.0 / 3600)  # 40 hours
    assert plan.train_hours == pytest.approx(36_000 * 10 * 4 * 0.25 / 3600)  # 100 hours
    assert (plan.machines, plan.hours) == (1, pytest.approx(140 / 8))
    assert plan.disk_rate == 8 * 1000 / 0.25


@pytest.mark.parametrize("times", [1, 4, 16, 64])
def test_costs_grow_with_the_faces_and_only_training_with_the_worlds(times):
    one, many = plan_capacity(RATES, 1000), plan_capacity(RATES, 1000 * times)
    for name in ("disk_bytes", "store_hours", "train_hours"):
        assert getattr(many, name) == pytest.approx(times * getattr(one, name))
    worlds = plan_capacity(RATES, 1000, worlds=times)
    assert (worlds.disk_bytes, worlds.store_hours) == (one.disk_bytes, one.store_hours)
    assert worlds.train_hours == pytest.approx(times * one.train_hours)


def test_machines_are_as_many_as_the_days_ask_for():
    plan = plan_capacity(RATES, 10**9, worlds=16, cores=16, days=7)
    assert plan.hours <= 24 * 7 < plan.hours * plan.machines / (plan.machines - 1)


@pytest.mark.parametrize(
    "settings",
    [{"worlds": 0}, {"views": 0}, {"epochs": 0}, {"cores": 0}, {"days": 0}, {"days": float("nan")}, {"days": True}],
)
def test_a_setting_out_of_its_range_is_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        plan_capacity(RATES, 1000, **settings)


@pytest.mark.parametrize("values", [{}, [], {"encoder": "a"}, RATES.to_dict() | {"more": 1}, "rates"])
def test_rates_that_are_none_are_refused(values):
    with pytest.raises(ConfigError, match="no rates"):
        Rates.from_dict(values)


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "1", None, True])
def test_a_rate_that_is_no_number_is_refused(value):
    with pytest.raises(ConfigError, match="trunk_seconds"):
        Rates.from_dict(RATES.to_dict() | {"trunk_seconds": value})


def test_measuring_leaves_the_encoder_as_it_was():
    encoder = load_encoder("small-face")
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    grads = [parameter.requires_grad for parameter in encoder.parameters()]
    rates = measure_rates(encoder, faces=8, batch_size=4, dtype="bfloat16", include_excitation=True)
    assert rates.feature_bytes == 2 * (8192 + 12288)  # numbers that cross the cut, and u
    assert rates.index_bytes == 8
    assert min(rates.decode_seconds, rates.trunk_seconds, rates.step_seconds) > 0
    assert all((value == before[key]).all() for key, value in encoder.state_dict().items())
    assert [parameter.requires_grad for parameter in encoder.parameters()] == grads


def test_the_command_measures_once_and_plans_from_what_it_wrote(tmp_path, capsys):
    file = tmp_path / "rates.json"
    assert main(["plan-capacity", "--num_probe", "8", "--save_rates", str(file), "--faces", "1e3"]) == 0
    assert "bytes of features a face" in capsys.readouterr().out
    assert main(["plan-capacity", "--rates", str(file), "--faces", "1e3", "1e9", "--worlds", "2", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    rates = Rates.from_dict(json.loads(file.read_text()))
    assert answer["plans"] == [vars(plan_capacity(rates, n, worlds=2, cores=16)) for n in (10**3, 10**9)]
    assert main(["plan-capacity", "--rates", str(tmp_path / "none.json")]) == 1
    assert "is missing" in capsys.readouterr().err


@pytest.mark.parametrize("faces", ["0", "1.5", "many", "inf", "nan"])
def test_a_number_of_faces_that_is_none_is_refused(faces, capsys):
    with pytest.raises(SystemExit):
        main(["plan-capacity", "--faces", faces])
    assert "--faces" in capsys.readouterr().err


def test_the_table_has_a_row_for_each_plan():
    assert len(capacity_table([plan_capacity(RATES, n) for n in (1, 2, 3)]).splitlines()) == 5


def test_numbers_that_no_plan_can_hold_are_refused(tmp_path, capsys):
    file = tmp_path / "rates.json"
    file.write_text(json.dumps(RATES.to_dict()))
    assert main(["plan-capacity", "--rates", str(file), "--faces", "1e15", "--days", "1e-320"]) == 1
    assert "`days`" in capsys.readouterr().err
    assert main(["plan-capacity", "--num_probe", "1e15"]) == 1
    assert "`faces`" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="`trunk_seconds` must be a number from 0 to"):
        Rates.from_dict({**RATES.to_dict(), "trunk_seconds": 1e308})
