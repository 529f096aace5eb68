"""Processes that do one thing and may die on the way: at a call that writes, within a write, at any moment."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CALLS = (
    *("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown"),
    *("ctypes.dlopen", "os.scandir", "os.listdir"),
)
# What a disk can refuse; to take away, or to look, it never needs room.
REFUSED = {"open", "os.mkdir", "os.rename", "os.link", "fsync", "fallocate"}


class Points:
    """Counts the calls that write below a folder, and does something at one of them.

    Args:
        inside: The folder.
        fatal: At the how-many-th call, from 0; None for none.
        action: `"kill"`, or `"refuse"` as a full disk does.
    """

    def __init__(self, inside: Path, fatal: int | None = None, action: str = "kill"):
        self.inside, self.fatal, self.action = f"{inside}{os.sep}", fatal, action
        self.names: list[str] = []
        sys.addaudithook(self._hear)
        sync, allocate = os.fsync, getattr(os, "posix_fallocate", None)

        def fsync(handle: Any) -> None:
            self.at("fsync")
            sync(handle)
            self.at("after fsync")

        os.fsync = fsync
        if allocate is not None:

            def posix_fallocate(handle: int, offset: int, length: int) -> None:
                self.at("fallocate")
                allocate(handle, offset, length)

            os.posix_fallocate = posix_fallocate

    def _hear(self, event: str, values: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = values
            if isinstance(path, (str, bytes)) and isinstance(flags, int) and flags & _WRITES and self._is_inside(path):
                self.at("open")
        elif event == "ctypes.dlopen" or (event in _CALLS and self._is_inside(values[0])):
            self.at(event)

    def _is_inside(self, path: Any) -> bool:
        return isinstance(path, (str, bytes, os.PathLike)) and os.path.abspath(os.fsdecode(path)).startswith(
            self.inside
        )

    def at(self, name: str) -> None:
        """A call that writes is about to be made."""
        self.names.append(name)
        if len(self.names) - 1 == self.fatal:
            if self.action == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif name in REFUSED:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def die_within_a_write(limit: int) -> None:
    """From now on the process dies in the write that makes a file longer than so many bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def in_child(
    task: Callable[[], Any], before: Callable[[], Any] | None = None, kill_after: float | None = None, user: int = 0
) -> dict[str, Any]:
    """Runs a task in a process of its own.

    Args:
        task: Gives plain data.
        before: Called first, in that process; what it returns may have `names`.
        kill_after: Seconds after which it is killed.
        user: Whose process it is, where this one is root's.

    Returns:
        `{"value": ...}`, `{"error": name, "ours": bool, "message": ...}` or `{"killed": signal}`; with `"points"`.
    """
    ours, theirs = os.pipe()
    process = os.fork()
    if process == 0:
        _child(task, before, user, theirs)
    os.close(theirs)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(process, signal.SIGKILL)
    with os.fdopen(ours, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status):
        return {"killed": signal.Signals(os.WTERMSIG(status)).name}
    return json.loads(said)


def _child(task: Callable[[], Any], before: Callable[[], Any] | None, user: int, pipe: int) -> None:
    from ciao_peft.errors import CIAOError

    with open(os.devnull, "r+b") as nothing:
        for stream in (0, 1, 2):
            os.dup2(nothing.fileno(), stream)
    if user and os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    points = before() if before is not None else None
    try:
        said: dict[str, Any] = {"value": task()}
    except BaseException as error:
        message = " ".join(str(error).split())[:300]
        said = {"error": type(error).__name__, "ours": isinstance(error, CIAOError), "message": message}
    said["points"] = getattr(points, "names", [])
    os.write(pipe, json.dumps(said).encode())
    os._exit(0)
