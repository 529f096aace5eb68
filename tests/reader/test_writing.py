"""What was read as a table, as lines of JSON, as pictures and as a video."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from PIL import Image

from ciao_peft import FaceReader
from ciao_peft.data import read_frames
from ciao_peft.data.frames import timed_frames
from ciao_peft.detection import Box, FaceFinder
from ciao_peft.errors import DataError, MissingExtraError
from ciao_peft.reader import Frame, Reading
from ciao_peft.reader.annotating import annotated
from ciao_peft.scenes import Face
from helpers.filmed import BLUE, RED, film, model_of_two_worlds, scene, squares

PICTURES = [scene((20 + 5 * k, 120, RED), *([(200, 30, BLUE)] if k else [])) for k in range(4)]


def reading(source=None, **changes):
    reader = FaceReader(model_of_two_worlds(), detector=FaceFinder(squares, margin=0.0), **changes)
    return reader.read(iter(PICTURES) if source is None else source, fps=10)


def test_a_table_has_a_row_for_each_face_and_a_column_for_each_value():
    table = reading().to_pandas()
    assert list(table.columns) == [
        *("source", "frame", "time", "track", "x", "y", "width", "height", "score"),
        *("moods", *[c for c in table.columns if c.startswith("moods.")], "light.light"),
    ]
    assert set(table.columns) >= {"moods.sad", "moods.glad", "moods.calm"}
    assert len(table) == 7 and list(table["frame"]) == [0, 1, 1, 2, 2, 3, 3]
    assert table["track"].dtype == "Int64" and set(table["track"]) == {1, 2}
    red = table[table["y"] == 120]
    assert list(red["x"]) == [20, 25, 30, 35] and list(red["time"]) == pytest.approx([0, 0.1, 0.2, 0.3])
    for _, row in table.iterrows():
        assert row["moods"] == max(("sad", "glad", "calm"), key=lambda label: row[f"moods.{label}"])


def test_a_table_of_nobody_has_its_columns_and_one_of_the_unsure_no_class():
    assert list(reading([scene()]).to_pandas().columns)[:3] == ["source", "frame", "time"]
    table = reading([PICTURES[0]], adapter_names=["moods"], min_confidence=1.0).to_pandas()
    assert table["moods"].isna().all() and table["track"].isna().all()


def test_lines_of_json_are_there_frame_by_frame(tmp_path):
    path, frames = tmp_path / "new" / "faces.jsonl", []

    def watched():
        for frame in reading([*PICTURES, scene()]):
            yield frame
            frames.append(frame)
            assert len(path.read_text(encoding="utf-8").splitlines()) == len(frames)

    assert Reading(watched()).to_json_lines(path) == 5
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines == [frame.to_dict() for frame in frames]
    assert lines[-1] == {"source": None, "frame": 4, "time": None, "width": 320, "height": 240, "faces": []}
    assert list(lines[0]["faces"][0]) == ["box", "score", "track", "answers"]


def test_a_fault_leaves_the_lines_before_it(tmp_path):
    with pytest.raises(DataError, match="Picture 1: There is no picture"):
        reading([PICTURES[0], tmp_path / "nowhere.png"]).to_json_lines(tmp_path / "faces.jsonl")
    assert len((tmp_path / "faces.jsonl").read_text().splitlines()) == 1


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "taken").write_text("a file")
    for write in (
        lambda one: one.to_json_lines(tmp_path / "taken" / "a.jsonl"),
        lambda one: one.annotate(tmp_path / "taken" / "a.png"),
    ):
        with pytest.raises(DataError, match="cannot be written"):
            write(reading([PICTURES[0]]))
    with pytest.raises(DataError, match="cannot be written"):
        reading([PICTURES[0]]).to_json_lines(tmp_path)


def test_boxes_and_answers_are_drawn_and_the_picture_stays():
    picture = Image.new("RGB", (320, 240), (40, 40, 40))
    answers = {"moods": {"glad": 0.75, "sad": 0.25}, "light": {"light": 0.5}, "odd": None}
    faces = [Face(box=Box(60, 40, 80, 90), answers=answers, track=2)]
    drawn = np.asarray(annotated(picture, faces, {"moods"})).astype(int)
    changed = np.abs(drawn - 40).max(axis=2) > 0
    assert not np.asarray(picture).astype(int).max() > 40
    assert drawn[40, 60:140].tolist() == [[86, 180, 233]] * 80 and drawn[40:130, 139].tolist() == [[86, 180, 233]] * 90
    assert not changed[50:120, 70:130].any(), "the face itself stays"
    assert changed[131:, :].any()


@pytest.mark.parametrize(
    "box", [Box(-20, -20, 60, 60), Box(280, 200, 60, 60), Box(-50, 100, 500, 500), Box(0, 0, 1, 1)]
)
def test_faces_at_the_border_are_drawn_too(box):
    face = Face(box=box, answers={"moods": {"a very long name of a class": 1.0}}, track=1)
    drawn = annotated(Image.new("L", (320, 240)), [face], {"moods"})
    assert drawn.size == (320, 240) and np.asarray(drawn).any()


def test_one_picture_or_a_folder_of_pictures_is_written(tmp_path):
    PICTURES[1].save(tmp_path / "scene.png")
    assert reading(tmp_path / "scene.png").annotate(tmp_path / "out.png") == 1
    with Image.open(tmp_path / "out.png") as written:
        assert np.abs(np.asarray(written).astype(int) - np.asarray(PICTURES[1])).max() > 50
    assert reading([tmp_path / "scene.png", PICTURES[0]]).annotate(tmp_path / "out") == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["frame-000001.png", "scene.png"]
    with pytest.raises(DataError, match=r"is one picture, and there are several frames\. Give a folder or a video"):
        reading().annotate(tmp_path / "one.png")
    with pytest.raises(DataError, match="There is no frame to write"):
        reading([]).annotate(tmp_path / "none.png")


def test_a_video_is_written_with_the_times_of_its_frames_and_at_one_size(tmp_path):
    times = [0.0, 0.1, 0.35, 0.4]
    source = film(tmp_path / "in.mkv", PICTURES, times)
    assert reading(source).annotate(tmp_path / "out.mp4") == 4
    written = list(timed_frames(tmp_path / "out.mp4"))
    assert [time for time, _ in written] == pytest.approx(times, abs=0.002)
    before = np.asarray(PICTURES[2]).astype(int)
    changed = np.abs(np.asarray(written[2][1]).astype(int) - before).max(axis=2) > 60
    assert changed[168:, :].any() and not changed[130:160, 40:70].any()
    odd = [PICTURES[0].crop((0, 0, 161, 121)), PICTURES[0], PICTURES[0].resize((80, 90))]
    assert reading(odd).annotate(tmp_path / "odd.mp4") == 3
    assert {frame.size for frame in read_frames(tmp_path / "odd.mp4")} == {(162, 122)}


def test_a_video_that_fails_leaves_nothing_and_keeps_what_was_there(tmp_path):
    (tmp_path / "out.mp4").write_bytes(b"earlier")
    with pytest.raises(DataError, match="Picture 1: There is no picture"):
        reading([PICTURES[0], tmp_path / "nowhere.png"]).annotate(tmp_path / "out.mp4")
    with pytest.raises(DataError, match="There is no frame to write"):
        reading([]).annotate(tmp_path / "out.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_bytes() == b"earlier"


def test_without_pyav_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"Writing a video needs PyAV: pip install 'ciao_peft\[video\]'"):
        reading([PICTURES[0]]).annotate(tmp_path / "out.mp4")


def test_a_frame_draws_itself():
    face = Face(box=Box(10, 10, 60, 60), answers={}, track=None)
    frame = Frame(source=None, index=0, time=None, picture=scene(), faces=(face,))
    assert np.array_equal(np.asarray(frame.annotated()), np.asarray(annotated(scene(), [face])))


def test_what_is_read_is_never_written_over(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    PICTURES[0].save(photos / "a.jpg")
    PICTURES[1].save(photos / "a.png")
    reading().annotate(photos / "clip.mp4")
    before = {path: path.read_bytes() for path in photos.iterdir()}
    (tmp_path / "link").symlink_to(photos)
    for write in (
        lambda: reading(photos).annotate(photos),
        lambda: reading(photos).annotate(tmp_path / "link"),
        lambda: reading([photos / "a.jpg"]).annotate(photos),
        lambda: reading(photos / "a.png").annotate(photos / "a.png"),
        lambda: reading(photos / "clip.mp4").annotate(photos / "clip.mp4"),
        lambda: reading(photos / "clip.mp4").to_json_lines(photos / "clip.mp4"),
        lambda: reading(photos).to_json_lines(photos / "clip.mp4"),
        lambda: reading([photos / "a.png"]).to_json_lines(photos / "a.png"),
    ):
        with pytest.raises(DataError, match="would be overwritten"):
            write()
        assert {path: path.read_bytes() for path in photos.iterdir()} == before
    assert reading(photos).to_json_lines(photos / "faces.jsonl") == 6
    for _ in range(2):  # what an earlier call wrote is replaced
        assert reading(photos).annotate(photos / "annotated") == 6


def test_only_a_name_without_suffix_or_a_folder_that_is_there_is_a_folder(tmp_path):
    for name in ("out.mp3", "out.webm", "run-0.5", "new/out.gif"):
        with pytest.raises(DataError, match=r"the suffix of no video \(\.mp4, .*\) and no picture \(\.png, .*\)"):
            reading().annotate(tmp_path / name)
        assert not list(tmp_path.iterdir())
    (tmp_path / "run-0.5").mkdir()
    (tmp_path / "odd.mp4").mkdir()
    for name in ("run-0.5", "odd.mp4", "new"):
        assert reading([PICTURES[0]]).annotate(tmp_path / name) == 1
        assert len(list((tmp_path / name).glob("*.png"))) == 1
