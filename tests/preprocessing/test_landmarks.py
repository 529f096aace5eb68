"""Landmarks and chips are dlib's: compared with recorded numbers, and with dlib itself where it is installed."""

from __future__ import annotations

import contextlib
import hashlib

import numpy as np
import pytest
from PIL import Image

from ciao_peft.errors import AdapterFileError, ConfigError, DataError
from ciao_peft.preprocessing import chips, five_points, landmark_file, landmarks
from ciao_peft.preprocessing.chips import face_chip
from ciao_peft.preprocessing.landmark_file import packed, parse_landmarks, unpacked
from helpers.dlib_files import forest, integer
from helpers.dlib_records import CASES, RECORDS, STEP, dlib_answers
from helpers.drawn import drawn_face


@pytest.fixture(scope="module")
def recorded():
    with np.load(RECORDS) as file:
        return dict(file)


def share_within_one_level(chip, other):
    return (np.abs(np.asarray(chip).astype(int) - other.astype(int)) <= 1).all(axis=2).mean()


@pytest.mark.parametrize("case", range(len(CASES)))
def test_landmarks_are_those_that_dlib_gave(recorded, case):
    side, seed, box = CASES[case]
    assert five_points(drawn_face(side, seed), box).tolist() == recorded["landmarks"][case].tolist()


@pytest.mark.parametrize("case", range(len(CASES)))
def test_chips_are_those_that_dlib_gave(recorded, case):
    side, seed, _ = CASES[case]
    chip = np.asarray(face_chip(Image.fromarray(drawn_face(side, seed)), recorded["landmarks"][case]))
    assert chip.shape == (150, 150, 3)
    assert share_within_one_level(chip[::STEP, ::STEP], recorded["chips"][case]) >= 0.99
    assert chip.std() > 20  # no empty chip


def test_the_recorded_chips_reach_beyond_the_picture_and_need_halving(recorded):
    assert (recorded["chips"][0][-1] == 0).all(axis=1).any()  # black where there is no picture
    assert CASES[5][0] > 4 * 150


def test_what_lies_outside_by_less_than_a_pixel_is_black_too():
    # At this place and size, pixel (c, r) of the chip shows the place (c - 10.25, r + 0.5) of the picture.
    mean_face = (0.25 + np.array(chips._MEAN_FACE)) / 1.5 * 150
    chip = np.asarray(face_chip(Image.new("RGB", (130, 140), "white"), mean_face + np.array([-10.75, 0.0])))
    white = (chip == 255).all(axis=2)
    assert (white | (chip == 0).all(axis=2)).all()
    # From 0 on, and before the last column (129) and row (139), whose right and lower neighbours are missing.
    assert np.flatnonzero(white.any(axis=0)).tolist() == list(range(11, 140))
    assert np.flatnonzero(white.any(axis=1)).tolist() == list(range(139))


def test_dlib_itself_gives_the_same():
    pytest.importorskip("dlib")
    try:
        answers = dlib_answers()
    except ConfigError as error:
        pytest.skip(str(error))
    for (side, seed, box), points, chip in zip(CASES, answers["landmarks"], answers["chips"], strict=True):
        picture = drawn_face(side, seed)
        found = five_points(picture, box)
        assert found.tolist() == points.tolist()
        assert share_within_one_level(face_chip(Image.fromarray(picture), found), chip) >= 0.99


def test_gray_pictures_give_the_landmarks_of_the_same_gray_in_colour():
    gray = drawn_face(96, 3)[:, :, 1]
    in_colour = np.repeat(gray[:, :, None], 3, axis=2)
    assert five_points(gray, (0, 0, 96, 96)).tolist() == five_points(in_colour, (0, 0, 96, 96)).tolist()


def test_a_box_far_outside_sees_only_black():
    points = five_points(drawn_face(96, 3), (5000, -3000, 90, 90))
    black = five_points(np.zeros((96, 96, 3), np.uint8), (5000, -3000, 90, 90))
    assert points.tolist() == black.tolist()


@pytest.mark.parametrize(
    ("pixels", "box", "message"),
    [
        (np.zeros((9, 9, 4), np.uint8), (0, 0, 9, 9), r"\(H, W, 3\) or \(H, W\) of uint8; got \(9, 9, 4\)"),
        (np.zeros((9, 9, 3)), (0, 0, 9, 9), "of float64"),
        (np.zeros((0, 9, 3), np.uint8), (0, 0, 9, 9), "got"),
        (np.zeros((9, 9, 3), np.uint8), (0, 0, 9), "box"),
        (np.zeros((9, 9, 3), np.uint8), (0, 0, 1, 9), "from 2;"),
        (np.zeros((9, 9, 3), np.uint8), (0, float("nan"), 9, 9), "box"),
    ],
)
def test_what_is_no_picture_or_box_is_refused(pixels, box, message):
    with pytest.raises(DataError, match=message):
        five_points(pixels, box)


