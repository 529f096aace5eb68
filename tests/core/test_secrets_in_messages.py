"""No message repeats what is secret in a URL, whatever scheme it has and whoever refuses it."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciao_peft import cache_features, load_encoder
from ciao_peft.data import load_faces, open_shards, paint_face
from ciao_peft.encoders import save_encoder
from ciao_peft.errors import CIAOError, DataError, DataNotFoundError, listed, quoted, shortened
from ciao_peft.features import load_features
from ciao_peft.hub import read_adapter
from ciao_peft.remote import parse_url
from helpers.fakes import tiny_backbone, wrap
from helpers.features import faces

URLS = [
    "https://ann:SECRET@example.org/fer",
    "s3://AKIA:SEC/RET+SECRET@bucket/fer",
    "ssh://ann:SECRET@host/fer",
    "sftp://ann:SECRET@host/fer",
    "github://ann:SECRET@main/fer",
    "https://SECRET@example.org/fer",
    "abfs://container:SECRET@account/fer",
    "simplecache::s3://ann:SECRET@bucket/fer",
    "zip://a::https://ann:SECRET@example.org/fer.zip",
    "s3://bucket/fer?versionId=3&X-Amz-Signature=SECRET",
    "https://example.org/fer?SECRET",
    "https://example.org/fer#access_token=SECRET",
    "https://example.org:80/fer?mail=ann@example.org&sig=SECRET",
    "s3://ann:SEC RET SECRET@bucket/fer",
    "https://example.org/fer#SECRETfa1",
    "https:\\\\ann:SECRET@example.org\\fer",
    "https:\\ann:SECRET@example.org",
    "https://example.org/fer%3Fsig=SECRET%26key%3DSECRET",
    "https://example.org/fer%253Fsig%253DSECRET",
    "https://ann:SECRET%40example.org/fer",
]
QUOTES = ["https://ann:it's-SECRET@h/x", 'https://ann:"SECRET@h/x', "https://h/x?sig='SECRET", "s3://a:'\\\"SECRET@b/x"]

DOORS = {
    "parse_url": parse_url,
    "read_adapter": read_adapter,
    "load_encoder": load_encoder,
    "save_encoder": lambda url: save_encoder(load_encoder("small-face"), url),
    "save_pretrained": lambda url: wrap().save_pretrained(url),
    "cache_features": lambda url: cache_features(tiny_backbone(), faces(), url),
    "load_features": load_features,
    "load_faces": lambda url: load_faces("imagefolder", data_dir=url),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("url", URLS)
def test_a_url_that_is_refused_is_not_repeated_with_its_secret(url, door, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CIAOError) as caught:
        DOORS[door](url)
    assert "SEC" not in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("url", ["https://ann:SECRET@example.org/fer", "sftp://ann:SECRET@host/fer", "s3://bucket/fer"])
def test_streaming_does_not_let_later_faces_come_from_a_server(url, tmp_path):
    for name in ("cross", "glad"):
        folder = tmp_path / "train" / name
        folder.mkdir(parents=True)
        paint_face(size=32).save(folder / "face.png")
    streamed = load_faces("imagefolder", data_dir=tmp_path, streaming=True, min_images_per_class=0)
    next(iter(streamed["train"]))  # from here on, `Path` is that of `datasets` in our builders
    with pytest.raises(DataNotFoundError, match="is not a folder") as caught:
        load_faces("imagefolder", data_dir=url)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("url", ["ssh://ann:SECRET@host/fer", "zip://a::https://ann:SECRET@example.org/fer.zip"])
def test_shards_at_a_url_that_is_refused_are_told_without_its_secret(url):
    with pytest.raises(DataError, match=r"\*\*\*@.* is no URL that is read") as caught:
        open_shards(url)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("url", URLS)
def test_every_way_into_a_message_leaves_the_secret_out(url):
    ways = [quoted(url), quoted([url]), quoted(Path(url)), listed([url]), shortened(f"At '{url}', nothing. {url}"), url]
    for text in ways:
        error = DataError(f"There is nothing at {text}. Look elsewhere.")
        assert "SEC" not in str(error)
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("url", QUOTES)
def test_a_secret_with_quotes_is_left_out_of_whatever_holds_its_url(url):
    holders = [url, [url], (url, 1), {"data_dir": url}, url.encode(), Path(url), OSError(2, "nothing", url)]
    for text in [*map(quoted, holders), *map(repr, holders), listed([url]), shortened(f"At {url!r}: {url!r}.")]:
        assert "SECRET" not in str(DataError(f"There is nothing at {text}. Look elsewhere."))


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/docs/install#offline-mode",
        "https://example.org/docs/page#section-2.1",
        "s3://bucket/photos@2x/face.png",
        "az://container@account/fer",
        "memory://fer",
        "https://example.org:8080/fer",
        "C:/runs/ann:b@c",
        "hive://table/day=3/hour=4",
        "https://example.org/R%26B/fer",
    ],
)
def test_a_url_without_a_secret_is_shown_as_it_is(url):
    assert quoted(url) == repr(url)
    assert str(DataError(f"'{url}' is empty.")) == f"'{url}' is empty."


@pytest.mark.parametrize(
    "text",
    [
        "Give s3://bucket:443 or mail bob@example.org.",
        "See https://example.org:80. Ask ann@example.org.",
        "https://example.org:8080 is not there, says ann@example.org",
        "s3://bucket/fer: nothing there\nann@example.org",
        "note:\\nwhy? because",
    ],
)
def test_a_sentence_is_not_taken_for_a_password(text):
    assert str(DataError(text)) == text


def test_a_url_whose_middle_is_left_out_does_not_show_its_secret():
    assert "SECRET" not in quoted("https://ann:" + "SECRET" * 100 + "@example.org/fer")
    assert "SECRET" not in str(DataError("https://ann:" + "SECRET" * 1000 + "@example.org/fer"))


@given(st.text(max_size=30), st.text(st.characters(exclude_characters="@?#&;=/'\"<> "), min_size=12, max_size=20))
def test_a_password_is_not_shown_whatever_stands_around_it(text, password):
    if any(character.isspace() for character in password) or password in text:
        return
    assert password not in shortened(f"{text} s3://ann:{password}@bucket/fer {text}")
