"""The measured part of docs/encoders.md says what the probe's file says, and keeps what people wrote around it."""

from __future__ import annotations

from importlib import import_module

import pytest

from helpers.places import REPOSITORY


@pytest.fixture
def make(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "docs"))
    return import_module("make_encoders")


def scores(*values, size=18432):
    return {"size": size, **{probe: [*values] for probe in PROBES}}


PROBES = ("verification", "identity", "expression_accuracy", "expression_balanced")
PROBES += tuple(f"{probe}_scaled" for probe in PROBES[1:])


@pytest.fixture
def found():
    """Two encoders after two epochs each: the first beats random weights, the second only in one probe."""
    losses = {"reconstruction": 0.25, "identity": 0.5, "prior": 0.7, "image": 1.0, "judges": 2.0, "seconds": 90.0}
    settings = {"num_train_epochs": 2, "widths": [256, 128, 64, 32, 16], "batch_size": 49, "mixed_precision": "bf16"}
    people = {"training_faces": 8364, "verification_people": 227}
    return {
        "prior_knowledge": {
            "training": {
                "faces": 8364,
                "settings": {**settings, "conditional": False, "max_faces": None},
                "history": [{"epoch": epoch, **losses} for epoch in (1, 2)],
            },
            "trained": scores(0.8, 0.7),
            "random": {"0": scores(0.5, 0.7), "1": scores(0.4, 0.6)},  # means 0.6 and 0.5
        },
        "vggface2": {
            "training": {
                "people": people,
                "settings": {"encoder": "vggface2", "batch_norm": True, "num_train_epochs": 2},
                "verification_auc": 0.87654,
                "verification_auc_of_random_weights": 0.6,
                "training_seconds": 660,
                "history": [
                    {"epoch": 1, "size": 48, "loss": 8.0, "seconds": 60.0, "verification_auc": 0.7},
                    {"epoch": 2, "size": 96, "loss": 7.5, "seconds": 600.0, "verification_auc": 0.88},
                ],
            },
            "trained": scores(0.5, 0.5, size=4608) | {"identity": [0.9, 0.9]},
            "random": {"0": scores(0.5, size=4608), "1": scores(0.6, size=4608)},
        },
    }


def test_the_page_says_what_was_measured(make):
    assert f"{make.BEGIN}\n{make.measured(make.results())}\n{make.END}" in make.PAGE.read_text(encoding="utf-8")


def joined(text: str) -> str:
    """Commands that are broken into several lines, in one line each."""
    return text.replace(" \\\n       ", "")


def test_commands_are_those_that_were_typed(make, found):
    text = joined(make.trainings(found))
    assert (
        "    python examples/pretrain_pk.py --data_dir ../shared/faces/train --output_dir runs/pk --num_train_epochs 2 "
        "--widths 256 128 64 32 16 --mixed_precision bf16\n"
    ) in text
    assert (
        "    python examples/pretrain_encoder.py --data_dir ../shared/faces --output_dir runs/vggface2 "
        "--encoder vggface2 --batch_norm --num_train_epochs 2\n"
    ) in text


def test_a_training_that_began_with_an_earlier_one_is_told_with_it(make, found):
    second = found["prior_knowledge"]["training"]
    first = {**second, "settings": {**second["settings"], "num_train_epochs": 3, "seed": 5}}
    first["history"] = [{**second["history"][0], "epoch": epoch, "reconstruction": 0.9} for epoch in (1, 2, 3)]
    found["prior_knowledge"]["training"] = {**second, "started_from": first}
    lines = joined(make.trainings(found)).splitlines()
    assert "--output_dir runs/pk-start --num_train_epochs 3 " in lines[0] and "--seed 5" in lines[0]
    assert "--output_dir runs/pk --start_dir runs/pk-start --num_train_epochs 2 " in lines[1]
    assert "--seed" not in lines[1]
    assert any(line.startswith("| `prior_knowledge` | 8,364 | 3 + 2 | 8 |") for line in lines)  # 5 x 90 s
    curve = make.curves(found).split("`vggface2`")[0].splitlines()
    assert [line.split(" | ")[0] for line in curve[4:9]] == ["| 1", "| 2", "| 3", "| 4", "| 5"]
    assert ["0.900" in line for line in curve[4:9]] == [True, True, True, False, False]


def test_trainings_and_their_epochs_are_told(make, found):
    text = joined(make.trainings(found))
    assert "| `prior_knowledge` | 8,364 | 2 | 3 | mean absolute difference 0.250 of pixels" in text
    assert "| `vggface2` | 8,364 | 2 | 11 | verification AUC 0.877 on 227 unseen people (0.600 with random" in text
    assert "| 2 | 96 | 7.500 | 0.880 | 10.0 |" in make.curves(found)


def test_means_and_deviations_are_those_of_the_formula(make, found):
    text = make.probes(found)
    # Half the difference times the root of two: 0.05 * 1.41; of random weights, between the networks' means.
    assert "| `prior_knowledge`, trained | 18,432 | 0.750 ± 0.071 |" in text
    assert "| `prior_knowledge`, random | 18,432 | 0.550 ± 0.071 |" in text


def test_only_what_no_random_network_reaches_counts_as_above(make, found):
    first, second = make.verdict(found).splitlines()
    assert "in identity: AUC of all pairs (+20.0 points); identity: linear, top 1 (+20.0 points)" in first
    assert "not in" not in first
    assert "in identity: linear, top 1 (+35.0 points); not in identity: AUC of all pairs (-5.0 points)" in second


def test_the_picture_is_drawn_and_the_same_each_time(make, found, tmp_path, monkeypatch):
    drawn = []
    for name in ("one.png", "two.png"):
        monkeypatch.setattr(make, "PICTURE", tmp_path / name)
        make.draw(found)
        drawn.append((tmp_path / name).read_bytes())
    assert drawn[0] == drawn[1]
    assert drawn[0].startswith(b"\x89PNG")
    assert "![Losses and verification AUC per epoch](two.png)" in make.measured(found)


def test_the_page_keeps_what_people_wrote(make, found, tmp_path):
    page = tmp_path / "encoders.md"
    page.write_text(f"# Encoders\n\n{make.BEGIN}\nold\n{make.END}\n\n## Publish\n")
    for text in ("once", "twice"):
        make.put_into(page, text)
        assert page.read_text() == f"# Encoders\n\n{make.BEGIN}\n{text}\n{make.END}\n\n## Publish\n"


def test_without_results_the_page_says_so(make, tmp_path, monkeypatch):
    monkeypatch.setattr(make, "RESULTS", tmp_path / "nothing.json")
    assert make.measured(make.results()).startswith("No training has been probed yet")


def test_a_grid_of_painted_faces_is_drawn_and_small(make, tmp_path, monkeypatch):
    from accelerate.state import AcceleratorState
    from PIL import Image

    AcceleratorState._reset_state()  # of another test's training in this process, which had another precision
    monkeypatch.syspath_prepend(str(REPOSITORY / "examples"))
    grid = import_module("make_pk_grid")
    narrow = "--batch_size 5 --channels 4 4 4 8 --widths 8 8 4 4 4 --mixed_precision no"
    grid.draw(tmp_path / "grid.png", 10, 1, *narrow.split())
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (8 * 48, 6 * 48)  # eight faces; seen, drawn again, and in four moods
    page = (REPOSITORY / "docs" / "encoders.md").read_text(encoding="utf-8")
    assert not (REPOSITORY / "docs" / "pk_painted.png").exists() or "](pk_painted.png)" in page
