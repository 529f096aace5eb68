"""The worlds of a page: shared, counted, and only those that a visitor may ask for."""

from __future__ import annotations

import shutil
import threading

import pytest
import torch

from ciao_peft import CIAOConfig, get_ciao_model, list_adapters, load_encoder
from ciao_peft.demo import WorldPool
from ciao_peft.errors import AdapterNotFoundError, BackboneMismatchError, ConfigError, HubError, InputError
from ciao_peft.hub import bundled_folder
from helpers.fakes import wrap

OWN = ["ciao/painted-affect"]


@pytest.fixture(scope="module")
def shared_pool():
    return WorldPool(OWN)


def copied(folder, name="ciao/painted-eight"):
    shutil.copytree(bundled_folder(name), folder)
    return folder


def test_worlds_on_one_encoder_share_the_model():
    pool = WorldPool(["ciao/painted-affect", "ciao/painted-eight", "ciao/painted-affect"])
    assert [world.key for world in pool.worlds] == ["ciao/painted-affect", "ciao/painted-eight"]
    assert len({id(world.model) for world in pool.worlds}) == 1


def test_worlds_on_two_encoders_are_on_two_models(tmp_path):
    config = CIAOConfig(problem_type="regression", num_labels=1)
    folder = get_ciao_model(load_encoder("small-face"), config).save_pretrained(tmp_path / "light")
    pool = WorldPool([folder, *OWN])
    assert [world.title for world in pool.worlds] == ["light", "painted-affect"]
    assert pool.worlds[0].model is not pool.worlds[1].model


def test_a_world_goes_when_the_last_visitor_lets_go_of_it(shared_pool):
    first, second = shared_pool.add("ciao/painted-eight"), shared_pool.add("ciao/painted-eight")
    assert first is second
    shared_pool.release(first.key)
    assert first in shared_pool.worlds
    shared_pool.release(first.key)
    assert first not in shared_pool.worlds
    assert first.adapter_name not in first.model.adapters


def test_the_owners_worlds_stay(shared_pool):
    shared_pool.release(OWN[0])
    shared_pool.add(OWN[0])
    shared_pool.release(OWN[0])
    shared_pool.release(OWN[0])
    assert [world.key for world in shared_pool.worlds] == OWN


def test_a_world_that_is_read_in_stays_until_it_was_read(shared_pool):
    world = shared_pool.add("ciao/painted-eight")
    with shared_pool.held([world.key]):
        shared_pool.release(world.key)
        assert world.model.read(torch.rand(1, *world.model.input_size), adapter_names=[world.adapter_name])
    assert world not in shared_pool.worlds


def test_a_world_that_is_not_there_cannot_be_held(shared_pool):
    with pytest.raises(AdapterNotFoundError, match="No adapter named 'user/fer'"), shared_pool.held(["user/fer"]):
        pass


def test_visitors_who_add_and_remove_at_once_leave_nothing_behind(shared_pool):
    names = [name for name in list_adapters() if name not in OWN]
    problems = []

    def visit(number):
        try:
            for turn in range(3):
                world = shared_pool.add(names[(number + turn) % len(names)])
                shared_pool.release(world.key)
        except Exception as problem:  # told by the main thread
            problems.append(problem)

    visitors = [threading.Thread(target=visit, args=(number,)) for number in range(4)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    assert not problems
    assert [world.key for world in shared_pool.worlds] == OWN
    assert len(shared_pool.worlds[0].model.adapters) == 1


@pytest.mark.parametrize("source", ["", "   ", "/etc", "../x", ".", "fer", "a" * 1000, "a\0b", "file:///etc", None, 3])
def test_what_is_no_name_is_refused(shared_pool, source):
    with pytest.raises(InputError):
        shared_pool.add(source)


def test_a_folder_is_no_name_even_where_it_looks_like_one(shared_pool, tmp_path, monkeypatch):
    copied(tmp_path / "user" / "eight")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HubError):  # asks the Hub, which is out of reach here
        shared_pool.add("user/eight")
    with pytest.raises(InputError, match="is no adapter that this page can add"):
        shared_pool.add(str(tmp_path / "user" / "eight"))


def test_folders_are_taken_from_inside_the_one_that_the_owner_opened(tmp_path):
    for place in ("open/mine", "closed"):
        copied(tmp_path / place)
    (tmp_path / "open" / "link").symlink_to(tmp_path / "closed")
    pool = WorldPool(OWN, folders=tmp_path / "open")
    world = pool.add("mine")
    assert (world.key, world.title) == ("mine", "mine")
    assert pool.add(str(tmp_path / "open" / "mine")) is world
    for outside in ("../closed", "link", str(tmp_path / "closed"), "mine/../../closed"):
        with pytest.raises(InputError, match="is no adapter that this page can add"):
            pool.add(outside)


def test_a_name_on_the_hub_is_asked_for_without_the_owners_token_and_cache(shared_pool, monkeypatch, tmp_path):
    asked = {}

    def download(name, files, **how):
        asked.update(how, name=name, most=max(file.max_bytes for file in files))
        from ciao_peft.hub import Snapshot

        return Snapshot(copied(tmp_path / "fetched"))

    monkeypatch.setattr("ciao_peft.demo.worlds.download", download)
    world = shared_pool.add(" user/eight ")
    assert (world.key, asked["name"], asked["token"]) == ("user/eight", "user/eight", False)
    assert "ciao-demo-" in asked["cache_dir"]
    assert asked["most"] == 64 * 2**20
    shared_pool.release(world.key)


def test_an_adapter_on_a_foreign_encoder_is_refused_and_nothing_changes(tmp_path):
    wrap().save_pretrained(tmp_path / "foreign")
    pool = WorldPool(OWN, folders=tmp_path)
    with pytest.raises(BackboneMismatchError, match="sits on the encoder"):
        pool.add("foreign")
    assert [world.key for world in pool.worlds] == OWN
    assert len(pool.worlds[0].model.adapters) == 1


def test_an_adapter_that_reads_clips_is_refused_and_nothing_changes(tmp_path):
    config = CIAOConfig(problem_type="regression", num_labels=1, frames=3, recurrent_size=4)
    folder = get_ciao_model(load_encoder("small-face"), config).save_pretrained(tmp_path / "clips")
    with pytest.raises(InputError, match="reads clips of 3 frames"):
        WorldPool([folder])
    pool = WorldPool(OWN, folders=tmp_path)
    with pytest.raises(InputError, match="reads clips of 3 frames"):
        pool.add("clips")
    assert [world.key for world in pool.worlds] == OWN


def test_a_page_holds_so_many_worlds_and_no_more():
    pool = WorldPool(OWN, most=2)
    world = pool.add("ciao/painted-eight")
    with pytest.raises(InputError, match="holds 2 worlds already"):
        pool.add("ciao/painted-seven")
    assert pool.add("ciao/painted-eight") is world  # which is here already


def test_a_page_without_worlds_is_refused():
    with pytest.raises(InputError, match="needs a world"):
        WorldPool([])


def test_a_setting_that_cannot_work_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="`most`"):
        WorldPool(OWN, most=0)
    with pytest.raises(InputError, match="there is none at"):
        WorldPool(OWN, folders=tmp_path / "missing")
