"""YuNet against what the compiled library of its author said of the same scene."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from ciao_peft.data import paint_face
from ciao_peft.detection import YuNet, YuNetDetector, yunet
from ciao_peft.errors import AdapterFileError, ConfigError, DataError

# Score in percent, box and five landmarks, cut to whole pixels, as `facedetect_cnn` of libfacedetection.so (the one
# that `benchmarks/bundle_yunet.py` reads) gave them.
OF_THE_LIBRARY = [
    (92, 240, 27, 61, 78, 255, 55, 285, 55, 268, 71, 255, 82, 280, 83),
    (92, 47, 280, 94, 120, 68, 326, 116, 326, 91, 349, 71, 368, 112, 369),
    (90, 448, 270, 71, 92, 467, 303, 502, 304, 485, 321, 469, 334, 499, 336),
    (90, 454, 29, 74, 96, 473, 67, 507, 67, 490, 85, 476, 99, 504, 101),
    (90, 250, 286, 126, 144, 289, 335, 349, 339, 317, 365, 288, 390, 338, 393),
    (89, 29, 29, 40, 47, 41, 46, 59, 46, 51, 55, 43, 64, 58, 63),
]


def scene():
    """Six painted faces of 60 to 180 pixels."""
    pixels = np.full((480, 640, 3), 110, np.uint8)
    for number, side in enumerate((60, 90, 120, 150, 180, 110)):
        x, y = 20 + 205 * (number % 3), 20 + 240 * (number // 3)
        pixels[y : y + side, x : x + side] = paint_face(seed=number, size=side)
    return pixels


def test_boxes_scores_and_landmarks_are_those_of_the_library():
    found = YuNetDetector(0.3)(scene())
    assert len(found) == len(OF_THE_LIBRARY)
    for ours, theirs in zip(found, OF_THE_LIBRARY, strict=True):
        box, score, points = ours[:4], ours[4], ours[5:]
        assert int(100 * score) == theirs[0]
        assert [int(value) for value in (*box, *points)] == list(theirs[1:])


def test_a_face_of_any_place_of_a_picture_of_any_size_is_found_there():
    for height, width in ((97, 131), (250, 333)):
        pixels = np.full((height, width, 3), 110, np.uint8)
        pixels[10:90, 40:120] = paint_face(seed=2, size=80)
        (face,) = YuNetDetector()(pixels)
        assert 40 < face[0] < 70 and 10 < face[1] < 40 and face[0] + face[2] < 125


def test_nothing_is_found_where_nothing_is():
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    assert YuNetDetector()(noise) == [] == YuNetDetector()(np.zeros((1, 1, 3), np.uint8))


def test_a_higher_threshold_finds_fewer_and_the_surest_comes_first():
    scores = [face[4] for face in YuNetDetector(0.3)(scene())]
    assert scores == sorted(scores, reverse=True)
    assert len(YuNetDetector(0.905)(scene())) == sum(score >= 0.905 for score in scores) < len(scores)


def test_of_two_hits_on_one_face_the_surer_one_stays():
    rows = np.array([[0, 0, 10, 10, 0.9], [1, 0, 10, 10, 0.8], [20, 0, 10, 10, 0.7], [9, 9, 10, 10, 0.6]], np.float32)
    assert yunet._surest(rows, 0.3) == [0, 2, 3]
    assert yunet._surest(rows, 0.001) == [0, 2]
    assert yunet._surest(rows[:0], 0.3) == []
    apart = np.array([[0, 0, 10, 10, 0.9], [4, 0, 10, 10, 0.8]], np.float32)  # 6 of 14 columns are shared
    assert (yunet._surest(apart, 0.42), yunet._surest(apart, 0.43)) == ([0], [0, 1])


def test_several_pictures_at_once_are_read_as_each_by_itself():
    network, pixels = YuNetDetector()._network, torch.rand(3, 3, 64, 96) * 255
    together, apart = network(pixels), [network(one[None]) for one in pixels]
    for number, part in enumerate(together):
        torch.testing.assert_close(part, torch.cat([one[number] for one in apart]), rtol=1e-4, atol=1e-3)


def test_loading_draws_no_random_numbers_and_works_in_inference_mode():
    yunet._bundled.cache_clear()
    before = torch.get_rng_state()
    with torch.inference_mode():
        detector = YuNetDetector()
    assert torch.equal(before, torch.get_rng_state())
    assert not any(p.is_inference() or p.requires_grad or p.is_meta for p in detector._network.parameters())
    assert sum(p.numel() for p in YuNet().parameters()) == 53_104


def test_threads_do_not_meet():
    detector, found = YuNetDetector(), {}
    pixels = [scene(), scene()[:, ::-1].copy(), scene()[::2, ::2].copy()]
    expected = [detector(one) for one in pixels]

    def work(number):
        found[number] = [detector(pixels[number]) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[number] == [expected[number]] * 3 for number in range(3))


def test_weights_that_are_damaged_or_missing_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(yunet, "WEIGHTS", tmp_path / "yunet.safetensors")
    yunet._bundled.cache_clear()
    with pytest.raises(AdapterFileError, match="Install ciao_peft again"):
        YuNetDetector()
    (tmp_path / "yunet.safetensors").write_bytes(b"other")
    with pytest.raises(AdapterFileError, match="does not have the checksum"):
        YuNetDetector()


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (0, 4, 3)])
def test_what_is_no_picture_is_named(shape):
    with pytest.raises(DataError, match=r"needs \(H, W, 3\) of uint8; got"):
        YuNetDetector()(np.zeros(shape, np.uint8))


def test_settings_out_of_range_are_named():
    with pytest.raises(ConfigError, match="`threshold` must be a number from"):
        YuNetDetector(0)
    with pytest.raises(ConfigError, match="`overlap` must be a number from 0 to 1"):
        YuNetDetector(overlap=2)
