import sys
import types

import numpy as np
import pytest
from PIL import Image

from ciao_peft.data import FaceLocalizer, crop_faces, paint_face
from ciao_peft.data.localizer import Box, haar_detector, yunet_detector
from ciao_peft.errors import DataError, DataNotFoundError, MissingExtraError


def scene(seed=2, at=(100, 60), side=120, size=(320, 240)):
    """A painted face on green; seed 2 is one that Haar's cascade takes for a face."""
    image = Image.new("RGB", size, (90, 120, 100))
    image.paste(paint_face(seed=seed, size=side), at)
    return image


def marks(image):
    """Detector of test pictures: one box per red pixel, whose green and blue are its width and height."""
    found = []
    for y, x in np.argwhere(image[..., 0] == 255):
        found.append((x, y, image[y, x, 1], image[y, x, 2]))
    return found


def marked(*boxes, size=(100, 80)):
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    for x, y, width, height in boxes:
        pixels[y, x] = 255, width, height
    return Image.fromarray(pixels)


def test_haar_finds_a_painted_face_where_it_is():
    pytest.importorskip("cv2")
    box = FaceLocalizer("haar").locate(scene())
    assert box.overlap(Box(100, 60, 120, 120)) > 0.7


def test_detection_on_a_smaller_picture_gives_boxes_in_its_own_pixels():
    pytest.importorskip("cv2")
    large = scene().resize((1280, 960))
    box = FaceLocalizer("haar", max_side=320).locate(large)
    assert box.overlap(Box(400, 240, 480, 480)) > 0.7


def test_the_largest_face_counts():
    picture = marked((10, 10, 8, 8), (50, 20, 20, 20), (30, 60, 9, 9))
    assert FaceLocalizer(marks).locate(picture) == Box(50, 20, 20, 20)


def test_a_face_is_followed_even_when_a_larger_one_appears():
    localizer = FaceLocalizer(marks, margin=0.0)
    frames = [
        marked((10, 10, 20, 20)),
        marked((14, 12, 20, 20), (60, 30, 30, 30)),
        marked((20, 14, 20, 20), (60, 30, 40, 40)),
    ]
    crops = crop_faces(frames, localizer)
    expected = [(10, 10), (14, 12), (20, 14)]
    for (index, face), corner in zip(crops, expected, strict=True):
        assert np.array_equal(
            np.asarray(face), np.asarray(frames[index].crop((*corner, corner[0] + 20, corner[1] + 20)))
        )


def test_when_the_followed_face_is_gone_the_largest_takes_over():
    localizer = FaceLocalizer(marks)
    assert localizer.locate(marked((60, 50, 9, 9), (70, 5, 12, 12)), previous=Box(5, 5, 20, 20)) == Box(70, 5, 12, 12)


def test_crops_are_squares_with_a_margin_on_every_side():
    face = FaceLocalizer(marks, margin=0.25).crop(scene(), Box(100, 60, 120, 100))
    assert face.size == (180, 180)
    assert np.array_equal(np.asarray(face), np.asarray(scene().crop((70, 20, 250, 200))))


def test_what_lies_outside_the_picture_is_black():
    face = np.asarray(FaceLocalizer(marks, margin=0.0).crop(Image.new("RGB", (40, 40), "white"), Box(-10, 30, 20, 20)))
    assert (face[:10, 10:] == 255).all()
    assert not face[10:].any() and not face[:, :10].any()


def test_large_crops_are_scaled_down_and_small_ones_left():
    localizer = FaceLocalizer(marks, margin=0.0, size=64)
    assert localizer.crop(scene(), Box(10, 10, 120, 120)).size == (64, 64)
    assert localizer.crop(scene(), Box(10, 10, 30, 30)).size == (30, 30)


def test_grey_pictures_are_searched_and_cut_as_colour():
    assert FaceLocalizer(marks).crop(Image.new("L", (50, 50)), Box(5, 5, 20, 20)).mode == "RGB"
    assert FaceLocalizer(lambda image: [(0, 0, *image.shape[:2])]).locate(Image.new("L", (50, 40))) == Box(0, 0, 40, 50)


NO_FACE = marked()
FRAMES = [NO_FACE, marked((10, 10, 20, 20)), NO_FACE, NO_FACE, marked((50, 30, 20, 20)), NO_FACE]


