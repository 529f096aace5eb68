import logging

import numpy as np
import pytest
from PIL import Image

from ciao_peft.data import clip_means, labels_of, load_faces, paint_face, read_frames, sample_frames
from ciao_peft.data.frames import READERS
from ciao_peft.errors import DataError, DataNotFoundError
from helpers.layouts import EMOREACT_CLIPS, centre, write_emoreact, write_video

av = pytest.importorskip("av")
SIGNALS = ("curiosity", "uncertainty", "excitement", "happiness", "surprise", "disgust", "fear", "frustration")


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return write_emoreact(tmp_path_factory.mktemp("emoreact") / "EmoReact_V_1.0")


@pytest.fixture
def load(tmp_path):
    def read(folder, **settings):
        return load_faces("emoreact", folder, cache_dir=tmp_path / "cache", **({"detector": centre} | settings))

    return read


def assert_clips_are_the_written_ones(faces):
    for split, name in (("train", "Train"), ("validation", "Validation"), ("test", "Test")):
        written = {disk.replace("'", ""): (signs, float(valence)) for disk, _, signs, valence in EMOREACT_CLIPS[name]}
        told = {row["clip"].replace("'", ""): (row["labels"], row["valence"]) for row in faces[split]}
        assert set(told) == set(written)
        for clip, (signs, valence) in written.items():
            assert told[clip][0] == signs
            assert told[clip][1] == pytest.approx(valence)


def test_rows_of_names_and_labels_are_joined_not_the_order_of_the_folder(released, load):
    faces = load(released, frames_per_clip=0)
    assert faces.num_rows == {"train": 3, "validation": 1, "test": 1}
    assert_clips_are_the_written_ones(faces)
    assert list(faces["train"]["clip"]) == [name for name, *_ in EMOREACT_CLIPS["Train"]]
    for row in faces["train"]:
        assert row["video"].endswith(row["clip"])
    assert labels_of(faces["train"]).problem_type == "multi_label_classification"
    assert labels_of(faces["train"]).names == SIGNALS


@pytest.mark.parametrize(
    "layout",
    [{"names_in": "Labels"}, {"videos_in": "AllVideos"}, {"strip_apostrophes": True}],
    ids=lambda layout: next(iter(layout)),
)
def test_other_places_and_stripped_apostrophes_are_understood(load, tmp_path, layout):
    assert_clips_are_the_written_ones(
        load(write_emoreact(tmp_path / "emoreact", frames=2, **layout), frames_per_clip=0)
    )


def test_each_clip_gives_evenly_spread_faces_with_one_label(released, load):
    faces = load(released, frames_per_clip=4, margin=0.0)
    assert faces.num_rows == {"train": 12, "validation": 4, "test": 4}
    assert_clips_are_the_written_ones(faces)
    first = faces["train"].filter(lambda row: row["clip"] == "ZOMBIES12_1.mp4")
    assert list(first["frame"]) == [1, 4, 7, 10]
    expected = np.asarray(paint_face(seed=2, size=48), dtype=float)
    for image in first["image"]:
        assert image.size == (48, 48)
        assert np.abs(np.asarray(image, dtype=float) - expected).mean() < 12  # after lossy encoding


def test_haar_finds_the_faces_of_clips(load, tmp_path):
    pytest.importorskip("cv2")
    folder = write_emoreact(tmp_path / "emoreact", frames=3)
    for path in (folder / "Data").rglob("*.mp4"):
        path.unlink()
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 320, 240, "yuv420p", 4_000_000
            for step in range(3):
                image = Image.new("RGB", (320, 240), (90, 120, 100))
                image.paste(paint_face(seed=2, size=120), (90 + 4 * step, 60))
                for packet in stream.encode(av.VideoFrame.from_image(image)):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)
    faces = load(folder, detector="haar", frames_per_clip=2, size=64)
    assert faces.num_rows == {"train": 6, "validation": 2, "test": 2}
    assert {image.size for image in faces["train"]["image"]} == {(64, 64)}


def test_valence_is_a_task_of_its_own(released, load):
    faces = load(released, task="valence", frames_per_clip=1)
    assert labels_of(faces["train"]).as_config() == {
        "problem_type": "regression",
        "num_labels": 1,
        "id2label": {0: "valence"},
    }
    assert [row[0] for row in faces["train"]["label"]] == pytest.approx([3.3333, 4.0, 6.6667])


def test_clips_without_a_face_and_frames_without_one_are_counted(released, load, caplog):
    with pytest.raises(DataError, match=r"No face is left in the train split.*5 x clip without a face"):
        load(released, detector=lambda image: [], frames_per_clip=2)
    assert load(released, detector=lambda image: [], frames_per_clip=2, missing="whole").num_rows["train"] == 6
    with caplog.at_level(logging.WARNING):  # faces only in the darker half of the frames
        load(
            released,
            detector=lambda image: centre(image) if image[0, 0, 0] < 66 else [],
            missing="skip",
            frames_per_clip=12,
        )
    assert "x frame without a face" in caplog.text


def test_the_authors_code_tests_on_the_training_clips(released, load):
    faces = load(released, protocol="authors-code", frames_per_clip=1)
    assert faces["test"]["clip"] == faces["train"]["clip"]


