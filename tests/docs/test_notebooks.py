"""The notebooks run from top to bottom, in seconds, without a network; the site shows what they print."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from helpers.places import REPOSITORY

# What each must have printed: a pattern for each fact that its text builds on.
NOTEBOOKS = {
    "your_folder.py": [r"accuracy on people it never saw: (0\.[89]\d|1\.00)", r"^glad +0\.\d\d$"],
    "many_worlds.py": [r"painted-affect: arousal -?\d", r"the others answer as before: True", r"held once$"],
    "papers_tables.py": [r"^decision layer +72\.3% +89\.3%$", r"^moods \| accuracy .*decision layer", r"^report\.html"],
}


def test_every_notebook_has_what_it_must_print_here():
    assert {path.name for path in (REPOSITORY / "docs" / "notebooks").iterdir()} == set(NOTEBOOKS)


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_runs_as_a_program_and_prints_what_its_text_says(notebook, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(REPOSITORY / "docs" / "notebooks" / notebook)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for pattern in NOTEBOOKS[notebook]:
        assert re.search(pattern, done.stdout, flags=re.MULTILINE), (pattern, done.stdout)


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_its_links_lead_somewhere_and_its_text_is_in_cells(notebook):
    path = REPOSITORY / "docs" / "notebooks" / notebook
    text = path.read_text(encoding="utf-8")
    assert [link for link in re.findall(r"\]\(([^)#]+)", text) if not (path.parent / link).exists()] == []
    assert text.startswith("# ---\n# jupyter:\n")
    assert re.findall(r"^# # (.+)$", text, flags=re.MULTILINE)[0].startswith("Notebook: ")
    cells = re.split(r"^# %%", text, flags=re.MULTILINE)[1:]
    for cell in cells:
        lines = cell.splitlines()[1:]
        if cell.startswith(" [markdown]"):
            assert all(line.startswith("#") for line in lines if line), cell
