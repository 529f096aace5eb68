"""The yardsticks of `make bench`: what they compare with is right, and the page says what was measured."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from ciao_peft.losses import supervised_contrastive_loss

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch):
    """Imports a script of `benchmarks/` or `docs/`; the number of threads stays what it was."""
    for folder in ("benchmarks", "docs"):
        monkeypatch.syspath_prepend(str(REPOSITORY / folder))
    threads = torch.get_num_threads()
    yield import_module
    torch.set_num_threads(threads)
    for name in [name for name in sys.modules if name == "measuring" or name.startswith(("bench_", "make_perf"))]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["formula", "exact"])
def test_the_losses_compared_with_are_the_same_loss(script, name):
    z, labels = torch.randn(12, 5, dtype=torch.float64), torch.arange(12) % 3
    other = getattr(script("bench_losses"), name)(z, labels, 0.1)
    torch.testing.assert_close(other, supervised_contrastive_loss(z, labels, temperature=0.1))


def test_live_bytes_count_what_is_alive_at_once_and_views_not_twice(script):
    with script("measuring").LiveBytes() as live:
        one = torch.zeros(1000)
        view = one.view(10, 100)
        del one
        other = torch.zeros(500)
        del view, other
        torch.zeros(1200)
    assert live.peak == 4 * 1500


def test_cases_take_turns_in_an_order_that_changes(script):
    measuring, calls = script("measuring"), []
    cases = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = measuring.in_turns(cases, turns=2)
    assert "".join(calls) == "baabba"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_a_ratio_is_the_median_within_turns(script):
    seconds = {"slow": [2.0, 30.0, 8.0], "fast": [1.0, 10.0, 2.0]}
    assert script("measuring").ratio(seconds, "slow", "fast") == 3.0


def test_the_pages_say_what_was_measured(script):
    make = script("make_performance")
    page = (REPOSITORY / "docs" / "performance.md").read_text("utf-8")
    assert make.performance() in page
    assert (REPOSITORY / "docs" / "scaling.md").read_text("utf-8") == make.scaling()


def test_the_page_keeps_what_others_wrote(script, tmp_path):
    make, page = script("make_performance"), tmp_path / "performance.md"
    page.write_text("# Performance\n\n## Reading\n")
    for text in ("once", "twice"):
        make.put_into(page, text)
        assert page.read_text() == f"# Performance\n\n{make.BEGIN}\n{text}\n{make.END}\n\n## Reading\n"
