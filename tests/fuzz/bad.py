"""A door and a save that break every rule, so that a campaign which no longer sees it is seen to be blind.

python -m fuzz.bad FOLDER FILE
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ciao_peft.checking import check_number
from ciao_peft.errors import ConfigError

from .door import Door
from .faults import Faults
from .run import Campaign
from .saves import Save

_LINK, _LINK_TO_FOLDER = Path("link.txt"), Path("link")  # in the working folder of whoever opens inputs


def _refuses(message: str) -> None:
    raise ConfigError(message)


def _allocates() -> None:
    bytearray(1_900 * 2**20)[::4096] = b"x" * (1_900 * 2**20 // 4096)
    raise ConfigError("too late")


class BadDoor(Door):
    """Each of its seeds does another forbidden thing, or an allowed one."""

    name, limit, warms_up = "bad", 1.0, False
    ways = {
        "a-loads": lambda: None,
        "b-refuses": lambda: check_number("it", "x"),
        "c-foreign": lambda: check_number("it", 1, low="x"),
        "z-hangs": lambda: time.sleep(60),
        "e-crashes": lambda: os.kill(os.getpid(), signal.SIGSEGV),
        "f-runs": lambda: os.system("true"),
        "g-writes": lambda: Path("/tmp/ciao-peft-reached").write_text("x") and os.remove("/tmp/ciao-peft-reached"),
        "l-writes-through-a-link": lambda: _LINK.write_text("x"),
        "m-removes-behind-a-link": lambda: os.remove(_LINK_TO_FOLDER / "b.txt"),
        "n-replaces-behind-a-link": lambda: os.replace("own.txt", _LINK_TO_FOLDER / "c.txt"),
        "h-draws": lambda: torch.rand(1),
        "i-says-much": lambda: _refuses("x" * 100_000),
        "j-changes-the-model": lambda: check_number("it", "y"),
        "k-fills-the-memory": _allocates,
    }

    def make_seeds(self, folder: Path) -> None:
        for way in self.ways:
            (folder / way).mkdir(parents=True)
            (folder / way / "way.txt").write_text(way)

    def __init__(self, elsewhere: Path):
        self.elsewhere = elsewhere

    def start(self, scratch: Path) -> None:
        self.held = 0

    def begin(self) -> None:
        Path("own.txt").write_text("x")
        for link, target in ((_LINK, self.elsewhere / "a.txt"), (_LINK_TO_FOLDER, self.elsewhere)):
            link.unlink(missing_ok=True)
            link.symlink_to(target)

    def state(self) -> Any:
        return self.held

    def open(self, folder: Path, scratch: Path) -> Any:
        way = (folder / "way.txt").read_text()
        self.held += way.startswith("j")
        self.ways[way]()


class BadSave(Save):
    """Writes over the file where it lies, away from other people's, and forgets what it wrote aside."""

    name, target, others = "bad", "folder", {"notes.txt": b"mine"}

    def _write(self, place: Path, content: str) -> None:
        folder, aside = place / self.target, place / ".aside"
        folder.mkdir(exist_ok=True)
        if (folder / "notes.txt").exists():
            shutil.move(folder / "notes.txt", aside)
        with (folder / "content.txt").open("w") as file:
            for line in content:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        if aside.exists() and not (folder / "notes.txt").exists():
            shutil.move(aside, folder / "notes.txt")

    def old(self, place: Path) -> None:
        self._write(place, "old")

    def new(self, place: Path) -> None:
        (place / f".{os.getpid()}").touch()
        self._write(place, "new")
        os.remove(place / f".{os.getpid()}")

    def read(self, place: Path) -> str:
        return (place / self.target / "content.txt").read_text()


def main(home: Path, out: Path) -> None:
    elsewhere = home / "elsewhere"
    elsewhere.mkdir()
    for name in ("a.txt", "b.txt", "c.txt"):  # one for each way to change it
        (elsewhere / name).write_text("of others")
    door = BadDoor(elsewhere)
    found = Campaign(door, home / "door", home / "build", 0).run(300, len(door.ways))
    faults = Faults(BadSave(), home / "save")
    faults.at_every_point()
    out.write_text(json.dumps({"door": found, "save": [*faults.findings.values()]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]))
