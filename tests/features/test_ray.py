"""What Ray's workers store is what one process stores, whatever becomes of the workers."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ciao_peft import CIAOModel, cache_features
from ciao_peft.engine import RayEngine
from ciao_peft.errors import ConfigError, DataError, LaunchError, MissingExtraError
from ciao_peft.features import Augmentation, ray_pass
from helpers.fakes import tiny_backbone
from helpers.features import SQUARE, pictures
from helpers.processes import run
from helpers.ray_here import Machines, machines, needs_ray
from helpers.read_by_ray import ENGINE, Noted


@pytest.fixture(scope="module")
def two() -> Iterator[Machines]:
    with machines(2) as started:
        yield started


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stored_alone(folder: Path, dataset=None, **settings) -> dict[str, bytes]:
    cache_features(tiny_backbone(), Noted(folder / "notes") if dataset is None else dataset, folder, **settings)
    return files_of(folder)


@needs_ray
def test_workers_store_the_bits_that_one_process_stores(two, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_pass, "_DIGESTS_PER_TASK", 16)
    noted = Noted(tmp_path / "notes")
    settings = {"batch_size": 4, "views": 2, "augment": Augmentation(brightness=0, contrast=0, saturation=0)}
    settings |= {"include_excitation": True, "dtype": "bfloat16"}
    cache_features(tiny_backbone(), noted, tmp_path / "shared", **settings, engine=ENGINE)
    assert files_of(tmp_path / "shared") == stored_alone(tmp_path / "alone", noted, **settings)
    assert set(noted.read().values()) == {3}  # once for the fingerprint, once for each view


@needs_ray
def test_workers_that_do_not_see_the_folder_send_what_they_computed(two, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_pass, "_sign_of", lambda folder, name: contextlib.nullcontext())
    noted = Noted(tmp_path / "notes", count=30)
    cache_features(tiny_backbone(), noted, tmp_path / "shared", batch_size=4, engine=ENGINE)
    assert files_of(tmp_path / "shared") == stored_alone(tmp_path / "alone", noted, batch_size=4)


@needs_ray
def test_workers_read_parquet_files_as_one_process_reads_their_table(two, tmp_path):
    rows = pictures(20)
    for number in range(2):
        rows.select(range(10 * number, 10 * number + 10)).to_parquet(tmp_path / f"{number}.parquet")
    model = CIAOModel(tiny_backbone(), preprocessing=SQUARE)
    url = f"file://{tmp_path}/*.parquet"
    stored = cache_features(model, url, tmp_path / "shared", batch_size=4, engine=ENGINE)
    expected = cache_features(model, rows, tmp_path / "alone", batch_size=4)
    assert files_of(tmp_path / "shared")["features.0.bin"] == files_of(tmp_path / "alone")["features.0.bin"]
    assert stored.labels.tolist() == expected.labels.tolist() and stored.label_names == ["a", "b"]


@needs_ray
def test_a_machine_that_is_lost_costs_what_it_had_at_hand_and_changes_no_bit(two, tmp_path, monkeypatch):
    results, seen = ray_pass._results, []

    def losing(*given, **named):
        for result in results(*given, **named):
            seen.append(result)
            if len(seen) == 3:
                two.lose_one()
            yield result

    monkeypatch.setattr(ray_pass, "_results", losing)
    noted = Noted(tmp_path / "notes", count=96, seconds=0.05)
    try:
        cache_features(tiny_backbone(), noted, tmp_path / "shared", batch_size=4, engine=ENGINE)
    finally:
        two.add_one()
    assert len(seen) == 12
    assert files_of(tmp_path / "shared") == stored_alone(tmp_path / "alone", noted, batch_size=4)
    twice = [row for row, times in noted.read().items() if times > 1]
    assert len(noted.read()) == 96 and len(twice) <= 2 * 8  # the block at work, and one whose report was lost


@needs_ray
def test_a_process_that_is_killed_while_workers_store_is_gone_on_from(two, tmp_path):
    notes = tmp_path / "notes"
    killed = run("read_by_ray", tmp_path / "shared", notes, 4, RAY_ADDRESS=two.cluster.address)
    assert killed.returncode == -signal.SIGKILL
    before = Noted(notes).read()
    assert len(before) >= 32  # workers may have read what was not stored yet
    again = Noted(notes)
    again.here = -1
    cache_features(tiny_backbone(), again, tmp_path / "shared", batch_size=4)
    assert files_of(tmp_path / "shared") == stored_alone(tmp_path / "alone", batch_size=4)


@needs_ray
def test_a_picture_that_cannot_be_read_is_told_as_one_process_tells_it_and_the_rest_is_kept(two, tmp_path):
    noted = Noted(tmp_path / "notes", broken=30)
    with pytest.raises(DataError, match=r"^The picture in row 30 is broken\.$"):
        cache_features(tiny_backbone(), noted, tmp_path / "shared", batch_size=4, engine=ENGINE)
    noted.broken = -1
    cache_features(tiny_backbone(), noted, tmp_path / "shared", batch_size=4)
    assert files_of(tmp_path / "shared") == stored_alone(tmp_path / "alone", batch_size=4)


@needs_ray
def test_a_picture_that_kills_who_opens_it_ends_the_call_and_says_where_it_lies(two, tmp_path):
    noted = Noted(tmp_path / "notes", count=16, deadly=9)
    engine = RayEngine(workers=1, rows_per_task=8, retries=0)
    with pytest.raises(LaunchError, match=r"rows from 8 to 15 was killed, 1 times in all.*`batch_size`"):
        cache_features(tiny_backbone(), noted, tmp_path / "shared", batch_size=4, engine=engine)


def test_without_ray_the_error_names_the_extra(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "ray" else find(name, *more))
    with pytest.raises(MissingExtraError, match=r"Storing features with `engine='ray'` needs ray: pip install 'ciao_"):
        cache_features(tiny_backbone(), [{"pixel_values": torch.zeros(3, 16, 16)}], engine="ray")


@pytest.mark.parametrize(
    ("engine", "message"),
    [("spark", "`engine` must be one of 'ray'; got 'spark'"), (4, "`engine` must be one of 'ray'; got 4")],
)
def test_an_engine_that_nobody_knows_is_refused(engine, message):
    with pytest.raises(ConfigError, match=message):
        cache_features(tiny_backbone(), [{"pixel_values": torch.zeros(3, 16, 16)}], engine=engine)


def test_settings_of_ray_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r"`workers` of RayEngine must be a whole number"):
        RayEngine(workers=0)


@needs_ray
def test_a_stream_is_refused_and_what_to_give_instead_is_said(two):
    stream = pictures().to_iterable_dataset()
    model = CIAOModel(tiny_backbone(), preprocessing=SQUARE)
    with pytest.raises(DataError, match="is a stream, which Ray's workers cannot read from the middle"):
        cache_features(model, stream, engine=RayEngine())
