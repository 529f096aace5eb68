"""A short campaign at the doors that are quick, and a blind campaign would not see what is broken on purpose."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.mutations import DEVICE, VALUES, Rng, as_text, change_tree, copy_folder, endless_device, files_in, mutate
from helpers.places import BENCHMARKS, DOCS
from helpers.processes import environment

# What a campaign finds within some seconds depends on the machine: it is asked for, as by `make fuzz`.
campaign = pytest.mark.skipif("CIAO_FUZZ" not in os.environ, reason="a campaign; set CIAO_FUZZ=1, or run `make fuzz`")
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and reads /proc")


def run(module, *arguments):
    """`python -m fuzz.<module>`; what it printed is shown where the test fails."""
    command = [sys.executable, "-m", f"fuzz.{module}", *map(str, arguments)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=400, check=False)
    print(done.stdout, done.stderr[-4000:])
    assert done.returncode == 0


RESOURCES = {"memory", "slow", "hang"}  # which of them, and where, depends on who else uses the machine


def told_apart(findings, *names):
    """What findings are known by; those that cost too much by their door alone."""
    return {
        (one["door"], "resources") if one["what"] in RESOURCES else tuple(one[name] for name in names)
        for one in findings
    }


def published(name, *names):
    """Open findings are those in docs/reliability.md, which is written from the same file; nothing else is let pass."""
    return told_apart(json.loads((BENCHMARKS / "results" / f"{name}.json").read_text("utf-8"))["findings"], *names)


@pytest.fixture(scope="module")
def blamed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    run("bad", folder, folder / "found.json")
    found = json.loads((folder / "found.json").read_text("utf-8"))
    return found | {"elsewhere": {path.name: path.read_text() for path in (folder / "elsewhere").iterdir()}}


@campaign
def test_hostile_files_meet_nothing_at_any_quick_door_that_is_not_published(tmp_path):
    run("run", "--fast", "--inputs", 300, "--seconds", 35, "--out", tmp_path / "out.json", "--build", tmp_path / "kept")
    result = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert all(door["inputs"] >= 3 and door["loaded"] for door in result["doors"].values())
    names = ("door", "what", "error", "key")
    assert told_apart(result["findings"], *names) - published("fuzz", *names) == set()


@campaign
def test_killed_saves_lose_nothing_that_is_not_published(tmp_path):
    saves = ("adapter among other files", "records of a study", "plan of a study")
    run("faults", "--kills", 0, "--save", *saves, "--out", tmp_path / "out.json")
    result = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert {*result["saves"]} == {*saves}
    assert all(one["point"] == one["points"] > 5 for one in result["saves"].values())
    names = ("save", "way", "what")
    assert told_apart(result["findings"], *names) - published("faults", *names) == set()


def test_a_campaign_sees_everything_that_a_door_must_not_do(blamed):
    seen = {(finding["steps"][0].removeprefix("from "), finding["what"]) for finding in blamed["door"]["findings"]}
    assert seen >= {
        ("c-foreign", "foreign exception"),
        ("e-crashes", "crash"),
        ("f-runs", "reaches outside"),
        ("g-writes", "reaches outside"),
        ("h-draws", "changes"),
        ("i-says-much", "message too long"),
        ("j-changes-the-model", "changes"),
        ("k-fills-the-memory", "memory"),
        ("l-writes-through-a-link", "reaches outside"),
        ("m-removes-behind-a-link", "reaches outside"),
        ("n-replaces-behind-a-link", "reaches outside"),
        ("z-hangs", "hang"),
    }
    assert not {way for way, _ in seen} & {"a-loads", "b-refuses"}


def test_a_campaign_changes_no_file_outside_its_folder_whatever_links_lead_to(blamed):
    assert blamed["elsewhere"] == dict.fromkeys(("a.txt", "b.txt", "c.txt"), "of others")


def test_a_link_without_an_end_leads_to_a_device_of_the_campaign_where_it_may_make_one(tmp_path):
    (tmp_path / "input").mkdir()
    device = endless_device(tmp_path)
    made = {*tmp_path.iterdir()} - {tmp_path / "input"}
    assert made <= {Path(device)}
    if os.geteuid() == 0:
        assert device != DEVICE or not made
    for seed in range(400):
        folder = valid(tmp_path / "input" / str(seed))
        mutate(folder, Rng(seed), device=device)
        links = {os.readlink(path) for path in files_in(folder) if path.is_symlink()}
        assert device == DEVICE or DEVICE not in links
        if device in links:
            break
    else:
        raise AssertionError("no link without an end in 400 inputs")
    copy_folder(folder, tmp_path / "kept", DEVICE)
    assert DEVICE in {os.readlink(path) for path in files_in(tmp_path / "kept") if path.is_symlink()}


def test_a_campaign_sees_everything_that_a_save_must_not_do(blamed):
    killed = {finding["what"] for finding in blamed["save"] if finding["way"].startswith("killed")}
    assert killed >= {"leaves something over", "loses other people's files", "leaves neither the old nor the new"}
    refused = {finding["what"] for finding in blamed["save"] if finding["way"].startswith("refused")}
    assert refused >= {"a foreign exception", "leaves something over at once"}


def test_the_page_says_what_the_campaigns_found(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    script = importlib.import_module("make_reliability")
    written = (DOCS / "reliability.md").read_text(encoding="utf-8")
    assert script.wrap_page(script.page()) == written, "`python docs/make_reliability.py` writes it"


# -- changes -----------------------------------------------------------------------------------------------------------


def valid(folder):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"name": "mine", "sizes": [1, 2.5, None], "more": {"a": True}}))
    (folder / "table.csv").write_text("file_name,label\na.png,happy\nb.png,sad\n")
    return folder


def content(folder):
    return {p.name: p.read_bytes() for p in files_in(folder) if p.is_file() and p.stat().st_size < 10**6}


def test_the_same_seed_makes_the_same_input(tmp_path):
    made = []
    for number in range(2):
        folder = valid(tmp_path / str(number))
        steps = [mutate(folder, Rng(seed), lambda path: path.is_file()) for seed in range(5, 9)]
        made.append((steps, content(folder)))
    assert made[0] == made[1]
    assert made[0][1] != content(valid(tmp_path / "untouched"))


def test_a_change_in_a_tree_changes_no_value_that_others_get():
    before = repr(VALUES)
    for seed in range(300):
        tree = {"a": [1, {"b": "c"}], "d": {}}
        for _ in range(3):
            tree = change_tree(tree, Rng(seed))
        as_text(tree)
    assert repr(VALUES) == before


def test_a_copy_of_a_folder_reads_through_no_link_and_no_pipe(tmp_path):
    import os

    folder = valid(tmp_path / "one")
    os.mkfifo(folder / "pipe")
    (folder / "endless").symlink_to("/dev/zero")
    with (folder / "hole").open("wb") as file:
        file.truncate(10**11)
    copy_folder(folder, tmp_path / "two")
    assert (tmp_path / "two" / "pipe").is_fifo()
    assert os.readlink(tmp_path / "two" / "endless") == "/dev/zero"
    assert (tmp_path / "two" / "hole").stat().st_size == 10**11