@pytest.mark.parametrize(
    "points",
    [
        np.full((5, 2), 40.0),
        np.full((5, 2), 40.0) + 1e6 * np.arange(5)[:, None],
        np.array(CASES[0][2][2:]) * np.ones((5, 2)) + 1e9,
        np.array([[62, 33], [50, 36], [23, 40], [37, 39], [49, 58]]) + 10_000,
        np.full((5, 2), np.nan),
    ],
    ids=["at one place", "too far apart", "at one place outside", "outside", "no numbers"],
)
def test_landmarks_that_make_no_face_give_no_chip(points):
    assert face_chip(Image.fromarray(drawn_face(96, 0)), points) is None


def test_halving_blurs_with_binomial_weights():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (21, 18, 3)).astype(np.uint8)
    weights = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1])[:, :, None]
    expected = [
        [(pixels[2 * r : 2 * r + 5, 2 * c : 2 * c + 5] * weights).sum(axis=(0, 1)) // 256 for c in range(7)]
        for r in range(9)
    ]
    assert np.array_equal(chips._half(pixels), expected)
    assert (chips._half(np.full((9, 9, 3), 255, np.uint8)) == 255).all()


def test_trees_are_read_as_they_were_written():
    content, held = forest()
    read = parse_landmarks(content, "trees.dat")
    assert {name: array.tolist() for name, array in read.items()} == {name: a.tolist() for name, a in held.items()}
    small = unpacked(packed(read))
    assert np.array_equal(small["leaves"], held["leaves"]) and np.array_equal(small["pixels"], held["pixels"])
    differences = np.arange(-255, 256)
    for whole, real in zip(small["thresholds"].ravel(), held["thresholds"].ravel(), strict=True):
        assert ((differences > whole) == (differences > real)).all()


def test_trees_that_are_cut_off_or_go_on_are_refused():
    content, _ = forest(cascades=1, trees=1)
    for end in range(0, len(content), 7):
        with pytest.raises(AdapterFileError, match=r"'trees\.dat' .*\(at byte"):
            parse_landmarks(content[:end], "trees.dat")
    with pytest.raises(AdapterFileError, match="goes on for 3 bytes"):
        parse_landmarks(content + b"abc", "trees.dat")


def test_any_changed_byte_of_trees_is_read_or_refused_by_name():
    content, _ = forest(cascades=1, trees=1)
    for place in range(0, len(content), 5):
        for value in (0x00, 0x7F, 0x88, 0xFF):
            changed = content[:place] + bytes([value]) + content[place + 1 :]
            with contextlib.suppress(AdapterFileError):
                parse_landmarks(changed, "trees.dat")


def test_numbers_of_things_are_bounded_before_anything_is_made():
    content, _ = forest(cascades=1, trees=1)
    shape = content[: content.index(integer(1) + integer(1) + integer(15))]
    with pytest.raises(AdapterFileError, match=r"holds 4,611,686,018,427,387,904 cascades; there can be 64"):
        parse_landmarks(shape + integer(2**62), "trees.dat")


def test_a_pixel_that_is_not_there_is_refused():
    content, held = forest(cascades=1, trees=1)
    most = int(held["pixels"].max())
    one, other = (int(value) for value in held["pixels"][0, 0, 0])
    changed = content.replace(integer(15) + integer(one) + integer(other), integer(15) + integer(99) + integer(other))
    with pytest.raises(AdapterFileError, match="compares pixel 99 of 4"):
        parse_landmarks(changed, "trees.dat")
    assert most < 4


def test_another_file_than_dlibs_is_refused(tmp_path):
    (tmp_path / "trees.dat").write_bytes(forest()[0])
    with pytest.raises(AdapterFileError, match=r"its SHA-256 begins with .*, must with c4b1e980"):
        landmark_file.convert_landmarks(tmp_path / "trees.dat")


def test_damaged_bundled_trees_are_refused(tmp_path, monkeypatch):
    content = bytearray(landmarks.TREES.read_bytes())
    assert hashlib.sha256(content).hexdigest() == landmarks.TREES_SHA256
    content[1000] ^= 1
    (tmp_path / "trees.safetensors").write_bytes(content)
    monkeypatch.setattr(landmarks, "TREES", tmp_path / "trees.safetensors")
    landmarks._trees.cache_clear()
    with pytest.raises(AdapterFileError, match="Install ciao_peft again"):
        five_points(drawn_face(96), (0, 0, 96, 96))
    monkeypatch.setattr(landmarks, "TREES", tmp_path / "missing")
    with pytest.raises(AdapterFileError, match="cannot be read"):
        five_points(drawn_face(96), (0, 0, 96, 96))


def test_the_bundled_trees_are_dlibs():
    from ciao_peft.encoders.dlib_network import find_dlib_file

    try:
        file = find_dlib_file().parent / landmark_file.FILE
    except ConfigError as error:
        pytest.skip(str(error))
    assert landmark_file.convert_landmarks(file) == landmarks.TREES.read_bytes()
