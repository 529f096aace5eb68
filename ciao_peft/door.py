"""The one door for files that come from outside: a regular file, bounded, read once, and parsed into plain data.

Nothing that comes through it hangs, fills the memory or is guessed. It refuses a pipe, a device or a folder in place of
a file, more bytes than such a file ever has, a key that stands twice, numbers of a thousand digits, data nested a
hundred deep, and aliases that multiply.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any, AnyStr, BinaryIO

from . import plain_yaml
from .errors import CIAOError, FileReadError, listed, shortened

if TYPE_CHECKING:
    import zipfile

__all__ = [
    "bounded_lines",
    "check_types",
    "open_file",
    "parse_json",
    "parse_yaml",
    "read_file",
    "read_json",
    "read_lines",
    "read_member",
    "read_yaml",
]

MAX_TEXT_BYTES = 4 * 2**20
"""The largest JSON or YAML file of settings that is read; ours are less than a tenth of it."""

MAX_YAML_BYTES = 2**18  # the same for YAML, which takes thirty times as long as JSON
MAX_TABLE_BYTES = 2 * 2**30  # of a table of rows, which is read line by line
MAX_LINE = 2**20  # of one of these, in bytes or characters

MAX_DEPTH = 64
"""How deep settings may be nested."""

MAX_VALUES = 2_000_000
"""How many values one file may stand for, each alias of YAML written out."""

MAX_DIGITS = 500  # of the longest number in a file

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode), "a device"),
)


def open_file(
    path: str | os.PathLike[str], max_bytes: int | None = None, *, error: type[CIAOError] = FileReadError
) -> BinaryIO:
    """Opens a regular file for reading; never waits for a pipe, and never reads from a device.

    Args:
        path: A link is followed.
        max_bytes: How large it may be; `None` for callers that read it piece by piece.
        error: What is raised in place of every `OSError`.

    Returns:
        The file, opened in binary mode; the caller closes it.

    Raises:
        CIAOError: of the kind that was given: it is missing, no regular file, too large, or cannot be read.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "notes.json")
        >>> _ = path.write_text("{}")
        >>> with open_file(path) as file:
        ...     file.read()
        b'{}'
    """
    try:
        # Without waiting: the open of a pipe would block until somebody writes into it.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        link = " (it is a link that leads nowhere)" if os.path.islink(path) else ""
        raise error(f"'{os.fspath(path)}' is missing{link}.") from None
    except (OSError, ValueError) as problem:  # ValueError: a null byte in the path
        raise error(f"'{shortened(os.fspath(path))}' cannot be read: {_reason(problem)}.") from None
    try:
        found = os.fstat(handle)
        for is_kind, name in _KINDS:
            if is_kind(found.st_mode):
                raise error(f"'{os.fspath(path)}' is {name}, and a file was expected.")
        if max_bytes is not None and found.st_size > max_bytes:
            raise error(f"'{os.fspath(path)}' has {found.st_size:,} bytes; at most {max_bytes:,} are read.")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_file(path: str | os.PathLike[str], max_bytes: int, *, error: type[CIAOError] = FileReadError) -> bytes:
    """The content of a regular file of bounded size.

    Args:
        path: A link is followed.
        max_bytes: How large it may be.
        error: What is raised in place of every `OSError`.

    Raises:
        CIAOError: of the kind that was given: it is missing, no regular file, too large, or cannot be read.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "notes.txt")
        >>> _ = path.write_text("a" * 100)
        >>> read_file(path, 10)
        Traceback (most recent call last):
        ...
        ciao_peft.errors.FileReadError: '...notes.txt' has 100 bytes; at most 10 are read.
    """
    with open_file(path, max_bytes, error=error) as file:
        try:
            # Not `read(max_bytes)`, which takes that much memory however short the file is.
            content = file.read(min(os.fstat(file.fileno()).st_size, max_bytes) + 1)
            while len(content) <= max_bytes and (more := file.read(2**20)):
                content += more
        except (OSError, MemoryError) as problem:
            raise error(f"'{os.fspath(path)}' cannot be read: {_reason(problem)}.") from None
    if len(content) > max_bytes:  # it grew, or does not say its size
        raise error(f"'{os.fspath(path)}' has more than {max_bytes:,} bytes, which is too many to read.")
    return content


def bounded_lines(
    file: IO[AnyStr],
    where: str | os.PathLike[str],
    *,
    max_line: int = MAX_LINE,
    error: type[CIAOError] = FileReadError,
) -> Iterator[AnyStr]:
    """The lines of an open file, of bounded length: a file without line ends does not fill the memory.

    Args:
        file: In binary or in text mode.
        where: The file, for the message.
        max_line: In bytes or characters.
        error: What is raised.

    Raises:
        CIAOError: of the kind that was given: a line is longer than `max_line`, or cannot be read.

    Example:
        >>> list(bounded_lines(io.BytesIO(b"a,b"), "a table"))
        [b'a,b']
    """
    for number in itertools.count(1):
        try:
            line = file.readline(max_line + 1)
        except UnicodeDecodeError as problem:
            raise error(f"'{os.fspath(where)}' is no UTF-8 text: {_reason(problem)}. Save it as UTF-8.") from None
        except OSError as problem:
            raise error(f"'{os.fspath(where)}' cannot be read: {_reason(problem)}.") from None
        if len(line) > max_line:
            raise error(f"'{os.fspath(where)}', line {number}: it is longer than {max_line:,}, which no row is.")
        if not line:
            return
        yield line


def read_lines(
    path: str | os.PathLike[str],
    *,
    max_bytes: int = MAX_TABLE_BYTES,
    errors: str = "strict",
    error: type[CIAOError] = FileReadError,
) -> Iterator[str]:
    """The lines of a text file in UTF-8 with their line ends, one after the other, as `csv` takes them.

    Args:
        path: A regular file.
        max_bytes: How large it may be.
        errors: `"replace"` where a byte that is no UTF-8 is no reason to refuse the file.
        error: What is raised.

    Raises:
        CIAOError: of the kind that was given: no such file, no UTF-8, or a line longer than `MAX_LINE`.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "labels.csv")
        >>> _ = path.write_text("a.png,happy")
        >>> list(read_lines(path))
        ['a.png,happy']
    """
    with (
        open_file(path, max_bytes, error=error) as file,
        io.TextIOWrapper(file, encoding="utf-8-sig", errors=errors, newline="") as text,
    ):
        yield from bounded_lines(text, path, error=error)


def read_json(
    path: str | os.PathLike[str], *, max_bytes: int = MAX_TEXT_BYTES, error: type[CIAOError] = FileReadError
) -> Any:
    """What a JSON file holds, as plain data.

    Args:
        path: A regular file.
        max_bytes: How large it may be.
        error: What is raised.

    Raises:
        CIAOError: of the kind that was given: no such file, or no JSON as `parse_json` takes it.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "config.json")
        >>> _ = path.write_text('{"size": [48, 48]}')
        >>> read_json(path)
        {'size': [48, 48]}
    """
    return parse_json(read_file(path, max_bytes, error=error), path, error=error)


def read_yaml(
    path: str | os.PathLike[str], *, max_bytes: int = MAX_YAML_BYTES, error: type[CIAOError] = FileReadError
) -> Any:
    """What a YAML file holds, as plain data.

    Args:
        path: A regular file.
        max_bytes: How large it may be.
        error: What is raised.

    Raises:
        CIAOError: of the kind that was given: no such file, or no YAML as `parse_yaml` takes it.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "plan.yaml")
        >>> _ = path.write_text("seeds: 3")
        >>> read_yaml(path)
        {'seeds': 3}
    """
    return parse_yaml(read_file(path, max_bytes, error=error), path, error=error)


def parse_json(
    content: bytes | str, where: str | os.PathLike[str] = "text", *, error: type[CIAOError] = FileReadError
) -> Any:
    """Plain data of JSON in UTF-8.

    Args:
        content: The text.
        where: The file, for the message.
        error: What is raised.

    Raises:
        CIAOError: of the kind that was given: it is no JSON, a key stands twice in one object, a number has more than
            `MAX_DIGITS` digits, or it is nested deeper than `MAX_DEPTH`.

    Example:
        >>> parse_json('{"seed": 1, "seed": 2}', "config.json")
        Traceback (most recent call last):
        ...
        ciao_peft.errors.FileReadError: 'config.json' is no JSON: the key 'seed' stands twice.
    """
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        value = json.loads(text, object_pairs_hook=_once, parse_int=_number(int), parse_float=_number(float))
        _check_depth(value)
    except (ValueError, RecursionError) as problem:
        raise error(f"'{os.fspath(where)}' is no JSON: {_reason(problem)}.") from None
    return value


def parse_yaml(
    content: bytes | str, where: str | os.PathLike[str] = "text", *, error: type[CIAOError] = FileReadError
) -> Any:
    """Plain data of YAML in UTF-8: text, numbers, true and false, null, lists and maps of text. Nothing else is made.

    Args:
        content: The text.
        where: The file, for the message.
        error: What is raised.

    Raises:
        CIAOError: of the kind that was given: it is no YAML as `plain_yaml.load` takes it, stands for more than
            `MAX_VALUES` values, or is nested deeper than `MAX_DEPTH`.

    Example:
        >>> parse_yaml("seeds: 3\\nseeds: 4", "plan.yaml")
        Traceback (most recent call last):
        ...
        ciao_peft.errors.FileReadError: 'plan.yaml' is no YAML: the key 'seeds' stands twice.
    """
    import yaml

    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        if re.search(rf"[0-9_]{{{MAX_DIGITS + 1}}}", text):
            raise ValueError(f"a number has more than {MAX_DIGITS} digits")
        value = plain_yaml.load(text)
        _check_depth(value)
    except (ValueError, TypeError, RecursionError, OverflowError, yaml.YAMLError) as problem:
        raise error(f"'{os.fspath(where)}' is no YAML: {_reason(problem)}.") from None
    return value


def read_member(
    archive: zipfile.ZipFile, name: str, max_bytes: int, *, error: type[CIAOError] = FileReadError
) -> bytes:
    """One file of a zip archive, unpacked piece by piece: what it claims to unpack to is not believed.

    Args:
        archive: Open for reading.
        name: Of the file in it.
        max_bytes: How large it may be when it is unpacked.
        error: What is raised.

    Raises:
        CIAOError: of the kind that was given: there is no such file in it, it is damaged, or it is too large.

    Example:
        >>> import zipfile
        >>> packed = io.BytesIO()
        >>> with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        ...     archive.writestr("zeros", bytes(1_000_000))
        >>> read_member(zipfile.ZipFile(packed), "zeros", 1000)
        Traceback (most recent call last):
        ...
        ciao_peft.errors.FileReadError: 'zeros' unpacks to more than 1,000 bytes, which is too many to read.
    """
    import zipfile
    import zlib

    problems = (
        zipfile.BadZipFile,
        KeyError,
        EOFError,
        RuntimeError,
        NotImplementedError,
        zlib.error,
        OSError,
        ValueError,
    )
    unpacked = io.BytesIO()
    try:
        with archive.open(name) as member:
            while piece := member.read(min(2**20, max_bytes + 1)):
                unpacked.write(piece)
                if unpacked.tell() > max_bytes:
                    raise error(
                        f"'{shortened(name)}' unpacks to more than {max_bytes:,} bytes, which is too many to read."
                    )
    except problems as problem:
        if isinstance(problem, error):
            raise
        raise error(f"'{shortened(name)}' cannot be unpacked: {_reason(problem)}.") from None
    return unpacked.getvalue()


def check_types(
    values: Any,
    types: Mapping[str, type | tuple[type, ...]],
    where: str | os.PathLike[str],
    *,
    optional: Iterable[str] = (),
    error: type[CIAOError] = FileReadError,
) -> dict[str, Any]:
    """The values of an object, if each has the type that it must have; `True` is no number.

    Args:
        values: What a file holds.
        types: By key; `None` among them is `type(None)`. Keys that are not here are left alone.
        where: The file, for the message.
        optional: Keys that may be missing.
        error: What is raised.

    Raises:
        CIAOError: of the kind that was given: it is no object, a key is missing, or a value has another type.

    Example:
        >>> check_types({"step": True}, {"step": int}, "state.json")
        Traceback (most recent call last):
        ...
        ciao_peft.errors.FileReadError: 'state.json' has a bool, True, as 'step'; int was expected.
    """
    if not isinstance(values, dict):
        raise error(f"'{os.fspath(where)}' holds a {type(values).__name__} where an object was expected.")
    if missing := [key for key in types if key not in values and key not in set(optional)]:
        raise error(f"'{os.fspath(where)}' has no {listed(missing)}. It is incomplete, or no file of this kind.")
    for key, expected in types.items():
        kinds = expected if isinstance(expected, tuple) else (expected,)
        if key not in values or (
            isinstance(values[key], kinds) and (bool in kinds or not isinstance(values[key], bool))
        ):
            continue
        names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        got = f"a {type(values[key]).__name__}, {shortened(repr(values[key]))},"
        raise error(f"'{os.fspath(where)}' has {got} as {key!r}; {names} was expected.")
    return values


def _once(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    values: dict[Any, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {shortened(repr(key))} stands twice")
        values[key] = value
    return values


def _number(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def parse(digits: str) -> Any:
        if len(digits) > MAX_DIGITS:
            raise ValueError(f"a number has more than {MAX_DIGITS} digits")
        return kind(digits)

    return parse


def _check_depth(value: Any) -> None:
    """Walks through data as if every alias were written out: neither deep nor wide without end."""
    level, count = [value], 0
    for _ in range(MAX_DEPTH):
        deeper: list[Any] = []
        for outer in level:
            if isinstance(outer, (dict, list)):
                count += len(outer)
                if count > MAX_VALUES:
                    raise ValueError(f"it stands for more than {MAX_VALUES:,} values")
                deeper.extend(outer.values() if isinstance(outer, dict) else outer)
        level = deeper
        if not level:
            return
    raise ValueError(f"it is nested deeper than {MAX_DEPTH}")


def _reason(problem: BaseException) -> str:
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    if isinstance(problem, RecursionError):
        return "it is nested too deep"
    return shortened(" ".join(str(problem).split())).rstrip(".") or type(problem).__name__
