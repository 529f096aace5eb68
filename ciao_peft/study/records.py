"""What a study has measured: one JSON line per training, in a file that survives a kill and many writers."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from ..checking import is_number
from ..door import bounded_lines, check_types, open_file, parse_json
from ..errors import FileReadError, RecordError, listed, quoted, shortened
from ..saving import local_path, refusals_told
from .plan import RATE_NAMES, Split

if TYPE_CHECKING:
    from torch import Tensor

RESULTS_FILE = "results.jsonl"
"""A study's records, in its folder."""

FORMAT_VERSION = 1
"""The version of a line of the results; another one is refused."""

PROTOCOL_VERSION = 2
"""How trainings are made: raised when a default or the way of training changes, so that old results are not taken for
new ones. 2: where it is left open, `a` starts by the spread of u, and no longer always at 3."""

MAX_RESULTS_BYTES = 2**31
"""Of a study's results, which are read line by line."""

MAX_RECORD_BYTES = 2**22
"""Of one record; those of the longest trainings have less than a tenth of it."""

_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(
        ("key", "task", "dataset", "encoder", "encoder_revision", "method", "kind", "split", "metric"), str
    ),
    **dict.fromkeys(("scores", "config", "arguments", "settings", "parameters", "samples", "versions"), dict),
    **dict.fromkeys(("fold_scores", "fold_rates"), dict),
    **dict.fromkeys(("epochs", "seconds"), (int, float)),
    **dict.fromkeys(("history", "decay_starts"), list),
    **dict.fromkeys(("labels", "confusion"), (list, type(None))),
    **dict.fromkeys(("seed", "protocol"), int),
    "time": str,
    "error": (str, type(None)),
}


