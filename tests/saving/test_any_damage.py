"""Whatever bytes or values a folder holds: our errors, or the same numbers (promise 18)."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ciao_peft.errors import CIAOError
from ciao_peft.saving.adapter_folder import CONFIG_FILE, WEIGHTS_FILE
from helpers.fakes import bits, forge, same_bits, sealed, wrap

FEW = settings(max_examples=60, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A model, and a folder that it loads."""
    model = wrap()
    return model, model.save_pretrained(tmp_path_factory.mktemp("adapters") / "whole")


def loads_the_same_or_raises_ours(model, folder):
    expected = bits(model.adapters["default"])
    try:
        model.load_adapter(folder, "damaged")
    except CIAOError:
        return False
    try:
        return same_bits(bits(model.adapters["damaged"]), expected)
    finally:
        model.delete_adapter("damaged")


@FEW
@given(data=st.data(), name=st.sampled_from([CONFIG_FILE, WEIGHTS_FILE]))
def test_any_damaged_bytes_raise_our_errors_or_harm_no_number(whole, data, name):
    model, folder = whole
    copy = shutil.copytree(folder, folder.with_name("bytes"), dirs_exist_ok=True)
    content = bytearray((folder / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    (copy / name).write_bytes(content)
    before = list(model.adapters)
    loaded = loads_the_same_or_raises_ours(model, copy)
    assert loaded or list(model.adapters) == before
    if name == WEIGHTS_FILE:
        assert loaded == (bytes(content) == (folder / name).read_bytes())


@FEW
@given(data=st.data())
def test_any_damaged_weights_with_a_fresh_checksum_raise_our_errors(whole, data):
    model, folder = whole
    copy = shutil.copytree(folder, folder.with_name("header"), dirs_exist_ok=True)
    content = bytearray((folder / WEIGHTS_FILE).read_bytes())
    size = int.from_bytes(content[:8], "little") + 8
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, size))] = data.draw(st.integers(0, 255))
    forge(copy, tensors=bytes(content))
    loads_the_same_or_raises_ours(model, copy)


@FEW
@given(data=st.data(), value=JSON_VALUES)
def test_any_value_in_the_config_raises_our_errors_or_loads_the_same_numbers(whole, data, value):
    model, folder = whole
    copy = shutil.copytree(folder, folder.with_name("json"), dirs_exist_ok=True)
    record = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
    place = record
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], (dict, list)) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = value
    record = sealed(record, copy)  # as if whoever wrote it had meant it
    (copy / CONFIG_FILE).write_text(json.dumps(record), encoding="utf-8")
    loads_the_same_or_raises_ours(model, copy)
