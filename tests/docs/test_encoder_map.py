"""benchmarks/encoder_map.py goes on where it stopped and keeps people apart; the pages say what it measured."""

from __future__ import annotations

import csv
import json
from importlib import import_module

import pytest

from ciao_peft.data import Expression, paint_face
from helpers.places import REPOSITORY


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    module = import_module("encoder_map")
    monkeypatch.setattr(module, "RECIPE", {**module.RECIPE, "num_train_epochs": 1})
    return module


@pytest.fixture
def make(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "docs"))
    return import_module("make_encoder_map")


@pytest.fixture
def photographs(tmp_path):
    """Two expressions, 48 faces of 12 people to train on, and 12 faces of 3 others."""
    for part, people in (("train", range(12)), ("test", range(20, 23))):
        folder = tmp_path / "faces" / part
        folder.mkdir(parents=True)
        with (folder / "metadata.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["file_name", "expression", "identity"])
            for person in people:
                for number in range(4):
                    curve = 1.0 if number % 2 else -1.0
                    face = paint_face(expression=Expression(mouth_curve=curve), size=48, seed=100 * person + number)
                    name = f"{person}-{number}.png"
                    face.save(folder / name)
                    table.writerow([name, "happiness" if number % 2 else "sadness", f"p{person}"])
    return tmp_path / "faces"


def run(script, photographs, tmp_path, *more):
    results = tmp_path / "results.jsonl"
    places = ["--data_dir", str(photographs), "--features_dir", str(tmp_path / "stored"), "--results", str(results)]
    script.main(script.parse_args([*places, "--encoder", "small-face", "--probe_splits", "1", *more]))
    return [json.loads(line) for line in results.read_text().splitlines()]


def test_what_is_there_is_not_done_again(script, photographs, tmp_path, monkeypatch):
    methods = ["--method", "decision layer", "--method", "compact: gain, ranks 16"]
    first = run(script, photographs, tmp_path, *methods, "--seeds", "1")
    assert [line["method"] for line in first] == ["decision layer", "compact: gain, ranks 16", "probe"]
    assert first[0]["faces"] == [48, 12]
    assert 0 <= first[0]["scores"]["balanced_accuracy"] <= 1
    assert first[2]["size"] == 3072
    both = run(script, photographs, tmp_path, *methods, "--seeds", "2")
    assert both[:3] == first
    assert [(line["method"], line["seed"]) for line in both[3:]] == [(line["method"], 1) for line in first[:2]]
    monkeypatch.setattr(script, "stored", None)
    assert run(script, photographs, tmp_path, *methods, "--seeds", "2") == both


def test_held_out_people_are_no_test_faces(script, photographs, tmp_path, monkeypatch):
    seen = []
    select = script.rows_of

    def rows_of(faces, seed):
        fit, score = select(faces, seed)
        seen.append(({faces["identity"][row] for row in fit}, {faces["identity"][row] for row in score}))
        return fit, score

    monkeypatch.setattr(script, "rows_of", rows_of)
    found = run(script, photographs, tmp_path, "--held_out", "--method", "decision layer", "--seeds", "2")
    assert [line["split"] for line in found] == ["held-out people"] * 2
    assert not (tmp_path / "stored" / "small-face" / "test").exists()
    for fit, score in seen:
        assert fit and score and not fit & score
    assert seen[0] != seen[1]


def test_the_pages_say_what_was_measured(make):
    text = make.wrap_page(f"{make.BEGIN}\n\n{make.section(make.lines())}\n\n{make.END}")
    assert text.strip() in make.PAGE.read_text(encoding="utf-8")
    assert f"<!-- adapters -->\n{make.adapters()}\n<!-- /adapters -->" in make.ADAPTERS.read_text(encoding="utf-8")


def test_the_newest_of_each_counts_and_seeds_are_averaged(make):
    line = {"encoder": "dlib-face-2-aligned", "method": "decision layer", "split": "test"}
    found = [
        {**line, "seed": seed, "scores": {"accuracy": accuracy, "balanced_accuracy": 0.5}}
        for seed, accuracy in ((0, 0.80), (1, 0.84))
    ]
    row = make.networks(found).splitlines()[-1]
    assert "`dlib-face`, 2 levels, aligned" in row and "82.0 ± 2.8 / 50.0 ± 0.0" in row and "2, 0, 0, 0" in row


@pytest.mark.filterwarnings("ignore:A single training sample each")
def test_adapters_for_the_package_are_calibrated_scored_as_they_were_written_and_small(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    bundle = import_module("bundle_adapters")
    monkeypatch.setattr(bundle, "FOLDER", tmp_path / "adapters")
    monkeypatch.setattr(bundle, "PAINTED", {"num_train": 48, "num_validation": 8, "num_test": 8})
    monkeypatch.setattr(bundle, "ENCODER", "small-face")
    bundle.main(["--only", "painted-eight", "--num_train_epochs", "1", "--features_dir", str(tmp_path / "stored")])
    folder = tmp_path / "adapters" / "painted-eight"
    record = json.loads((folder / "adapter_config.json").read_text())
    assert record["config"]["probability_temperature"] != 1.0
    assert record["training"]["metrics"]["accuracy"]["split"] == "8 test faces of people not in training"
    assert record["training"]["faces"] == {"train": 48, "held": 8, "test": 8}
    assert sum(file.stat().st_size for file in folder.iterdir()) < 300_000
    assert "ciao/painted-eight: {'accuracy'" in capsys.readouterr().out