@dataclass(frozen=True, kw_only=True)
class Record:
    """One training and its scores.

    Args:
        key: 16 hexadecimal digits of what decides the result and of the names it is reported under, see `key_of`.
        task, dataset: Name of the task, and of its dataset.
        encoder, encoder_revision: Name, and content of the weights.
        method, kind: Name and kind of the method.
        seed: Of initial values, order of samples and dropout.
        split: `"test"`, or `"validation"`: people held out of the training split, for the choice of a learning rate.
        config, arguments, settings: What differed from the defaults of `CIAOConfig`, of `CIAOTrainingArguments` (with
            the chosen rate among them) and of a baseline's builder.
        epochs: Passes over the training data.
        metric: The score that counts.
        scores: Every score of the task, as fractions.
        labels: Names of the classes, values or labels.
        confusion: Counts, row = true class, column = answer; `None` for a problem without classes.
        history: Per epoch the mean losses of training.
        parameters: `"trained"`, and `"adapter_total"`: all that is stored for the task in addition to the encoder.
        samples: Number of samples by split; `"scored"`: of what was scored, clips where their answers are averaged.
        seconds: Of training alone.
        versions: Of the libraries.
        time: When it ended, in UTC.
        fold_scores, fold_rates: Of a task with several folds: the score that counts on each one's held-out part, in a
            search; and the learning rate that each was trained with.
        decay_starts: Where `a` of Eq. 1 started, fold by fold; empty without a mask.
        protocol: The `PROTOCOL_VERSION` it was made by.
        error: Why there are no scores: with the learning rate that a search tried, training diverged.

    Example:
        >>> from ciao_peft.study.example import example_records
        >>> record = example_records()[-1]
        >>> record.method, record.kind, record.score, Record.from_dict(record.to_dict()) == record
        ('MLP head', 'rival', 0.7, True)
    """

    key: str
    task: str
    dataset: str
    encoder: str
    encoder_revision: str
    method: str
    kind: str
    seed: int
    split: str
    metric: str
    scores: Mapping[str, float]
    config: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    epochs: float = 0.0
    labels: list[str] | None = None
    confusion: list[list[int]] | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    parameters: Mapping[str, int] = field(default_factory=dict)
    samples: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)
    time: str = ""
    fold_scores: Mapping[str, float] = field(default_factory=dict)
    fold_rates: Mapping[str, float] = field(default_factory=dict)
    decay_starts: list[float] = field(default_factory=list)
    protocol: int = PROTOCOL_VERSION
    error: str | None = None

    @property
    def score(self) -> float:
        """The score that counts; minus infinity where training diverged."""
        return -math.inf if self.error is not None else self.scores[self.metric]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: what a line of the results holds, with `format_version`."""
        return {"format_version": FORMAT_VERSION, **{part.name: getattr(self, part.name) for part in fields(self)}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Record:
        """The record that `to_dict` wrote.

        Raises:
            RecordError: it is of a newer format, or has other keys.
        """
        if not isinstance(values, Mapping):
            raise RecordError(f"A record maps names to values; got {shortened(repr(values))}.")
        values = dict(values)
        version = values.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise RecordError(f"A record has format {version!r}; this version reads {FORMAT_VERSION}.")
        names = {part.name for part in fields(cls)}
        required = {
            part.name
            for part in fields(cls)
            if part.default is dataclasses.MISSING and part.default_factory is dataclasses.MISSING
        }
        if not required <= set(values) <= names:
            unknown, missing = set(values) - names, required - set(values)
            raise RecordError(f"A record has unknown keys ({listed(unknown)}) or lacks some ({listed(missing)}).")
        check_types(values, _TYPES, "A record", optional=names, error=RecordError)
        _check_contents(values)
        if values.get("error") is None and values["metric"] not in values["scores"]:
            raise RecordError(f"A record lacks the score that counts, {shortened(repr(values['metric']))}.")
        return cls(**{"protocol": 1, **values})  # the first ones did not say


def _check_contents(values: Mapping[str, Any]) -> None:
    """What the report counts with: numbers are numbers, and tables have rows of one length."""
    for name in ("scores", "fold_scores", "fold_rates", "parameters", "samples"):
        if not all(map(_is_size, values.get(name, {}).values())):
            raise RecordError(f"A record has no numbers as `{name}`: {quoted(values[name])}.")
    for name in ("seconds", "epochs"):
        if not _is_size(values.get(name, 0)) or values.get(name, 0) < 0:
            raise RecordError(f"A record has no number of 0 or more as `{name}`: {quoted(values[name])}.")
    if values["split"] not in get_args(Split):
        raise RecordError(f"A record is of the split {quoted(values['split'])}; known are {listed(get_args(Split))}.")
    rates = {name: value for name, value in values.get("arguments", {}).items() if name in RATE_NAMES}
    for name, rate in rates.items():
        if not _is_size(rate):
            raise RecordError(f"A record has no number as `{name}`: {quoted(rate)}.")
    history, confusion = values.get("history", []), values.get("confusion") or []
    if not all(isinstance(row, Mapping) and all(map(_is_size, row.values())) for row in history):
        raise RecordError("A record has a `history` that is no list of losses by name.")
    if not all(map(_is_size, values.get("decay_starts", []))):
        raise RecordError("A record has `decay_starts` that are no numbers.")
    if not all(isinstance(row, list) and len(row) == len(confusion) and all(map(_is_size, row)) for row in confusion):
        raise RecordError("A record has a `confusion` that is no square table of counts.")
    if not all(isinstance(label, (str, int, float)) for label in values.get("labels") or []):
        raise RecordError("A record has `labels` that are no names.")


def _is_size(value: Any) -> bool:
    """Whether it is a number that a float holds."""
    return is_number(value, low=-1e300, high=1e300)


def key_of(content: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that two trainings share exactly where everything in `content` is equal.

    Numbers are equal by their value: 1 and 1.0 are.

    Args:
        content: Plain data without NaN and infinity; the order of its keys does not matter.

    Example:
        >>> key_of({"seed": 1, "config": {}}) == key_of({"config": {}, "seed": 1}) != key_of({"config": {}, "seed": 2})
        True
    """
    text = json.dumps(
        _plain_numbers(content), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain_numbers(content: Any) -> Any:
    """1.0 as 1: equal settings have equal keys however they are written."""
    if isinstance(content, Mapping):
        return {name: _plain_numbers(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_plain_numbers(value) for value in content]
    return int(content) if isinstance(content, float) and content.is_integer() else content


def append_record(path: str | os.PathLike[str], record: Record) -> None:
    """Adds a line to a file of results. Processes that add at the same time wait for one another.

    A last line that a killed writer left unfinished is closed first, so that it spoils no other.

    Args:
        path: The file; it and its folder are made where they are missing.
        record: What to add.

    Raises:
        RecordError: a score is not finite, or the disk refuses; nothing is written.

    Example:
        >>> import tempfile
        >>> from ciao_peft.study.example import example_records
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for record in example_records()[:2]:
        ...         append_record(Path(folder) / RESULTS_FILE, record)
        ...     len(read_records(folder))
        2
    """
    from filelock import FileLock

    try:
        line = json.dumps(record.to_dict(), ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise RecordError(f"The record of {record.method!r} cannot be written as JSON: {error}") from error
    path = local_path(path)
    advice = "Nothing was added. Make room there and run it again: what was trained before is not trained again."
    with refusals_told(RecordError, path, advice):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without a buffer, which would try to write once more when the file is closed.
        with FileLock(f"{path}.lock"), path.open("ab+", buffering=0) as file:
            torn, size = b"", file.seek(0, os.SEEK_END)
            if size:
                file.seek(-1, os.SEEK_END)
                torn = b"" if file.read(1) == b"\n" else b"\n"
            try:
                content = memoryview(torn + line + b"\n")
                while len(content):
                    content = content[file.write(content) :]
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(size)
                raise


class Results:
    """A file of records that others add to: `update` reads what is new.

    Args:
        path: The file; it need not be there yet.

    Attributes:
        records: What was read so far.

    Example:
        >>> import tempfile
        >>> from ciao_peft.study.example import example_records
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     results = Results(Path(folder) / RESULTS_FILE)
        ...     before = len(results.update())
        ...     append_record(results.path, example_records()[0])
        ...     before, len(results.update()), len(results.records)
        (0, 1, 1)
    """

    path: Path
    records: list[Record]

    def __init__(self, path: str | os.PathLike[str]):
        self.path = local_path(path)
        self.records = []
        self._read, self._lines = 0, 0

    def update(self) -> list[Record]:
        """Reads the whole lines that were added since the last call, and returns their records.

        Raises:
            RecordError: a line is JSON, but no record of this format.
        """
        if not self.path.exists():
            return []
        read, count = self._read, self._lines

        def whole() -> Iterator[bytes]:
            nonlocal read, count
            for line in _lines(self.path, read):
                if line.endswith(b"\n"):  # the last one may be half written
                    read, count = read + len(line), count + 1
                    yield line

        added = list(_parsed(whole(), self.path, self._lines + 1))
        self._read, self._lines = read, count
        self.records += added
        return added


def read_records(path: str | os.PathLike[str]) -> list[Record]:
    """The records of a file in their order, or of a study's folder; empty where there is none yet.

    A line that is no JSON was torn when its writer was killed: it counts as not written.

    Args:
        path: The file, or the folder of a study.

    Raises:
        RecordError: a line is JSON, but no record of this format.

    Example:
        >>> read_records("no such folder")
        []
    """
    path = local_path(path)
    path = path / RESULTS_FILE if path.is_dir() else path
    return list(_parsed(_lines(path), path, 1)) if os.path.lexists(path) else []


def _lines(path: Path, start: int = 0) -> Iterator[bytes]:
    with open_file(path, MAX_RESULTS_BYTES, error=RecordError) as file:
        file.seek(start)
        yield from bounded_lines(file, path, max_line=MAX_RECORD_BYTES, error=RecordError)


def _parsed(lines: Iterable[bytes], path: Path, first: int) -> Iterator[Record]:
    for number, line in enumerate(lines, start=first):
        line = line.rstrip(b"\r\n")
        try:
            values = parse_json(line, path)
        except FileReadError:
            if _is_json(line):  # of a depth, a length or keys that no record has
                raise RecordError(f"{str(path)!r}, line {number}: it is no record.") from None
            continue
        try:
            yield Record.from_dict(values)
        except (RecordError, TypeError, ValueError) as error:
            raise RecordError(f"{str(path)!r}, line {number}: {error}") from error


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


class Trained(NamedTuple):
    """What one training gives.

    Args:
        logits: `(N, num_labels)` of the test rows, in their order.
        history: Per epoch the mean losses.
        parameters: `"trained"` and `"adapter_total"`.
        seconds: Of training alone.
        decay_start: Where `a` started, if there is a mask.
    """

    logits: Tensor
    history: list[dict[str, float]]
    parameters: dict[str, int]
    seconds: float
    decay_start: float | None = None


def history_of(log: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Epoch and losses from the entries of a trainer's log.

    Example:
        >>> history_of([{"step": 9, "epoch": 1.0, "loss": 2.0, "grad_norm": 1.0}, {"epoch": 1.0, "train_loss": 2.0}])
        [{'epoch': 1.0, 'loss': 2.0}]
    """
    names = ("epoch", "loss", "task_loss", "contrastive_loss")
    return [{name: float(entry[name]) for name in names if name in entry} for entry in log if "loss" in entry]
