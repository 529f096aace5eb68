"""`predict(..., faces=...)`: every face of a picture, and a word where a picture is no single face."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from ciao_peft import CIAOConfig, Preprocessing, get_ciao_model
from ciao_peft.data import paint_face
from ciao_peft.detection import Box, FaceFinder
from ciao_peft.errors import ConfigError, DataError, InputError
from ciao_peft.scenes import Face, WorldReader
from helpers.fakes import tiny_backbone

PLAIN = Preprocessing(size=(16, 16), mean=(0.0,) * 3, std=(1.0,) * 3)
MOODS = {"num_labels": 3, "id2label": {0: "sad", 1: "glad", 2: "calm"}}


def model_of_two_worlds():
    config = CIAOConfig(problem_type="single_label_classification", **MOODS)
    model = get_ciao_model(tiny_backbone(), config, "moods", preprocessing=PLAIN)
    model.add_adapter("light", CIAOConfig(problem_type="regression", num_labels=1, id2label={0: "light"}))
    return model.eval()


def noisy(size=(200, 120), seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def two(image):
    return [(10, 20, 40, 40, 0.8), (100, 30, 60, 60, 0.9)]


def close(one, other):
    return one.keys() == other.keys() and all(one[key] == pytest.approx(other[key], abs=2e-6) for key in one)


def test_every_face_is_answered_as_its_square_by_itself_in_every_world():
    model, picture = model_of_two_worlds(), noisy()
    faces = model.predict(picture, faces=FaceFinder(two, margin=0.0), adapter_names=["moods", "light"])
    assert [(face.box, face.score, face.track) for face in faces] == [
        (Box(100, 30, 60, 60), 0.9, None),
        (Box(10, 20, 40, 40), 0.8, None),
    ]
    for face in faces:
        x, y, width, height = face.box
        alone = model.predict(picture.crop((x, y, x + width, y + height)), adapter_names=["moods", "light"])
        assert all(close(face.answers[world], alone[world]) for world in alone)
    (only,) = model.predict(picture, faces=lambda image: [(10, 20, 40, 40)])
    assert list(only.answers) == ["moods"]


def test_lists_and_folders_give_the_faces_of_each_picture(tmp_path):
    model, pictures = model_of_two_worlds(), [noisy(seed=0), noisy(seed=1)]
    for name, picture in zip("ab", pictures, strict=True):
        picture.save(tmp_path / f"{name}.png")
    listed = model.predict(pictures, faces=two)
    assert listed == [model.predict(picture, faces=two) for picture in pictures]
    assert model.predict(tmp_path, faces=two) == {
        str(tmp_path / "a.png"): listed[0],
        str(tmp_path / "b.png"): listed[1],
    }
    assert model.predict([], faces=two) == []


def test_pictures_without_a_face_or_with_fifty_give_none_or_fifty():
    model = model_of_two_worlds()

    def fifty(image):
        return [(4 * number, 10, 30, 30) for number in range(50)] if image.any() else []

    found = model.predict([Image.new("RGB", (300, 80)), noisy((300, 80))], faces=fifty, batch_size=7)
    assert [len(faces) for faces in found] == [0, 50]


def test_a_face_cut_by_the_border_is_read_with_black_outside():
    model, picture = model_of_two_worlds(), noisy()
    (face,) = model.predict(picture, faces=FaceFinder(lambda image: [(-20, -10, 40, 40)], margin=0.0))
    alone = model.predict(picture.crop((-20, -10, 20, 30)))
    assert face.box == Box(-20, -10, 40, 40) and close(face.answers["moods"], alone)


def test_unsure_answers_are_none():
    (face, _) = model_of_two_worlds().predict(noisy(), faces=two, min_confidence=1.0)
    assert face.answers == {"moods": None}
    assert face.to_dict()["answers"] == {"moods": None}


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"^Picture 1: .*a\.png"):
        model_of_two_worlds().predict([noisy(), tmp_path / "a.png"], faces=two)
    with pytest.raises(DataError, match=r"^'.*a\.png"):
        model_of_two_worlds().predict(tmp_path / "a.png", faces=two)


def test_settings_that_cannot_work_are_named():
    model = model_of_two_worlds()
    with pytest.raises(InputError, match="`batch_size` must be a whole number of 1 or more"):
        model.predict(noisy(), faces=two, batch_size=0)
    with pytest.raises(ConfigError, match="`min_confidence` is for one class of several"):
        model.predict(noisy(), faces=two, min_confidence=0.5, adapter_names=["light"])
    with pytest.raises(DataError, match="`detector` must be 'haar', 'yunet'"):
        model.predict(noisy(), faces="best")
    config = CIAOConfig(problem_type="regression", num_labels=1, frames=3, recurrent_size=4)
    with pytest.raises(InputError, match="The adapter 'clip' reads clips of 3 frames"):
        WorldReader(read=lambda pixels: {}, configs={"clip": config}, preprocessing=PLAIN)


def scene_of(count, side=150, size=(640, 400)):
    picture = Image.new("RGB", size, (100, 110, 100))
    for number in range(count):
        picture.paste(paint_face(seed=number, size=side), (20 + 200 * number, 100))
    return picture


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (scene_of(0), "No face was found in this picture of 640 x 400 pixels; it is read whole"),
        (scene_of(3), "There are 3 faces in this picture; it is read whole"),
        (scene_of(1, side=100), r"The face in this picture is small, \d\d of 400 pixels; it is read whole"),
    ],
)
def test_a_scene_given_as_a_face_is_told(picture, said, tmp_path):
    model = model_of_two_worlds()
    picture.save(tmp_path / "scene.png")
    for given in (picture, np.asarray(picture), tmp_path / "scene.png"):
        with pytest.warns(UserWarning, match=said) as caught:
            answer = model.predict(given)
        assert caught[0].filename == __file__ and set(answer) == {"sad", "glad", "calm"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.predict(picture, faces=False) == answer
        model.predict([picture, picture])  # lists and folders are not looked at


def test_a_face_that_fills_its_picture_and_a_small_picture_are_told_nothing(monkeypatch):
    model = model_of_two_worlds()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(paint_face(seed=2, size=300))
        monkeypatch.setattr("ciao_peft.scenes.FaceFinder", None)  # nobody looks
        model.predict(Image.new("RGB", (300, 255)))
        model.predict(np.zeros((16, 16), np.uint8))


def test_what_is_wrong_with_a_picture_is_said_by_who_reads_it(tmp_path):
    with pytest.raises(DataError, match="There is no picture at"):
        model_of_two_worlds().predict(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match="must be a PIL image, a path or an array"):
        model_of_two_worlds().predict(3)


def test_faces_are_plain_data():
    face = Face(box=Box(1, 2, 3, 4), score=0.123456, answers={"light": {"light": 0.5}}, track=7)
    assert face.to_dict() == {"box": [1, 2, 3, 4], "score": 0.1235, "track": 7, "answers": {"light": {"light": 0.5}}}


def test_looking_for_faces_moves_no_random_numbers():
    model, before = model_of_two_worlds(), torch.get_rng_state()
    model.predict(noisy(), faces="yunet")
    assert torch.equal(before, torch.get_rng_state())
