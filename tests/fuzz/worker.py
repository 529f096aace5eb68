"""The process that opens inputs, one after the other, and says of each what became of it."""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from ciao_peft.errors import CIAOError, DivergenceError

from .door import Door
from .mutations import DEVICE, Rng, copy_folder, endless_device, files_in, mutate
from .watch import Watch, differing, forget_peak, global_state, limit_memory, own_place, peak_memory, place_in_dump

MEMORY = 2 * 10**9
LONGEST_MESSAGE = 3_000
_CORPUS = 200
DUMP = "stack.txt"
RESEALED = "checksums made right again"


def slug(*parts: str) -> str:
    """A name for a folder."""
    return "-".join("".join(c if c.isalnum() or c in "._" else "-" for c in part).strip("-") for part in parts)[:150]


def build_input(door: Door, home: Path, seed: int, number: int) -> list[str]:
    """Makes input number so-and-so in `home/input`; the same seed and number give the same one.

    Args:
        door: Whose.
        home: Holds `seeds` and `corpus`, inputs that met something new, by their numbers.
    """
    rng = Rng(f"{seed} {door.name} {number}")
    folder = home / "input"
    shutil.rmtree(folder, ignore_errors=True)
    seeds = sorted((home / "seeds").iterdir())
    earlier = sorted(
        (path for path in (home / "corpus").iterdir() if int(path.name) < number), key=lambda p: int(p.name)
    )
    if number < len(seeds):  # as they are, at first
        copy_folder(seeds[number], folder)
        return [f"from {seeds[number].name}"]
    source = rng.choice(earlier) if earlier and rng.random() < 0.2 else rng.choice(seeds)
    copy_folder(source, folder)
    steps = [f"from {source.name}", *mutate(folder, rng, door.wanted, endless_device(home))]
    if len(steps) > 1 and door.finish(folder, rng):
        steps.append(RESEALED)
    return steps


class Opener:
    """Opens inputs of one door in this process.

    Args:
        door: It.
        home: The campaign's folder; `home/input` is opened, `home/scratch` may be written to.
        build: Where inputs are kept that met something forbidden.
        hears: Whether what reaches outside is noted.
    """

    def __init__(self, door: Door, home: Path, build: Path, hears: bool = True):
        self.door, self.home, self.build = door, home, build
        self.scratch = home / "scratch"
        self.seen: set[Any] = set()
        self.scratch.mkdir(exist_ok=True)
        tempfile.tempdir = str(self.scratch)
        os.chdir(self.scratch)
        torch.set_num_threads(1)
        self.watch = Watch(home, door.reaches, build) if hears else None
        door.start(self.scratch)
        seeds = sorted((home / "seeds").iterdir()) if door.warms_up else []
        self.contents = {path.name: self._content_of(path) for path in seeds if path.name not in door.hostile}

    def _content_of(self, seed: Path) -> Any:
        shutil.rmtree(self.home / "input", ignore_errors=True)
        copy_folder(seed, self.home / "input")
        self.door.begin()
        try:
            return self.door.open(self.home / "input", self.scratch)
        except Exception:
            return None
        finally:
            self._clean()

    def _clean(self) -> None:
        for entry in self.scratch.iterdir():
            is_folder = entry.is_dir() and not entry.is_symlink()
            shutil.rmtree(entry, ignore_errors=True) if is_folder else entry.unlink(missing_ok=True)

    def open(self, steps: list[str]) -> dict[str, Any]:
        """Opens `home/input`; what comes back is plain data."""
        self.door.begin()
        before, state = global_state(), self.door.state()
        if self.watch is not None:
            self.watch.take()
        forget_peak()
        began, cpu = time.monotonic(), time.process_time()
        error: BaseException | None = None
        content = None
        try:
            content = self.door.open(self.home / "input", self.scratch)
        except BaseException as caught:
            if isinstance(caught, KeyboardInterrupt):
                raise
            error = caught
        found: dict[str, Any] = {
            "seconds": round(time.monotonic() - began, 4),
            "cpu": round(time.process_time() - cpu, 4),
            "peak": peak_memory(),
            "outcome": "loaded" if error is None else "refused",
        }
        reached = [] if self.watch is None else self.watch.take()
        reached += ["runs what a file says"] * (self.scratch / "reached").exists()
        changed = differing(before, global_state())
        if error is not None and not isinstance(error, DivergenceError) and self.door.state() != state:
            changed.append("the model")
        if self.door.compares and error is None and RESEALED not in steps:
            found["altered"] = content != self.contents.get(steps[0].removeprefix("from "), content)
        found["spoilt"] = any(not name.startswith("random") for name in changed)
        found["findings"] = self._judge(error, found, reached, changed)
        found["new"] = error is not None and self._is_new(error)
        del error
        self._clean()
        if found["peak"] > MEMORY:
            forget_peak()
            found["spoilt"] |= peak_memory() > MEMORY / 2
        return found

    def _judge(
        self, error: BaseException | None, found: dict[str, Any], reached: list[str], changed: list[str]
    ) -> list[dict[str, Any]]:
        starved = ran_out_of_memory(error)
        key, place = ("-", "-") if error is None else own_place(starved or error)
        kind = "" if error is None else type(error).__name__
        text = "" if error is None else str(error).replace(str(self.home), "...")
        findings: list[dict[str, Any]] = []

        def add(what: str, message: str) -> None:
            where = ("", "-", "-") if what in ("changes", "reaches outside") else (kind, key, place)
            about = dict(zip(("error", "key", "place"), where, strict=True))
            findings.append({"what": what, **about, "message": message[:300]})

        if starved is not None:
            add("memory", str(starved))
        elif error is not None and not isinstance(error, CIAOError):
            add("foreign exception", text)
        elif len(text) > LONGEST_MESSAGE:
            add("message too long", f"{len(text):,} characters: {text[:100]}")
        if found["peak"] > MEMORY and not findings:
            add("memory", f"{found['peak'] / 1e9:.1f} GB: {text[:100]}")
        for what in reached:
            add("reaches outside", what)
        for what in changed:
            add("changes", what)
        if findings:
            findings[0]["traceback"] = "".join(traceback.format_exception(error))[-6000:] if error else ""
        return findings

    def _is_new(self, error: BaseException) -> bool:
        """Whether an input was turned away at a line, and by an error, that none met before."""
        kind = (type(error), own_place(error)[1])
        if kind in self.seen or len(self.seen) > _CORPUS:
            return False
        self.seen.add(kind)
        return True

    def keep(self, finding: dict[str, Any], number: int, steps: list[str]) -> None:
        """Keeps the input where the first finding of its kind lies."""
        keep(self.home, self.build, self.door.name, finding, number, steps)


