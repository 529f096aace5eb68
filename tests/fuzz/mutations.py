"""Valid files made hostile by a seeded generator: bits, texts, trees, archives, pictures, and files that are none."""

from __future__ import annotations

import copy
import json
import math
import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .bombs import a_picture, with_other_header

Rng = random.Random
Step = Callable[[bytes, Rng], bytes]
_RAW = "\u241eraw:"  # stands for text that no JSON writer would write
DEVICE = "/dev/zero"
_OWN_DEVICE = "an-endless-device"
_LARGEST_COPY = 64 * 2**20  # what is larger is a hole in a file, and is copied as one

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 7, 255, 65_537, 10**6, 400_000, 10**9, 2**31, 2**63, 2**64, -(2**63), 10**30),
    *(0.5, -0.5, 1e-320, 1e308, -1e308, math.nan, math.inf, -math.inf, 1e-9, 3.5),
    *("", "x", "0", "1", "nan", "NaN", "None", "../x", "/etc/passwd", "~", "\0", "\ud800", "%s%n", "{0}", "a" * 10_000),
    *("hf-hub:evil/x", "local-dir:/etc", "evil/x", "http://evil.example/x", "file:///etc/passwd", "cuda:7", "meta"),
    *([], {}, [[]], [None], [0], [-1], [1, 2, 3], ["a"], {"a": 1}, {"": None}, {"0": "a"}, [1e308] * 3, [[1], [2, 3]]),
    *([0] * 4096, {str(n): n for n in range(300)}, list(range(70)), "é" * 3, "a b", " x ", "x\n---\ny: 1", "🙂"),
)
RAW_TOKENS = (
    "[" * 100_000,
    "[" * 900 + "]" * 900,
    '{"a":' * 50_000,
    "1" + "0" * 5000,
    "-" + "9" * 4400,
    "1e400",
    "0." + "1" * 3000,
    "[" + "0," * 300_000 + "0]",
    '"' + "a" * 3_000_000 + '"',
    '"' + "\\u0000" * 50 + '"',
    "Infinity",
    "undefined",
)


# -- folders -----------------------------------------------------------------------------------------------------------


def files_in(folder: Path) -> list[Path]:
    """Every entry below a folder that is no folder, in order; what lies behind links is not looked at."""
    found = []
    for where, folders, names in os.walk(folder):
        folders.sort()
        found += [Path(where, name) for name in sorted(names)]
        found += [Path(where, name) for name in folders if Path(where, name).is_symlink()]
    return found


def endless_device(home: Path) -> str:
    """A device without an end, for links to lead to: one of the campaign's own where it may make one.

    Who may make one is root, and root could replace that of the whole machine.
    """
    path = home / _OWN_DEVICE
    try:
        if not path.exists():
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
        with path.open("rb", buffering=0) as file:  # a disk may be mounted so that devices on it are none
            return str(path) if file.read(1) == b"\0" else DEVICE
    except OSError:
        return DEVICE


def copy_folder(source: Path, target: Path, device: str | None = None) -> None:
    """A copy with its pipes, links and holes; nothing is read through them.

    Args:
        source: A folder.
        target: Where the copy is made.
        device: Where links to an endless device lead to in the copy; as in the source by default.
    """
    target.mkdir(parents=True)
    for entry in sorted(source.iterdir()):
        mode, copy = entry.lstat().st_mode, target / entry.name
        if stat.S_ISLNK(mode):
            leads_to = os.readlink(entry)
            is_device = device and (leads_to == DEVICE or os.path.basename(leads_to) == _OWN_DEVICE)
            copy.symlink_to(device if is_device else leads_to)
        elif stat.S_ISDIR(mode):
            copy_folder(entry, copy, device)
        elif stat.S_ISFIFO(mode):
            os.mkfifo(copy)
        elif entry.lstat().st_size > _LARGEST_COPY:
            _hole(copy, entry.lstat().st_size)
        elif stat.S_ISREG(mode):
            shutil.copyfile(entry, copy)


