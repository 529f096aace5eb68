"""The door for files: what hangs, fills the memory, or says two things at once does not come in."""

from __future__ import annotations

import io
import json
import os
import zipfile

import pytest

from ciao_peft.door import (
    MAX_DEPTH,
    MAX_DIGITS,
    check_types,
    open_file,
    parse_json,
    parse_yaml,
    read_file,
    read_json,
    read_member,
    read_yaml,
)
from ciao_peft.errors import ConfigError, FileReadError, listed, shortened

READERS = pytest.mark.parametrize("read", [lambda path: read_file(path, 100), read_json, read_yaml, open_file])


def make_missing(path):
    pass


def make_pipe(path):
    os.mkfifo(path)


def make_endless(path):
    path.symlink_to("/dev/zero")


def make_dangling(path):
    path.symlink_to(path.with_name("nothing"))


def make_loop(path):
    path.symlink_to(path)


def make_folder(path):
    path.mkdir()


@READERS
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (make_missing, "is missing"),
        (make_pipe, "is a pipe, and a file was expected"),
        (make_endless, "is a device"),
        (make_dangling, r"is missing \(it is a link that leads nowhere\)"),
        (make_loop, "cannot be read: Too many levels of symbolic links"),
        (make_folder, "is a folder"),
    ],
)
def test_what_is_no_file_is_refused_at_once(read, make, says, tmp_path):
    make(tmp_path / "config.json")
    with pytest.raises(FileReadError, match=says):
        read(tmp_path / "config.json")


def test_a_path_that_no_system_has_is_refused(tmp_path):
    for name in ("a\0b", "a" * 10_000):
        with pytest.raises(FileReadError) as caught:
            read_file(tmp_path / name, 10)
        assert len(str(caught.value)) < 1000


def test_a_file_may_be_as_large_as_it_may(tmp_path):
    path = tmp_path / "notes"
    path.write_bytes(b"a" * 10)
    assert read_file(path, 10) == b"a" * 10
    with pytest.raises(ConfigError, match="has 10 bytes; at most 9 are read"):
        read_file(path, 9, error=ConfigError)


def test_a_file_that_does_not_say_its_size_is_bounded_all_the_same():
    if not os.path.isfile("/proc/self/environ"):
        pytest.skip("no /proc")
    with pytest.raises(FileReadError, match="has more than 3 bytes"):
        read_file("/proc/self/environ", 3)


def nested(depth, opened="[", closed="]"):
    return opened * depth + closed * depth


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ('{"b": [{"a": 1, "a": 1}]}', "the key 'a' stands twice"),
        ("1" * (MAX_DIGITS + 1), "digits"),
        ("0." + "1" * MAX_DIGITS, "digits"),
        (nested(MAX_DEPTH + 1), "nested deeper"),
        (nested(100_000), "nested too deep|nested deeper"),
        ("{", "is no JSON"),
        ("", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        ("nul", "is no JSON"),
    ],
)
def test_json_that_could_mean_two_things_or_fill_the_machine_is_refused(text, says):
    with pytest.raises(FileReadError, match=says) as caught:
        parse_json(text, "config.json")
    assert len(str(caught.value)) < 500


def test_json_of_ours_comes_through_unchanged():
    value = {"a": [1, 2.5, "ü", None, True], "b": {"c": {}}}
    assert parse_json(json.dumps(value).encode()) == value
    assert parse_json(b"\xef\xbb\xbf" + json.dumps(value).encode()) == value


LAUGHS = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'ha'] * 10)}]" for n in range(30))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\na: 2", "the key 'a' stands twice"),
        (LAUGHS, "stands for more than 2,000,000 values"),
        ("&a [*a]", "is no YAML"),
        ("&a {b: *a}", "is no YAML"),
        ("a: !!python/object/apply:os.system ['true']", "is no YAML"),
        ("a: !!binary aGk=", "is no YAML"),
        ("a: !!set {b}", "is no YAML"),
        ("a: " + "1" * 5000, "digits"),
        (nested(MAX_DEPTH + 1), "nested deeper"),
        (nested(20_000), "nested too deep|nested deeper|is no YAML"),
        ("{[a]: 1}", "is no YAML"),
        ("a: [", "is no YAML"),
        (b"\xff\xfe\x00", "is no YAML"),
        ("---\na: 1\n---\nb: 2", "is no YAML"),
    ],
)
def test_yaml_that_could_mean_two_things_or_fill_the_machine_is_refused(text, says):
    with pytest.raises(FileReadError, match=says) as caught:
        parse_yaml(text, "plan.yaml")
    assert len(str(caught.value)) < 600