def ran_out_of_memory(error: BaseException | None) -> BaseException | None:
    """The error among those that led to this one that says there was no memory was left."""
    while error is not None:
        if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)[:1000]:
            return error
        error = error.__cause__ or error.__context__
    return None


def detail_of(finding: dict[str, Any]) -> str:
    """What tells findings of one kind and place apart."""
    return finding["message"] if finding["what"] in ("changes", "reaches outside") else ""


def keep(home: Path, build: Path, door: str, finding: dict[str, Any], number: int, steps: list[str]) -> Path:
    folder = (
        build / door / slug(finding["what"], finding["error"], finding["key"].rpartition("/")[2], detail_of(finding))
    )
    if not folder.exists():
        folder.mkdir(parents=True)
        copy_folder(home / "input", folder / "input", DEVICE)  # the campaign's own is gone when it ends
        about = {"door": door, "number": number, "steps": steps, **finding}
        (folder / "finding.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return folder


def work(door: Door, home: Path, build: Path, seed: int, first: int, last: int, until: float, pipe: int) -> None:
    """Opens inputs from `first` to before `last` until a time; says to the pipe what it does; never returns."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with open(os.devnull, "r+b") as nothing:
        for stream in (0, 1, 2):
            os.dup2(nothing.fileno(), stream)
    stacks = (home / DUMP).open("w")
    faulthandler.enable(stacks)
    faulthandler.register(signal.SIGUSR1, stacks, chain=False)  # asked for by whoever waits too long

    def say(**what: Any) -> None:
        os.write(pipe, json.dumps(what).encode() + b"\n")

    try:
        opener = Opener(door, home, build)
        limit_memory(MEMORY)
        say(ready=True)
        for number in range(first, last):
            if time.monotonic() > until:
                break
            steps = build_input(door, home, seed, number)
            stacks.seek(0)
            stacks.truncate()
            say(opens=number, steps=steps)
            found = opener.open(steps)
            if found["cpu"] > door.limit:
                slow = dict(zip(("key", "place"), place_in_dump((home / DUMP).read_text()), strict=True))
                slow |= {"what": "slow", "error": "", "message": f"{found['cpu']:.1f} s of a processor"}
                found["findings"].append(slow)
            for finding in found["findings"]:
                opener.keep(finding, number, steps)
            if found.pop("new"):
                target = home / "corpus" / str(number)
                if not target.exists() and all(path.lstat().st_size < 2**20 for path in files_in(home / "input")):
                    copy_folder(home / "input", target)
            say(done=number, **found)
            if found["spoilt"]:
                break  # in a process that is no more as it was, later inputs would say nothing
        say(end=True)
    except BaseException:
        say(broken=traceback.format_exc()[-3000:])
    finally:
        sys.stdout.flush()
        os._exit(0)
