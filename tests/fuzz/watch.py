"""What a process does beside its task: files written elsewhere, programs started, hosts asked, memory, global state."""

from __future__ import annotations

import errno
import os
import random
import resource
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from helpers.places import PACKAGE, REPOSITORY

NOTES = "reached.txt"
PROGRAMS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.startfile"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_ENTRIES = {  # events of calls that change a folder's entries, and which of their values are paths and folders of these
    **dict.fromkeys(("os.remove", "os.rmdir"), ((0, 1),)),
    **dict.fromkeys(("os.rename", "os.link"), ((0, 2), (1, 3))),
    "os.mkdir": ((0, 2),),
    "os.symlink": ((1, 2),),
}
_FILES = {"os.truncate": None, "os.chmod": 2, "os.chown": 3, "os.utime": 3}  # of calls that change what a path leads to


class Watch:
    """Notes what reaches outside, by what Python itself reports; there is one per process, for good.

    What would change a file elsewhere is not only noted but refused, links followed: a campaign may run as root, and
    its inputs are full of links that lead to the files of others.

    Args:
        inside: The folder that may be written to.
        hosts: That may be asked.
        kept: A second such folder, for inputs that are kept.
    """

    def __init__(self, inside: Path, hosts: Iterable[str], kept: Path | None = None):
        folders = [str(folder.resolve()) for folder in (inside, kept) if folder is not None]
        self.allowed = (*(f"{folder}{os.sep}" for folder in (*folders, f"/proc/{os.getpid()}")), os.devnull)
        self.hosts = frozenset(hosts)
        self.reached: list[str] = []
        self.notes = (inside / NOTES).open("w+b", buffering=0)  # for those who look when this process is dead
        sys.addaudithook(self._hear)

    def _hear(self, event: str, values: tuple[Any, ...]) -> None:
        try:
            written = self._outside(event, values)
            if written:
                self._note(f"writes {written}")
            elif event in PROGRAMS:
                self._note(f"runs {values[0]!r}"[:200])
            elif event == "socket.connect" and isinstance(values[1], tuple) and values[1][0] not in self.hosts:
                self._note(f"asks {values[1][0]}")
            elif event == "socket.getaddrinfo" and values[0] not in self.hosts:
                self._note(f"asks {values[0]}")
        except Exception:  # an oddity of the event must not become one of the library
            return
        if written:
            raise PermissionError(errno.EACCES, "A campaign writes nothing outside its own folder", written)

    def _outside(self, event: str, values: tuple[Any, ...]) -> str:
        """The path outside that a call is about to change; an empty text where there is none."""
        changed = []
        if event == "open" and values[2] & _WRITES:
            changed = [_place(values[0], None)]
        elif event in _FILES:
            where = _FILES[event]
            changed = [_place(values[0], None if where is None else values[where])]
        elif event in _ENTRIES:
            changed = [_place(values[path], values[folder], entry=True) for path, folder in _ENTRIES[event]]
        return next((place for place in changed if place and not self._allowed(place)), "")

    def _allowed(self, place: str) -> bool:
        return f"{place}{os.sep}".startswith(self.allowed)

    def _note(self, what: str) -> None:
        if what not in self.reached:
            self.reached.append(what)
            self.notes.write(f"{what}\n".encode())

    def take(self) -> list[str]:
        """What was noted since the last call."""
        found, self.reached = self.reached, []
        self.notes.seek(0)
        self.notes.truncate()
        return sorted(found)


def _place(path: Any, folder: Any, entry: bool = False) -> str:
    """Where a path leads to in the end; of an entry of a folder, where the folder does. Nothing for an open file."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        return ""
    text = os.fsdecode(path)
    if isinstance(folder, int) and folder >= 0:
        text = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), text)
    if not entry:
        return os.path.realpath(text)
    text = os.path.abspath(text)
    return os.path.join(os.path.realpath(os.path.dirname(text)), os.path.basename(text))


def global_state() -> dict[str, Any]:
    """What no load may change for the rest of the process."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 - the state of other people's programs
    return {
        "random numbers of torch": torch.get_rng_state().numpy().tobytes(),
        "random numbers of Python": random.getstate(),
        "random numbers of NumPy": (kind, keys.tobytes(), *rest),
        "dtype of torch": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "nn.Module.__call__": nn.Module.__call__,
        "nn.Module.__getattr__": nn.Module.__getattr__,
        "working folder": os.getcwd(),
        "path of modules": tuple(sys.path),
    }


def differing(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [name for name in before if before[name] != after[name]]


# -- memory ------------------------------------------------------------------------------------------------------------


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0


def forget_peak() -> None:
    """The peak of this process's memory starts anew, where the system can do that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_memory() -> int:
    """Bytes of main memory that this process had at most since `forget_peak`."""
    try:
        return _status("VmHWM")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def limit_memory(more: int) -> None:
    """This process gets no more than so many bytes beyond what it has mapped."""
    try:
        size = _status("VmSize")
    except OSError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (size + more, size + more))


# -- time --------------------------------------------------------------------------------------------------------------


def work_of(process: int) -> tuple[float, bool]:
    """Seconds of the processor that another process has had, and whether it waits for something else than its turn.

    Where the system does not say, it had none and waits.

    Args:
        process: Its number.
    """
    try:
        values = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0, True
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK"), values[0] not in "RD"


# -- where it happened -------------------------------------------------------------------------------------------------


def own_place(error: BaseException) -> tuple[str, str]:
    """The last of our own frames, without its line (by which findings are told apart) and with it."""
    frames = traceback.extract_tb(error.__traceback__)
    return _last_own([(frame.filename, frame.lineno or 0, frame.name) for frame in frames])


def place_in_dump(text: str) -> tuple[str, str]:
    """The same of what faulthandler wrote, where the innermost frame comes first."""
    frames = []
    for line in text.splitlines():
        if line.startswith('  File "'):
            path, _, rest = line.removeprefix('  File "').partition('", line ')
            number, _, name = rest.partition(" in ")
            frames.append((path, int(number) if number.isdigit() else 0, name))
        elif frames and not line.strip():
            break
    return _last_own(frames[::-1])


def _last_own(frames: list[tuple[str, int, str]]) -> tuple[str, str]:
    own = [frame for frame in frames if Path(frame[0]).is_relative_to(PACKAGE)]
    if not own:
        return ("-", "-")
    path, line, name = own[-1]
    file = Path(path).relative_to(REPOSITORY).as_posix()
    return f"{file} {name}", f"{file}:{line}"
