"""Saving where people save: full disks, folders that alone are writable, mounts, links, private modes, two writers."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .dying import in_child
from .saves import SAVES, Adapter, AdapterAmongOthers, Encoder, Save, listing, modes_of

NOBODY, GROUP = 65_534, 12_345
Found = dict[str, str]  # "outcome": "as promised", "not as promised" or "skipped"; and "why"
_IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


def _promised(met: bool, why: str) -> Found:
    return {"outcome": "as promised" if met else "not as promised", "why": why}


def _said(result: dict[str, Any]) -> str:
    return f"{result['error']}: {result['message']}" if "error" in result else str(result.get("killed", "saved"))


@contextmanager
def _mounted(folder: Path, size: str) -> Iterator[bool]:
    """A file system of a size at a folder, where this process may mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True, check=False
    )
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def _others_and_new(save: Save, place: Path, result: dict[str, Any], clean: set[str]) -> Found:
    """Whether a save went well: the new is there, other people's files are, and nothing else."""
    if "error" in result or "killed" in result:
        return _promised(False, _said(result))
    seen = in_child(lambda: save.read(place))
    left = sorted(set(listing(place)) - clean)
    problems = [f"lost {save.lost(place)}"] * bool(save.lost(place)) + [f"left {left}"] * bool(left)
    problems += [] if seen.get("value") == result["value"] else [f"a reader sees {_said(seen)}"]
    return _promised(not problems, "; ".join(problems) or "saved")


def _save_and_read(save: Save, place: Path) -> Callable[[], str]:
    def task() -> str:
        save.new(place)
        return save.read(place)

    return task


def read_only_parent(save: Save, place: Path, clean: set[str]) -> Found:
    """Only the folder itself is writable, as a volume of a container is."""
    for path in [place / save.target, *(place / save.target).rglob("*")]:
        if _IS_ROOT:
            os.chown(path, NOBODY, NOBODY)
    place.chmod(0o555)
    try:
        result = in_child(_save_and_read(save, place), user=NOBODY)
    finally:
        place.chmod(0o755)
    return _others_and_new(save, place, result, clean)


def mount_point(save: Save, place: Path, clean: set[str]) -> Found:
    """The folder is a mount."""
    aside = place.with_name(place.name + "-aside")
    shutil.move(place / save.target, aside)
    with _mounted(place / save.target, "64m") as mounted:
        if not mounted:
            return {"outcome": "skipped", "why": "this process may mount nothing"}
        shutil.copytree(aside, place / save.target, dirs_exist_ok=True)
        result = in_child(_save_and_read(save, place))
        return _others_and_new(save, place, result, clean)


def private_modes(save: Save, place: Path, clean: set[str]) -> Found:
    """A folder of mode 700 with files of mode 600, of a group: a second save keeps all three."""
    folder = place / save.target
    for path in [folder, *(path for path in folder.iterdir() if path.is_file())]:
        path.chmod(0o700 if path.is_dir() else 0o600)
        if _IS_ROOT:
            os.chown(path, -1, GROUP)
    before = modes_of(folder)
    result = in_child(_save_and_read(save, place))
    after = modes_of(folder)
    changed = [
        f"{name} {mode:o} of {group}" for name, (mode, group) in after.items() if before.get(name) != (mode, group)
    ]
    if "error" in result or changed:
        return _promised(False, f"now {', '.join(changed)}" if changed else _said(result))
    return _others_and_new(save, place, result, clean)


def link_to_a_folder(save: Save, place: Path, clean: set[str]) -> Found:
    """A link to a folder stays one."""
    shutil.move(place / save.target, place / "real")
    (place / save.target).symlink_to("real")
    result = in_child(_save_and_read(save, place))
    if not (place / save.target).is_symlink():
        return _promised(False, "the link is a folder now")
    expected = clean | {name.replace(save.target, "real", 1) for name in clean} | {"real"}
    return _others_and_new(save, place, result, expected)


def two_writers(save: Save, place: Path, clean: set[str]) -> Found:
    """Two processes save again and again, and a third one reads: always the old or the new."""
    answers = {in_child(lambda: save.read(place)).get("value")}
    answers.add(in_child(_save_and_read(save, _copied(place))).get("value"))

    def writes() -> int:
        for _ in range(15):
            save.old(place)
            save.new(place)
        return 0

    writers = [os.fork() for _ in range(2)]
    if 0 in writers:
        said = in_child(writes)
        os._exit(1 if "error" in said else 0)
    odd: list[str] = []
    codes: dict[int, int] = {}
    while len(codes) < 2:
        for writer in set(writers) - set(codes):
            done, status = os.waitpid(writer, os.WNOHANG)
            if done:
                codes[writer] = os.waitstatus_to_exitcode(status)
        seen = in_child(lambda: save.read(place))
        if seen.get("value") not in answers:
            odd.append(_said(seen))
    problems = [f"{len(odd)} odd reads, such as {odd[:1]}"] * bool(odd) + ["a writer failed"] * any(codes.values())
    left = sorted(set(listing(place)) - clean)
    problems += [f"left {left[:3]}"] * bool(left) + [f"lost {save.lost(place)}"] * bool(save.lost(place))
    return _promised(not problems, "; ".join(problems) or "saved")


def _copied(place: Path) -> Path:
    copy = place.with_name(place.name + "-copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(place, copy, symlinks=True)
    return copy


def home_folder(save: Save, place: Path, clean: set[str]) -> Found:
    """`~` is the user's home, to save into and to load from."""

    def task() -> list[str]:
        os.environ["HOME"] = str(place)
        os.chdir(place)
        save.new(Path("~"))
        return [save.read(Path("~")), save.read(place)]

    result = in_child(task)
    if (place / "~").exists() or "error" in result or len(set(result["value"])) > 1:
        return _promised(False, "a folder named '~'" if (place / "~").exists() else _said(result))
    return _promised(True, "saved in the home")


def full_disk(save: Save, place: Path, clean: set[str]) -> Found:
    """A disk on which there is no room for the new."""
    with _mounted(place.with_name(place.name + "-disk"), "8m") as mounted:
        if not mounted:
            return {"outcome": "skipped", "why": "this process may mount nothing"}
        disk = place.with_name(place.name + "-disk") / "place"
        shutil.copytree(place, disk, symlinks=True)
        before = None if save.ends_alike else in_child(lambda: save.read(disk)).get("value")
        names = set(listing(disk))
        with contextlib.suppress(OSError), (disk.parent / "full").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        result = in_child(lambda: save.new(disk))
        if "error" not in result:
            return {"outcome": "skipped", "why": "there was room for it"}
        problems = [] if result["ours"] else [_said(result)]
        after = None if save.ends_alike else in_child(lambda: save.read(disk)).get("value")
        if after != before:
            problems.append("what was there is not there any more")
        if not save.ends_alike and (left := sorted(set(listing(disk)) - names - clean)):
            problems.append(f"left {left[:3]}")
        return _promised(not problems, "; ".join(problems) or _said(result))


_FOLDERS = (AdapterAmongOthers, Encoder)
PLACES: tuple[tuple[str, Callable[[Save, Path, set[str]], Found], tuple[type[Save], ...]], ...] = (
    ("only the folder is writable", read_only_parent, _FOLDERS),
    ("the folder is a mount", mount_point, _FOLDERS),
    ("modes 700 and 600, and a group", private_modes, _FOLDERS),
    ("a link to the folder", link_to_a_folder, _FOLDERS),
    ("two writers and a reader", two_writers, (*_FOLDERS, Adapter)),
    ("the home as ~", home_folder, _FOLDERS),
    ("a full disk", full_disk, SAVES),
)