def test_frames_without_a_face_take_the_place_of_the_nearest_one():
    crops = dict(crop_faces(FRAMES, FaceLocalizer(marks, margin=0.0), "nearest"))
    assert list(crops) == [0, 1, 2, 3, 4, 5]
    corners = {0: (10, 10), 2: (10, 10), 3: (50, 30), 5: (50, 30)}
    for index, (x, y) in corners.items():
        assert np.array_equal(np.asarray(crops[index]), np.asarray(FRAMES[index].crop((x, y, x + 20, y + 20))))


def test_frames_without_a_face_can_be_skipped_used_whole_or_refused():
    localizer = FaceLocalizer(marks, margin=0.0)
    assert [index for index, _ in crop_faces(FRAMES, localizer, "skip")] == [1, 4]
    assert [face.size for _, face in crop_faces(FRAMES, localizer, "whole")] == [
        *((100, 80), (20, 20), (100, 80), (100, 80), (20, 20), (100, 80))
    ]
    with pytest.raises(DataError, match="There is no face in frame 0 of 6"):
        crop_faces(FRAMES, localizer, "error")
    with pytest.raises(DataError, match="`missing` must be one of 'error', 'nearest', 'skip', 'whole'; got 'guess'"):
        crop_faces(FRAMES, localizer, "guess")


def test_a_clip_without_any_face_gives_nothing():
    assert crop_faces([NO_FACE, NO_FACE], FaceLocalizer(marks), "nearest") == []


def test_boxes_without_area_are_none():
    assert FaceLocalizer(lambda image: [(1, 1, 0, 5)]).locate(marked()) is None


def test_a_detector_that_gives_something_else_is_named():
    with pytest.raises(DataError, match="must give x, y, width and height per face; it gave"):
        FaceLocalizer(lambda image: [(1, 2)]).locate(marked())


def test_opencv_5_without_its_cascade_is_explained(monkeypatch):
    five = types.SimpleNamespace(__version__="5.0.0")
    monkeypatch.setitem(sys.modules, "cv2", five)
    with pytest.raises(DataNotFoundError, match=r"OpenCV 5\.0\.0 has no cascade classifier.*opencv-python-headless<5"):
        FaceLocalizer("haar")


def test_an_opencv_whose_cascade_folder_is_empty_is_explained(monkeypatch, tmp_path):
    empty = types.SimpleNamespace(
        __version__="5.0.0", CascadeClassifier=object, data=types.SimpleNamespace(haarcascades=str(tmp_path))
    )
    monkeypatch.setitem(sys.modules, "cv2", empty)
    with pytest.raises(DataNotFoundError, match=r"There is no cascade file .*haarcascade_frontalface_default"):
        haar_detector()


def test_without_opencv_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"a `detector` of your own needs OpenCV.*'ciao_peft\[video\]'"):
        FaceLocalizer("haar")
    with pytest.raises(ModuleNotFoundError, match="needs OpenCV"):
        yunet_detector("a.onnx")


def test_files_that_are_no_detector_are_refused(tmp_path):
    pytest.importorskip("cv2")
    (tmp_path / "a.onnx").write_bytes(b"junk")
    with pytest.raises(DataError, match="is no YuNet model"):
        yunet_detector(tmp_path / "a.onnx")
    with pytest.raises(DataNotFoundError, match="There is no YuNet file"):
        FaceLocalizer(tmp_path / "b.onnx")
    with pytest.raises(DataNotFoundError, match="There is no cascade file"):
        FaceLocalizer(tmp_path / "b.xml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"detector": "mtcnn"},
            r"`detector` must be 'haar', 'yunet', 'dlib', the path of an .onnx or .xml file, or .*; got 'mtcnn'",
        ),
        ({"detector": marks, "margin": 5}, "`margin` must lie between"),
        ({"detector": marks, "size": 2}, "`size` 8 or more"),
    ],
)
def test_arguments_that_cannot_work_are_named(arguments, message):
    with pytest.raises(DataError, match=message):
        FaceLocalizer(**arguments)


def test_real_faces_are_found(real_faces):
    pytest.importorskip("cv2")
    localizer, found = FaceLocalizer("haar"), 0
    for path in sorted((real_faces / "train").glob("*.jpg"))[:20]:
        picture = Image.new("L", (192, 192), 100)
        with Image.open(path) as face:
            picture.paste(face, (48, 48))
        box = localizer.locate(picture)
        found += box is not None and box.overlap(Box(48, 48, 96, 96)) > 0.5
    assert found >= 18
