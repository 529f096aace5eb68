"""Pictures are worked on in threads; nobody can tell from results, order or errors."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from ciao_peft.preprocessing import ahead
from ciao_peft.preprocessing.ahead import in_threads
from helpers.pictures import PLAIN, noise


@pytest.mark.parametrize("threads", [0, 1, 2, 5])
@pytest.mark.parametrize("steps_ahead", [1, 3, 100])
def test_results_come_in_the_order_of_the_values(threads, steps_ahead):
    def slow_first(value):
        time.sleep(0.003 * (value % 3 == 0))
        return 2 * value

    assert list(in_threads(slow_first, range(20), ahead=steps_ahead, threads=threads)) == [2 * n for n in range(20)]
    assert list(in_threads(slow_first, [], ahead=steps_ahead, threads=threads)) == []


@pytest.mark.parametrize("threads", [1, 4])
def test_the_first_error_in_the_order_is_raised_in_its_place(threads):
    def work(value):
        if value >= 5:
            time.sleep(0.01 * (value == 5))  # the later one is met earlier
            raise ValueError(f"value {value}")
        return value

    def values():
        yield from range(7)
        raise KeyError("no more")

    for given, kind, message in ((range(9), ValueError, "value 5"), (values(), ValueError, "value 5")):
        seen = []
        with pytest.raises(kind, match=message):
            for made in in_threads(work, given, threads=threads):
                seen.append(made)
        assert seen == [0, 1, 2, 3, 4]
    with pytest.raises(KeyError, match="no more"):
        list(in_threads(str, values(), threads=threads))


def test_no_more_is_asked_for_than_was_allowed():
    asked = []

    def values():
        for n in range(50):
            asked.append(n)
            yield n

    made = in_threads(str, values(), ahead=6, threads=2)
    next(made)
    assert len(asked) == 6
    assert threading.active_count() > 1
    before = {thread for thread in threading.enumerate() if thread.name.startswith("ciao_peft")}
    assert before
    made.close()
    assert not any(thread.is_alive() for thread in before)


def test_several_threads_work_at_once():
    together = threading.Barrier(3, timeout=20)  # broken, and so an error, unless three wait at once
    assert len(list(in_threads(lambda _: together.wait(), range(3), threads=3))) == 3


class Watched(Image.Image):
    """A picture that knows how many threads have it."""

    inside, most = 0, 0

    def look(self):
        Watched.inside += 1
        Watched.most = max(Watched.most, Watched.inside)
        time.sleep(0.005)
        Watched.inside -= 1


@pytest.mark.parametrize("shared", ["the picture", "the file", "in clips"])
def test_no_two_threads_have_the_same_picture_or_its_file(shared):
    Watched.most = 0
    one, two, file = Watched(), Watched(), io.BytesIO()
    if shared == "the file":
        one.fp = two.fp = file
    else:
        two = one
    values = [(0, [one]), (1, [two]), (2, [one]), (3, [two])] if shared == "in clips" else [one, two, one, two]
    look = (lambda value: value[1][0].look()) if shared == "in clips" else Watched.look
    list(in_threads(look, values, threads=4))
    assert Watched.most == 1


def test_a_file_that_is_listed_many_times_is_read_whole_each_time(monkeypatch):
    monkeypatch.setattr(ahead, "usable_cores", lambda: 8)
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # lies on its side
    noise(90, 120).save(file, "JPEG", exif=exif)
    for _ in range(5):
        picture = Image.open(io.BytesIO(file.getvalue()))  # not decoded yet
        expected = PLAIN(Image.open(io.BytesIO(file.getvalue())))
        for fitted in in_threads(PLAIN.fit_all, [picture] * 16):
            assert torch.equal(PLAIN.normalise(fitted), expected)


@pytest.mark.parametrize("mode", ["RGB", "BGR", "L"])
def test_pictures_are_normalised_together_as_they_are_alone_bit_for_bit(mode):
    count = 1 if mode == "L" else 3
    settings = PLAIN.replace(mode=mode, mean=(0.41, 0.52, 0.63)[:count], std=(0.21, 0.32, 0.43)[:count])
    pictures = [noise(20 + n, 30, seed=n) for n in range(5)]
    together = settings(pictures)
    for picture, pixels in zip(pictures, together, strict=True):
        fitted = settings.fit_all(picture)[0]
        by_formula = (torch.tensor(fitted).float() / 255 - torch.tensor(settings.mean)) / torch.tensor(settings.std)
        assert torch.equal(pixels, by_formula.permute(2, 0, 1))
        assert torch.equal(pixels, settings.normalise(fitted))
    assert together.is_contiguous() and together.dtype == torch.float32
    given = np.stack([settings.fit_all(picture)[0] for picture in pictures])
    before = given.copy()
    assert torch.equal(settings.normalise(torch.from_numpy(given)), settings.normalise(given))
    assert np.array_equal(given, before)


def test_threads_may_be_the_first_to_import_pillow():
    code = (
        "import sys, types\n"
        "from ciao_peft.preprocessing.ahead import in_threads\n"
        "sys.modules['PIL.Image'] = types.ModuleType('PIL.Image')  # as it is while a thread imports it\n"
        "print(list(in_threads(len, ['a', 'bc'], threads=2)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "[1, 2]", run.stderr
