"""How each dataset is split for an experiment: what the literature does, what the paper words, what its code did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

__all__ = [
    "PROTOCOLS",
    "Fold",
    "has_folds",
    "leave_one_group_out",
    "leave_one_repetition_out",
    "protocol_folds",
    "stratified_folds",
    "subject_folds",
]

PROTOCOLS: dict[str, tuple[str, ...]] = {
    "affectnet": ("official", "authors-code"),
    "ckplus": ("subject-k-fold", "leave-one-subject-out", "official"),
    "emoreact": ("official", "authors-code"),
    "expw": ("official", "k-fold"),
    "fer2013": ("official", "authors-code"),
    "ferplus": ("official", "authors-code"),
    "imagefolder": ("official", "k-fold", "leave-one-subject-out"),
    "jaffe": ("leave-one-subject-out", "leave-one-emotion-out", "k-fold", "authors-code"),
    "painted_faces": ("official",),
    "rafdb": ("official",),
    "table": ("official", "k-fold", "leave-one-subject-out"),
    "videofolder": ("official", "leave-one-subject-out"),
}
"""Protocols of each dataset, the default one first.

- `"official"`: the splits as released. AffectNet's test set was never released: its validation set is the test set
  here, as in the literature. FER2013 and FER+ are tested on PrivateTest. A table whose `split_column` holds whole
  numbers has a fold for each.
- `"leave-one-subject-out"`: each fold tests on all pictures of one person, in JAFFE one of ten women. The same face is
  never in both parts.
- `"leave-one-emotion-out"`: the paper's words for JAFFE, read as: one of the pictures that one subject made of one
  expression is held out. Three folds; every picture is tested once; every face is also in training, so scores are far
  higher.
- `"k-fold"`: ten folds with the classes in proportion; on JAFFE, faces are shared as well.
- `"subject-k-fold"`: ten folds of people, who are dealt to them in the order of their names.
- `"authors-code"`: what the released code of the paper does. JAFFE: the first ten pictures of each class are the test
  set (in the order of their names; the code takes the order of the file system). FER2013: no fear, tested on
  PublicTest. FER+: distributions over seven classes, without contempt. AffectNet: only faces with one of the eight
  expressions and a valid arousal. EmoReact: trained and tested on the training clips.
