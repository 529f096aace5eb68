"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import os
import stat

import pytest

from ciao_peft.errors import AdapterConfigError
from ciao_peft.saving.aside import open_file_aside
from ciao_peft.saving.files import MAX_JSON_BYTES, move_into_place, read_json, to_json, write_file


def there(folder):
    """Everything below a folder: files with their bytes, folders with None."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


def made(folder, **files):
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(params=["exchange", "renames"])
def way(request, monkeypatch):
    """Folders that change places in one step, and systems where they cannot."""
    if request.param == "renames":
        monkeypatch.setattr(ctypes, "CDLL", lambda *args, **kwargs: object())


@pytest.mark.parametrize("content", ["ä\n", "ä\n".encode()])
def test_a_file_is_made_with_its_folders_and_then_replaced(content, tmp_path):
    path = tmp_path / "a" / "b" / "notes.txt"
    assert write_file(path, content) == path
    assert there(tmp_path) == {"a": None, "a/b": None, "a/b/notes.txt": b"\xc3\xa4\n"}
    write_file(str(path), "")
    assert path.read_bytes() == b""


def test_what_was_open_stays_as_it_was(tmp_path):
    path = write_file(tmp_path / "notes.txt", "old")
    with path.open() as reader:
        write_file(path, "newer")
        assert reader.read() == "old"
    assert path.read_text() == "newer"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_refuses_leaves_the_old_file_and_nothing_else(step, monkeypatch, tmp_path):
    path = write_file(tmp_path / "notes.txt", "old")

    def refuse(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, refuse)
    with pytest.raises(OSError, match="No space left"):
        write_file(path, "new")
    assert there(tmp_path) == {"notes.txt": b"old"}


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_folder_after(monkeypatch, tmp_path):
    steps, sync, replace = [], os.fsync, os.replace

    def synced(number):
        steps.append("folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "file")
        sync(number)

    def replaced(one, other):
        steps.append("move")
        replace(one, other)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_file(tmp_path / "notes.txt", "text")
    assert steps == ["file", "move", "folder"]


def test_a_link_stays_a_link(tmp_path):
    target = write_file(tmp_path / "target.txt", "old")
    (tmp_path / "link.txt").symlink_to("target.txt")
    write_file(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert target.read_text() == "new"


def test_a_file_keeps_its_mode_and_a_new_one_has_what_the_users_mask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        path = write_file(tmp_path / "notes.txt", "old")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o600)
        write_file(path, "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_folder_takes_the_place_of_another_with_all_that_was_in_it(way, tmp_path):
    made(tmp_path / "checkpoint-5", old="old", both="old")
    move_into_place(made(tmp_path / ".checkpoint-5.tmp", both="new"), tmp_path / "checkpoint-5")
    assert there(tmp_path) == {"checkpoint-5": None, "checkpoint-5/both": b"new"}


def test_a_folder_takes_a_free_place(tmp_path):
    move_into_place(made(tmp_path / "aside", a="1"), tmp_path / "place")
    assert there(tmp_path) == {"place": None, "place/a": b"1"}


def test_all_of_a_folder_is_on_the_disk_before_it_has_its_name(monkeypatch, tmp_path):
    aside = made(tmp_path / "aside", a="1")
    made(aside / "below", b="2")
    synced, sync = [], os.fsync

    def noted(number):
        synced.append((os.fstat(number).st_ino, (tmp_path / "place").exists()))
        sync(number)

    monkeypatch.setattr(os, "fsync", noted)
    inside = {path.stat().st_ino for path in [aside, *aside.rglob("*")]}
    move_into_place(aside, tmp_path / "place")
    assert {number for number, moved in synced if not moved} == inside
    assert synced[-1] == (tmp_path.stat().st_ino, True)


def test_json_is_read_as_it_was_written(tmp_path):
    value = {"name": "口", "numbers": [1, 0.5, None]}
    assert read_json(write_file(tmp_path / "config.json", to_json(value))) == value


def test_json_larger_than_its_bound_is_refused_by_its_size(tmp_path):
    most = to_json({"text": "x" * (MAX_JSON_BYTES - len(to_json({"text": ""})))})
    assert len(most) == MAX_JSON_BYTES
    assert read_json(write_file(tmp_path / "config.json", most))
    with pytest.raises(AdapterConfigError, match=f"larger than {MAX_JSON_BYTES} bytes"):
        read_json(write_file(tmp_path / "config.json", most + b"\n"))


def test_what_is_no_file_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        with pytest.raises(OSError, match="which is no file"):
            write_file(tmp_path / name, b"x")
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "link").is_symlink()


def test_what_a_killed_writer_left_goes_with_the_next_and_what_another_one_writes_stays(tmp_path):
    left, others = tmp_path / f".plan.yaml.{'0' * 32}.tmp", tmp_path / f".other.yaml.{'0' * 32}.tmp"
    for path in (left, others):
        path.write_text("half")
    aside, lock = open_file_aside(tmp_path / "plan.yaml")
    assert not left.exists()
    write_file(tmp_path / "plan.yaml", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([aside.name, others.name, "plan.yaml"])
    assert lock is not None
    os.close(lock)
    write_file(tmp_path / "plan.yaml", "newer")
    assert not aside.exists()


def test_links_that_lead_to_each_other_are_no_place_to_write(tmp_path):
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    with pytest.raises(OSError, match=r"symbolic links|leads to"):
        write_file(tmp_path / "one", "text")
    assert (tmp_path / "one").is_symlink()
