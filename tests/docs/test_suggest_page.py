"""benchmarks/suggest.py goes on where it stopped, and the page says what it measured."""

from __future__ import annotations

import json
from importlib import import_module

import pytest

from helpers.pictures import write_two_moods
from helpers.places import REPOSITORY


@pytest.fixture
def scripts(monkeypatch):
    for folder in ("benchmarks", "docs"):
        monkeypatch.syspath_prepend(str(REPOSITORY / folder))
    script = import_module("suggest")
    monkeypatch.setattr(script, "RECIPE", {**script.RECIPE, "num_train_epochs": 1})
    monkeypatch.setattr(script, "START", 4)
    monkeypatch.setattr(script, "ROUNDS", (8, 16))
    monkeypatch.setattr(script, "COLD", ("random", "k-center"))
    return script, import_module("make_suggest")


@pytest.mark.filterwarnings("ignore:One class alone", "ignore:.*single training sample")
def test_each_strategy_is_measured_once_and_asks_for_different_faces(scripts, tmp_path):
    script, _ = scripts
    write_two_moods(tmp_path / "faces" / "train")

    def run(*words):
        results = tmp_path / "results.jsonl"
        places = ["--data_dir", str(tmp_path / "faces"), "--features_dir", str(tmp_path / "stored")]
        chosen = ["--seeds", "1", "--strategy", "random", *words, "--results", str(results)]
        script.main(script.parse_args([*places, *chosen]))
        return [json.loads(line) for line in results.read_text().splitlines()]

    lines = run("--strategy", "margin")
    found = [(line["strategy"], line["start"], line["labels"]) for line in lines]
    random, margin = [("random", "random", n) for n in (4, 8, 16)], [("margin", "random", n) for n in (8, 16)]
    assert found == [*random, *margin, ("k-center", "cold", 4)]
    assert all(sum(line["asked"].values()) == line["labels"] for line in lines)
    assert run("--strategy", "margin") == lines


def made_up(strategy, seed, labels, accuracy, split="held-out people", start="random"):
    scores = {"accuracy": accuracy, "balanced_accuracy": accuracy / 2}
    asked = {"neutral": labels - 3, "anger": 3}
    names = {"split": split, "seed": seed, "strategy": strategy, "start": start}
    return {**names, "labels": labels, "scores": scores, "asked": asked}


def test_the_tables_compare_the_same_seeds_worked_by_hand(scripts):
    _, make = scripts
    lines = [made_up("random", seed, labels, 0.5 + 0.1 * seed) for seed in (0, 1) for labels in (40, 80)]
    lines += [made_up("margin", seed, 80, 0.5 + 0.1 * seed + gap) for seed, gap in ((0, 0.02), (1, 0.04))]
    lines += [made_up("k-center", seed, 40, 0.4, start="cold") for seed in (0, 1)]
    row = make.table(lines, "held-out people").splitlines()
    assert row[2] == "| random | 55.0 | 27.5 | 3 |"
    assert row[3] == "| margin | +3.0 ± 1.0 | +1.5 ± 0.5 | 3 |"
    assert make.cold(lines).splitlines()[3].startswith("| k-center | -15.0 ± 5.0 |")
    assert make.figure(lines)[1:4] == b"PNG"


def test_the_page_has_what_was_measured(scripts):
    _, make = scripts
    page, lines = make.PAGE.read_text(encoding="utf-8"), make.read()
    for part in (make.table(lines, make.HELD_OUT), make.cold(lines), make.table(lines, "test")):
        assert part in page
