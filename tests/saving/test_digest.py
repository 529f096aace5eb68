"""One digest over a folder: whatever bit of it changes, nothing loads with another setting in silence."""

from __future__ import annotations

import json
import os
import random
import shutil

import pytest

from ciao_peft.encoders import load_encoder, save_encoder
from ciao_peft.errors import AdapterConfigError, AdapterFileError, CIAOError
from ciao_peft.preprocessing import Preprocessing
from ciao_peft.saving.adapter_folder import CONFIG_FILE, PREPROCESSOR_FILE, WEIGHTS_FILE, load_adapter
from ciao_peft.saving.digest import digest_of_folder, sha256_of, with_digest
from helpers.fakes import same_bits, wrap


def everything(saved):
    return {name: getattr(saved, name) for name in vars(saved) if name != "tensors"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    model = wrap(id2label={0: "anger", 1: "joy", 2: "fear"})
    model.preprocessing = Preprocessing(size=(16, 16), mode="RGB", mean=(0.25, 0.5, 0.75), std=(0.5, 0.25, 0.125))
    return model.save_pretrained(tmp_path_factory.mktemp("digest") / "saved", training={"seed": 7})


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def flips(content, most, seed=0):
    """Numbers of bits: all of them, or a sample that is the same each time."""
    bits = range(8 * len(content))
    return bits if len(bits) <= most else random.Random(seed).sample(bits, most)


@pytest.mark.parametrize("name", [CONFIG_FILE, PREPROCESSOR_FILE])
def test_no_flipped_bit_changes_a_setting_in_silence(name, saved, copied):
    whole, path = load_adapter(saved), copied / name
    content = path.read_bytes()
    refused, chosen = 0, flips(content, 6000)
    for bit in chosen:
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            found = load_adapter(copied)
        except CIAOError:
            refused += 1
        else:
            assert everything(found) == everything(whole), bit
            assert same_bits(found.tensors, whole.tensors)
    assert refused > 0.9 * len(chosen) if name == CONFIG_FILE else refused == len(chosen)


def test_no_flipped_bit_of_an_encoders_files_changes_a_setting_in_silence(tmp_path):
    folder = save_encoder(load_encoder("small-face"), tmp_path / "mine", training={"seed": 3})
    record = json.loads((folder / "config.json").read_text())
    for name in ("config.json", PREPROCESSOR_FILE):
        path = folder / name
        content = path.read_bytes()
        for bit in flips(content, 150):
            changed = bytearray(content)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            try:
                load_encoder(folder)
            except CIAOError:
                continue
            assert name == "config.json" and json.loads(changed) == record
        path.write_bytes(content)
    load_encoder(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"seed": 8}},
        {"base_model_name_or_path": "another"},
        {"versions": {}},
        {"digest": "0" * 64},
        {"revision": "main"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_edited_config_is_refused_and_the_message_says_how_to_keep_the_edit(change, copied):
    path = copied / CONFIG_FILE
    record = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(record | change), encoding="utf-8")
    with pytest.raises(
        AdapterFileError, match=r"not as it was saved.*take the entry 'digest' out.*'format_version' to 1"
    ):
        load_adapter(copied)
    # What the message says.
    mine = {key: value for key, value in (record | change | {"format_version": 1}).items() if key != "digest"}
    path.write_text(json.dumps(mine), encoding="utf-8")
    found = load_adapter(copied)
    if "training" in change:
        assert found.training == {"seed": 8}


def test_how_the_config_is_laid_out_does_not_matter(copied, saved):
    path = copied / CONFIG_FILE
    record = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(dict(reversed(record.items())), separators=(",", ":")), encoding="utf-8")
    assert everything(load_adapter(copied)) == everything(load_adapter(saved))


def test_a_preprocessing_that_comes_goes_or_leads_nowhere_is_refused(copied):
    path = copied / PREPROCESSOR_FILE
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(AdapterFileError, match="not as it was saved"):
        load_adapter(copied)
    path.symlink_to(copied / "gone.json")
    with pytest.raises(AdapterFileError, match=r"preprocessor_config\.json' is missing \(it is a link that leads now"):
        load_adapter(copied)
    path.unlink()
    path.write_bytes(content)
    load_adapter(copied)
    bare = wrap().save_pretrained(copied.parent / "bare")
    shutil.copy(path, bare / PREPROCESSOR_FILE)
    with pytest.raises(AdapterFileError, match="not as it was saved"):
        load_adapter(bare)


def test_the_weights_of_another_save_are_refused(copied):
    other = wrap(hidden_sizes=(9,)).save_pretrained(copied.parent / "other")
    shutil.copy(other / WEIGHTS_FILE, copied / WEIGHTS_FILE)
    with pytest.raises(AdapterFileError, match=WEIGHTS_FILE):
        load_adapter(copied)


def test_the_digest_is_the_sha256_of_the_record_and_the_names_and_checksums_of_the_files():
    files = {"weights": sha256_of(b"1")}
    text = '[{"a":1,"b":[0.5,null,"\\u00e4"]},{"weights":"' + files["weights"] + '"}]'
    assert digest_of_folder({"b": [0.5, None, "ä"], "a": 1, "digest": "x"}, files) == sha256_of(text.encode())


def test_keys_that_json_turns_into_text_have_the_digest_that_is_found_when_they_are_read(tmp_path):
    record = {"training": {1: "a", 10: "b", 2: ("c", 0.1)}}
    content = json.loads(with_digest(record, {}))
    assert content["digest"] == digest_of_folder(content, {})
    model = wrap()
    folder = model.save_pretrained(tmp_path / "saved", training=record)
    assert load_adapter(folder).training == {"training": {"1": "a", "10": "b", "2": ["c", 0.1]}}


@pytest.mark.parametrize("training", [{1: "a", "1": "b"}, {"x": 10**500}], ids=["one key twice", "digits"])
def test_what_could_not_be_read_back_is_not_saved(training, tmp_path):
    with pytest.raises(AdapterFileError, match="is no plain data"):
        wrap().save_pretrained(tmp_path / "saved", training=training)
    assert not os.listdir(tmp_path)


def test_a_version_that_does_not_go_with_the_digest_is_refused(copied):
    path = copied / CONFIG_FILE
    record = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(record | {"format_version": 1}), encoding="utf-8")
    with pytest.raises(AdapterConfigError, match="unknown entries 'digest'"):
        load_adapter(copied)
    path.write_text(json.dumps({key: value for key, value in record.items() if key != "digest"}), encoding="utf-8")
    with pytest.raises(AdapterConfigError, match="lacks 'digest'"):
        load_adapter(copied)
