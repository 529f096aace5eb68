"""What the builders say of a picture's file before they take it."""

from __future__ import annotations

import subprocess

import pytest

from ciao_peft.data import paint_face
from ciao_peft.data.builder import image_problem


def test_a_program_in_postscript_is_no_picture_and_is_never_run(tmp_path, monkeypatch):
    def refuse(*command, **options):
        raise AssertionError(f"somebody starts {command}")

    for name in ("Popen", "run", "check_call", "check_output", "call"):
        monkeypatch.setattr(subprocess, name, refuse)
    paint_face(seed=0).convert("RGB").save(tmp_path / "face.png", format="EPS")
    assert image_problem(tmp_path / "face.png") == "not an image"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_a_whole_picture_has_no_problem(kind, tmp_path):
    paint_face(seed=0).convert("RGB").save(tmp_path / "face.png", format=kind)
    assert image_problem(tmp_path / "face.png") is None
