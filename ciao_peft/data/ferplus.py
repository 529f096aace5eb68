"""FER+: the pictures of FER2013 with ten votes each (Barsoum et al. 2016)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import datasets
import numpy as np

from ..checking import make_plain
from ..door import MAX_TABLE_BYTES, bounded_lines, open_file
from ..errors import DataError, DataNotFoundError, shortened
from .builder import FacesBuilder, LeftOut, image_problem, in_shards
from .expressions import FERPLUS
from .fer2013 import SPLITS, Line, find_table, header_of, png_of_pixels
from .labels import describe_labels
from .tables import table_records, table_rows
from .votes import VOTES, vote_weights

__all__ = ["MODES", "FerPlus", "FerPlusConfig"]

MODES = ("majority", "probability", "crossentropy", "multi_target", "authors-code")
_FOLDERS = {"FER2013Train": "train", "FER2013Valid": "validation", "FER2013Test": "test"}
_TABLE = "fer2013new.csv"
_HOW = (
    "Take fer2013new.csv from the FERPlus repository and put it into one folder with fer2013.csv (see FER2013), or "
    "point `data_dir` at its prepared folders FER2013Train, FER2013Valid and FER2013Test."
)
# Rows left per mode, train / validation / test, counted on the released fer2013new.csv.
_OFFICIAL = {
    "majority": (25060, 3199, 3153),
    "probability": (27956, 3199, 3153),
    "crossentropy": (27956, 3199, 3153),
    "multi_target": (27671, 3199, 3153),
    "authors-code": (27797, 3482, 3480),
}


@dataclass
class FerPlusConfig(datasets.BuilderConfig):
    """Settings of `FerPlus`.

    Args:
        mode: How votes become labels in training: `"majority"` (a class), `"probability"` or `"crossentropy"` (the same
            distribution; `sample_labels` draws classes from it), `"multi_target"` (several labels), or
            `"authors-code"` (distributions over seven classes, in all splits). In the other modes, the labels of
            validation and test go by majority, as in Barsoum's own evaluation.
        contempt: Whether the rarest class stays; without it seven are left.

    Raises:
        DataError: there is no such mode.

    Example:
        >>> FerPlusConfig(contempt=False).names
        ['neutral', 'happiness', 'surprise', 'sadness', 'anger', 'disgust', 'fear']
    """

    mode: str = "majority"
    contempt: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        make_plain(self)
        if self.mode not in MODES:
            raise DataError(f"FER+ has no mode {self.mode!r}. Modes: {', '.join(map(repr, MODES))}.")

    @property
    def names(self) -> list[str]:
        """Names of the seven or eight classes, in FER+'s own order."""
        contempt = self.contempt and self.mode != "authors-code"
        return [name for name in FERPLUS if contempt or name != "contempt"]


class _Vote(NamedTuple):
    name: str  # of the picture; may be empty
    votes: list[float]
    source: Any  # a path, or a line of the table of pixels
    number: int  # row of the table, or of the folder's label.csv


