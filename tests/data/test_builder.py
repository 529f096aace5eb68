"""What the builders say of a picture's file before they take it, and when they build anew."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ciao_peft.data import dataset_builder, paint_face, tables
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


@pytest.mark.parametrize("name", ["affectnet", "ferplus", "imagefolder"])
def test_rows_of_a_table_are_built_anew_where_tables_are_read_in_another_way(name, tmp_path, monkeypatch):
    def name_of_rows():
        return dataset_builder(name)(data_dir=tmp_path / "faces", cache_dir=tmp_path / "cache").hash

    (tmp_path / "faces").mkdir()
    source = tmp_path / "changed.py"
    source.write_text(Path(tables.__file__).read_text() + "# changed\n")
    before = name_of_rows()
    assert name_of_rows() == before
    monkeypatch.setattr(tables, "__file__", str(source))
    assert name_of_rows() != before
