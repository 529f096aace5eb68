"""What a process does beside its task: files written elsewhere, programs started, hosts asked, memory, global state."""

from __future__ import annotations

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


class Watch:
    """Notes what reaches outside, by what Python itself reports; there is one per process, for good.

    Args:
        inside: The only folder that may be written to.
        hosts: That may be asked.
    """

    def __init__(self, inside: Path, hosts: Iterable[str]):
        self.inside = f"{inside}{os.sep}"
        self.hosts = frozenset(hosts)
        self.reached: list[str] = []
        self.notes = (inside / NOTES).open("w+b", buffering=0)  # for those who look when this process is dead
        sys.addaudithook(self._hear)

    def _hear(self, event: str, values: tuple[Any, ...]) -> None:
        try:
            if event == "open":
                self._opened(*values)
            elif event in PROGRAMS:
                self._note(f"runs {values[0]!r}"[:200])
            elif event == "socket.connect" and isinstance(values[1], tuple) and values[1][0] not in self.hosts:
                self._note(f"asks {values[1][0]}")
            elif event == "socket.getaddrinfo" and values[0] not in self.hosts:
                self._note(f"asks {values[0]}")
        except Exception:  # an oddity of the event must not become one of the library
            return

    def _opened(self, path: Any, mode: Any, flags: int) -> None:
        if not isinstance(path, (str, bytes)) or not flags & _WRITES:
            return
        text = os.path.abspath(os.fsdecode(path))
        if not text.startswith((self.inside, "/dev/", "/proc/")):
            self._note(f"writes {text}")

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
