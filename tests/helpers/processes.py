"""Other processes: a module of `helpers` as a program, killed in the middle or run twice at once."""

from __future__ import annotations

import os
import subprocess
import sys

from .places import REPOSITORY, TESTS


def command_of(module: str, *arguments: object, launcher: tuple[str, ...] = ()) -> list[str]:
    """The command that runs `helpers.<module>`; a launcher such as torchrun goes before it."""
    return [sys.executable, *launcher, "-m", f"helpers.{module}", *map(str, arguments)]


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, in which another one finds the package and `helpers`."""
    return os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{TESTS}"} | changes


def run(
    module: str, *arguments: object, launcher: tuple[str, ...] = (), **changes: str
) -> subprocess.CompletedProcess[str]:
    """Runs `helpers.<module>` to its end; its output is shown where the test fails."""
    done = subprocess.run(
        command_of(module, *arguments, launcher=launcher),
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    print(done.stdout, done.stderr)
    return done
