"""Kills saves at every call that writes, lets disks refuse, and saves in odd places; says what was lost or left.

    python -m fuzz.faults --kills 1000 --out faults.json

A save that is killed leaves the old or the new, never less; no file of other people is lost; and after the next save
that succeeds nothing is left over. A save that the disk refuses raises an error of `ciao_peft.errors`, and all is as it
was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from helpers.places import BENCHMARKS

from .dying import REFUSED, Points, die_within_a_write, in_child
from .odd_places import PLACES
from .saves import SAVES, Save, listing

WAYS = {
    "point": "killed before a call that writes",
    "write": "killed within a write",
    "moment": "killed at any moment",
    "refusal": "refused by the disk",
}


class Faults:
    """The campaign of one kind of saving.

    Args:
        save: It.
        home: An empty folder.
    """

    def __init__(self, save: Save, home: Path):
        self.save, self.home = save, home
        self.template, self.place = home / "template", home / "place"
        self.counts = dict.fromkeys((*WAYS, "survived", "old", "new"), 0)
        self.findings: dict[tuple[str, str], dict[str, Any]] = {}
        self.template.mkdir(parents=True)
        save.prepare()
        self._warm_up(home / "warm" / "place")
        self._asked(lambda: (save.old(self.template), save.put_others(self.template), None)[-1])
        self.old = in_child(lambda: save.read(self.template)).get("value", "nothing")
        self._fresh()
        began = time.monotonic()
        done = in_child(lambda: save.new(self.place), lambda: Points(home))
        if "error" in done:
            raise RuntimeError(f"{save.name}: {done}")
        self.seconds, self.points = time.monotonic() - began, done["points"]
        self.new = self._asked(lambda: save.read(self.place))
        self.clean = set(listing(self.place))
        if self.old == self.new and not save.writes_the_same:
            raise RuntimeError(f"{save.name}: the old and the new cannot be told apart.")

    def _warm_up(self, place: Path) -> None:
        """Once in this process, so that its children find everything imported."""
        place.mkdir(parents=True)
        self.save.old(place)
        self.save.new(place)
        self.save.read(place)
        shutil.rmtree(place.parent)

    def _asked(self, task: Any) -> Any:
        said = in_child(task)
        if "value" not in said:
            raise RuntimeError(f"{self.save.name}: {said}")
        return said["value"]

    def _fresh(self) -> None:
        for path in (self.place, self.place.with_name("place-read")):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.template, self.place, symlinks=True)

    def at_every_point(self) -> None:
        """One kill and one refusal at each call that writes."""
        for number, name in enumerate(self.points):
            self._try("point", lambda number=number: Points(self.home, number), point=number)
            if name in REFUSED:
                self._try("refusal", lambda number=number: Points(self.home, number, "refuse"), point=number)

    def at_random(self, kills: int, rng: random.Random) -> None:
        """So many kills within a write and at any moment."""
        sizes = sorted({path.stat().st_size for path in self.place.rglob("*") if path.is_file()} | {1})
        for number in range(kills):
            if number % 2:
                limit = max(0, rng.choice(sizes) - rng.choice((1, 1, 17, 400)))
                self._try("write", lambda limit=limit: die_within_a_write(limit))
            else:
                self._try("moment", None, kill_after=rng.uniform(0, 1.2 * self.seconds))

    def _try(self, way: str, before: Any, point: int | None = None, kill_after: float | None = None) -> None:
        self._fresh()
        done = in_child(lambda: self.save.new(self.place), before, kill_after)
        self.counts[way] += 1
        self.counts["survived"] += "killed" not in done
        where = f"{way} {point}, {self.points[point]}" if point is not None else way
        if way == "refusal":
            self._check_refusal(done, where)
        self._check_reader(way, where)
        if lost := self.save.lost(self.place):
            self._find(way, "loses other people's files", f"{where}: {', '.join(lost)}")
        again = in_child(lambda: self.save.new(self.place))
        if "error" in again:
            self._find(way, "the next save fails", f"{where}: {again['error']}: {again['message']}")
            return
        seen = in_child(lambda: self.save.read(self.place))
        if seen.get("value") != self.new:
            self._find(way, "the next save is not what is read", f"{where}: {seen.get('message', '')}")
        if left := sorted(set(listing(self.place)) - self.clean):
            self._find(way, "leaves something over", f"{where}: {', '.join(left[:3])}")
        if gone := sorted(self.clean - set(listing(self.place))):
            self._find(way, "loses something", f"{where}: {', '.join(gone[:3])}")

    def _check_reader(self, way: str, where: str) -> None:
        nothing = self.old == "nothing"
        seen = in_child(lambda: self.save.read(self.place))
        found = seen.get("value", "nothing" if nothing and seen.get("ours") else None)
        self.counts["old"] += found == self.old
        self.counts["new"] += found == self.new != self.old
        if found not in (self.old, self.new):
            self._find(
                way, "leaves neither the old nor the new", f"{where}: {seen.get('error')}: {seen.get('message')}"
            )

    def _check_refusal(self, done: dict[str, Any], where: str) -> None:
        if "error" in done and not done["ours"]:
            self._find("refusal", "a foreign exception", f"{where}: {done['error']}: {done['message']}")
        if "error" not in done or self.save.ends_alike:
            return  # of what can be done without, or of what goes on where it was
        if left := sorted(set(listing(self.place)) - set(listing(self.template)) - self.clean):
            self._find("refusal", "leaves something over at once", f"{where}: {', '.join(left[:3])}")

    def _find(self, way: str, what: str, example: str) -> None:
        found = self.findings.setdefault(
            (way, what),
            {
                "save": self.save.name,
                "way": WAYS[way],
                "what": what,
                "count": 0,
                "example": example.replace(str(self.home), "...")[:300],
            },
        )
        found["count"] += 1

    def result(self) -> dict[str, Any]:
        """Plain data."""
        return {"points": len(self.points), "milliseconds": round(1000 * self.seconds, 1), **self.counts}


def campaign(kills: int, seed: int, names: list[str], home: Path) -> dict[str, Any]:
    """All kinds of saving: every point of each, then random kills until there are enough, then the odd places."""
    rng, results, findings = random.Random(seed), {}, []
    cases = [Faults(save(), home / f"case-{number}") for number, save in enumerate(SAVES) if save.name in names]
    for case in cases:
        case.at_every_point()
        print(f"{case.save.name}: every one of {len(case.points)} points", file=sys.stderr)
    left = max(0, kills - sum(case.counts["point"] for case in cases))
    weights = [1 / max(case.seconds, 0.02) for case in cases]  # more of what is quick
    for case, weight in zip(cases, weights, strict=True):
        case.at_random(round(left * weight / sum(weights)), rng)
    for case in cases:
        results[case.save.name] = case.result()
        findings += case.findings.values()
    places = [
        {"place": name, "save": case.save.name, **_odd(check, case)}
        for name, check, kinds in PLACES
        for case in cases
        if type(case.save) in kinds
    ]
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "seed": seed,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "saves": results,
        "places": places,
        "findings": findings,
    }


def _odd(check: Any, case: Faults) -> dict[str, str]:
    case._fresh()
    try:
        found = check(case.save, case.place, case.clean)
        return found | {"why": found["why"].replace(str(case.home), "...")}
    except OSError as error:
        return {"outcome": "skipped", "why": f"{type(error).__name__}: {error}"}


def table(result: dict[str, Any]) -> str:
    """What is printed at the end."""
    lines = [f"{'save':28}{'points':>7}{'kills':>7}{'refusals':>10}{'old':>6}{'new':>6}{'findings':>10}"]
    for name, one in result["saves"].items():
        kills = one["point"] + one["write"] + one["moment"]
        found = sum(finding["save"] == name for finding in result["findings"])
        lines.append(f"{name:28}{one['points']:7}{kills:7}{one['refusal']:10}{one['old']:6}{one['new']:6}{found:10}")
    lines.append("")
    lines += [
        f"{one['count']:5} x {one['save']}, {one['way']}: {one['what']} ({one['example']})"
        for one in result["findings"]
    ]
    lines += [f"{one['outcome']}: {one['save']}, {one['place']}: {one['why']}"[:220] for one in result["places"]]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000, help="in all; more where there are more points than that")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", nargs="+", choices=[save.name for save in SAVES], default=[s.name for s in SAVES])
    parser.add_argument("--out", type=Path, default=BENCHMARKS / "results" / "faults.json")
    options = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "MPLBACKEND": "Agg"}
    home = Path(tempfile.mkdtemp(prefix="ciao-peft-faults-")).resolve()
    home.chmod(0o755)
    try:
        result = campaign(options.kills, options.seed, options.save, home)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))


if __name__ == "__main__":
    main()
