"""`ciao predict`: adapters told from sources, pictures and videos read, tables written."""

from __future__ import annotations

import csv
import json

import pytest

from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
from ciao_peft.cli import main
from ciao_peft.cli.worlds import load_worlds
from ciao_peft.data import paint_face, sample_frames
from helpers.layouts import write_video

MOODS = {0: "calm", 1: "glad", 2: "sad"}


def save(folder, **settings):
    config = CIAOConfig(
        **{"problem_type": "single_label_classification", "num_labels": 3, "id2label": MOODS} | settings
    )
    get_ciao_model(load_encoder("small-face"), config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    two = {"num_labels": 2, "id2label": {0: "arousal", 1: "valence"}}
    return {
        "moods": save(folder / "moods" / "adapter", hidden_sizes=()),
        "affect": save(folder / "affect", problem_type="regression", hidden_sizes=(), **two),
        "signals": save(folder / "signals", problem_type="multi_label_classification", hidden_sizes=()),
        "clips": save(folder / "clips", frames=3, recurrent_size=4),
    }


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(3):
        paint_face(seed=index, size=40).save(folder / f"{index}.png")
    return folder


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_is_read_with_several_adapters_into_a_table(adapters, pictures, tmp_path):
    names = [str(adapters[name]) for name in ("moods", "affect", "signals")]
    out = tmp_path / "out"
    assert main(["predict", *names, str(pictures), "--csv", f"{out}.csv", "--json", f"{out}.json"]) == 0
    rows = read_csv(out.with_suffix(".csv"))
    assert [row["file"] for row in rows] == [str(pictures / f"{index}.png") for index in range(3)]
    worlds = load_worlds(names)
    assert len({id(world.model) for world in worlds}) == 1  # one backbone, one model
    expected = worlds[0].model.predict(str(pictures / "1.png"), adapter_names=["moods", "affect", "signals"])
    assert rows[1]["moods"] == next(iter(expected["moods"]))
    assert [key for key in rows[1] if key.startswith("moods.")] == ["moods.calm", "moods.glad", "moods.sad"]
    assert float(rows[1]["affect.valence"]) == pytest.approx(expected["affect"]["valence"], rel=1e-4)
    assert "affect" not in rows[1]  # values, and no answer of its own
    on = [label for label in MOODS.values() if expected["signals"][label] >= 0.5]
    assert rows[1]["signals"] == "; ".join(on)
    told = json.loads(out.with_suffix(".json").read_text())
    assert told[1]["answers"]["moods"] == pytest.approx(expected["moods"], abs=1e-5)


def test_without_a_file_to_write_a_line_is_printed_for_each_picture(adapters, pictures, capsys):
    assert main(["predict", str(adapters["moods"]), str(pictures / "0.png"), str(pictures / "2.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [str(pictures / "0.png"), str(pictures / "2.png")]
    assert "calm 0." in lines[0]


def test_some_frames_of_a_video_are_read_and_all_on_request(adapters, tmp_path):
    video = write_video(tmp_path / "clip.mp4", range(60, 72))
    for words, numbers in (("--frames 3", [2, 6, 10]), ("--frames 0", list(range(12)))):
        command = ["predict", str(adapters["moods"]), str(video), "--csv", str(tmp_path / "o.csv"), *words.split()]
        assert main(command) == 0
        assert [int(row["frame"]) for row in read_csv(tmp_path / "o.csv")] == numbers
    frames = dict(sample_frames(video, 12))
    expected = load_worlds([str(adapters["moods"])])[0].model.predict(frames[10])
    row = read_csv(tmp_path / "o.csv")[10]
    assert float(row["moods.calm"]) == pytest.approx(expected["calm"], rel=1e-4)


def test_an_adapter_for_clips_answers_once_for_a_video(adapters, pictures, tmp_path, capsys):
    video = write_video(tmp_path / "clip.mp4", range(60, 66))
    assert main(["predict", str(adapters["clips"]), str(video), "--csv", str(tmp_path / "o.csv")]) == 0
    (row,) = read_csv(tmp_path / "o.csv")
    assert (row["frame"], row["clips"] in MOODS.values()) == ("", True)
    assert main(["predict", str(adapters["clips"]), str(pictures / "0.png")]) == 1
    assert "reads clips of 3 frames" in capsys.readouterr().err
    assert main(["predict", str(adapters["clips"]), str(adapters["moods"]), str(video)]) == 1
    assert "one kind at a time" in capsys.readouterr().err


def test_a_damaged_picture_of_a_folder_is_left_out_and_said(adapters, pictures, tmp_path, capsys):
    (pictures / "1.png").write_bytes(b"no picture")
    assert main(["predict", str(adapters["moods"]), str(pictures), "--csv", str(tmp_path / "o.csv")]) == 0
    assert len(read_csv(tmp_path / "o.csv")) == 2
    assert "left out: " in capsys.readouterr().err
    assert main(["predict", str(adapters["moods"]), str(pictures / "1.png")]) == 1


def test_two_adapters_of_one_name_get_numbers(adapters):
    assert [world.name for world in load_worlds([str(adapters["affect"])] * 2)] == ["affect", "affect-2"]


def test_an_adapter_of_another_encoder_gets_a_model_of_its_own(adapters):
    worlds = load_worlds(["ciao/everyday-six", str(adapters["moods"])])
    assert worlds[0].model is not worlds[1].model


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.png"], "There is no file, folder or adapter 'nothing.png'"),
        (["{moods}"], "What is to be read with"),
        (["{pictures}"], "Which adapter?"),
        (["{pictures}", "{moods}"], "adapters come before what they read"),
        (["{moods}", "{empty}"], "There is no picture and no video"),
        (["{moods}", "{pictures}", "--csv", "{empty}"], "cannot be written"),
        (["{moods}", "{pictures}/0.png", "--csv", "{pictures}/0.png"], "would be overwritten"),
        (["{moods}", "{pictures}", "--json", "{pictures}/1.png"], "would be overwritten"),
        (["{moods}", "{pictures}", "--csv", "{pictures}/1.png", "--faces"], "would be overwritten"),
        (["{moods}", "{pictures}", "--json", "{moods}/adapter_config.json"], "would be overwritten"),
        (["{moods}", "{pictures}", "--csv", "{empty}/a", "--json", "{empty}/a"], "each a file of its own"),
        (["{moods}", "{pictures}", "--frames", "-1"], "`--frames` must be 0 or more"),
    ],
)
def test_words_that_say_too_little_are_explained(adapters, pictures, tmp_path, capsys, words, message):
    (tmp_path / "empty").mkdir()
    places = {"moods": adapters["moods"], "pictures": pictures, "empty": tmp_path / "empty"}
    assert main(["predict", *(word.format(**places) for word in words)]) == 1
    assert message in capsys.readouterr().err


def test_a_folder_of_folders_is_told_to_be_named_deeper(tmp_path, capsys):
    (tmp_path / "faces" / "test").mkdir(parents=True)
    assert main(["predict", "ciao/everyday-six", str(tmp_path / "faces")]) == 1
    assert "Folders in it are not searched; name them" in capsys.readouterr().err
