"""An online training on disk: the adapter in a folder of its own, and beside it what is never published."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..checking import all_finite, is_number
from ..door import check_types, read_file, read_json
from ..errors import AdapterFileError, CIAOError, ConfigError, listed
from ..hub.adapters import save_with_card
from ..model import CIAOModel
from ..saving import CONFIG_FILE, MAX_JSON_BYTES, move_into_place, refusals_told
from ..saving.digest import DIGEST, check_digest, sha256_of, with_digest
from ..saving.files import checked_path
from .arguments import OnlineArguments
from .drift import PageHinkley
from .memory import FeatureMemory
from .memory_file import MAX_COUNT, MAX_MEMORY_BYTES, check_memory, pack, unpack
from .recent import Recent
from .rows import Faces
from .update import Version

__all__ = ["ADAPTER_FOLDER", "RECENT_FILE", "STATE_FILE", "SavedOnline", "load_online", "save_online"]

STATE_FILE = "online.json"
ADAPTER_FOLDER = "adapter"
MEMORY_FILE = "memory.safetensors"
GUARD_FILE = "guard.safetensors"
RECENT_FILE = "recent.safetensors"
FORMAT_VERSION = 1

_OURS = {STATE_FILE, ADAPTER_FOLDER, MEMORY_FILE, GUARD_FILE, RECENT_FILE}
_TYPES = {
    "format_version": int,
    "adapter_name": str,
    "arguments": dict,
    "versions": list,
    "next_version": int,
    "updates": int,
    "drift": dict,
    "lost": (int, float),
    DIGEST: str,
}


class SavedOnline:
    """What a folder of an online training holds beside its adapter.

    Args:
        name: Name of the adapter.
        args: Settings.
        memory: The memory.
        guard: The guard that was given, without u; None where none was.
        versions: The states that led to the present one.
        counters: `next_version` and `updates`.
        drift: The test of the stream, as it stood.
        lost: Points that the guard has lost in all.
        recent: Corrections that the next update learns once more; None where it begins anew.
    """

    def __init__(
        self,
        name: str,
        args: OnlineArguments,
        memory: FeatureMemory,
        guard: Faces | None,
        versions: list[Version],
        counters: tuple[int, int],
        drift: PageHinkley,
        lost: float,
        recent: Recent | None = None,
    ):
        self.name, self.args, self.memory, self.guard = name, args, memory, guard
        self.versions, self.counters, self.drift, self.lost, self.recent = versions, counters, drift, lost, recent


def save_online(folder: str | os.PathLike[str], model: CIAOModel, saved: SavedOnline) -> Path:
    """Writes an online training aside and moves it into place: there is a whole one or none.

    Args:
        folder: Where; an earlier one that is there is replaced, anything else is refused.
        model: Holds the adapter.
        saved: Everything else.

    Returns:
        The folder.

    Raises:
        AdapterFileError: something else lies there, or the disk refuses; what was there stays.
    """
    folder = checked_path(folder)
    with refusals_told(AdapterFileError, folder, "Give another folder."):
        try:
            target = folder.resolve()
        except RuntimeError as error:  # so says Python of links that lead to each other
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(folder)) from error
        there = {entry.name for entry in target.iterdir()} if target.is_dir() else set()
    if (target.exists() and not target.is_dir()) or (there and (STATE_FILE not in there or there - _OURS)):
        other = listed(there - _OURS) if there else "a file"
        raise AdapterFileError(
            f"'{folder}' is no folder of an online training, or holds more than one: {other}. Nothing was saved; give "
            "another folder."
        )
    aside = target.with_name(f".{target.name}.tmp")
    with refusals_told(AdapterFileError, folder, "Make room there, or give another folder."):
        shutil.rmtree(aside, ignore_errors=True)
        try:
            record = {"online_version": saved.versions[-1].number}
            adapter = model.saved_adapter(saved.name, training=record)
            save_with_card(
                aside / ADAPTER_FOLDER, adapter, name=os.fsencode(folder / ADAPTER_FOLDER).decode(errors="replace")
            )
            contents = {MEMORY_FILE: pack(*saved.memory.to_tensors())}
            if saved.guard is not None:
                contents[GUARD_FILE] = pack(_tensors_of(saved.guard), {"kind": "guard"})
            if saved.recent is not None:
                before = {f"adapter.{key}": tensor for key, tensor in saved.recent.tensors.items()}
                contents[RECENT_FILE] = pack(_tensors_of(saved.recent.faces) | before, {"kind": "recent"})
            files = {ADAPTER_FOLDER: sha256_of((aside / ADAPTER_FOLDER / CONFIG_FILE).read_bytes())}
            for name, content in contents.items():
                (aside / name).write_bytes(content)
                files[name] = sha256_of(content)
            state = {
                "format_version": FORMAT_VERSION,
                "adapter_name": saved.name,
                "arguments": saved.args.to_dict(),
                "versions": [[version.number, version.what] for version in saved.versions],
                "next_version": saved.counters[0],
                "updates": saved.counters[1],
                "drift": asdict(saved.drift),
                "lost": saved.lost,
            }
            (aside / STATE_FILE).write_bytes(with_digest(state, files))
            move_into_place(aside, target)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    return folder


def load_online(folder: str | os.PathLike[str]) -> SavedOnline:
    """Reads a folder that `save_online` wrote; its adapter is read by `load_adapter`.

    Args:
        folder: The folder.

    Raises:
        AdapterFileError: a file is missing, damaged or of another save, or of a newer version.
    """
    folder = checked_path(folder)
    path = folder / STATE_FILE

    def refuse(what: str) -> NoReturn:
        raise AdapterFileError(f"'{path}' {what}")

    state = check_types(
        read_json(path, max_bytes=MAX_JSON_BYTES, error=AdapterFileError), _TYPES, path, error=AdapterFileError
    )
    if state["format_version"] != FORMAT_VERSION:
        refuse(f"has format_version {state['format_version']}; this version reads {FORMAT_VERSION}.")
    if more := {*state} - {*_TYPES}:
        refuse(f"has unknown entries {listed(more)}; none is ignored.")
    content = {MEMORY_FILE: read_file(folder / MEMORY_FILE, MAX_MEMORY_BYTES, error=AdapterFileError)}
    for name in (GUARD_FILE, RECENT_FILE):
        if os.path.lexists(folder / name):
            content[name] = read_file(folder / name, MAX_MEMORY_BYTES, error=AdapterFileError)
    files = {name: sha256_of(each) for name, each in content.items()}
    config = read_file(folder / ADAPTER_FOLDER / CONFIG_FILE, MAX_JSON_BYTES, error=AdapterFileError)
    check_digest(state, {**files, ADAPTER_FOLDER: sha256_of(config)}, path, version=FORMAT_VERSION)
    tensors, record = unpack(content[MEMORY_FILE], folder / MEMORY_FILE)
    check_memory(tensors, record, folder / MEMORY_FILE)
    versions = state["versions"]
    if not versions or not all(
        isinstance(entry, list)
        and len(entry) == 2
        and is_number(entry[0], int, 0, MAX_COUNT)
        and isinstance(entry[1], str)
        for entry in versions
    ):
        refuse("has versions that are none.")
    try:
        args, memory = OnlineArguments.from_dict(state["arguments"]), FeatureMemory.from_tensors(tensors, record)
        drift = _drift(state["drift"])
    except (CIAOError, TypeError) as error:
        refuse(f"holds what no version of this library wrote: {error}")
    counters = state["next_version"], state["updates"]
    if not all(is_number(number, int, 0, MAX_COUNT) for number in counters) or versions[-1][0] >= counters[0]:
        refuse("has counts that are none.")
    if not is_number(state["lost"], float, 0, MAX_COUNT):
        refuse("has lost points that are none.")
    guard = None if GUARD_FILE not in content else _faces(content[GUARD_FILE], folder / GUARD_FILE, "guard")[0]
    recent = None
    if RECENT_FILE in content:
        faces, before = _faces(content[RECENT_FILE], folder / RECENT_FILE, "recent")
        recent = Recent(before, faces)
    named = [Version(number, what) for number, what in versions]
    return SavedOnline(state["adapter_name"], args, memory, guard, named, counters, drift, float(state["lost"]), recent)


def _tensors_of(faces: Faces) -> dict[str, Tensor]:
    return {f"features.{index}": tensor for index, tensor in enumerate(faces.tensors)} | {"labels": faces.labels}


def _drift(values: dict[str, Any]) -> PageHinkley:
    if not all(is_number(value, float, -MAX_COUNT, MAX_COUNT) for value in values.values()):
        raise ConfigError("its test of the stream is none")
    return PageHinkley(**values)


def _faces(content: bytes, path: Path, kind: str) -> tuple[Faces, dict[str, Tensor]]:
    """Faces that were saved, and the adapter's tensors that lie in the same file."""
    tensors, record = unpack(content, path)
    before = {name.removeprefix("adapter."): t for name, t in tensors.items() if name.startswith("adapter.")}
    count = len(tensors) - len(before) - 1
    names = [f"features.{index}" for index in range(count)]
    labels: Tensor = tensors.get("labels", torch.empty(0, device="cpu"))
    known = {*names, "labels", *(f"adapter.{name}" for name in before)}
    whole = record == {"kind": kind} and {*tensors} == known and labels.ndim == 2 and bool(before) == (kind == "recent")
    whole = whole and all(
        tensors[name].is_floating_point() and all_finite(tensors[name]) for name in [*names, "labels"]
    )
    if not whole or not len(labels) or not count or any(tensors[name].shape[:1] != labels.shape[:1] for name in names):
        raise AdapterFileError(f"'{path}' is no file of an online training that holds its {kind} faces.")
    return Faces(tuple(tensors[name] for name in names), labels), before