class FerPlus(FacesBuilder):
    """Reads FER+: FER2013's splits with FER+'s votes.

    Reads `fer2013new.csv` with `fer2013.csv` or `icml_face_data.csv`, joined by the position of the row (the number
    in the picture's name is not that position), or the prepared folders with their `label.csv`. The two disagree for
    1,602 pictures: in the first, copies of one picture share their votes.

    Columns: `image` (48x48, grey), `label` by `mode`, `votes` (10, in the order of `VOTES`), `name` and `row`.

    Example:
        >>> import tempfile
        >>> from ciao_peft.data import load_faces
        >>> folder = Path(tempfile.mkdtemp())
        >>> pixels = " ".join(["128"] * 48 * 48)
        >>> _ = (folder / "fer2013.csv").write_text("emotion,pixels,Usage\\n3," + pixels + ",PrivateTest\\n")
        >>> header, votes = ",".join(("Usage", "Image name", *VOTES)), "0,9,1,0,0,0,0,0,0,0"
        >>> _ = (folder / "fer2013new.csv").write_text(header + "\\nPrivateTest,a.png," + votes + "\\n")
        >>> face = next(iter(load_faces("ferplus", folder, streaming=True)["test"]))
        >>> FERPLUS[face["label"]], face["votes"][:3]
        ('happiness', [0.0, 9.0, 1.0])
    """

    BUILDER_CONFIG_CLASS = FerPlusConfig
    config: FerPlusConfig
    HOW_TO_OBTAIN: ClassVar[str] = _HOW
    KEEPS_PICTURES: ClassVar[bool] = True

    @classmethod
    def settings_for(cls, protocol: str) -> dict[str, Any]:
        """The authors' labels belong to the protocol of their code."""
        return {"mode": "authors-code"} if protocol == "authors-code" else {}

    def _code(self) -> tuple[str, ...]:
        return (png_of_pixels.__module__, vote_weights.__module__, table_rows.__module__)

    def _info(self) -> datasets.DatasetInfo:
        names, mode = self.config.names, self.config.mode
        label: Any = datasets.List(datasets.Value("float32"), length=len(names))
        if mode == "majority":
            label = datasets.ClassLabel(names=names)
        features = {
            "image": datasets.Image(mode="L"),
            "label": label,
            "votes": datasets.List(datasets.Value("float32"), length=len(VOTES)),
            "name": datasets.Value("string"),
            "row": datasets.Value("int64"),
        }
        problem_type = "multi_label_classification" if mode == "multi_target" else "single_label_classification"
        description = describe_labels("FER+: FER2013 with ten votes per face.", problem_type, names)
        return datasets.DatasetInfo(description=description, features=datasets.Features(features))

    def official_counts(self) -> dict[str, int]:
        """Rows left of the released `fer2013new.csv`; none for seven classes and for the prepared folders."""
        whole = self.config.contempt and find_table(self.folder, (_TABLE,)) and not self._prepared()
        return dict(zip(("train", "validation", "test"), _OFFICIAL[self.config.mode], strict=True)) if whole else {}

    def official_labels(self) -> dict[str, tuple[int, ...]]:
        """Faces per class by majority, of the released `fer2013new.csv`; none in the other modes."""
        if self.config.mode != "majority" or not self.official_counts():
            return {}
        return {
            "train": (8740, 7287, 3149, 3014, 2100, 119, 532, 119),
            "validation": (1182, 865, 415, 351, 287, 24, 62, 13),
            "test": (1090, 893, 396, 384, 273, 18, 83, 16),
        }

    def _prepared(self) -> dict[str, Path]:
        """Folders by split that hold a `label.csv`; none if no picture lies next to any, as in FER+'s repository."""
        folder = self.folder
        folders: dict[str, Path] = {}
        any_picture = False
        for name, split in _FOLDERS.items():
            tables = sorted(folder.rglob(f"{name}/label.csv"))
            filled = [table for table in tables if _has_pictures(table)]
            if tables:
                folders[split] = (filled or tables)[0].parent
            any_picture |= bool(filled)
        return folders if any_picture else {}

    def _split_generators(self, dl_manager: object) -> list[datasets.SplitGenerator]:
        folder, left_out = self.folder, LeftOut()
        if prepared := self._prepared():
            splits = {split: _prepared_votes(part / "label.csv", left_out) for split, part in prepared.items()}
            table = None
        else:
            votes = find_table(folder, (_TABLE,))
            table = find_table(folder, ("fer2013.csv", "icml_face_data.csv"))
            if votes is None or table is None:
                present = f"{votes.name} alone" if votes else f"{table.name} alone" if table else "neither"
                if any(any(folder.rglob(f"{name}/label.csv")) for name in _FOLDERS):
                    present += ", and a label.csv without any of its pictures"
                raise DataNotFoundError(
                    f"No FER+ in {str(folder)!r}: looked for {_TABLE} with fer2013.csv or icml_face_data.csv, and for "
                    f"folders FER2013Train, FER2013Valid and FER2013Test with a label.csv; found {present}. {_HOW}"
                )
            splits = _joined_votes(votes, table, left_out)
        self._report(left_out)
        return [
            datasets.SplitGenerator(
                name=name,
                gen_kwargs={"shards": in_shards(splits[name]), "split": name, "table": str(table) if table else None},
            )
            for name in ("train", "validation", "test")
            if splits.get(name)
        ]

    def _generate_examples(  # pyright: ignore[reportIncompatibleMethodOverride] - called with gen_kwargs
        self, shards: list[list[_Vote]], split: str, table: str | None
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        left_out = LeftOut()
        names = [VOTES.index(name) for name in self.config.names]
        mode = self.config.mode if split == "train" or self.config.mode == "authors-code" else "majority"
        pixels = _Pixels(table) if table else None
        for vote in (vote for shard in shards for vote in shard):
            weights = self._weights(vote.votes, mode)
            if weights is None or not weights[names].sum() or weights.argmax() not in names:
                left_out.add(f"picture without a label in mode {mode!r}", vote.name or f"row {vote.number}")
                continue
            image: Any = vote.source
            if pixels is None:
                problem = image_problem(image)
            else:
                image = {"bytes": pixels[image], "path": None}
                problem = None if image["bytes"] else "row without 2304 pixels from 0 to 255"
            if problem:
                left_out.add(problem, vote.name)
                continue
            weights = weights[names] / weights[names].sum()
            label: Any = weights.astype(np.float32)
            if self.config.mode == "majority":
                label = int(weights.argmax())
            elif self.config.mode == "multi_target":
                label = (weights > 0).astype(np.float32)
            example = {"image": image, "label": label, "votes": vote.votes, "name": vote.name, "row": vote.number}
            yield vote.number, example
        self._report(left_out)

    def _weights(self, votes: list[float], mode: str) -> np.ndarray | None:
        if mode == "authors-code":  # nine columns: no face is no answer there
            votes, mode = [*votes[:-1], 0.0], "probability"
        return vote_weights(votes, mode)


class _Pixels:
    """The pictures of a table of pixels, by line."""

    def __init__(self, table: str):
        self.content = open_file(table, MAX_TABLE_BYTES, error=DataError)  # read from until the last row
        first = next(bounded_lines(self.content, table, error=DataError), b"")
        self.index = header_of(first, Path(table)).index("pixels")

    def __getitem__(self, line: Line) -> bytes | None:
        self.content.seek(line.offset)
        fields = self.content.read(line.length).decode("utf-8", errors="replace").strip().split(",")
        return png_of_pixels(fields[self.index].strip('"')) if self.index < len(fields) else None

    def __del__(self) -> None:
        if "content" in vars(self):  # it could be opened
            self.content.close()


def _joined_votes(votes: Path, table: Path, left_out: LeftOut) -> dict[str, list[_Vote]]:
    """Row i of the votes belongs to row i of the pixels; their usages must agree in every row.

    Raises:
        DataError: they do not, or there are more rows in one of them.
    """
    names, _, rows = table_records(votes)
    if missing := [name for name in ("Usage", "Image name", *VOTES) if name not in names]:
        shown = shortened(", ".join(map(repr, names[:12])))
        raise DataError(f"{str(votes)!r} has no column {missing[0]!r}. Its first line is {shown}.")
    answers = [{name: record.get(name) or "" for name in names} for _, record in rows]
    splits: dict[str, list[_Vote]] = {name: [] for name in SPLITS.values()}
    count = 0
    with open_file(table, MAX_TABLE_BYTES, error=DataError) as file:
        lines = bounded_lines(file, table, error=DataError)
        header = header_of(next(lines, b""), table)
        if "Usage" not in header:
            raise DataError(
                f"{str(table)!r} has no column 'Usage', so that its rows cannot be checked against {_TABLE}."
            )
        usage_at, offset = header.index("Usage"), file.tell()
        for line in lines:
            if line.strip():
                fields = line.split(b",")
                usage = fields[usage_at].decode(errors="replace").strip().strip('"') if usage_at < len(fields) else ""
                if count < len(answers):
                    answer = answers[count]
                    if answer["Usage"] != usage:
                        raise DataError(
                            f"Row {count} does not pair: {str(votes)!r} says {shortened(repr(answer['Usage']))}, "
                            f"{str(table)!r} says {shortened(repr(usage))}. Both must have all rows of the released "
                            "files, in their order."
                        )
                    _add_vote(splits, answer, usage, Line(count, offset, len(line)), left_out)
                count += 1
            offset += len(line)
    if count != len(answers):
        raise DataError(
            f"{str(votes)!r} has {len(answers)} rows but {str(table)!r} has {count}: they cannot be joined by "
            "position. Both must have all rows of the released files, in their order."
        )
    return splits


def _add_vote(
    splits: dict[str, list[_Vote]], answer: dict[str, str], usage: str, line: Line, left_out: LeftOut
) -> None:
    counts = _counts([answer[name] for name in VOTES])
    if usage not in SPLITS:
        left_out.add("row with an unknown usage", f"row {line.row}: {usage[:20]!r}")
    elif counts is None:
        left_out.add("row with votes that are no counts", f"row {line.row}")
    else:
        splits[SPLITS[usage]].append(_Vote(answer["Image name"].strip(), counts, line, line.row))


def _has_pictures(table: Path) -> bool:
    return any(
        fields and os.path.isfile(table.parent / fields[0].strip()) for fields in table_rows(table, errors="replace")
    )


def _prepared_votes(table: Path, left_out: LeftOut) -> list[_Vote]:
    """Rows `name,"(0, 0, 48, 48)",10 votes` without a header; of a name that occurs twice both rows count."""
    votes: list[_Vote] = []
    for number, fields in enumerate(table_rows(table)):
        counts = _counts(fields[2:]) if len(fields) == 2 + len(VOTES) else None
        path = table.parent / fields[0].strip() if fields else table
        if not fields:
            continue
        if counts is None or not re.fullmatch(r"\(\d+, ?\d+, ?\d+, ?\d+\)", fields[1].strip()):
            left_out.add(f"malformed row of {table.parent.name}/label.csv", f"line {number + 1}")
        elif not os.path.isfile(path):
            left_out.add(f"row of {table.parent.name}/label.csv without its picture", fields[0])
        else:
            votes.append(_Vote(fields[0].strip(), counts, str(path), number))
    return votes


def _counts(fields: Sequence[str | None]) -> list[float] | None:
    try:
        counts = [float(field or "") for field in fields]
    except ValueError:
        return None
    return counts if all(0 <= count <= 100 and count.is_integer() for count in counts) and sum(counts) else None
