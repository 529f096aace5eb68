"""Writes docs/reliability.md from what the campaigns of hostile files and killed saves found.

python docs/make_reliability.py

`make fuzz` and `make faults` run the campaigns, which takes minutes, and then this.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from pages import wrap_page

from ciao_peft.markdown import markdown_table

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results"

OUTSIDERS = [
    [
        "an adapter (folder or repository)",
        "give wrong answers; name a backbone for `AutoCIAOModel` to fetch; hold any text in its card and labels",
        "run code; change the backbone, another adapter or the active one; be put on another backbone unnoticed",
    ],
    [
        "an encoder",
        "be any network that this library, transformers or timm can build, and answer anything",
        "run code; be unpickled; take its weights from another place than its folder",
    ],
    [
        "a folder of faces",
        "hold wrong labels and misleading pictures",
        "give a face another one's label; reach files outside it that its table names",
    ],
    [
        "stored features",
        "be of the same backbone and pictures, and wrong, where whoever wrote them also wrote their checksums",
        "be taken for those of another backbone, preprocessing or data",
    ],
    [
        "a checkpoint",
        "steer a training, where whoever wrote it also wrote its checksums",
        "run code; be of another training, or other settings, unnoticed",
    ],
    [
        "a plan, a method, records",
        "say what is trained on what, and any score",
        "run code; set what no setting is",
    ],
    [
        "the Hub, or who answers for it",
        "see what is asked for; refuse it; give an older or another commit of a branch",
        "give more bytes than are allowed for a file; change what the cache holds of a commit that is asked for by its "
        "digits; make a failed load change the model",
    ],
    [
        "weights for `ciao convert-encoder`",
        "be other weights than their name says",
        "run code: pickles are read with `weights_only`; make the converter open other files",
    ],
]
PROMISES = [
    "A load succeeds or raises an error of `ciao_peft.errors` that says which file, what is wrong and what to do.",
    "After an error the model, the files and the random numbers of the process are what they were before the call.",
    "No file is unpickled, imported or executed, and no place is asked that the caller did not name.",
    "A load takes seconds and bounded memory, however large a file is or says it is.",
    "Whoever reads while somebody saves sees the old or the new, never a part of either.",
    "A save that is killed loses neither the old nor other people's files; the next save leaves nothing over.",
    "What was saved is loaded bit for bit; what was altered since is refused.",
]
LIMITS = [
    "Pictures are decoded by Pillow, HDF5 by its C library, networks of others are built by transformers and timm: a "
    "flaw there is one here. Convert weights of strangers in a sandbox.",
    "Checksums beside the data tell damage, not forgery: who can write the folder can write both. For trust in the "
    "author, pin a commit of a repository (`revision=`).",
    "A model that loads may still be wrong on purpose. Evaluate an adapter on faces of your own.",
    "Disks that lie about fsync, and power cuts, were not tried; kills of the process were.",
]
WAYS = (("point", "at a call"), ("write", "within a write"), ("moment", "at any moment"))


def result(name: str) -> dict[str, Any]:
    """What a campaign wrote."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def listed(items: list[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def doors(fuzz: dict[str, Any]) -> str:
    open_ones = Counter(finding["door"] for finding in fuzz["findings"])
    rows = [
        [
            f"`{name}`",
            door["about"],
            f"{door['inputs']:,}",
            f"{door['loaded']:,}",
            f"{door['refused']:,}",
            f"{door['peak_memory'] / 1e9:.1f} GB",
            f"{door['slowest']:.1f} s",
            str(open_ones[name]),
        ]
        for name, door in fuzz["doors"].items()
    ]
    return markdown_table(["door", "what comes in", "inputs", "loaded", "refused", "peak", "slowest", "open"], rows)


def saves(faults: dict[str, Any]) -> str:
    open_ones = Counter(finding["save"] for finding in faults["findings"])
    rows = [
        [
            name,
            str(one["points"]),
            *(f"{one[way]:,}" for way, _ in WAYS),
            f"{one['refusal']:,}",
            str(open_ones[name]),
        ]
        for name, one in faults["saves"].items()
    ]
    header = ["save", "calls that write", *(f"killed {words}" for _, words in WAYS), "refused by the disk", "open"]
    return markdown_table(header, rows)


