"""Processes that were started apart and store features in one folder: each waits for the other and uses its work."""

from __future__ import annotations

import os
import subprocess
import threading
import time

import pytest
import torch
from torch._C._distributed_c10d import HashStore

from ciao_peft import cache_features
from ciao_peft.errors import ConfigError, FeatureCacheError, LaunchError
from ciao_peft.features import FeatureLayout, peers
from ciao_peft.features.processes import waiting_is_said
from ciao_peft.features.store import FeatureFiles
from helpers.fakes import tiny_backbone
from helpers.features import counting
from helpers.killed import faces
from helpers.processes import command_of, environment

SECONDS = 60

STORED = ["checksums.bin", "features.0.bin", "index.json"]


def until(happened, what):
    end = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < end, what
        time.sleep(0.01)


@pytest.fixture
def other(tmp_path):
    """Another process that has stored 12 of the 22 rows and goes on when `go on` is there."""
    (tmp_path / "told").mkdir()
    with subprocess.Popen(command_of("storing", tmp_path / "stored", tmp_path / "told"), env=environment()) as process:
        try:
            until((tmp_path / "told" / "half way").exists, "the other process did not come to store")
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(("end", "rows_left"), [("goes on", []), ("is killed", [4, 4, 2])])
def test_who_stores_is_waited_for_and_its_rows_are_used(end, rows_left, other, tmp_path, monkeypatch, capsys):
    expected = cache_features(tiny_backbone(), faces(), batch_size=4).tensors[0]
    rows, found = counting(monkeypatch), []

    def store():
        found.append(cache_features(tiny_backbone(), faces(), tmp_path / "stored", batch_size=4))

    waits = threading.Thread(target=store)
    waits.start()
    said = ""

    def is_said():
        nonlocal said
        said += capsys.readouterr().err
        return f"Another process stores features in '{tmp_path / 'stored'}'; waiting for it." in said

    until(is_said, "nothing was said")
    assert waits.is_alive() and not rows
    if end == "goes on":
        (tmp_path / "told" / "go on").touch()
    else:
        other.kill()
    waits.join(SECONDS)
    assert rows == rows_left
    assert torch.equal(found[0].tensors[0], expected)
    assert sorted(path.name for path in (tmp_path / "stored").iterdir()) == STORED
    if end == "goes on":
        assert other.wait(SECONDS) == 0


def test_nothing_is_written_and_nobody_waited_for_where_everything_is_stored(tmp_path):
    stored = cache_features(tiny_backbone(), faces(), tmp_path / "stored")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "stored").rename(tmp_path / "elsewhere" / "stored")
    again = cache_features(tiny_backbone(), faces(), tmp_path / "elsewhere" / "stored")
    assert again.key == stored.key
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["stored"]


def test_two_that_write_the_index_at_once_do_not_take_it_from_each_other(tmp_path, monkeypatch):
    key = {"num_samples": 3, "excitation": False}
    one = FeatureFiles(tmp_path / "stored", key)
    one.create(FeatureLayout(((2,),), "float32", 3))
    two, synced, sync = FeatureFiles(tmp_path / "stored", key), [], os.fsync

    def and_the_other_writes(number):
        sync(number)
        synced.append(number)
        if len(synced) == 1:
            two.mark_failed("it could not read a picture")

    monkeypatch.setattr(os, "fsync", and_the_other_writes)
    one.mark_complete()
    assert len(synced) > 1
    assert FeatureFiles(tmp_path / "stored", key).complete


def test_what_a_kill_left_of_an_index_is_no_other_thing_and_goes_with_the_next(tmp_path):
    (tmp_path / "stored").mkdir()
    for name in (".index.json.tmp", ".index.json.0f.tmp"):
        (tmp_path / "stored" / name).write_text("{")
    cache_features(tiny_backbone(), faces(), tmp_path / "stored")
    assert sorted(path.name for path in (tmp_path / "stored").iterdir()) == STORED


def test_a_place_where_nothing_can_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        FeatureCacheError, match=r"'.*\.stored\.lock' cannot be written: .*Store the features elsewhere"
    ):
        cache_features(tiny_backbone(), faces(), tmp_path / "file" / "stored")


def test_a_long_wait_for_other_processes_is_said_and_a_short_one_is_not(capfd):
    with waiting_is_said("process 1 of 2", seconds=0.05):
        time.sleep(0.3)
    assert "process 1 of 2 has waited 0.05 s for the others" in capfd.readouterr().err
    with waiting_is_said("process 1 of 2", seconds=0.2):
        pass
    time.sleep(0.3)
    assert capfd.readouterr().err == ""


class Clock:
    """Time that passes only while somebody sleeps; `meanwhile` is what others do then."""

    def __init__(self, meanwhile=lambda now: None):
        self.now, self.meanwhile = 1000.0, meanwhile

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += max(seconds, 0.1)
        self.meanwhile(self.now - 1000)


@pytest.fixture
def two_in_one_group(monkeypatch):
    """Two processes as they see each other."""
    store = HashStore()
    monkeypatch.setattr(peers, "_store", lambda: store)
    monkeypatch.setattr(peers, "_meetings", 0)
    return peers.Peers(0, 2), peers.Peers(1, 2), store


def test_a_process_that_works_for_long_and_says_so_is_waited_for(two_in_one_group, monkeypatch):
    first, second, store = two_in_one_group

    def works(seconds):
        second.sign() if seconds < 500 else store.set("ciao_peft/here/1", "1")

    clock = Clock(works)
    monkeypatch.setattr(peers, "time", clock)
    first.meet()
    assert 500 <= clock.now - 1000 < 502


def test_a_process_that_stops_to_work_is_named_within_a_minute(two_in_one_group, monkeypatch):
    first, second, _ = two_in_one_group
    clock = Clock(lambda seconds: second.sign() if seconds < 100 else None)
    monkeypatch.setattr(peers, "time", clock)
    said = r"^Process 0 of 2 waits for process 1: ended, or without a sign of work for 60 s \(CIAO_DDP_TIMEOUT\)"
    with pytest.raises(LaunchError, match=said):
        first.meet()
    assert 158 < clock.now - 1000 < 162


def test_work_that_cannot_speak_gives_signs_all_the_same(two_in_one_group, monkeypatch):
    monkeypatch.setattr(peers, "_SECONDS_BETWEEN_SIGNS", 0.01)
    _, second, store = two_in_one_group
    with second.signing():
        until(lambda: store.check(["ciao_peft/sign/1"]), "no sign was given")


def test_who_gave_up_as_well_is_not_named(two_in_one_group, monkeypatch):
    monkeypatch.setattr(peers, "_SECONDS_TO_GIVE_UP", 0.3)
    assert peers.those_that_are_silent(0, 3) == [1, 2]
    assert peers.those_that_are_silent(1, 3) == [2]


def test_a_number_of_seconds_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("CIAO_DDP_TIMEOUT", "soon")
    with pytest.raises(ConfigError, match=r"CIAO_DDP_TIMEOUT must be a number of seconds, 1 or more; got 'soon'"):
        peers.seconds_to_answer()
