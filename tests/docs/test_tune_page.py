"""docs/howto/tune.md and `ciao tune --help` say how long it takes, from what was measured."""

from __future__ import annotations

import importlib
import json
import re

import pytest

from ciao_peft.cli import main
from helpers.places import REPOSITORY


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return importlib.import_module("tune")


@pytest.fixture
def found(benchmark):
    return json.loads(benchmark.RESULTS.read_text(encoding="utf-8"))


def test_the_page_is_what_the_script_writes_from_the_results(benchmark, found, tmp_path, monkeypatch):
    before = benchmark.PAGE.read_text(encoding="utf-8")
    copy = tmp_path / "tune.md"
    copy.write_text(before, encoding="utf-8")
    monkeypatch.setattr(benchmark, "PAGE", copy)
    benchmark.write_page(found)
    assert copy.read_text(encoding="utf-8") == before


def test_epochs_are_counted_as_halving_deals_them(benchmark, found):
    """By hand: 28 candidates train 1 epoch; of each of 10 groups one goes on, of two groups of twelve three."""
    assert benchmark.epochs_of_all("default", 3) == 28 * 1 + 10 * 3
    assert benchmark.epochs_of_all("default", 12) == 28 * 1 + 10 * 3 + 6 * 12
    rungs = {each["name"]: [1, 3] if each["epochs"] == 3 else [1] for each in found["candidates"]}
    assert sum(map(sum, rungs.values())) == benchmark.epochs_of_all("default", 3)


def test_the_help_says_what_was_measured(found, capsys):
    with pytest.raises(SystemExit):
        main(["tune", "--help"])
    printed = re.sub(r"\s+", " ", capsys.readouterr().out)
    minutes = round(found["seconds"]["processor"] / 60)
    assert (
        f"{found['pictures']:,} faces took {minutes} minutes of one core with --epochs {found['epochs']:g}" in printed
    )