"""


@dataclass(frozen=True)
class Fold:
    """One way to split a dataset.

    Args:
        name: Says which part is tested on: `"KA"`, `"fold 3"`, `"official"`.
        splits: The parts by name: `train`, `test`, and what else the protocol has.

    Example:
        >>> from datasets import Dataset, DatasetDict
        >>> rows = Dataset.from_dict({"label": [0, 1]})
        >>> Fold("official", DatasetDict(train=rows)).splits["train"].num_rows
        2
    """

    name: str
    splits: DatasetDict


def protocol_folds(
    name: str, faces: DatasetDict, protocol: str | None = None, *, folds: int = 10, seed: int = 0
) -> Iterator[Fold]:
    """The folds of a protocol: one for official splits, several for the rest.

    Args:
        name: The dataset's name in `load_faces`.
        faces: The splits that `load_faces(name, ..., protocol=None)` returns.
        protocol: One of `PROTOCOLS[name]`; the first when left out.
        folds: Number of folds of `"k-fold"`, 2 or more.
        seed: Another seed deals the rows of `"k-fold"` to other folds.

    Yields:
        One `Fold` after another. They refer to the rows of `faces`; nothing is copied.

    Raises:
        DataError: this dataset has no such protocol, or the data does not allow it.

    Example:
        >>> from datasets import Dataset, DatasetDict
        >>> rows = Dataset.from_dict({"identity": ["KA", "KA", "YM"], "label": [0, 1, 0]})
        >>> for fold in protocol_folds("jaffe", DatasetDict(train=rows)):
        ...     print(fold.name, {split: list(part["identity"]) for split, part in fold.splits.items()})
        KA {'train': ['YM'], 'test': ['KA', 'KA']}
        YM {'train': ['KA', 'KA'], 'test': ['YM']}
    """
    protocols = PROTOCOLS.get(name, ("official",))
    protocol = protocol or protocols[0]
    if protocol not in protocols:
        raise DataError(f"{name} has no protocol {protocol!r}. It has: {', '.join(map(repr, protocols))}.")
    needed = _NEEDED.get((name, protocol), ("train",) if protocol in _FOLDS else ())
    if missing := [split for split in needed if split not in faces]:
        splits = ", ".join(map(repr, faces))
        raise DataError(f"Protocol {protocol!r} of {name} needs the split {missing[0]!r}; there is {splits} alone.")
    if protocol == "official" and has_folds(name, faces):
        parts = leave_one_group_out(faces["train"], "fold")
        for fold, test in sorted(parts, key=lambda part: int(part[0])):
            yield Fold(fold, _parts(faces["train"], test))
    elif protocol == "official":
        yield Fold("official", _official(name, faces))
    elif protocol == "authors-code":
        yield Fold("authors-code", _AUTHORS_CODE[name](faces))
    else:
        parts = _FOLDS[protocol](faces["train"], folds, seed)
        for fold, test in parts:
            yield Fold(fold, _parts(faces["train"], test))


def has_folds(name: str, faces: Any) -> bool:
    """Whether a table of one's own says which fold each row is in, and not which split.

    Args:
        name: The dataset's name in `load_faces`.
        faces: Its splits.

    Example:
        >>> from datasets import Dataset
        >>> has_folds("table", {"train": Dataset.from_dict({"fold": ["0", "1"]})})
        True
    """
    return name == "table" and "train" in faces and "fold" in (faces["train"].features or {})


def leave_one_group_out(faces: Dataset, column: str = "identity") -> Iterator[tuple[str, np.ndarray]]:
    """Makes one fold per group: the group is tested on, the others are trained on.

    Args:
        faces: One split.
        column: Name of the column that says which group a row belongs to.

    Yields:
        The group's name, in alphabetical order, and its rows, `(rows,)` bool.

    Raises:
        DataError: there are fewer than two groups.

    Example:
        >>> from datasets import Dataset
        >>> faces = Dataset.from_dict({"identity": ["KA", "YM", "KA"]})
        >>> [(name, test.tolist()) for name, test in leave_one_group_out(faces)]
        [('KA', [True, False, True]), ('YM', [False, True, False])]
    """
    if column not in faces.column_names:
        raise DataError(
            f"There is no column {column!r} that says whom a row shows. Columns: {', '.join(faces.column_names)}. Name "
            "it with `group_by`, where a table of your own has it, or choose another `protocol`."
        )
    groups = np.array(faces[column])
    names = sorted(set(groups.tolist()))
    if len(names) < 2:
        raise DataError(f"Leaving one group out needs two or more; column {column!r} has only {names}.")
    for name in names:
        yield str(name), groups == name


def subject_folds(faces: Dataset, folds: int = 10, column: str = "identity") -> Iterator[tuple[str, np.ndarray]]:
    """Deals people to `folds` folds in the order of their names, round and round: fold 1 gets the first, the eleventh.

    Args:
        faces: One split.
        folds: Number of folds, 2 or more; as many as there are people, where these are fewer.
        column: Name of the column that says whom a row shows.

    Yields:
        The fold's name and its rows, `(rows,)` bool.

    Raises:
        DataError: there is no such column, or fewer than two people.

    Example:
        >>> from datasets import Dataset
        >>> faces = Dataset.from_dict({"identity": ["S1", "S2", "S3", "S1"]})
        >>> [(name, test.tolist()) for name, test in subject_folds(faces, folds=2)]
        [('fold 1', [True, False, True, True]), ('fold 2', [False, True, False, False])]
    """
    people = [test for _, test in leave_one_group_out(faces, column)]
    if not isinstance(folds, int) or folds < 2:
        raise DataError(f"`folds` must be 2 or more; got {folds!r}.")
    for number in range(min(folds, len(people))):
        yield f"fold {number + 1}", np.logical_or.reduce(people[number::folds])


def leave_one_repetition_out(faces: Dataset, parts: int = 3) -> Iterator[tuple[str, np.ndarray]]:
    """Deals the repeated pictures of every (identity, label) to `parts` folds, in the order of their repetition.

    Where a cell has more pictures than there are parts, the first parts get the surplus; where it has fewer, the last
    parts get none. Every row is in exactly one fold.

    Args:
        faces: One split with the columns `identity`, `label` and `repetition`.
        parts: Number of folds.

    Yields:
        The fold's name and its rows, `(rows,)` bool.

    Example:
        >>> from datasets import Dataset
        >>> faces = Dataset.from_dict({"identity": ["KA"] * 3, "label": [0] * 3, "repetition": [2, 1, 3]})
        >>> [(name, test.tolist()) for name, test in leave_one_repetition_out(faces)][0]
        ('repetition 1', [False, True, False])
    """
    cells: dict[tuple[Any, Any], list[int]] = {}
    keys = zip(faces["identity"], faces["label"], faces["repetition"], strict=True)
    for row, (identity, label, _) in sorted(enumerate(keys), key=lambda item: (*item[1], item[0])):
        cells.setdefault((identity, label), []).append(row)
    part = np.empty(len(faces), dtype=np.int64)
    for rows in cells.values():
        part[rows] = np.arange(len(rows)) % parts
    for number in range(parts):
        yield f"repetition {number + 1}", part == number


def stratified_folds(faces: Dataset, folds: int = 10, seed: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """Deals the rows of every class to `folds` folds at random, so that each has the classes in proportion.

    Args:
        faces: One split with class ids as `label`.
        folds: Number of folds, 2 up to the number of rows.
        seed: Another seed deals the rows to other folds.

    Yields:
        The fold's name and its rows, `(rows,)` bool.

    Raises:
        DataError: labels are no classes, or there are more folds than rows.

    Example:
        >>> from datasets import Dataset
        >>> faces = Dataset.from_dict({"label": [0, 0, 1, 1]})
        >>> [int(test.sum()) for _, test in stratified_folds(faces, folds=2)]
        [2, 2]
    """
    labels = np.array(faces["label"])
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError("Stratified folds need one class per row as `label`.")
    if not 2 <= folds <= len(labels):
        raise DataError(f"`folds` must be 2 to {len(labels)}, the number of rows; got {folds}.")
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    # Class after class dealt round and round: fold sizes differ by one at most, and so does each class in them.
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    part = np.empty(len(labels), dtype=np.int64)
    part[order] = np.arange(len(labels)) % folds
    for number in range(folds):
        yield f"fold {number + 1}", part == number


def _parts(faces: Dataset, test: np.ndarray) -> DatasetDict:
    from datasets import DatasetDict

    return DatasetDict({"train": faces.select(np.flatnonzero(~test)), "test": faces.select(np.flatnonzero(test))})


def _keep(faces: DatasetDict, condition: Callable[[dict[str, Any]], bool], columns: list[str]) -> DatasetDict:
    from datasets import DatasetDict

    kept = {}
    for name, split in faces.items():
        rows = zip(*(split[column] for column in columns), strict=True)
        kept[name] = split.select([i for i, row in enumerate(rows) if condition(dict(zip(columns, row, strict=True)))])
    return DatasetDict(kept)


def _official(name: str, faces: DatasetDict) -> DatasetDict:
    if name == "affectnet" and "test" not in faces:  # a stream stays one
        return type(faces)({{"validation": "test"}.get(str(split), str(split)): rows for split, rows in faces.items()})
    return faces


def _jaffe_code(faces: DatasetDict) -> DatasetDict:
    train = faces["train"]
    names = zip(train["identity"], train["label"], train["repetition"], train["number"], strict=True)
    order = [row for row, _ in sorted(enumerate(names), key=lambda item: item[1])]
    test, counts = np.zeros(len(train), dtype=bool), dict.fromkeys(train["label"], 0)
    labels = train["label"]
    for row in order:
        counts[labels[row]] += 1
        test[row] = counts[labels[row]] <= 10
    return _parts(train, test)


def _fer2013_code(faces: DatasetDict) -> DatasetDict:
    from datasets import DatasetDict

    fear = faces["train"].features["label"].str2int("fear")
    kept = _keep(faces, lambda row: row["label"] != fear, ["label"])
    return DatasetDict({"train": kept["train"], "test": kept["validation"]})


def _affectnet_code(faces: DatasetDict) -> DatasetDict:
    kept = _keep(faces, lambda row: row["expression"] < 8 and row["arousal"] != -2, ["expression", "arousal"])
    return _official("affectnet", kept)


def _emoreact_code(faces: DatasetDict) -> DatasetDict:
    from datasets import DatasetDict

    return DatasetDict(dict.fromkeys(("train", "validation", "test"), faces["train"]))


_AUTHORS_CODE: dict[str, Callable[[DatasetDict], DatasetDict]] = {
    "affectnet": _affectnet_code,
    "emoreact": _emoreact_code,
    "fer2013": _fer2013_code,
    "ferplus": lambda faces: faces,  # its builder deals with the labels
    "jaffe": _jaffe_code,
}
_NEEDED = {  # splits that the authors' code reads
    ("emoreact", "authors-code"): ("train",),
    ("fer2013", "authors-code"): ("train", "validation"),
    ("jaffe", "authors-code"): ("train",),
}
_FOLDS: dict[str, Callable[..., Iterator[tuple[str, np.ndarray]]]] = {
    "leave-one-subject-out": lambda faces, folds, seed: leave_one_group_out(faces),
    "leave-one-emotion-out": lambda faces, folds, seed: leave_one_repetition_out(faces),
    "k-fold": stratified_folds,
    "subject-k-fold": lambda faces, folds, seed: subject_folds(faces, folds),
}
