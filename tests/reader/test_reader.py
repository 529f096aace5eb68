"""`FaceReader`: from sources of every kind to faces with boxes, numbers and answers."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import ciao_peft
from ciao_peft import CIAOConfig, FaceReader, Preprocessing, get_ciao_model
from ciao_peft.data import FaceLocalizer
from ciao_peft.detection import Box, FaceFinder
from ciao_peft.errors import AdapterNotFoundError, DataError, InputError
from ciao_peft.preprocessing import five_points
from ciao_peft.reader import Exponential, Tracker
from helpers.fakes import tiny_backbone
from helpers.filmed import BLUE, PLAIN, RED, film, model_of_two_worlds, scene, squares

TWO = FaceFinder(squares, margin=0.0)


def crossing(count=12):
    """Red goes to the right, blue to the left, above it."""
    return [scene((20 + 16 * k, 120, RED), (220 - 16 * k, 30, BLUE)) for k in range(count)]


def test_a_picture_an_array_and_a_file_give_the_same_faces_unsmoothed_and_unfollowed(tmp_path):
    model, picture = model_of_two_worlds(), scene((20, 120, RED), (220, 30, BLUE))
    picture.save(tmp_path / "scene.png")
    expected = model.predict(picture, faces=TWO, adapter_names=["moods", "light"])
    for source in (tmp_path / "scene.png", picture, np.asarray(picture)):
        (frame,) = FaceReader(model, detector=TWO).read(source)
        assert list(frame.faces) == expected and len(expected) == 2
        assert (frame.index, frame.time) == (0, None)
        assert frame.source == (None if hasattr(source, "__array_interface__") else str(source))
        assert frame.classes == {"moods"}


def test_people_in_a_video_keep_their_numbers_and_frames_their_times(tmp_path):
    times = [0.0, 0.04, 0.1, 0.3, 0.34, 0.36, 0.4, 0.5, 0.52, 0.6, 0.7, 0.71]
    path = film(tmp_path / "crossing.mkv", crossing(), times)
    frames = list(FaceReader(model_of_two_worlds(), detector=TWO).read(path))
    assert [frame.time for frame in frames] == pytest.approx(times, abs=0.002)
    assert [frame.index for frame in frames] == list(range(12))
    for k, frame in enumerate(frames):
        places = {face.track: face.box for face in frame.faces}
        assert set(places) == {1, 2}
        assert places[2].overlap(Box(20 + 16 * k, 120, 48, 48)) > 0.7, "red was found second"
        assert places[1].overlap(Box(220 - 16 * k, 30, 48, 48)) > 0.7


def test_answers_of_a_person_are_smoothed_by_the_times_of_the_frames():
    model = model_of_two_worlds()
    pictures = [scene((40, 60, colour)) for colour in (RED, RED, BLUE, BLUE)]
    raw = list(FaceReader(model, ["light"], detector=TWO, smoothing="off").read(iter(pictures), fps=5))
    steady = Exponential(half_life=0.2)
    soft = list(FaceReader(model, ["light"], detector=TWO, smoothing=steady).read(iter(pictures), fps=5))
    x = [frame.faces[0].answers["light"]["light"] for frame in raw]
    y = [frame.faces[0].answers["light"]["light"] for frame in soft]
    expected = [x[0], (x[0] + x[1]) / 2, ((x[0] + x[1]) / 2 + x[2]) / 2]
    expected.append((expected[-1] + x[3]) / 2)
    assert y == pytest.approx(expected, abs=2e-6) and x[0] != pytest.approx(x[2], abs=1e-3)
    assert [frame.time for frame in soft] == pytest.approx([0.0, 0.2, 0.4, 0.6])


def test_smoothed_classes_add_up_to_1_and_the_likeliest_comes_first():
    pictures = [scene((40, 60, colour)) for colour in (RED, BLUE) * 4]
    for frame in FaceReader(model_of_two_worlds(), detector=TWO).read(iter(pictures)):
        values = list(frame.faces[0].answers["moods"].values())
        assert sum(values) == pytest.approx(1, abs=1e-5) and values == sorted(values, reverse=True)


def test_faces_of_several_frames_are_read_in_batches_and_the_trunk_sees_each_once(monkeypatch):
    model, sizes = model_of_two_worlds(), []
    read = model.read

    def counted(pixels, **kwargs):
        sizes.append(len(pixels))
        return read(pixels, **kwargs)

    monkeypatch.setattr(model, "read", counted)
    frames = list(FaceReader(model, detector=TWO, batch_size=6).read(iter(crossing())))
    assert len(frames) == 12 and sum(sizes) == 24 and max(sizes) == 2  # a generator is live: nothing waits
    sizes.clear()
    assert len(list(FaceReader(model, detector=TWO, batch_size=6).read(crossing()))) == 12
    assert sizes == [6, 6, 6, 6]


def test_frames_are_read_when_they_are_asked_for_and_few_are_held():
    asked = []

    def endless():
        while True:
            asked.append(None)
            yield scene((40, 60, RED))

    reading = FaceReader(model_of_two_worlds(), detector=TWO).read(endless())
    assert not asked
    for _, frame in zip(range(3), reading, strict=False):
        assert frame.faces[0].track == 1
    assert len(asked) == 3
    reading.close()
    assert list(reading) == []


def test_a_video_of_any_length_is_not_read_ahead_far(tmp_path, monkeypatch):
    path, asked = film(tmp_path / "long.mkv", crossing() * 4), []
    timed = ciao_peft.reader.sources.timed_frames

    def counted(path):
        for pair in timed(path):
            asked.append(None)
            yield pair

    monkeypatch.setattr("ciao_peft.reader.sources.timed_frames", counted)
    with FaceReader(model_of_two_worlds(), detector=TWO).read(path) as reading:
        next(reading)
        assert len(asked) <= 17


def test_lists_are_pictures_unless_they_are_said_to_follow_one_another():
    reader = FaceReader(model_of_two_worlds(), detector=TWO)
    assert {face.track for frame in reader.read(crossing()) for face in frame.faces} == {None}
    followed = list(reader.read(crossing(), follow=True, fps=10))
    assert {face.track for frame in followed for face in frame.faces} == {1, 2}
    assert [frame.time for frame in followed][:3] == pytest.approx([0.0, 0.1, 0.2])


def test_frames_of_a_video_can_be_left_out_and_its_people_unfollowed(tmp_path):
    path, reader = film(tmp_path / "crossing.mkv", crossing()), FaceReader(model_of_two_worlds(), detector=TWO)
    frames = list(reader.read(path, every=5))
    assert [frame.index for frame in frames] == [0, 5, 10] and frames[1].time == pytest.approx(0.2, abs=0.002)
    (alone, *_) = reader.read(path, follow=False)
    assert alone.time == 0.0 and {face.track for face in alone.faces} == {None}
    with pytest.raises(InputError, match="`every` must be a whole number of 1 or more"):
        reader.read(path, every=0)


def test_a_folder_gives_its_pictures_and_its_videos_each_with_people_of_its_own(tmp_path):
    crossing()[0].save(tmp_path / "a.png")
    film(tmp_path / "b.mkv", crossing()[:3])
    film(tmp_path / "c.mkv", crossing()[:2])
    (tmp_path / "notes.txt").write_text("none")
    frames = list(FaceReader(model_of_two_worlds(), detector=TWO).read(tmp_path))
    assert [(frame.source, frame.index) for frame in frames] == [
        *((str(tmp_path / "a.png"), 0), (str(tmp_path / "b.mkv"), 0), (str(tmp_path / "b.mkv"), 1)),
        *((str(tmp_path / "b.mkv"), 2), (str(tmp_path / "c.mkv"), 0), (str(tmp_path / "c.mkv"), 1)),
    ]
    assert [sorted(face.track or 0 for face in frame.faces) for frame in frames] == [[0, 0], *[[1, 2]] * 5]


def test_frames_that_change_their_size_keep_the_people():
    pictures = [scene((40, 60, RED)), scene((20, 30, RED), size=(160, 120), side=24), scene((40, 60, RED))]
    frames = list(FaceReader(model_of_two_worlds(), detector=TWO).read(iter(pictures)))
    assert [frame.faces[0].track for frame in frames] == [1, 1, 1]
    assert [frame.picture.size for frame in frames] == [(320, 240), (160, 120), (320, 240)]


def test_black_frames_and_fifty_faces_are_read_too():
    def fifty(image):
        return [(40 * (k % 10), 40 * (k // 10), 36, 36) for k in range(50)] if image.any() else []

    pictures = [Image.new("RGB", (400, 200)), Image.new("RGB", (400, 200), "white"), Image.new("L", (400, 200), 9)]
    frames = list(FaceReader(model_of_two_worlds(), detector=fifty, batch_size=16).read(iter(pictures)))
    assert [len(frame.faces) for frame in frames] == [0, 50, 50]
    assert {face.track for face in frames[1].faces} == {face.track for face in frames[2].faces} == set(range(1, 51))


def test_a_model_that_aligns_is_fed_aligned_faces(monkeypatch):
    looked = []

    def counted(pixels, box):
        looked.append(box)
        return five_points(pixels, box)

    monkeypatch.setattr("ciao_peft.detection.finding.five_points", counted)
    reader = FaceReader(model_of_two_worlds(align="five-points"), detector=TWO)
    (frame,) = reader.read(scene((40, 60, RED)))
    assert len(frame.faces) == len(looked) == 1 and looked[0] == (40.0, 60.0, 48.0, 48.0)
    looked.clear()
    list(FaceReader(model_of_two_worlds(), detector=TWO).read(scene((40, 60, RED))))
    assert not looked


def test_a_localizer_and_the_settings_of_a_tracker_are_taken_over():
    model = model_of_two_worlds()
    reader = FaceReader(model, detector=FaceLocalizer(squares, margin=0.5, max_side=160))
    assert (reader.finder.margin, reader.finder.max_side) == (0.5, 160)
    pictures = [scene((40, 60, RED)), *[scene()] * 3, scene((40, 60, RED))]
    for gap, expected in ((0.2, 2), (2.0, 1)):
        tracker = Tracker(max_gap=gap)
        frames = list(FaceReader(model, detector=TWO, tracker=tracker).read(iter(pictures), fps=10))
        assert frames[-1].faces[0].track == expected and not tracker.followed


def test_unsure_answers_are_none_in_videos_too():
    reader = FaceReader(model_of_two_worlds(), ["moods"], detector=TWO, min_confidence=1.0)
    assert [frame.faces[0].answers for frame in reader.read(iter([scene((40, 60, RED))] * 2))] == [{"moods": None}] * 2


def test_what_a_generator_or_a_detector_raises_comes_after_the_frames_before_it():
    def broken():
        yield from crossing()[:2]
        raise RuntimeError("unplugged")

    def wrong(image):
        return [(1, 2)]

    reading, seen = FaceReader(model_of_two_worlds(), detector=TWO).read(broken()), []
    with pytest.raises(RuntimeError, match="unplugged"):
        seen.extend(frame.index for frame in reading)
    assert seen == [0, 1]
    with pytest.raises(DataError, match="A detector must give x, y, width and height"):
        list(FaceReader(model_of_two_worlds(), detector=wrong).read(scene()))


def test_models_and_settings_that_cannot_work_are_named():
    model = model_of_two_worlds()
    with pytest.raises(AdapterNotFoundError, match="No adapter named 'mods'"):
        FaceReader(model, ["mods"])
    with pytest.raises(InputError, match="takes a list of names; got the text 'moods'"):
        FaceReader(model, "moods")
    with pytest.raises(InputError, match=r"Call `model\.eval\(\)`"):
        FaceReader(model_of_two_worlds().train())
    config = CIAOConfig(problem_type="regression", num_labels=1)
    with pytest.raises(InputError, match="does not say how pictures must be prepared"):
        FaceReader(get_ciao_model(tiny_backbone(), config))
    clips = CIAOConfig(problem_type="regression", num_labels=1, frames=3, recurrent_size=4)
    with pytest.raises(InputError, match="The adapter 'default' reads clips of 3 frames"):
        FaceReader(get_ciao_model(tiny_backbone(), clips, preprocessing=PLAIN).eval())
    model.delete_adapter("moods")
    model.delete_adapter("light")
    with pytest.raises(InputError, match="There is no world to read in"):
        FaceReader(model)


def test_real_faces_are_found_followed_and_read(real_faces):
    """Two photographs that move over a grey wall."""
    photographs = []
    for path in sorted((real_faces / "test").glob("*.jpg"))[:2]:
        with Image.open(path) as face:
            photographs.append(face.convert("RGB").resize((110, 110)))
    frames = []
    for k in range(6):
        frame = Image.new("RGB", (480, 320), (120, 120, 120))
        frame.paste(photographs[0], (20 + 6 * k, 40))
        frame.paste(photographs[1], (330 - 6 * k, 160))
        frames.append(frame)
    config = CIAOConfig(problem_type="regression", num_labels=1, id2label={0: "light"})
    model = get_ciao_model(tiny_backbone(), config, preprocessing=Preprocessing(size=(16, 16), align="five-points"))
    sides = []
    for frame in FaceReader(model.eval()).read(iter(frames)):
        sides.append({face.track: face.box.x < 200 for face in frame.faces})
    assert set(sides[0]) == {1, 2} and sides == [sides[0]] * 6
