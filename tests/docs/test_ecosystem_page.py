"""The table of docs/howto/ecosystem.md: behind every row is a test."""

from __future__ import annotations

import re

import pytest

from helpers.places import REPOSITORY

PAGE = REPOSITORY / "docs" / "howto" / "ecosystem.md"
ROWS = re.findall(r"^\| (.+?) \| .+ \| `(tests/[\w/]+\.py)` \|$", PAGE.read_text("utf-8"), flags=re.MULTILINE)


def test_the_table_was_found():
    assert len(ROWS) >= 12


@pytest.mark.parametrize(("library", "test"), ROWS)
def test_a_row_names_a_test_that_uses_the_library(library, test):
    name = {"scikit-learn": "sklearn", "grad-cam": "pytorch_grad_cam", "TensorBoard": "tensorboard"}
    first = re.split(r"[:,]| ", library.strip("`"))[0].strip("`")
    text = (REPOSITORY / test).read_text("utf-8")
    assert name.get(first, first).lower() in text.lower()