def test_yaml_of_ours_comes_through_unchanged():
    assert parse_yaml("a: [1, 2.5e-3, ü, null, true]\nb: {c: {}}\nd: 2024-01-01\n") == {
        "a": [1, 2.5e-3, "ü", None, True],
        "b": {"c": {}},
        "d": "2024-01-01",
    }
    assert parse_yaml("") is None
    assert parse_yaml("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}") == {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}
    assert parse_yaml("a: &x [1]\nb: *x") == {"a": [1], "b": [1]}  # as PyYAML writes what stands twice


def test_an_archive_unpacks_to_no_more_than_it_may():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(50_000_000))
        archive.writestr("small", b"abc")
    archive = zipfile.ZipFile(packed)
    assert read_member(archive, "small", 3) == b"abc"
    for name, says in (("zeros", "unpacks to more than 1,000 bytes"), ("nothing", "cannot be unpacked")):
        with pytest.raises(FileReadError, match=says):
            read_member(archive, name, 1000)
    damaged = bytearray(packed.getvalue())
    damaged[60:90] = b"x" * 30
    with pytest.raises(FileReadError, match="cannot be unpacked"):
        read_member(zipfile.ZipFile(io.BytesIO(damaged)), "zeros", 10**8)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([], "holds a list where an object was expected"),
        ({}, "has no 'step'"),
        ({"step": True}, "has a bool, True, as 'step'; int was expected"),
        ({"step": "3"}, "has a str, '3', as 'step'"),
        ({"step": 1, "note": 3}, "int, 3, as 'note'; str or null was expected"),
        ({"step": "x" * 10_000_000}, "has a str"),
    ],
)
def test_values_of_another_type_are_refused_in_a_short_message(values, says):
    types = {"step": int, "note": (str, type(None))}
    with pytest.raises(FileReadError, match=says) as caught:
        check_types(values, types, "state.json", optional=["note"])
    assert len(str(caught.value)) < 500


def test_messages_stay_short_whatever_they_list():
    assert len(listed(map(str, range(1_000_000)))) < 500
    assert listed(map(str, range(60))).endswith("and 10 more")
    assert len(listed(["x" * 10_000_000])) < 300
    assert shortened("abc") == "abc"


# -- YAML that multiplies ----------------------------------------------------------------------------------------------


def test_what_maps_bring_into_maps_is_bounded():
    text = "a: &a {" + ",".join(f"k{n}: 0" for n in range(3000)) + "}\n"
    text += "".join(f"b{n}: {{<<: *a}}\n" for n in range(8000))
    with pytest.raises(FileReadError, match="`<<` brings more than"):
        parse_yaml(text)
    levels = [f"b{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}'] * 100)}]}}" for n in range(1, 9)]
    with pytest.raises(FileReadError, match="`<<` brings more than"):
        parse_yaml("\n".join(["b0: &b0 {x: 1}", *levels]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: &a {x: 1, y: 2}\nb: &b {x: 3, z: 4}\nc: {<<: [*a, *b], y: 9}", {"x": 1, "y": 9, "z": 4}),
        ("a: &a {x: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b}", {"x": 1, "y": 2}),
        ("c: &c {<<: *c, x: 1}", {"x": 1}),
        ("c: {=: 1}", {"=": 1}),
        ("c: {day: 2001-02-03}", {"day": "2001-02-03"}),
    ],
)
def test_a_map_brings_what_yaml_says(text, expected):
    assert parse_yaml(text)["c"] == expected


@pytest.mark.parametrize("text", ["a: {<<: 3}", "a: {<<: [3]}", "a: &a {x: 1}\nb: {<<: *a, <<: *a}", "[" * 999, "- [ "])
def test_a_map_that_brings_no_map_is_refused(text):
    with pytest.raises(FileReadError):
        parse_yaml(text)


def test_yaml_without_libyaml_is_read_alike(monkeypatch):
    import yaml

    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: [1, 2.5, null, yes, '1']}")["b"] == {
        "x": 1,
        "y": [1, 2.5, None, True, "1"],
    }


def test_a_yaml_file_that_would_take_seconds_is_refused_by_its_size(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("- 0\n" * 100_000)
    with pytest.raises(FileReadError, match="at most"):
        read_yaml(path)
