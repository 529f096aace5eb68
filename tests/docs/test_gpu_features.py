"""The benchmark of storing on a GPU: it says that there is none, and the page shows what one measured."""

from __future__ import annotations

import json
import sys
from importlib import import_module

import pytest
import torch

from helpers.places import REPOSITORY


@pytest.fixture
def script(monkeypatch):
    for folder in ("benchmarks", "docs"):
        monkeypatch.syspath_prepend(str(REPOSITORY / folder))
    threads = torch.get_num_threads()
    yield import_module
    torch.set_num_threads(threads)
    for name in [name for name in sys.modules if name.startswith(("bench_", "gpu", "measuring", "speed_tables"))]:
        del sys.modules[name]


def test_without_a_gpu_nothing_is_measured(script, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    script("bench_gpu_features").main(["--results", str(tmp_path)])
    assert "There is no NVIDIA GPU here, so nothing is measured" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_the_page_shows_what_was_measured(script, tmp_path, monkeypatch):
    tables = script("speed_tables")
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert tables.storing_on_gpu() == ""
    script("bench_gpu_features").main(["--smoke", "--results", str(tmp_path)])
    figures = json.loads((tmp_path / "gpu_features.json").read_text())["figures"]
    text = tables.storing_on_gpu()
    for run in ("bare trunk", "stored in memory", "stored in a folder"):
        assert f"| tiny: {run} | {figures[f'tiny: {run}']['pictures/s']:,.0f} |" in text
    assert "- bare trunk / tiny: stored in memory: " in text and "(at least 0.7: " in text
    assert "| JPEG files, 1 workers: stored |" in text
