"""What is wrong with a source is said in clear words, after the frames before it."""

from __future__ import annotations

import functools
import http.server
import sys
import threading
import types

import numpy as np
import pytest
from PIL import Image

from ciao_peft import FaceReader
from ciao_peft.data.frames import camera_frames, timed_frames
from ciao_peft.errors import DataError, DataNotFoundError, InputError, MissingExtraError
from ciao_peft.reader.sources import open_source
from helpers.filmed import RED, film, model_of_two_worlds, scene, squares


def reader():
    return FaceReader(model_of_two_worlds(), detector=squares)


def moving(count=30):
    """Every frame is noise, so that a video of them has many bytes in each."""
    rng = np.random.default_rng(0)
    for k in range(count):
        picture = Image.fromarray(rng.integers(60, 160, (240, 320, 3), dtype=np.uint8))
        picture.paste(RED, (20 + 4 * k, 60, 68 + 4 * k, 108))
        yield picture


def read_until_fault(source, error):
    """How many frames came, and the message after them."""
    count = 0
    with pytest.raises(error) as caught:
        for _ in reader().read(source):
            count += 1
    return count, str(caught.value)


@pytest.mark.parametrize("suffix", ["avi", "mkv"])
def test_a_video_cut_off_in_the_middle_gives_what_it_has_and_says_so(suffix, tmp_path):
    whole = film(tmp_path / f"whole.{suffix}", list(moving()))
    content = whole.read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(content[: len(content) // 2])
    assert len(list(reader().read(whole))) == 30
    with pytest.warns(UserWarning, match=f"cut.{suffix}' ends early: its last frame is at 0.. s, and it says it lasts"):
        assert 5 < len(list(reader().read(cut))) < 20


def test_a_fault_in_the_middle_of_a_video_comes_after_the_frames_before_it(tmp_path, monkeypatch):
    path = film(tmp_path / "a.mkv", list(moving(4)))

    def faulty(path):
        for number, pair in enumerate(timed_frames(path)):
            if number == 3:
                raise DataError("the disk was pulled out")
            yield pair

    monkeypatch.setattr("ciao_peft.reader.sources.timed_frames", faulty)
    count, said = read_until_fault(path, DataError)
    assert count == 3 and "ends early, after 3 frames (0.1 s): the disk was pulled out" in said


def test_files_that_are_no_video_or_have_no_frame_are_named(tmp_path):
    (tmp_path / "junk.mp4").write_bytes(b"junk" * 100)
    assert read_until_fault(tmp_path / "junk.mp4", DataError)[1].startswith(f"'{tmp_path / 'junk.mp4'}' cannot be read")
    (tmp_path / "notes.txt").write_text("none")
    assert "notes.txt' cannot be read as a video" in read_until_fault(tmp_path / "notes.txt", DataError)[1]
    (tmp_path / "empty.mp4").touch()
    assert "empty.mp4' cannot be read as a video" in read_until_fault(tmp_path / "empty.mp4", DataError)[1]


def test_a_video_without_a_single_frame_is_named(tmp_path, monkeypatch):
    (tmp_path / "none.mp4").touch()
    monkeypatch.setattr("ciao_peft.reader.sources.timed_frames", lambda path: iter(()))
    assert read_until_fault(tmp_path / "none.mp4", DataError) == (
        0,
        f"'{tmp_path / 'none.mp4'}' has no frame that can be read.",
    )


def test_what_is_not_there_is_named_before_anything_is_read(tmp_path):
    for source, said in (
        (tmp_path / "nowhere.mp4", "There is no picture, video or folder at"),
        (tmp_path, "There is neither a picture nor a video in"),
    ):
        with pytest.raises(DataNotFoundError, match=said):
            reader().read(source)
    with pytest.raises(DataError, match="cannot be read as a picture"):
        (tmp_path / "a.png").write_bytes(b"junk")
        reader().read(tmp_path / "a.png")


@pytest.mark.parametrize("source", [None, True, b"abc", {"a": 1}])
def test_what_is_no_source_is_named(source):
    with pytest.raises(InputError, match="A source is a picture, a folder, a video, the number of a camera"):
        reader().read(source)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), "fast"])
def test_frames_a_second_must_be_above_0(fps):
    with pytest.raises(InputError, match="`fps` must be frames a second, above 0"):
        reader().read([], fps=fps)


def test_a_picture_of_a_list_that_cannot_be_read_is_named(tmp_path):
    count, said = read_until_fault([scene(), tmp_path / "nowhere.png"], DataNotFoundError)
    assert count == 1 and said.startswith("Picture 1: There is no picture at")


def test_times_rise_whatever_a_file_says(monkeypatch, tmp_path):
    (tmp_path / "a.mp4").touch()
    told = [None, 0.0, 0.5, 0.5, 0.2, None, 1.0]
    monkeypatch.setattr("ciao_peft.reader.sources.timed_frames", lambda path: ((time, scene()) for time in told))
    times = [shot.time for shot in open_source(tmp_path / "a.mp4", fps=10).shots]
    assert times == pytest.approx([0.0, 0.1, 0.5, 0.6, 0.7, 0.8, 1.0])


def test_a_camera_that_is_not_there_is_named():
    pytest.importorskip("cv2")
    count, said = read_until_fault(97, DataNotFoundError)
    assert count == 0 and "There is no camera 97, or another program has it" in said


class Camera:
    """A camera that sends two frames, and then nothing."""

    let_go = 0

    def __init__(self, number):
        self.left = 2 if number == 0 else 0

    def isOpened(self):
        return self.left > 0

    def read(self):
        self.left -= 1
        return self.left >= 0, np.asarray(scene((20, 60, RED)))[..., ::-1]

    def release(self):
        Camera.let_go += 1


def test_a_camera_is_read_followed_and_let_go(monkeypatch):
    cv2 = types.SimpleNamespace(VideoCapture=Camera, cvtColor=lambda pixels, _: pixels[..., ::-1], COLOR_BGR2RGB=0)
    monkeypatch.setitem(sys.modules, "cv2", cv2)
    count, said = read_until_fault(0, DataError)
    assert count == 2 and said == "The camera 0 sent nothing more after 2 pictures." and Camera.let_go == 1
    with reader().read(0) as reading:
        frame = next(reading)
    assert (frame.source, frame.time, frame.faces[0].track) == ("camera 0", 0.0, 1) and Camera.let_go == 2


def test_without_opencv_a_camera_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"Reading a camera needs OpenCV: pip install 'ciao_peft\[video\]'"):
        next(camera_frames(0))


def test_a_stream_is_read_from_its_address(tmp_path):
    film(tmp_path / "clip.mkv", list(moving(5)))
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}/clip.mkv"
        frames = list(reader().read(address))
        with pytest.raises(DataError, match="cannot be read as a video"):
            list(reader().read(address + ".other"))
        server.shutdown()
        thread.join()
    assert [frame.source for frame in frames] == [address] * 5
    assert {face.track for frame in frames for face in frame.faces} == {1}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


def test_both_readers_tell_the_times_of_frames(tmp_path):
    pytest.importorskip("cv2")
    path, times = film(tmp_path / "a.mkv", list(moving(4)), [0.0, 0.1, 0.3, 0.35]), [0.0, 0.1, 0.3, 0.35]
    assert [time for time, _ in timed_frames(path, "av")] == pytest.approx(times, abs=0.002)
    assert len(list(timed_frames(path, "cv2"))) == 4
