"""Opens hostile files at every door, for as long as it is told, and says what met something forbidden.

    python -m fuzz.run --seconds 60 --door adapter plan --jobs 2 --out fuzz.json
    python -m fuzz.run --replay build/fuzz/plan/foreign-exception-...

Allowed: an input loads, or an error of `ciao_peft.errors` refuses it. Forbidden: any other exception, a crash, more
than two seconds or two gigabytes, another state of the model or of the process after a refusal, a file written, a
program run or a host asked elsewhere.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import platform
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from helpers.places import BENCHMARKS, REPOSITORY

from .data_doors import DATA_DOORS
from .door import Door
from .doors import MODEL_DOORS
from .mutations import copy_folder, endless_device
from .watch import NOTES, place_in_dump, work_of
from .worker import DUMP, Opener, detail_of, keep, work

DOORS: dict[str, type[Door]] = {door.name: door for door in (*MODEL_DOORS, *DATA_DOORS)}
BUILD = REPOSITORY / "build" / "fuzz"
_QUIET = {"HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "MPLBACKEND": "Agg"}
_START = 120.0  # seconds for what is done once, or between two inputs
_GRACE = 1.0
_AGAIN = 5.0  # times the limit that an input gets when it is tried again alone


def import_everything() -> None:
    """Every module of the library, so that no input is slow because it is the first to need one."""
    import ciao_peft

    warnings.simplefilter("ignore")  # of the modules that keep old names
    for module in pkgutil.walk_packages(ciao_peft.__path__, "ciao_peft."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


class Campaign:
    """One door, opened again and again by processes that may die.

    Args:
        door: It.
        home: An empty folder of its own.
        build: Where inputs are kept that met something forbidden.
        seed: Of the inputs.
    """

    def __init__(self, door: Door, home: Path, build: Path, seed: int):
        self.door, self.home, self.build, self.seed = door, home, build, seed
        for name in ("seeds", "corpus", "scratch"):
            (home / name).mkdir(parents=True)
        import_everything()
        door.make_seeds(home / "seeds")
        self.counts = {"inputs": 0, "loaded": 0, "refused": 0, "altered": 0}
        self.most = {"peak": 0, "seconds": 0.0}
        self.findings: dict[tuple[str, ...], dict[str, Any]] = {}

    def run(self, seconds: float, inputs: int) -> dict[str, Any]:
        """Until the time is over or the inputs are opened, whichever is first."""
        began = time.monotonic()
        number = 0
        while number < inputs and time.monotonic() - began < seconds:
            number = self._process(number, inputs, began + seconds)
        return {
            "about": self.door.about,
            **self.counts,
            "seconds": round(time.monotonic() - began, 1),
            "peak_memory": self.most["peak"],
            "slowest": round(self.most["seconds"], 2),
            "findings": sorted(self.findings.values(), key=lambda finding: (finding["what"], -finding["count"])),
        }

    def _process(self, first: int, last: int, until: float, times: float = 1.0) -> int:
        """Lets one process open inputs; returns the number of the next one, or -1 where the process had to die."""
        ours, theirs = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(ours)
            work(self.door, self.home, self.build, self.seed, first, last, until, theirs)
        os.close(theirs)
        pending, current, steps, ended = b"", first, [], False
        allowed, opening = _START, False
        began = before = 0.0  # what it had of the processor
        while True:
            if not select.select([ours], [], [], allowed)[0]:
                now, waits = work_of(process)
                if now - began < allowed and (now > before or not waits):
                    before = now  # it is at work, and others have the machine
                    continue
                if not opening:
                    break
                os.kill(process, signal.SIGUSR1)  # it writes down where it is
                opening, allowed = False, _GRACE
                continue
            if not (data := os.read(ours, 2**16)):
                break
            pending += data
            *lines, pending = pending.split(b"\n")
            for line in lines:
                said = json.loads(line)
                if "opens" in said:
                    current, steps, allowed = said["opens"], said["steps"], times * self.door.limit
                    opening, began = True, work_of(process)[0]
                    before = began
                elif "done" in said:
                    self._note(said, steps)
                    current, allowed, opening = said["done"] + 1, _START, False
                    began = before = work_of(process)[0]
                elif "broken" in said:
                    raise RuntimeError(f"the campaign itself broke at input {current}:\n{said['broken']}")
                ended |= "end" in said
        os.close(ours)
        if ended:
            os.waitpid(process, 0)
            return current
        done, status = os.waitpid(process, os.WNOHANG)
        if not done:
            time.sleep(0.1)  # one that crashed may need a moment to be gone
            done, status = os.waitpid(process, os.WNOHANG)
        if not done:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        if times > 1:
            return -1
        what, message = "hang", f"longer than {_AGAIN * self.door.limit:g} s"
        if done:
            what, message = "crash", signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "exit"
        # Others use the machine: tried again, alone.
        known = (what, "", place_in_dump((self.home / DUMP).read_text())[0], "") in self.findings
        if known or self._process(current, current + 1, until + 60, _AGAIN) < 0:
            self._killed(what, message, current, steps)
        return current + 1

    def _note(self, said: dict[str, Any], steps: list[str]) -> None:
        self.counts["inputs"] += 1
        self.counts[said["outcome"]] += 1
        self.counts["altered"] += bool(said.get("altered"))
        self.most = {"peak": max(self.most["peak"], said["peak"]), "seconds": max(self.most["seconds"], said["cpu"])}
        for finding in said["findings"]:
            self._add(finding, said["done"], steps)

    def _killed(self, what: str, message: str, number: int, steps: list[str]) -> None:
        self.counts["inputs"] += 1
        key, place = place_in_dump((self.home / DUMP).read_text())
        finding = {"what": what, "error": "", "key": key, "place": place, "message": message}
        reached = (self.home / NOTES).read_text().splitlines() if (self.home / NOTES).exists() else []
        outside = {"what": "reaches outside", "error": "", "key": "-", "place": place}
        for one in (finding, *(outside | {"message": what} for what in reached)):
            keep(self.home, self.build, self.door.name, one, number, steps)
            self._add(one, number, steps)

    def _add(self, finding: dict[str, Any], number: int, steps: list[str]) -> None:
        key = (finding["what"], finding["error"], finding["key"], detail_of(finding))
        if key not in self.findings:
            kept = {name: value for name, value in finding.items() if name != "traceback"}
            self.findings[key] = {"door": self.door.name, **kept, "count": 0, "number": number, "steps": steps}
        self.findings[key]["count"] += 1


def shut_in(private: Path) -> None:
    """Before anything of Hugging Face is imported: nothing of the user's is read, and nobody is asked unheard.

    That is why the address of the Hub is a dead one: with "offline" there would be nothing to hear.
    """
    home = str(private / "home")
    os.environ |= _QUIET | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    os.environ |= {"HF_HOME": home, "TORCH_HOME": home, "XDG_CACHE_HOME": home, "TMPDIR": str(private)}


def result_of(doors: dict[str, dict[str, Any]], seed: int) -> dict[str, Any]:
    """What the file of results holds."""
    names = ("torch", "transformers", "timm", "datasets", "huggingface-hub", "pillow", "h5py", "safetensors")
    findings = [finding for door in doors.values() for finding in door["findings"]]
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "seed": seed,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
        "doors": {name: {k: v for k, v in door.items() if k != "findings"} for name, door in doors.items()},
        "findings": findings,
    }


def table(result: dict[str, Any]) -> str:
    """What is printed at the end."""
    heads = {"inputs": 8, "loaded": 8, "refused": 9, "altered": 9, "kinds": 7, "peak GB": 9, "slowest s": 11}
    lines = ["door            " + "".join(f"{head:>{width}}" for head, width in heads.items())]
    for name, door in result["doors"].items():
        kinds = sum(finding["door"] == name for finding in result["findings"])
        lines.append(
            f"{name:16}{door['inputs']:8}{door['loaded']:8}{door['refused']:9}{door['altered']:9}{kinds:7}"
            f"{door['peak_memory'] / 1e9:9.2f}{door['slowest']:11.2f}"
        )
    lines.append("")
    for one in result["findings"]:
        message = " ".join(one["message"].split())[:110]
        lines.append(f"{one['count']:5} x {one['door']}: {one['what']} {one['error']} at {one['place']}: {message}")
    return "\n".join([*lines, "" if result["findings"] else "Nothing forbidden was met."])


def _in_processes(options: argparse.Namespace, private: Path) -> dict[str, dict[str, Any]]:
    """Each door in a process of its own, some at a time."""

    def one(name: str) -> tuple[str, dict[str, Any]]:
        out = private / f"{name}.json"
        command = [sys.executable, "-m", "fuzz.run", "--door", name, "--seed", str(options.seed), "--out", str(out)]
        command += ["--seconds", str(options.share), "--inputs", str(options.inputs), "--build", str(options.build)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not out.is_file():
            raise SystemExit(f"{name}: {done.stderr[-3000:]}")
        result = json.loads(out.read_text())
        return name, result["doors"][name] | {"findings": result["findings"]}

    with ThreadPoolExecutor(options.jobs) as pool:
        return dict(pool.map(one, options.door))


def replay(folder: Path, private: Path) -> None:
    """Opens a kept input in this process, with the traceback to see."""
    about = json.loads((folder / "finding.json").read_text(encoding="utf-8"))
    home, door = private / "replay", DOORS[about["door"]]()
    (home / "seeds").mkdir(parents=True)
    copy_folder(folder / "input", home / "input", endless_device(home))
    opener = Opener(door, home, BUILD, hears=False)
    door.begin()
    print(about["steps"])
    print(door.open(home / "input", opener.scratch))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1e9, help="for all doors together")
    parser.add_argument("--inputs", type=int, default=10**9, help="for each door")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--door", nargs="+", choices=[*DOORS], default=[*DOORS], metavar="NAME")
    parser.add_argument("--fast", action="store_true", help="only doors where hundreds of inputs take seconds")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=BENCHMARKS / "results" / "fuzz.json")
    parser.add_argument("--build", type=Path, default=BUILD, help="where inputs are kept that met something forbidden")
    parser.add_argument("--replay", type=Path, metavar="FOLDER", help="open one of those again")
    options = parser.parse_args()
    private = Path(tempfile.mkdtemp(prefix="ciao-peft-fuzz-")).resolve()
    shut_in(private)
    try:
        if options.replay:
            replay(options.replay, private)
        else:
            _run(options, private)
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _run(options: argparse.Namespace, private: Path) -> None:
    options.build = options.build.resolve()
    options.build.mkdir(parents=True, exist_ok=True)  # while that is allowed: later a campaign writes in it alone
    options.door = [name for name in options.door if DOORS[name].fast or not options.fast]
    options.share = options.seconds * options.jobs / len(options.door)
    if options.jobs > 1:
        doors = _in_processes(options, private)
    else:
        doors = {}
        for name in options.door:
            campaign = Campaign(DOORS[name](), private / name, options.build, options.seed)
            doors[name] = campaign.run(options.share, options.inputs)
            shutil.rmtree(private / name, ignore_errors=True)
    result = result_of(doors, options.seed)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))


if __name__ == "__main__":
    main()
