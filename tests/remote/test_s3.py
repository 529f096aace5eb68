"""Adapters and encoders in an object store, through s3fs, against moto's server: there and back, and with faults."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch

from ciao_peft import AutoCIAOModel, CIAOModel, load_encoder
from ciao_peft.demo.worlds import WorldPool
from ciao_peft.encoders import save_encoder
from ciao_peft.errors import (
    AdapterFileError,
    BackboneError,
    ConfigError,
    InputError,
    RemoteAccessError,
    RemoteConflictError,
    RemoteFileError,
    RemoteNotFoundError,
    RemoteServerError,
)
from ciao_peft.hub import downloading, read_adapter
from ciao_peft.remote import RepoFile, fetch, parse_url
from helpers import processes
from helpers.fakes import tiny_backbone
from helpers.local_stores import Fault
from helpers.published import (
    CARD,
    CLASSES,
    CONFIG,
    PIXELS,
    WEIGHTS,
    assert_unchanged,
    flip,
    fresh_model,
    state_of,
    trained_model,
)

URL = "s3://worlds/faces"


@pytest.fixture
def saved(s3):
    """An adapter at `URL`, saved from elsewhere: nothing of it is in the cache."""
    model = trained_model()
    folder = model.save_pretrained(URL)
    for path in [*folder.iterdir()]:
        path.unlink()
    folder.rmdir()
    for path in folder.parent.glob("latest-*"):
        path.unlink()
    s3.faulty.clear()
    return model


def keys(s3):
    client = s3.client()
    found = sorted(entry["Key"] for entry in client.list_objects_v2(Bucket="worlds").get("Contents", []))
    client.close()
    return found


def change(s3, name, content, bucket="worlds"):
    client = s3.client()
    client.put_object(Bucket=bucket, Key=f"faces/{name}", Body=content)
    client.close()


def content(s3, name):
    client = s3.client()
    try:
        return client.get_object(Bucket="worlds", Key=f"faces/{name}")["Body"].read()
    finally:
        client.close()


# -- there and back ----------------------------------------------------------------------------------------------------


def test_what_was_saved_is_loaded_bit_for_bit(s3, saved):
    loaded = CIAOModel.from_pretrained(tiny_backbone(), URL).eval()
    assert loaded.active_adapter == "faces"
    assert torch.equal(loaded(PIXELS).logits, saved(PIXELS).logits)
    other = fresh_model()
    assert other.load_adapter("s3://worlds", "read", subfolder="faces") == "read"
    assert torch.equal(other.read(PIXELS)["read"], saved(PIXELS).logits)


def test_the_weights_are_put_first_and_the_config_last(s3):
    trained_model().save_pretrained(URL)
    put = [path.rpartition("/")[2] for method, path, _ in s3.faulty.requests if method == "PUT"]
    assert put[0] == WEIGHTS
    assert put[-1] == CONFIG
    assert keys(s3) == sorted(f"faces/{name}" for name in (CARD, CONFIG, WEIGHTS, "config.json"))


def test_what_was_saved_is_in_the_cache_and_what_is_cached_is_not_fetched(s3):
    folder = trained_model().save_pretrained(URL)
    assert read_adapter(URL)[1].folder == folder
    assert not s3.faulty.asked("GET", WEIGHTS)


def test_an_encoder_comes_back_bit_for_bit_and_serves_an_adapter(s3):
    encoder = load_encoder("small-face")
    save_encoder(encoder, "s3://worlds/encoder")
    loaded = load_encoder("s3://worlds/encoder")
    assert loaded.name == "s3://worlds/encoder"
    assert all(torch.equal(value, encoder.state_dict()[key]) for key, value in loaded.state_dict().items())
    assert len(loaded.revision) == 16


def test_settings_given_go_before_the_environment(s3, saved, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    options = {"endpoint_url": s3.url, "key": "ann", "secret": "key"}
    assert fresh_model().load_adapter(URL, storage_options=options) == "faces"


def test_a_card_keeps_what_people_wrote_and_what_the_new_adapter_lacks_goes(s3, saved):
    change(s3, CARD, content(s3, CARD) + b"\n## Mine\n\nKeep this.\n")
    change(s3, "preprocessor_config.json", b"{}")
    change(s3, "notes.txt", b"mine")
    trained_model().save_pretrained(URL)
    assert b"Keep this." in content(s3, CARD)
    assert keys(s3) == sorted(f"faces/{name}" for name in (CARD, CONFIG, WEIGHTS, "config.json", "notes.txt"))
    fresh_model().load_adapter(URL)


# -- what is not done --------------------------------------------------------------------------------------------------


def test_a_folder_among_many_keys_costs_no_more(s3, saved):
    client = s3.client()
    for number in range(60):
        client.put_object(Bucket="worlds", Key=f"faces/part-{number:06}", Body=b"")
    client.close()
    s3.faulty.clear()
    fresh_model().load_adapter(URL)
    listings = [path for _, path, _ in s3.faulty.requests if "list-type" in path]
    assert all("max-keys=1&" in path for path in listings)
    assert len(s3.faulty.requests) < 20


def test_a_file_that_is_too_large_is_refused_before_a_byte_of_it_comes(s3, saved):
    files = [RepoFile(CONFIG, 10_000), RepoFile(WEIGHTS, 100)]
    with pytest.raises(RemoteFileError, match=r"at most 100 are fetched"):
        fetch(parse_url(URL), files)
    assert not s3.faulty.asked("GET", WEIGHTS)


def test_an_address_that_an_adapter_names_is_not_called_on(s3, tmp_path):
    save_encoder(load_encoder("small-face"), "s3://worlds/encoder")
    model = CIAOModel(load_encoder("s3://worlds/encoder"))
    model.add_adapter("faces", CLASSES)
    model.set_adapter("faces")
    folder = model.save_pretrained(tmp_path / "faces")
    s3.faulty.clear()
    with pytest.raises(BackboneError, match=r"no address is called on .* `CIAOModel.from_pretrained\(load_encoder\("):
        AutoCIAOModel.from_pretrained(folder)
    assert not s3.faulty.requests


def test_a_folder_here_that_a_remote_adapter_names_is_not_read(s3, tmp_path):
    mine = save_encoder(load_encoder("small-face"), tmp_path / "encoder")
    model = CIAOModel(load_encoder(mine))
    model.add_adapter("faces", CLASSES)
    model.set_adapter("faces")
    model.save_pretrained(URL)
    with pytest.raises(BackboneError, match="Make that backbone yourself"):
        AutoCIAOModel.from_pretrained(URL)


def test_a_visitor_of_the_page_opens_no_url(s3, saved):
    pool = WorldPool(["ciao/painted-affect"])
    with pytest.raises(InputError, match="is no adapter that this page can add"):
        pool.add(URL)
    assert not s3.faulty.requests


def test_a_url_takes_no_revision_and_a_folder_no_storage_options(s3, saved, tmp_path):
    with pytest.raises(ConfigError, match="A URL takes no `revision`"):
        fresh_model().load_adapter(URL, revision="main")
    with pytest.raises(ConfigError, match="`storage_options` are for URLs"):
        fresh_model().load_adapter(tmp_path, storage_options={"key": "ann"})


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET", WEIGHTS, status=500, times=2),
        Fault("GET", WEIGHTS, status=503, times=1),
        Fault("HEAD", CONFIG, status=500, times=2),
        Fault("GET", WEIGHTS, cut=100, times=1),
        Fault("GET", CONFIG, cut=0, times=1),
    ],
    ids=lambda fault: f"{fault.method}-{fault.status or 'cut'}",
)
def test_a_fault_that_passes_is_not_noticed(s3, saved, fault):
    s3.faulty.faults.append(fault)
    loaded = CIAOModel.from_pretrained(tiny_backbone(), URL).eval()
    assert torch.equal(loaded(PIXELS).logits, saved(PIXELS).logits)
    assert fault.times == 0


@pytest.mark.parametrize("fault", [{"status": 500}, {"cut": 50}], ids=["500", "cut"])
def test_a_fault_that_stays_is_told_and_leaves_model_and_cache_as_they_were(s3, saved, cache, fault):
    s3.faulty.faults.append(Fault("GET", WEIGHTS, **fault))
    model = fresh_model()
    before = state_of(model)
    with pytest.raises(RemoteServerError, match=WEIGHTS):
        model.load_adapter(URL)
    assert_unchanged(model, before)
    assert [path for path in cache.glob("*/[0-9a-f]*") if path.is_dir()] == []
    s3.faulty.clear()
    assert model.load_adapter(URL) == "faces"


@pytest.mark.parametrize("fault", [{"stall": 3.0}, {"drip": 0.05}], ids=["silent", "drop by drop"])
def test_a_server_that_is_too_slow_is_not_waited_for(s3, saved, monkeypatch, fault):
    monkeypatch.setenv("CIAO_STORE_TIMEOUT", "0.3")
    s3.faulty.faults.append(Fault("GET", WEIGHTS, **fault))
    with pytest.raises(RemoteServerError, match=r"has not answered within 0\.3 s"):
        fresh_model().load_adapter(URL)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_told_as_one(s3, saved, status):
    s3.faulty.faults.append(Fault("HEAD", CONFIG, status=status))
    with pytest.raises(RemoteAccessError, match="Give credentials"):
        fresh_model().load_adapter(URL)


def test_what_is_missing_is_named(s3, saved):
    with pytest.raises(RemoteNotFoundError, match=r"'s3://worlds/other' has no 'adapter_config.json'"):
        fresh_model().load_adapter("s3://worlds/other")
    client = s3.client()
    client.delete_object(Bucket="worlds", Key=f"faces/{WEIGHTS}")
    client.close()
    with pytest.raises(RemoteNotFoundError, match=rf"has no '{WEIGHTS}'. It has '{CONFIG}'"):
        fresh_model().load_adapter(URL)


def test_a_killed_download_goes_on_where_it_stopped_and_is_never_taken_for_whole(s3, saved, cache):
    files = [RepoFile(CONFIG, 10_000), RepoFile("big.bin", 2**30)]
    change(s3, "big.bin", bytes(9 * 2**20))
    fault = Fault("GET", "big.bin", status=500, after=1)  # the first of three pieces comes
    s3.faulty.faults.append(fault)
    with pytest.raises(RemoteServerError):
        fetch(parse_url(URL), files)
    [part] = cache.glob("*/.*.part/big.bin")
    assert part.stat().st_size == 4 * 2**20
    with pytest.raises(RemoteNotFoundError, match="is not in the cache"):
        fetch(parse_url(URL), files, local_files_only=True)
    s3.faulty.clear()
    folder = fetch(parse_url(URL), files)
    assert (folder / "big.bin").stat().st_size == 9 * 2**20
    assert s3.faulty.asked("GET", "big.bin") == ["bytes=4194304-8388607", "bytes=8388608-9437183"]
    assert fetch(parse_url(URL), files, local_files_only=True) == folder


# -- others who write --------------------------------------------------------------------------------------------------


def test_a_file_that_changes_while_it_is_read_is_noticed(s3, saved):
    files = [RepoFile("one.bin", 2**30), RepoFile("two.bin", 2**30)]
    change(s3, "one.bin", b"old" * 2**21)
    change(s3, "two.bin", b"old")

    def write():
        s3.faulty.hooks.clear()
        change(s3, "one.bin", b"new" * 2**21)
        change(s3, "two.bin", b"new")

    s3.faulty.hooks.append(("GET", "two.bin", write))  # the first file is here, the second is asked for
    folder = fetch(parse_url(URL), files)
    assert {(folder / name).read_bytes()[:3] for name in ("one.bin", "two.bin")} == {b"new"}


def test_a_file_that_changes_each_time_is_told(s3, saved):
    numbers = iter(range(100))
    s3.faulty.hooks.append(("GET", "one.bin", lambda: change(s3, "one.bin", bytes([next(numbers)]))))
    change(s3, "one.bin", b"0")
    with pytest.raises(RemoteConflictError, match="changed each of the 3 times"):
        fetch(parse_url(URL), [RepoFile("one.bin", 100)])


def half_saved(s3):
    """Puts the weights of another adapter at `URL`; returns it, and a call that puts its config."""
    other = trained_model()
    with torch.no_grad():
        for parameter in other.adapters["faces"].parameters():
            parameter.add_(0.125)
    other.save_pretrained("s3://worlds/next")
    client = s3.client()
    new = {name: client.get_object(Bucket="worlds", Key=f"next/{name}")["Body"].read() for name in (WEIGHTS, CONFIG)}
    client.close()
    change(s3, WEIGHTS, new[WEIGHTS])
    s3.faulty.clear()
    return other, lambda: change(s3, CONFIG, new[CONFIG])


def test_a_reader_that_comes_between_the_weights_and_the_config_waits_and_reads_again(s3, saved, monkeypatch):
    other, finish = half_saved(s3)
    monkeypatch.setattr(downloading, "time", SimpleNamespace(sleep=lambda seconds: finish()))
    loaded = CIAOModel.from_pretrained(tiny_backbone(), URL).eval()
    assert torch.equal(loaded(PIXELS).logits, other(PIXELS).logits)


@pytest.mark.parametrize("heads", [1, 2])
def test_a_save_that_ends_right_behind_the_second_reading_is_not_missed(s3, saved, monkeypatch, heads):
    other, finish = half_saved(s3)
    after: list[str] = []

    def look():
        if len(s3.faulty.asked("GET", CONFIG)) == 2:  # both readings have what fits nothing
            after.append(WEIGHTS)
            if len(after) == heads:
                finish()

    s3.faulty.hooks.append(("HEAD", WEIGHTS, look))
    monkeypatch.setattr(downloading, "time", SimpleNamespace(sleep=lambda seconds: finish()))
    loaded = CIAOModel.from_pretrained(tiny_backbone(), URL).eval()
    assert torch.equal(loaded(PIXELS).logits, other(PIXELS).logits)


def test_a_save_that_ends_in_the_middle_is_noticed_and_mended_by_the_next(s3, saved):
    s3.faulty.faults.append(Fault("PUT", CONFIG, status=500))
    other = trained_model()
    with torch.no_grad():
        other.adapters["faces"].state_dict()["inhibition.0.raw_decay"].add_(1)
    with pytest.raises(RemoteServerError, match=CONFIG):
        other.save_pretrained(URL)
    s3.faulty.clear()
    model = fresh_model()
    before = state_of(model)
    with pytest.raises(AdapterFileError):
        model.load_adapter(URL)
    assert_unchanged(model, before)
    other.save_pretrained(URL)
    model.load_adapter(URL)


def test_a_first_save_that_ends_before_the_config_leaves_no_adapter(s3):
    s3.faulty.faults.append(Fault("PUT", CONFIG, status=500))
    with pytest.raises(RemoteServerError):
        trained_model().save_pretrained(URL)
    s3.faulty.clear()
    with pytest.raises(RemoteNotFoundError, match=f"has no '{CONFIG}'"):
        fresh_model().load_adapter(URL)


def test_two_who_save_at_once_leave_one_whole_adapter(s3, saved):
    other = trained_model()
    with torch.no_grad():
        other.adapters["faces"].state_dict()["inhibition.0.raw_decay"].add_(1)

    def write():  # another writer puts its weights between ours and our config
        s3.faulty.hooks.clear()
        change(s3, WEIGHTS, b"another writer's")

    s3.faulty.hooks.append(("PUT", CONFIG, write))
    other.save_pretrained(URL)
    loaded = CIAOModel.from_pretrained(tiny_backbone(), URL).eval()
    assert torch.equal(loaded(PIXELS).logits, other(PIXELS).logits)


def test_two_processes_fetch_it_once(s3, saved, tmp_path):
    change(s3, "big.bin", bytes(8 * 2**20))
    s3.faulty.clear()
    s3.faulty.faults.append(Fault("GET", "big.bin", stall=0.5))
    results = []

    def fetch_it():
        results.append(processes.run("fetching", URL, "big.bin"))

    both = [threading.Thread(target=fetch_it) for _ in "12"]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert [done.returncode for done in results] == [0, 0]
    assert len({done.stdout for done in results}) == 1
    assert len(s3.faulty.asked("GET", "big.bin")) == 2  # two pieces, once


# -- the cache ---------------------------------------------------------------------------------------------------------


def test_a_cached_adapter_loads_while_the_store_is_away(s3, saved, monkeypatch, caplog):
    fresh_model().load_adapter(URL)
    s3.faulty.faults += [Fault("HEAD", "", status=500), Fault("GET", "", status=500)]
    assert fresh_model().load_adapter(URL, local_files_only=True) == "faces"
    assert not caplog.messages
    assert fresh_model().load_adapter(URL) == "faces"
    assert "Going on with what is in the cache" in caplog.text


def test_what_was_damaged_in_the_cache_is_fetched_again(s3, saved, caplog):
    fresh_model().load_adapter(URL)
    weights = read_adapter(URL)[1].folder / WEIGHTS
    weights.write_bytes(flip(weights.read_bytes()))
    assert fresh_model().load_adapter(URL) == "faces"
    assert "once more" in caplog.text


def test_what_is_damaged_in_the_store_is_read_twice_and_refused(s3, saved):
    change(s3, WEIGHTS, flip(content(s3, WEIGHTS)))
    s3.faulty.clear()
    with pytest.raises(AdapterFileError, match="checksum"):
        fresh_model().load_adapter(URL)
    assert len(s3.faulty.asked("GET", WEIGHTS)) == 2
