"""Videos of which a part is damaged: what is missing is said, and whole ones draw no word."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest
from PIL import Image

from ciao_peft.data import load_faces, read_frames, sample_frames
from ciao_peft.data.whole_video import Announced, shortfall
from helpers.filmed import film

NOISE = np.random.default_rng(0).integers(0, 256, (100, 48, 64, 3), dtype=np.uint8)


@pytest.fixture(params=["mkv", "avi"])
def holed(request, tmp_path):
    """A video of 100 frames with zeros in its middle fifth, and one that is whole."""
    whole = film(tmp_path / f"whole.{request.param}", [Image.fromarray(pixels) for pixels in NOISE])
    content = bytearray(whole.read_bytes())
    first, last = 2 * len(content) // 5, 3 * len(content) // 5
    content[first:last] = bytes(last - first)
    (tmp_path / "videos" / "glad").mkdir(parents=True)
    path = tmp_path / "videos" / "glad" / f"holed.{request.param}"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("reader", ["av", "cv2"])
def test_frames_lost_in_the_middle_are_counted(holed, reader):
    pytest.importorskip(reader)
    with pytest.warns(UserWarning, match=r"holed\....' (has a hole|ends early).*; \d\d of .*100 frames .* be read"):
        frames = list(read_frames(holed, reader))
    assert 50 < len(frames) < 95
    with pytest.warns(UserWarning, match=f"; {len(frames)} of (the|about) 100 frames") as told:
        assert len(sample_frames(holed, 4, reader)) == 4
    assert len(told) == 1


def test_a_video_that_is_whole_draws_no_word(holed, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(read_frames(tmp_path / holed.name.replace("holed", "whole")))) == 100


def test_a_dataset_counts_frames_that_cannot_be_read(holed, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "ciao_peft.data"):
        load_faces(
            "videofolder", holed.parents[1], detector=None, min_images_per_class=0, cache_dir=str(tmp_path / "cache")
        )
    assert "x frame that cannot be read: glad/holed" in caplog.text


def test_what_is_no_damage():
    even = [number / 25 for number in range(100)]
    assert shortfall(Announced(100, True, 4.0), even) is None
    assert shortfall(Announced(108, False, 4.3), even) is None  # sound goes on for a moment
    assert shortfall(Announced(0, False, None), even) is None
    slow = [number / 10 for number in range(40)]  # ten frames a second, and a header that says 25
    assert shortfall(Announced(100, True, 4.0), slow) is None
    assert shortfall(Announced(100, True, 4.0), [None] * 40) is None


def test_what_is_missing_is_named():
    even = [number / 25 for number in range(100)]
    assert shortfall(Announced(100, True, 4.0), even[:90]).frames == 10
    assert "ends early" in shortfall(Announced(100, True, 4.0), even[:90]).said
    assert "ends early" in shortfall(Announced(0, False, 4.0), even[:60]).said
    assert "has a hole from 2.0 s to 2.4 s" in shortfall(Announced(100, False, 4.0), [*even[:50], *even[60:]]).said
