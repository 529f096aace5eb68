"""The page on deploying shows what its benchmark measured."""

from __future__ import annotations

import importlib
import sys

import pytest

from helpers.places import REPOSITORY


@pytest.fixture
def make(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "docs"))
    yield importlib.import_module("make_deploy")
    for name in ("make_deploy", "pages", "speed_tables"):
        sys.modules.pop(name, None)


def test_the_page_shows_what_was_measured(make):
    assert make.PAGE.read_text("utf-8") == make.page(), "`python docs/make_deploy.py` writes it"


def test_a_goal_that_is_missed_is_said(make):
    case = {"ratio": {"trunk float32 / int8": 1.5}, "difference": 1e-4, "swap": {"loaded_ms": 6.0, "from_file_ms": 9.0}}
    said = make.verdict({"VGG16, 96x96": case})
    assert said.count("**not met**") == 3
    assert "9.0 ms for VGG16, 96x96, which is above 5 ms" in said
