"""Detectors by name, and faces cut out as an encoder is fed them."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from ciao_peft import Preprocessing
from ciao_peft.data import FaceLocalizer, paint_face
from ciao_peft.detection import Box, FaceFinder, FoundFace, dlib_detector, finder_of, make_detector
from ciao_peft.errors import CIAOError, DataError, MissingExtraError
from ciao_peft.preprocessing import Alignment

PLAIN = Preprocessing(size=(40, 40), mean=(0.0,) * 3, std=(1.0,) * 3)


def nothing(image):
    return []


def scene(side=120, at=(100, 60), size=(320, 240)):
    image = Image.new("RGB", size, (90, 120, 100))
    image.paste(paint_face(seed=2, size=side), at)
    return image


@pytest.mark.parametrize("name", ["yunet", "haar", "dlib"])
def test_every_named_detector_finds_a_painted_face_where_it_is(name):
    for package in {"haar": ["cv2"], "dlib": ["dlib"]}.get(name, []):
        pytest.importorskip(package)
    (face,) = FaceFinder(name).find(scene())
    left, top, side = FaceFinder(name).square(face)
    assert Box(round(left), round(top), round(side), round(side)).overlap(Box(100, 60, 120, 120)) > 0.6
    assert (face.score is None) == (name == "haar")
    assert face.score is None or 0 < face.score <= 1


def test_a_localizer_knows_the_same_names():
    assert FaceLocalizer("yunet").locate(scene()).overlap(Box(100, 60, 120, 120)) > 0.5


def test_large_pictures_are_searched_at_a_smaller_size():
    sizes = []

    def detect(image):
        sizes.append(image.shape)
        return [(10, 20, 30, 40, 0.5)]

    (face,) = FaceFinder(detect, max_side=320).find(Image.new("RGB", (1280, 640)))
    assert sizes == [(160, 320, 3)] and face == FoundFace(Box(40, 80, 120, 160), 0.5)


def test_small_pictures_are_searched_at_a_larger_size_where_that_is_asked_for():
    sizes = []

    def detect(image):
        sizes.append(image.shape[:2])
        return [(100, 60, 80, 40)]

    picture = Image.new("RGB", (160, 120))
    for max_side, enlarge in ((640, 1.0), (640, 2.0), (200, 4.0)):
        (face,) = FaceFinder(detect, max_side=max_side, enlarge=enlarge).find(picture)
    assert sizes == [(120, 160), (240, 320), (150, 200)] and face.box == Box(80, 48, 64, 32)
    tiny = scene(side=30, at=(60, 40), size=(160, 120))
    assert FaceFinder("yunet", enlarge=3, min_size=8).find(tiny) and not FaceFinder("yunet", min_size=8).find(tiny)


def test_faces_too_small_or_beyond_the_border_are_left_out():
    boxes = [(0, 0, 15, 40), (-30, 0, 40, 40), (-50, 0, 40, 40), (0, 0, 16, 16)]
    found = FaceFinder(lambda image: boxes).find(Image.new("RGB", (64, 64)))
    assert [face.box.x for face in found] == [-30, 0]


def test_scores_stay_between_0_and_1():
    found = FaceFinder(lambda image: [(0, 0, 40, 40, 7.0), (0, 0, 40, 40, -1.0)]).find(Image.new("RGB", (64, 64)))
    assert [face.score for face in found] == [1.0, 0.0]


@pytest.mark.parametrize("answer", [[(1, 2)], [(1, 2, 3, float("nan"))], [(0, 0, 9, 9, float("inf"))]])
def test_a_detector_that_gives_something_else_is_named(answer):
    with pytest.raises(DataError, match="A detector must give x, y, width and height per face"):
        FaceFinder(lambda image: answer).find(Image.new("RGB", (64, 64)))


def test_a_square_is_cut_and_what_lies_outside_is_black():
    picture = Image.new("RGB", (60, 60), "white")
    crop = FaceFinder(nothing, margin=0.5).crop(picture, FoundFace(Box(0, 20, 20, 20)))
    assert crop.size == (40, 40)
    assert not np.asarray(crop)[:, :10].any() and (np.asarray(crop)[:, 10:] == 255).all()


def test_without_alignment_the_square_is_fed():
    finder, face = FaceFinder(nothing, margin=0.0), FoundFace(Box(100, 60, 120, 120))
    expected = PLAIN.fit(scene().crop((100, 60, 220, 180)))
    assert np.array_equal(finder.fit(scene(), face, PLAIN), expected)


def test_an_aligned_face_is_the_chip_of_the_whole_picture():
    face, finder = FoundFace(Box(118, 78, 84, 84)), FaceFinder(nothing, margin=0.0)
    aligned = PLAIN.replace(align="five-points")
    fed = finder.fit(scene(), face, aligned)
    alone = aligned.fit(scene().crop((118, 78, 202, 162)))
    # The same landmarks; the corners of the chip lie outside the crop, and inside the scene.
    outside = (alone == 0).all(axis=2)
    assert outside.any() and not (fed == 0).all(axis=2).any()
    assert np.abs(fed.astype(int) - alone)[12:28, 12:28].mean() < 5
    assert not np.array_equal(fed, finder.fit(scene(), face, PLAIN))


def test_landmarks_of_ones_own_are_looked_for_in_the_square():
    seen = []

    def find(pixels):
        seen.append(pixels.shape)

    own = PLAIN.replace(align=Alignment(landmarks=find))
    with pytest.warns(UserWarning, match="No landmarks were found in 1 of 1"):
        fed = FaceFinder(nothing, margin=0.0).fit(scene(), FoundFace(Box(100, 60, 120, 120)), own)
    assert seen == [(120, 120, 3)] and fed.shape == (40, 40, 3)


def test_a_face_at_the_border_is_aligned_too():
    aligned = PLAIN.replace(align=Alignment(missing="error"))
    assert FaceFinder(nothing).fit(scene(), FoundFace(Box(-50, -50, 90, 90)), aligned).shape == (40, 40, 3)
    with pytest.raises(DataError, match="No landmarks were found of the face at"):
        FaceFinder(nothing, margin=-0.4).fit(scene(), FoundFace(Box(5, 5, 4, 4)), aligned)


def test_detectors_of_others_are_called_by_one_thread_at_a_time():
    assert FaceFinder("yunet")._alone is None
    assert FaceFinder(nothing)._alone is not None


def test_a_finder_is_taken_as_it_is_and_a_localizer_cuts_as_it_always_does():
    finder, localizer = FaceFinder(nothing), FaceLocalizer(lambda image: [(99, 61, 121, 87)], margin=0.15, size=64)
    assert finder_of(finder) is finder and finder_of(nothing).detect is nothing
    made = finder_of(localizer)
    (face,) = made.find(scene())
    assert np.array_equal(made.crop(scene(), face), localizer.crop(scene(), face.box))
    assert made.square(face)[2] == pytest.approx(1.3 * 121)
    assert type(finder_of(True).detect).__name__ == "YuNetDetector"


@pytest.mark.parametrize("detector", ["mtcnn", 3, None, ""])
def test_what_is_no_detector_is_named(detector):
    with pytest.raises(DataError, match="`detector` must be 'haar', 'yunet', 'dlib', the path of"):
        make_detector(detector)


@pytest.mark.parametrize("setting", [{"max_side": 1}, {"enlarge": 0.5}, {"margin": 5}, {"min_size": 0}])
def test_settings_out_of_range_are_named(setting):
    with pytest.raises(CIAOError, match=f"`{next(iter(setting))}` must be"):
        FaceFinder(nothing, **setting)


def test_without_dlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(MissingExtraError, match=r"'dlib' needs dlib: pip install 'ciao_peft\[dlib\]'"):
        dlib_detector()


def test_real_faces_are_found_and_fill_the_square(real_faces):
    """The picture of a face in a dataset is about what the square of a detector holds."""
    for name, package in (("yunet", None), ("haar", "cv2"), ("dlib", "dlib")):
        if package is not None:
            pytest.importorskip(package)
        finder, sides, count = FaceFinder(name), [], 30
        for path in sorted((real_faces / "train").glob("*.jpg"))[:count]:
            picture = Image.new("RGB", (480, 360), (110, 110, 110))
            with Image.open(path) as face:
                picture.paste(face.convert("RGB").resize((160, 160)), (160, 100))
            sides += [finder.square(found)[2] for found in finder.find(picture)[:1]]
        assert len(sides) >= 0.9 * count
        assert np.median(sides) == pytest.approx(160, rel=0.06)


@pytest.mark.parametrize("given", [None, 5, [None], ["abcd"], [(1, 1, 30, 30, None)], [(1, 2, 3)], [(0, 0, 1, np.inf)]])
def test_what_is_no_list_of_boxes_is_refused(given):
    with pytest.raises(DataError, match="A detector must give"):
        FaceFinder(lambda image: given).find(scene())


def test_a_face_far_larger_than_its_picture_is_refused_before_memory_is_taken_for_it():
    for side in (30_000.0, 1e9, 1e200):
        with pytest.raises(DataError, match="a picture of 320 x 240"):
            FaceFinder(lambda image, side=side: [(-side / 2, -side / 2, side, side)]).find(scene())
    (face,) = FaceFinder(lambda image: [(-100, -100, 640, 640)]).find(scene())  # one that reaches beyond the border
    assert face.box == Box(-100, -100, 640, 640)
    with pytest.raises(DataError, match="too large to be cut out"):
        FaceFinder(nothing).crop(scene(), FoundFace(Box(0, 0, 20_000, 20_000)))
