"""Adapters on a web server, which may know no ranges, lie about sizes, or lead elsewhere; no extra is needed for it."""

from __future__ import annotations

import pytest
import torch

from ciao_peft import CIAOModel, load_encoder
from ciao_peft.encoders import save_encoder
from ciao_peft.errors import (
    RemoteAccessError,
    RemoteConflictError,
    RemoteError,
    RemoteFileError,
    RemoteNotFoundError,
    RemoteServerError,
    RemoteURLError,
)
from ciao_peft.remote import RepoFile, fetch, parse_url
from helpers.fakes import tiny_backbone
from helpers.local_stores import Fault
from helpers.published import CONFIG, PIXELS, WEIGHTS, fresh_model, trained_model


@pytest.fixture
def served(web, tmp_path):
    """A trained adapter at `/faces` of the server."""
    model = trained_model()
    folder = model.save_pretrained(tmp_path / "faces")
    web.files |= {f"/faces/{path.name}": path.read_bytes() for path in folder.iterdir()}
    return model


@pytest.mark.parametrize("ranges", [True, False], ids=["with ranges", "without"])
def test_an_adapter_is_loaded_from_a_web_server(web, served, ranges):
    web.ranges = ranges
    loaded = CIAOModel.from_pretrained(tiny_backbone(), f"{web.url}/faces").eval()
    assert torch.equal(loaded(PIXELS).logits, served(PIXELS).logits)
    web.faulty.requests.clear()
    CIAOModel.from_pretrained(tiny_backbone(), f"{web.url}/faces")
    assert not web.faulty.asked("GET", WEIGHTS)


def test_an_encoder_is_loaded_from_a_web_server(web, tmp_path):
    encoder = load_encoder("small-face")
    folder = save_encoder(encoder, tmp_path / "encoder")
    web.files |= {f"/encoder/{path.name}": path.read_bytes() for path in folder.iterdir()}
    loaded = load_encoder(f"{web.url}/encoder")
    assert all(torch.equal(value, encoder.state_dict()[key]) for key, value in loaded.state_dict().items())


def test_what_has_no_tag_is_fetched_each_time(web, served):
    web.tags = False
    for _ in range(2):
        fresh_model().load_adapter(f"{web.url}/faces")
    assert len(web.faulty.asked("GET", WEIGHTS)) == 2


def test_an_address_that_a_server_leads_to_is_not_called_on(web, served):
    web.redirect = "http://127.0.0.1:9/meta-data"
    with pytest.raises(RemoteURLError, match="leads to another address, which is not followed"):
        fresh_model().load_adapter(f"{web.url}/faces")


def test_a_file_without_a_size_is_refused(web, served):
    web.sizes = False
    with pytest.raises(RemoteFileError, match="does not say how large it is"):
        fresh_model().load_adapter(f"{web.url}/faces")


def test_a_server_that_gives_more_than_it_said_fills_no_disk(web, served):
    web.files["/faces/big.bin"] = bytes(100)
    web.faulty.hooks.append(("GET", "big.bin", lambda: web.files.update({"/faces/big.bin": bytes(2**20)})))
    with pytest.raises(RemoteError, match=r"at most 100 are fetched|more than the 100 bytes"):
        fetch(parse_url(f"{web.url}/faces"), [RepoFile("big.bin", 100)])


@pytest.mark.parametrize(
    ("status", "error"),
    [(500, RemoteServerError), (503, RemoteServerError), (403, RemoteAccessError), (404, RemoteNotFoundError)],
)
def test_each_answer_has_its_error(web, served, status, error):
    for method in ("HEAD", "GET"):
        web.faulty.faults.append(Fault(method, CONFIG, status=status))
    with pytest.raises(error, match="faces"):
        fresh_model().load_adapter(f"{web.url}/faces")


def test_a_body_that_is_cut_is_asked_for_again(web, served):
    web.faulty.faults.append(Fault("GET", WEIGHTS, cut=10, times=2))
    fresh_model().load_adapter(f"{web.url}/faces")
    assert len(web.faulty.asked("GET", WEIGHTS)) == 3


def test_a_server_that_is_away_is_told(web, served):
    web.faulty.faults.append(Fault("GET", WEIGHTS, cut=10))
    with pytest.raises(RemoteServerError, match=WEIGHTS):
        fresh_model().load_adapter(f"{web.url}/faces")
    with pytest.raises(RemoteServerError):
        fresh_model().load_adapter("http://127.0.0.1:9/faces")


def test_nothing_is_written_to_a_web_server(web):
    with pytest.raises(RemoteURLError, match="Nothing is written to a web server"):
        trained_model().save_pretrained(f"{web.url}/faces")
    assert not web.faulty.requests


def test_a_file_that_is_replaced_while_it_comes_is_told_or_read_anew(web, served):
    web.files["/faces/one.bin"] = b"a" * 100
    versions = iter(range(256))
    web.faulty.hooks.append(
        ("GET", "one.bin", lambda: web.files.update({"/faces/one.bin": bytes([next(versions)]) * 100}))
    )
    with pytest.raises(RemoteConflictError, match="changed each of the 3 times"):
        fetch(parse_url(f"{web.url}/faces"), [RepoFile("one.bin", 100)])
