"""benchmarks/depths.py goes on where it stopped, on people who are held out; the page says what it measured."""

from __future__ import annotations

import json
from importlib import import_module

import pytest

from helpers.pictures import write_two_moods
from helpers.places import REPOSITORY


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    module = import_module("depths")
    monkeypatch.setattr(module, "RECIPE", {**module.RECIPE, "num_train_epochs": 1})
    monkeypatch.setattr(module, "METHODS", {"compact head": {}, "three units": {"depths": 3}})
    return module


def test_each_method_is_trained_once_on_one_store(script, tmp_path, monkeypatch):
    write_two_moods(tmp_path / "faces" / "train")

    def run(seeds):
        places = ["--data_dir", str(tmp_path / "faces"), "--features_dir", str(tmp_path / "stored")]
        results = tmp_path / "results.jsonl"
        more = ["--results", str(results), "--encoder", "small-face", "--seeds", str(seeds)]
        script.main(script.parse_args([*places, *more]))
        return [json.loads(line) for line in results.read_text().splitlines()]

    first = run(1)
    assert [(line["method"], line["seed"]) for line in first] == [("compact head", 0), ("three units", 0)]
    assert len(first[1]["depths"]) == 3 and not first[0]["depths"]
    assert sum(first[0]["faces"]) == 48
    assert first[1]["parameters"] > first[0]["parameters"]
    both = run(2)
    assert both[:2] == first and len(both) == 4
    monkeypatch.setattr(script, "load_faces", None)
    assert run(2) == both


def test_the_page_says_what_was_measured(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "docs"))
    make = import_module("make_depths")
    written = make.PAGE.read_text(encoding="utf-8")
    assert f"<!-- measured -->\n{make.measured(make.lines())}\n<!-- /measured -->" in written
