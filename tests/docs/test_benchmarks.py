"""The yardsticks of `make bench`: what they compare with is right, and the page says what was measured."""

from __future__ import annotations

import json
import logging
import sys
from importlib import import_module

import pytest
import torch

from ciao_peft.losses import supervised_contrastive_loss
from ciao_peft.study import METHODS, read_plan
from helpers.places import REPOSITORY


@pytest.fixture
def script(monkeypatch):
    """Imports a script of `benchmarks/` or `docs/`; the number of threads stays what it was."""
    for folder in ("benchmarks", "docs"):
        monkeypatch.syspath_prepend(str(REPOSITORY / folder))
    threads = torch.get_num_threads()
    yield import_module
    torch.set_num_threads(threads)
    own = ("bench_", "capacity_tables", "gpu", "make_perf", "make_scenes", "measuring", "pages", "speed_tables")
    for name in [name for name in sys.modules if name.startswith(own)]:
        del sys.modules[name]


@pytest.mark.filterwarnings("ignore:A single training sample each")  # of the few faces of a smoke run
@pytest.mark.parametrize("name", sorted(path.stem for path in (REPOSITORY / "benchmarks").glob("bench_*.py")))
def test_every_benchmark_runs_and_records_what_it_measured(script, name, tmp_path, capsys):
    before = logging.root.manager.disable
    try:
        script(name).main(["--smoke"] if name == "bench_reading" else ["--smoke", "--results", str(tmp_path)])
    finally:
        logging.disable(before)
    if name == "bench_reading":  # writes a page; in a smoke run it prints the row
        assert "| JAFFE, 256x256 TIFF | 213 |" in capsys.readouterr().out
        return
    subject = name.removeprefix("bench_")
    record = json.loads((tmp_path / f"{subject}.json").read_text())
    assert record["machine"]["threads"] == 1
    kept = REPOSITORY / "benchmarks" / "results" / f"{subject}.json"
    if subject.startswith("gpu_"):
        assert not [name for name, figure in record["figures"].items() if "error" in figure]
    if kept.exists() or not subject.startswith("gpu_"):  # what needs a GPU may never have been measured
        noted = {"note"}  # where the machine did other work
        assert {*record} - noted == {*json.loads(kept.read_text())} - noted


@pytest.mark.parametrize("name", ["bench_gpu_training", "bench_gpu_reading", "bench_gpu_features"])
def test_without_a_gpu_nothing_is_measured(script, name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    script(name).main(["--results", str(tmp_path)])
    assert "There is no NVIDIA GPU here, so nothing is measured" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_figures_of_a_gpu_are_written_one_by_one_and_one_that_fails_stops_no_other(script, tmp_path, capsys):
    def failing():
        raise RuntimeError("out of memory")

    gpu = script("gpu")
    figures = gpu.Figures("gpu_some", gpu.argparse.Namespace(results=tmp_path))
    for name, wall, kernel in (("slow", 3.0, 1.0), ("quick", 1.0, 0.5)):
        figures.add(name, lambda wall=wall, kernel=kernel: {"wall": wall, "kernel": kernel, "busy": kernel / wall})
        assert name in json.loads((tmp_path / "gpu_some.json").read_text())["figures"]
    figures.add("broken", failing)
    figures.ratio("slow / quick", "slow", "quick", 2.0)
    figures.ratio("slow / broken", "slow", "broken", 2.0)
    figures.share("quick", 0.5)
    written = json.loads((tmp_path / "gpu_some.json").read_text())["figures"]
    assert written["broken"]["error"] == "RuntimeError: out of memory"
    assert written["slow / quick"] == {"ratio": 3.0, "target": 2.0, "at_least": False, "met": False}
    assert written["busy: quick"]["met"] and "slow / broken" not in written
    assert "busy  33.3%" in capsys.readouterr().out


def test_a_smoke_run_does_not_replace_what_was_measured(script, capsys):
    with pytest.raises(SystemExit):
        script("bench_imports").main(["--smoke"])
    assert "give --results another folder" in capsys.readouterr().err


def test_figures_of_a_gpu_come_into_the_page_where_there_are_some(script, tmp_path, monkeypatch):
    tables = script("speed_tables")
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert tables.gpu() == ""
    figures = {
        "a step": {"wall": 0.002, "kernel": 0.001, "busy": 0.5},
        "a graph": {"error": "RuntimeError: no"},
        "a / b": {"ratio": 1.5, "target": 1.3, "at_least": False, "met": False},
    }
    record = {"machine": {"torch": "2.0"}, "gpu": "a GPU", "commit": "abc", "figures": figures}
    (tmp_path / "gpu_reading.json").write_text(json.dumps(record))
    page = tables.gpu()
    assert "`benchmarks/bench_gpu_reading.py` on a GPU, torch 2.0, at commit abc" in page
    for row in (
        "| a step | 2.000 | 1.000 | 50% |",
        "| a graph | RuntimeError: no |",
        "| a / b | 1.50 | at most 1.30 | **not",
    ):
        assert row in page, page


def test_the_page_shows_what_a_gpu_stored(script, tmp_path, monkeypatch):
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


PLANS = sorted((REPOSITORY / "benchmarks" / "studies").glob("*.yaml"))


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.stem)
def test_every_study_plan_can_be_read(plan):
    assert len(read_plan(plan).methods) > 1


def test_the_study_of_settings_changes_one_setting_at_a_time():
    plan = read_plan(REPOSITORY / "benchmarks" / "studies" / "settings.yaml")
    changed = [method for method in plan.methods if method.kind == "ablation"]
    assert [len(method.config) + len(method.arguments) for method in changed] == [1] * len(changed)
    assert {method.rates for method in changed} == {METHODS["decision layer + CIAO"].rates}  # as much search for each


def test_the_pages_say_what_was_measured(script):
    make = script("make_performance")
    page = (REPOSITORY / "docs" / "performance.md").read_text("utf-8")
    assert make.performance() in page
    assert (REPOSITORY / "docs" / "scaling.md").read_text("utf-8") == make.scaling()


def test_the_pages_on_scenes_say_what_was_measured(script):
    make = script("make_scenes")
    assert make.recall() in (REPOSITORY / "docs" / "howto" / "scenes.md").read_text("utf-8")
    assert make.live() in (REPOSITORY / "docs" / "performance.md").read_text("utf-8")


def test_the_page_keeps_what_others_wrote(script, tmp_path):
    make, page = script("make_performance"), tmp_path / "performance.md"
    page.write_text("# Performance\n\n## Reading\n")
    for text in ("once", "twice"):
        make.put_into(page, text)
        assert page.read_text() == f"# Performance\n\n{make.BEGIN}\n{text}\n{make.END}\n\n## Reading\n"