def places(faults: dict[str, Any]) -> str:
    rows = [[one["place"], one["save"], _outcome(one)] for one in faults["places"]]
    return markdown_table(["where", "what is saved", ""], rows)


def _outcome(one: dict[str, str]) -> str:
    if one["outcome"] == "as promised":
        return one["outcome"]
    return f"{one['outcome']}: {printable(one['why'], 90)}"


def printable(text: str, most: int) -> str:
    """A message in a table: on one line, without what Markdown would read, and without places of one machine."""
    words = ["..." if word.strip("'\"(").startswith("/") else word for word in text.split()]
    short = " ".join(words).translate(str.maketrans("|`<>*_[]", "/'()    "))
    return short if len(short) <= most else short[: most - 3] + "..."


def open_files(fuzz: dict[str, Any]) -> str:
    rows = [
        [f"`{one['door']}`", one["what"], one["error"], one["place"], str(one["count"]), printable(one["message"], 60)]
        for one in sorted(fuzz["findings"], key=lambda one: (one["door"], one["what"], -one["count"]))
    ]
    if not rows:
        return "None of hostile files."
    return markdown_table(["door", "what", "error", "where", "inputs", "message"], rows)


def open_saves(faults: dict[str, Any]) -> str:
    rows = [[one["save"], one["way"], one["what"], str(one["count"])] for one in faults["findings"]]
    return markdown_table(["save", "how", "what", "times"], rows) if rows else "None of killed or refused saves."


def altered(fuzz: dict[str, Any]) -> str:
    counts = {name: door["altered"] for name, door in fuzz["doors"].items() if door["altered"]}
    if not counts:
        return "No input that was altered without its checksums being made right again was loaded as something else."
    said = ", ".join(f"{count:,} at `{name}`" for name, count in counts.items())
    return (
        "Of the inputs that loaded, some were altered without their checksums being made right again, and gave "
        f"something else than the unaltered ones: {said}."
    )


def page() -> str:
    fuzz, faults = result("fuzz"), result("faults")
    inputs, seconds = (sum(door[what] for door in fuzz["doors"].values()) for what in ("inputs", "seconds"))
    kills = sum(one[way] for one in faults["saves"].values() for way, _ in WAYS)
    refusals = sum(one["refusal"] for one in faults["saves"].values())
    versions = ", ".join(f"{name} {number}" for name, number in fuzz["versions"].items())
    return f"""# Reliability

What files from outside can do to you, what a crash can do to your files, and what was tried to find out. A script
writes this page from the results of two campaigns; findings that are open are listed at its end.

## Who can do what

{markdown_table(["who", "can", "cannot"], OUTSIDERS)}

## What is promised

{listed(PROMISES)}

Where this does not hold yet, the [open findings](#open-findings) say so.

## What is not

{listed(LIMITS)}

## Hostile files

    make fuzz SECONDS=600

Valid files of every kind are changed by a seeded generator that knows their structure: bits, cuts and splices; values,
types, keys and depths in trees; headers of pictures and tensors; members of archives; pipes, links to endless devices
and folders in place of files. Where a file has a checksum, it is made right again for half of the inputs, so that what
lies behind it is reached. Each input has to load or be refused with an error of this library, within two seconds (four
for a table of pictures, five from the Hub, twelve for a conversion) and two gigabytes, and with the model, the random
numbers and the process as before; nothing may be written, run or asked elsewhere.

{inputs:,} inputs in {seconds:,.0f} seconds, seed {fuzz["seed"]}, {fuzz["date"]}; Python {fuzz["python"]}, {versions}.

{doors(fuzz)}

{altered(fuzz)}

## Killed saves

    make faults KILLS=1000

Each kind of saving runs in a process that is killed before its first call that writes, before its second one, and so
on; then within writes and at any moment. Somebody then reads, somebody saves again, and the folder is compared with one
that was saved without a kill. At each of the same calls that needs room, a full disk is played as well.

{kills:,} kills and {refusals:,} refusals, seed {faults["seed"]}, {faults["date"]}; Python {faults["python"]},
{faults["system"]}.

{saves(faults)}

{places(faults)}

## Open findings

{open_files(fuzz)}

{open_saves(faults)}
"""


if __name__ == "__main__":
    (HERE / "reliability.md").write_text(wrap_page(page()), encoding="utf-8")