def mutate(
    folder: Path, rng: Rng, wanted: Callable[[Path], bool] = lambda path: True, device: str = DEVICE
) -> list[str]:
    """Changes a folder in one to four places; returns what was done, in words.

    Args:
        folder: Changed in place.
        rng: Decides all of it.
        wanted: Which files to change.
        device: Where a link without an end leads to.
    """
    steps = []
    for _ in range(1 + min(int(rng.expovariate(1.0)), 3)):
        files = [path for path in files_in(folder) if wanted(path)]
        if not files:
            break
        path = rng.choice(files)
        if not stat.S_ISREG(path.lstat().st_mode) or path.lstat().st_size > _LARGEST_COPY:
            continue
        done = _another_kind(path, rng, device) if rng.random() < 0.07 else _another_content(path, rng)
        steps.append(f"{path.relative_to(folder).as_posix()}: {done}")
    return steps


# -- another kind of file ----------------------------------------------------------------------------------------------


def _hole(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def _another_kind(path: Path, rng: Rng, device: str) -> str:
    kinds: dict[str, Callable[[], Any]] = {
        "a pipe": lambda: os.mkfifo(path),
        "a folder": path.mkdir,
        "a link to nothing": lambda: path.symlink_to("nowhere"),
        "a link to itself": lambda: path.symlink_to(path.name),
        "a link without an end": lambda: path.symlink_to(device),
        "a link to another file": lambda: path.symlink_to("/proc/self/environ"),
        "empty": path.touch,
        "gone": lambda: None,
        "a hole of 200 GB": lambda: _hole(path, 200 * 10**9),
        "a hole of 1 GB": lambda: _hole(path, 10**9),
    }
    name = rng.choice(sorted(kinds))
    path.unlink()
    kinds[name]()
    return name


def _another_content(path: Path, rng: Rng) -> str:
    content = path.read_bytes()
    others = [other for other in path.parent.iterdir() if other.is_file() and not other.is_symlink()]
    kind = _BY_SUFFIX.get(path.suffix.lower())
    if kind is not None and rng.random() < 0.75:
        what = kind.__name__.strip("_")
        try:
            changed = kind(content, rng)
        except (RecursionError, MemoryError):  # a tree of the mutation's own has grown too large to be written
            changed = some_bytes(content, rng)
    elif others and rng.random() < 0.05:
        changed, what = rng.choice(others).read_bytes()[: 2**20], "the content of another file"
    else:
        changed, what = some_bytes(content, rng), "some_bytes"
    path.write_bytes(changed)
    return what


# -- bytes and text ----------------------------------------------------------------------------------------------------


def some_bytes(content: bytes, rng: Rng) -> bytes:
    """A flipped bit, a cut, a repetition, other bytes in between."""
    data = bytearray(content)
    place = rng.randrange(len(data)) if data else 0
    end = min(len(data), place + rng.choice((1, 2, 4, 8, 64, 1024)))
    way = rng.randrange(7)
    if way <= 1 and data:
        for _ in range(rng.choice((1, 1, 1, 2, 8))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif way == 2:
        del data[place:]
    elif way == 3:
        del data[place:end]
    elif way == 4:
        data[place:place] = data[place:end] * rng.choice((1, 2, 100))
    elif way == 5:
        data[place:end] = rng.choice((b"\xff", b"\0", b"\x7f", b"\x80")) * (end - place)
    else:
        data[place:place] = rng.randbytes(rng.choice((1, 4, 16)))
    return bytes(data)


def _text_lines(content: bytes, rng: Rng) -> bytes:
    lines = content.split(b"\n")
    place, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    way = rng.randrange(6)
    if way == 0:
        del lines[place]
    elif way == 1:
        lines.insert(place, lines[other])
    elif way == 2:
        lines[place], lines[other] = lines[other], lines[place]
    elif way == 3:
        lines[place] = some_bytes(lines[place], rng)
    elif way == 4:
        lines[place] = rng.choice(
            (b"---", b"", b"\xff\xfe", b"<!-- x -->", b"# " + b"x" * 5000, b"\0", b"...", b"\t- ")
        )
    else:
        lines = [*lines[:place], *lines[place : place + 1] * rng.choice((2, 1000)), *lines[place:]]
    return b"\n".join(lines)


# -- trees -------------------------------------------------------------------------------------------------------------


def _a_value(rng: Rng) -> Any:
    return copy.deepcopy(rng.choice(VALUES))


def change_tree(tree: Any, rng: Rng) -> Any:
    """One change somewhere in what JSON can hold: another value, key, type, length or depth."""
    holder = {"": tree}
    places: list[tuple[Any, Any]] = [(holder, "")]
    for box, key in places:
        inner = box[key]
        if isinstance(inner, dict):
            places += [(inner, name) for name in inner]
        elif isinstance(inner, list) and len(inner) < 1000:
            places += [(inner, index) for index in range(len(inner))]
    box, key = rng.choice(places)
    value = box[key]
    way = rng.randrange(12)
    if way == 0 and box is not holder:
        del box[key]
    elif way == 1 and isinstance(box, dict) and box is not holder:
        box[rng.choice((key + "x", key.upper(), "", "\0", "__class__", "a" * 300))] = box.pop(key)
    elif way == 2 and isinstance(value, dict):
        value[rng.choice(("x", "__init__", "format_version", "0", "self", "pretrained", "hf-hub"))] = _a_value(rng)
    elif way == 3:
        box[key] = rng.choice(([value], {"x": value}, [value] * 3, str(value), [[[value]]]))
    elif way == 4 and isinstance(value, (int, float)):
        box[key] = rng.choice((-value, value + 1, value * 1000, value / 7, str(value), value * 10**12, bool(value)))
    elif way == 5 and isinstance(value, list):
        box[key] = rng.choice((value * 100, value[:-1], value[::-1], [*value, *value], [*value, None]))
    elif way == 6:
        other, name = rng.choice(places)
        if other is not holder and name in (other if isinstance(other, dict) else range(len(other))):
            box[key] = json.loads(json.dumps(other[name]))
    elif way == 7:
        box[key] = _RAW + str(rng.randrange(len(RAW_TOKENS)))
    elif way == 8 and isinstance(box, dict) and box is not holder:
        box[_RAW + key] = _a_value(rng)  # the same key once more
    elif way == 9 and isinstance(value, str) and value:
        box[key] = value[:-1] + chr((ord(value[-1]) ^ 1) or 1)
    else:
        box[key] = _a_value(rng)
    return holder[""]


def as_text(tree: Any) -> bytes:
    """The tree as JSON, with what no JSON writer would write in it."""
    text = json.dumps(tree, indent=1)
    mark = json.dumps(_RAW)[1:-1]
    for number in range(len(RAW_TOKENS) - 1, -1, -1):
        text = text.replace(f'"{mark}{number}"', RAW_TOKENS[number])
    return text.replace(mark, "").encode()


def json_tree(content: bytes, rng: Rng) -> bytes:
    """A JSON file with one to three changes in its tree."""
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        return some_bytes(content, rng)
    try:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            tree = change_tree(tree, rng)
        return as_text(tree)
    except RecursionError:  # it has grown deeper than can be written
        return some_bytes(content, rng)


def _json_lines(content: bytes, rng: Rng) -> bytes:
    lines = content.split(b"\n")
    if rng.random() < 0.2:
        return _text_lines(content, rng)
    place = rng.randrange(len(lines))
    lines[place] = json_tree(lines[place], rng).replace(b"\n", b"")
    return b"\n".join(lines)


_YAML = (
    b"a: &a [x, x, x, x, x, x, x, x, x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(98, 107)),
    b"tasks: &t {x: *t}\n",
    b"x: !!python/object/apply:os.system ['touch reached']\n",
    b"x: 2001-99-99\n",
    b"x: 2001-02-03 99:99:99\n",
    b"x: !!int 'x'\n",
    b"x: !!binary '\xc3\xa9'\n",
    b"? [1, 2]\n: 3\n",
    b"? {a: 1}\n: 3\n",
    b"<<: 3\n",
    b"<<: [{a: 1}, 3]\n",
    b"x: !!set {a, b}\n",
    b"x: 190:20:30\n",
    b"x: 0o17\n1: 2\nnull: 3\n",
    b"\t- x\n",
    b"%TAG ! tag:x,2000:\n---\nx: !y 1\n",
    b"x: " + b"[" * 2000 + b"\n",
    b"x: " + b"9" * 5000 + b"\n",
    b"x: .nan\n",
    b"--- 1\n--- 2\n",
)


def _yaml(content: bytes, rng: Rng) -> bytes:
    import yaml

    if rng.random() < 0.25:
        return rng.choice((_text_lines(content, rng), rng.choice(_YAML) + content, content + rng.choice(_YAML)))
    try:
        tree = yaml.safe_load(content)
        json.dumps(tree)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return _text_lines(content, rng)
    for _ in range(rng.choice((1, 1, 2))):
        tree = change_tree(tree, rng)
    return as_text(tree)  # JSON is YAML, but for a handful of characters


def _table(content: bytes, rng: Rng) -> bytes:
    if rng.random() < 0.15:
        return rng.choice(
            (
                content.replace(b",", b";"),
                content.replace(b",", b"\t"),
                content.decode("utf-8", "replace").encode("utf-16"),
                content.replace(b"\n", b"\r"),
                content.replace(b"\n", b"\r\r\n"),
                b"\xef\xbb\xbf" * 2 + content,
            )
        )
    rows = [line.split(b",") for line in content.split(b"\n")]
    row = rng.choice(rows)
    place = rng.randrange(len(row))
    texts = (b"", b'"', b'"x', b"nan", b"1e400", b"inf", b"\0", b"\xff", b"a" * 200_000, b"../../x.png", b"/etc/passwd")
    texts += (b"-1", b"1_000", b"\xd9\xa1", b"1.0", b" x ", b"a,b", b"a" * 300 + b".png", b"label", b"file_name", b".")
    way = rng.randrange(5)
    if way <= 1:
        row[place] = rng.choice(texts)
    elif way == 2:
        del row[place]
    elif way == 3:
        row.insert(place, rng.choice(texts))
    else:
        rows.insert(0 if rng.random() < 0.3 else rng.randrange(len(rows)), [rng.choice(texts)] * rng.randrange(1, 5))
    return b"\n".join(b",".join(row) for row in rows)


# -- files with a structure of their own -------------------------------------------------------------------------------


def _safetensors(content: bytes, rng: Rng) -> bytes:
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or size > len(content) - 8:
        return some_bytes(content, rng)
    header, data = content[8 : 8 + size], content[8 + size :]
    way = rng.randrange(5)
    if way <= 1:
        header = json_tree(header, rng)
    elif way == 2:
        data = some_bytes(data, rng)
    elif way == 3:
        place = rng.randrange(0, max(1, len(data) - 3), 4)
        data = data[:place] + rng.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f")) + data[place + 4 :]
    else:
        length = rng.choice((0, 1, 2**63, 2**64 - 1, size + 1, size - 1, 10**8))
        return length.to_bytes(8, "little") + header + data
    return len(header).to_bytes(8, "little") + header + data


def _picture(content: bytes, rng: Rng) -> bytes:
    if rng.random() < 0.12:
        return a_picture(rng)
    return with_other_header(content, rng) if content.startswith(b"\x89PNG") else some_bytes(content, rng)


def _archive(content: bytes, rng: Rng) -> bytes:
    """One member of a zip file, changed on its own, so that the archive stays one."""
    import io
    import zipfile

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
    except Exception:  # of a seed that is no archive any more
        return some_bytes(content, rng)
    name = rng.choice(sorted(members) or [""])
    if rng.random() < 0.1:
        members.pop(name, None)
    else:
        members[name] = some_bytes(members.get(name, b""), rng)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, inside in members.items():
            archive.writestr(member, inside)
    return buffer.getvalue()


_BY_SUFFIX: dict[str, Step] = {
    ".json": json_tree,
    ".jsonl": _json_lines,
    ".yaml": _yaml,
    ".csv": _table,
    ".md": _text_lines,
    ".safetensors": _safetensors,
    ".pth": _archive,
    ".keras": _archive,
    **dict.fromkeys((".png", ".jpg", ".gif", ".bmp", ".tif", ".webp", ".ppm"), _picture),
}
