"""`ciao predict --faces`: every face of scenes and videos, told, tabled and drawn in one pass."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
from ciao_peft.cli import main
from ciao_peft.data import paint_face


def scene(shift=0):
    picture = np.full((240, 480, 3), 110, np.uint8)
    picture[60:180, 40:160] = paint_face(seed=2, size=120)
    picture[40:190, 280:430] = paint_face(seed=3, size=150)
    return Image.fromarray(np.roll(picture, shift, axis=1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    classes = {"num_labels": 3, "id2label": {0: "calm", 1: "glad", 2: "sad"}, "hidden_sizes": ()}
    affect = {"num_labels": 2, "id2label": {0: "arousal", 1: "valence"}, "hidden_sizes": ()}
    for name, config in (
        ("moods", CIAOConfig(problem_type="single_label_classification", **classes)),
        ("affect", CIAOConfig(problem_type="regression", **affect)),
    ):
        get_ciao_model(load_encoder("small-face"), config).save_pretrained(folder / name)
    dlib = get_ciao_model(load_encoder("dlib-face"), CIAOConfig(problem_type="regression", **affect))
    dlib.save_pretrained(folder / "other")
    scene().save(folder / "scene.png")
    av = pytest.importorskip("av")
    with av.open(str(folder / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 480, 240, "yuv420p", 4_000_000
        for shift in range(0, 20, 4):
            for packet in stream.encode(av.VideoFrame.from_image(scene(shift))):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return folder


def predict(folder, *words):
    return main(["predict", *(str(folder / word) if (folder / word).exists() else word for word in words)])


def test_faces_of_a_scene_are_printed_the_largest_first(folder, capsys):
    assert predict(folder, "moods", "affect", "scene.png", "--faces") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "moods: " in first and "affect: " in first and " | " in first
    assert int(first.split(" at ")[1].split(",")[0]) > 240 > int(second.split(" at ")[1].split(",")[0])


def test_a_video_becomes_a_table_lines_and_a_video_in_one_pass(folder, tmp_path, capsys):
    outs = [str(tmp_path / name) for name in ("f.csv", "f.jsonl", "out.mp4")]
    words = ["--csv", outs[0], "--json", outs[1], "--annotate", outs[2], "--smoothing", "off"]
    assert predict(folder, "moods", "affect", "clip.mp4", *words) == 0
    assert "10 faces in 5 frames: " in capsys.readouterr().out
    with open(outs[0], newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10 and {row["track"] for row in rows} == {"1", "2"}
    assert {row["moods"] for row in rows} <= {"calm", "glad", "sad"} and "affect" not in rows[0]
    lines = [json.loads(line) for line in (tmp_path / "f.jsonl").read_text().splitlines()]
    assert [len(line["faces"]) for line in lines] == [2] * 5
    said = lines[0]["faces"][0]["answers"]["affect"]["valence"]
    assert float(rows[0]["affect.valence"]) == pytest.approx(said)
    import av

    with av.open(outs[2]) as video:
        assert sum(1 for _ in video.decode(video=0)) == 5


def test_answers_are_printed_where_no_table_takes_them(folder, tmp_path, capsys):
    copy = tmp_path / "read.png"
    assert predict(folder, "moods", "scene.png", "--annotate", str(copy)) == 0
    first, second, last = capsys.readouterr().out.splitlines()
    assert "moods: " in first and "moods: " in second and last == f"2 faces in 1 frame: {copy}" and copy.exists()
    assert predict(folder, "moods", "scene.png", "--annotate", str(copy), "--csv", str(tmp_path / "f.csv")) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_max_frames_ends_the_reading(folder, tmp_path):
    out = tmp_path / "f.jsonl"
    assert predict(folder, "moods", "clip.mp4", "scene.png", "--faces", "--max_frames", "3", "--json", str(out)) == 0
    assert len(out.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["moods", "7"], "There is no camera 7"),
        (["moods", "scene.png", "--max_frames", "3"], "give `--faces` with them"),
        (["moods", "scene.png", "--smoothing", "off"], "give `--faces` with them"),
        (["moods", "scene.png", "--faces", "nose"], "nose"),
        (["moods", "scene.png", "--faces", "--max_frames", "0"], "`--max_frames` must be 1 or more"),
        (["moods", "other", "scene.png", "--faces"], "are of 2"),
        (["moods", "scene.png", "clip.mp4", "--annotate", "{}/one.png"], "is one picture, and there are several"),
        (["moods", "scene.png", "--faces", "--csv", "/dev/null/x.csv"], "/dev/null/x.csv"),
    ],
)
def test_what_cannot_be_read_or_written_is_said(folder, words, message, tmp_path, capsys):
    import re

    assert predict(folder, *(word.format(tmp_path) for word in words)) == 1
    error = capsys.readouterr().err
    assert re.search(message, error) and "Traceback" not in error


def test_an_annotated_copy_of_an_unknown_kind_is_refused_before_anything_is_written(folder, tmp_path, capsys):
    table = tmp_path / "faces.csv"
    table.write_text("mine")
    for name in ("out.mp3", "out.pgn"):
        assert predict(folder, "moods", "scene.png", "--annotate", str(tmp_path / name), "--csv", str(table)) != 0
        assert "the suffix of no video" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["faces.csv"] and table.read_text() == "mine"
