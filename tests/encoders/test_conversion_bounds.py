"""Damaged files of weights at the door of `convert_encoder`: none takes more memory than it has bytes."""

from __future__ import annotations

import io
import zipfile

import pytest
import torch

from ciao_peft.encoders.conversion import convert_encoder
from ciao_peft.errors import AdapterFileError


def vgg16(first):
    """Names and shapes as torchvision has them, a few numbers each, but for the first kernel."""
    places = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    kernels = {f"features.{place}.weight": torch.zeros(1).expand(4, 3, 3, 3) for place in places}
    biases = {f"features.{place}.bias": torch.zeros(4) for place in places}
    return kernels | biases | {"features.0.weight": first}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("shape", [(2**20, 2**15, 3, 3), (2**30, 3, 3, 3), (2**62,)])
def test_one_number_repeated_without_an_end_is_refused_before_it_is_copied(zipped, shape, tmp_path):
    path = tmp_path / "vgg16.pth"
    endless = torch.zeros(1).as_strided(shape, (0,) * len(shape))
    torch.save(vgg16(endless), path, _use_new_zipfile_serialization=zipped)
    for order in ("bgr", "rgb"):
        with pytest.raises(AdapterFileError, match=r"is damaged: 'features\.0\.weight' would have \d.* more than fit"):
            convert_encoder(path, tmp_path / "mine", channel_order=order)
    assert not (tmp_path / "mine").exists()


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    saved = io.BytesIO()
    torch.save({"features.0.weight": torch.zeros(2**20)}, saved)
    path = tmp_path / "vgg16.pth"
    with zipfile.ZipFile(saved) as stored, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as small:
        for member in stored.infolist():
            small.writestr(member.filename, stored.read(member))
    assert path.stat().st_size < 2**16

    def unpack(*arguments, **settings):
        raise AssertionError("it was unpacked")

    monkeypatch.setattr(torch, "load", unpack)
    with pytest.raises(AdapterFileError, match=r"its \d.* bytes would unpack to 4,19\d,\d+"):
        convert_encoder(path, tmp_path / "mine")


def test_no_room_for_it_is_said(tmp_path, monkeypatch):
    torch.save({"features.0.weight": torch.zeros(8)}, tmp_path / "vgg16.pth")

    def full(*arguments, **settings):
        raise MemoryError

    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(AdapterFileError, match=r"cut off, damaged or .* \(MemoryError"):
        convert_encoder(tmp_path / "vgg16.pth", tmp_path / "mine")