def test_streaming_gives_the_same_rows(released, load):
    alone = load(released, frames_per_clip=2)["train"]
    streamed = list(load(released, frames_per_clip=2, streaming=True)["train"])
    assert list(alone["frame"]) == [row["frame"] for row in streamed]
    assert list(alone["clip"]) == [row["clip"] for row in streamed]


def test_files_of_different_lengths_are_never_paired(load, tmp_path):
    folder = write_emoreact(tmp_path / "emoreact", frames=1)
    path = folder / "Train_names.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    with pytest.raises(
        DataError, match=r"has 2 names but .* has 3 rows: which label belongs to which clip cannot be told"
    ):
        load(folder)


def test_bad_rows_videos_and_names_are_counted(load, tmp_path, caplog):
    folder = write_emoreact(tmp_path / "emoreact", frames=2)
    extra = ["'GONE_1.mp4'", "'ALPHA1_1.mp4'", "'ZOMBIES12_1.mp4'", "'X.mp4'", "'Y.mp4'"]
    rows = ["0,0,0,0,0,0,0,0,4"] * 3 + ["0,2,0,0,0,0,0,0,4", "0,0,0,0,0,0,0,0,9"]
    for name, lines in (("Train_names.txt", extra), ("Labels/train_labels.text", rows)):
        with (folder / name).open("a") as file:
            file.write("\n" + "\n".join(lines))
    (folder / "Data" / "Train" / "ZOMBIES12_1.mp4").write_bytes(b"no video at all")
    assert load(folder, frames_per_clip=1).num_rows["train"] == 2
    for reason in (
        "1 x name in Train_names.txt without its video: GONE_1.mp4",
        "1 x repeated name of Train_names.txt: ZOMBIES12_1.mp4",
        "1 x repeated name of Train_names.txt with another label (the first counts): ALPHA1_1.mp4",
        "2 x malformed row of train_labels.text: line 7, line 8",
        "1 x clip that cannot be read as a video: ZOMBIES12_1.mp4",
    ):
        assert reason in caplog.text


def test_what_is_missing_is_named(load, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataNotFoundError, match=r"looked for Train_names\.txt and Labels/train_labels\.text.*found 0 videos"
    ):
        load(tmp_path / "empty")
    folder = write_emoreact(tmp_path / "emoreact", frames=1)
    (folder / "Labels" / "val_labels.text").unlink()
    with pytest.raises(DataNotFoundError, match="there is no file with the labels of validation"):
        load(folder)


def test_counts_unlike_the_released_ones_are_said(released, load, caplog):
    load(released, frames_per_clip=2)
    assert "train: 6 instead of 864, validation: 2 instead of 606, test: 2 instead of 734" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frames_per_clip": -1}, "`frames_per_clip` must be a whole number of 0 or more; got -1"),
        ({"task": "arousal"}, "no task 'arousal'. Tasks: 'labels', 'valence'"),
        ({"missing": "guess"}, "`missing` must be one of"),
    ],
)
def test_settings_that_cannot_work_are_named(released, load, settings, message):
    with pytest.raises(DataError, match=message):
        load(released, **settings)


@pytest.mark.parametrize("reader", READERS)
def test_both_readers_give_every_frame_in_order(tmp_path, reader):
    pytest.importorskip(reader)
    path = write_video(tmp_path / "clip.mp4", range(20, 220, 10))
    shades = [np.asarray(frame)[2, 2].mean() for frame in read_frames(path, reader)]
    assert shades == pytest.approx(list(range(20, 220, 10)), abs=8)


def test_samples_are_the_middles_of_equal_parts(tmp_path):
    path = write_video(tmp_path / "clip.mp4", [100] * 20)
    assert [index for index, _ in sample_frames(path, 4)] == [2, 7, 12, 17]
    assert [index for index, _ in sample_frames(path, 1)] == [10]
    assert [index for index, _ in sample_frames(path, 50)] == list(range(20))


@pytest.mark.parametrize("reader", READERS)
def test_files_that_are_no_video_are_refused(tmp_path, reader):
    pytest.importorskip(reader)
    (tmp_path / "clip.mp4").write_bytes(b"junk" * 100)
    with pytest.raises(DataError, match="cannot be read as a video"):
        list(read_frames(tmp_path / "clip.mp4", reader))
    with pytest.raises(DataNotFoundError, match="There is no video"):
        read_frames(tmp_path / "gone.mp4", reader)


def test_the_reader_must_be_known_and_a_sample_not_empty(tmp_path):
    path = write_video(tmp_path / "clip.mp4", [100])
    with pytest.raises(DataError, match="`reader` must be one of 'av', 'cv2'; got 'decord'"):
        read_frames(path, "decord")
    with pytest.raises(DataError, match="`count` must be 1 frame or more; got 0"):
        sample_frames(path, 0)


def test_scores_of_clips_are_the_means_of_their_frames():
    means, clips = clip_means([[1.0, 0.0], [3.0, 4.0], [5.0, 5.0]], ["b", "b", "a"])
    assert clips == ["b", "a"]
    assert means.tolist() == [[2.0, 2.0], [5.0, 5.0]]
    with pytest.raises(DataError, match="one clip per frame; got 1 frames and 2 clips"):
        clip_means([[0.0]], ["a", "b"])
