"""Folders of videos: a row for each frame, every row with its video's label."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from ciao_peft.data import load_faces
from ciao_peft.errors import DataError, DataNotFoundError
from helpers.layouts import centre, write_video


@pytest.fixture
def videos(tmp_path):
    """Two classes with two videos each in train, one in test; frame k of a video has the shade 60 + 10 k."""
    shades = [60 + 10 * frame for frame in range(6)]
    for place in ("train/calm/a.mp4", "train/calm/b.avi", "train/glad/c.mp4", "train/glad/d.mp4", "test/glad/e.mp4"):
        write_video(tmp_path / "videos" / place, shades)
    return tmp_path / "videos"


@pytest.fixture
def load(tmp_path):
    def read(folder, **settings):
        given = {"min_images_per_class": 1, "detector": None, "frames_per_clip": 3, "cache_dir": tmp_path / "cache"}
        return load_faces("videofolder", folder, **given | settings)

    return read


def test_every_frame_has_the_label_of_its_video_and_says_where_it_is_from(videos, load):
    faces = load(videos)
    train = faces["train"]
    assert train.features["label"].names == ["calm", "glad"]
    told = list(zip(train["clip"], train["frame"], train["label"], strict=True))
    assert told[:4] == [("train/calm/a.mp4", 1, 0), ("train/calm/a.mp4", 3, 0), ("train/calm/a.mp4", 5, 0), told[3]]
    assert told[-1] == ("train/glad/d.mp4", 5, 1)
    assert (len(train), len(faces["test"])) == (12, 3)
    corner = [float(np.asarray(row["image"])[2, 2].mean()) for row in train.select(range(3))]
    assert corner == pytest.approx([70, 90, 110], abs=6)  # frames 1, 3 and 5, up to the codec


def test_faces_are_cut_out_where_a_detector_is_given(videos, load):
    assert load(videos)["train"][0]["image"].size == (96, 64)
    assert load(videos, detector=centre, margin=0.0)["train"][0]["image"].size == (48, 48)


def test_a_table_may_name_the_videos_and_the_people(videos, load):
    for index, name in enumerate(("calm/a.mp4", "calm/b.avi", "glad/c.mp4", "glad/d.mp4")):
        with (videos / "train" / "metadata.csv").open("a") as file:
            file.write("file_name,label,who\n" * (index == 0) + f"{name},{index % 2}.5,p{index // 2}\n")
    faces = load(videos / "train", group_by="who", test_fraction=0.4)
    assert faces["train"].features["label"].length == 1
    assert len(set(faces["train"]["identity"])) == len(set(faces["test"]["identity"])) == 1


def test_the_frames_of_one_video_are_never_in_two_parts(videos, load, caplog):
    with caplog.at_level(logging.WARNING, "ciao_peft.data"):
        faces = load(videos / "train", test_fraction=0.3)
    assert not set(faces["train"]["clip"]) & set(faces["test"]["clip"])
    assert "clips are divided one by one" in caplog.text
    with pytest.raises(DataError, match="no column 'identity' to group by"):  # class folders say nothing of people
        load(videos / "train", test_fraction=0.3, group_by="who")


def test_what_is_no_video_is_counted_and_small_classes_are_counted_in_videos(videos, load, caplog):
    (videos / "train" / "calm" / "broken.mp4").write_bytes(b"no video")
    (videos / "train" / "calm" / "notes.png").write_bytes(b"no video")
    with caplog.at_level(logging.WARNING, "ciao_peft.data"):
        faces = load(videos, min_images_per_class=3)
    assert faces["train"].features["label"].names == ["calm"]
    assert "1 x clip that cannot be read as a video: train/calm/broken.mp4" in caplog.text
    assert "2 training videos, `min_images_per_class` is 3" in caplog.text
    assert "suffix '.png', which is not read" in caplog.text


def test_a_folder_of_videos_is_recognised(videos, load, tmp_path):
    from ciao_peft.cli.dataset import _kind_of_folder

    assert _kind_of_folder(str(videos)) == "videofolder"
    with pytest.raises(DataNotFoundError, match=r"There are videos, which `load_faces\('videofolder'"):
        load_faces("imagefolder", videos / "train", cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("settings", [{"frames_per_clip": 0}, {"missing": "guess"}, {"protocol": "k-fold"}])
def test_settings_that_cannot_work_are_named(videos, load, settings):
    with pytest.raises(DataError, match=next(iter(settings))):
        load(videos, **settings)
