"""Checks a folder of faces: counts against the released ones, damaged pictures, copies, and a sheet of faces."""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..errors import DataError
from .duplicates import Shared, picture_hashes, shared_between_splits
from .labels import LabelSet, labels_of
from .loading import dataset_builder

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from PIL import Image

__all__ = ["Inspection", "SplitReport", "contact_sheet", "inspect_faces"]


@dataclass
class SplitReport:
    """The contents of one split, and what is wrong with them.

    Args:
        rows: Faces in it.
        official: Faces in the released one, where that is known.
        labels: Per label: the number of faces of the class, of faces with the label on, or the mean value.
        official_labels: The same for the released split, where that is known.
        unreadable: Pictures that do not decode, with the reason (first few).
        num_unreadable: How many there are.
        blank: Pictures of one single colour.
        copies: Rows that repeat a picture of the same split.
        conflicts: Pictures that occur with different labels.
        sizes: The five most frequent sizes and modes, such as `"48x48 L"`, with their counts.

    Example:
        >>> report = SplitReport(rows=2, official=None, labels={"calm": 1, "glad": 1}, blank=1)
        >>> report.blank, report.copies
        (1, 0)
    """

    rows: int
    official: int | None
    labels: dict[str, float]
    official_labels: dict[str, float] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    num_unreadable: int = 0
    blank: int = 0
    copies: int = 0
    conflicts: int = 0
    sizes: dict[str, int] = field(default_factory=dict)


@dataclass
class Inspection:
    """What `inspect_faces` found; `str()` makes it a page of text.

    Args:
        name: Name of the dataset, as in `load_faces`.
        folder: The folder with its files; `"memory"` where it needs none.
        labels: The problem that the labels pose, and their names.
        splits: A report for each split.
        shared: Pictures and people that are in two splits.
        left_out: What was not read, with reasons and examples, as text.
        how_to_obtain: Where the dataset comes from, as text; may be empty.

    Example:
        >>> labels = LabelSet("single_label_classification", ("calm", "glad"))
        >>> splits = {"train": SplitReport(rows=3, official=4, labels={"calm": 1, "glad": 2})}
        >>> page = str(Inspection("jaffe", "jaffe/", labels, splits, [], "nothing", ""))
        >>> print(page.splitlines()[0])
        jaffe in jaffe/: single_label_classification of 2 labels
    """

    name: str
    folder: str
    labels: LabelSet
    splits: dict[str, SplitReport]
    shared: list[Shared]
    left_out: str
    how_to_obtain: str

    def __str__(self) -> str:
        lines = [f"{self.name} in {self.folder}: {self.labels.problem_type} of {len(self.labels.names)} labels", ""]
        lines += [_row("", self.splits)]
        lines += [_row("faces", {name: _told(part.rows, part.official) for name, part in self.splits.items()})]
        for label in self.labels.names:
            cells = {
                n: _told(part.labels.get(label), part.official_labels.get(label)) for n, part in self.splits.items()
            }
            lines.append(_row(label, cells))
        for what in ("num_unreadable", "blank", "copies", "conflicts"):
            lines.append(_row(_WORDS[what], {name: getattr(part, what) for name, part in self.splits.items()}))
        lines += ["", "In brackets: the released files, where they differ."] if self._differs() else [""]
        for name, part in self.splits.items():
            shown = ", ".join(f"{count} of {size}" for size, count in part.sizes.items())
            lines.append(f"{name}: {shown}")
            lines += [f"  {problem}" for problem in part.unreadable]
        lines += [str(shared) for shared in self.shared]
        lines.append(f"Left out, and in no count above: {self.left_out}.")
        if self.how_to_obtain:
            lines.append(self.how_to_obtain)
        return "\n".join(lines)

    def _differs(self) -> bool:
        return any(
            (part.official not in (None, part.rows))
            or any(part.labels.get(name) != count for name, count in part.official_labels.items())
            for part in self.splits.values()
        )


_WORDS = {
    "num_unreadable": "unreadable",
    "blank": "of one colour",
    "copies": "copies inside",
    "conflicts": "with two labels",
}


def inspect_faces(name: str, data_dir: str | os.PathLike[str] | None = None, **settings: Any) -> Inspection:
    """Reads a dataset as `load_faces` would, decodes every picture, and compares it with the released one.

    Args:
        name: One of `list_faces()`.
        data_dir: Folder with the files.
        settings: The dataset's own settings, and `cache_dir`. Small classes are kept unless `min_images_per_class` is
            given.

    Returns:
        Counts, damage, copies and shared faces; print it.

    Raises:
        DataError, DataNotFoundError: as `load_faces`.

    Example:
        >>> import tempfile
        >>> few = {"num_train": 8, "num_validation": 0, "num_test": 4, "cache_dir": tempfile.mkdtemp()}
        >>> inspection = inspect_faces("painted_faces", world="seven", **few)
        >>> train, test = inspection.splits["train"], inspection.splits["test"]
        >>> train.rows, sum(test.labels.values()), train.unreadable
        (8, 4, [])
    """
    builder_class = dataset_builder(name)
    if "min_images_per_class" in builder_class.BUILDER_CONFIG_CLASS.__dataclass_fields__:
        settings.setdefault("min_images_per_class", 0)  # what is there is shown, whatever training would make of it
    builder = builder_class(data_dir=data_dir, **settings)
    builder.tells_left_out = False  # the page does
    builder.download_and_prepare()
    faces = cast("DatasetDict", builder.as_dataset())
    labels = labels_of(next(iter(faces.values())))
    rows, per_label = builder.official_counts(), builder.official_labels()
    splits: dict[str, SplitReport] = {}
    for split, part in ((str(split), part) for split, part in faces.items()):
        report = SplitReport(len(part), rows.get(split), _label_counts(part, labels))
        if split in per_label:
            report.official_labels = dict(zip(labels.names, per_label[split], strict=True))
        if "image" in part.column_names:
            _check_pictures(part, report)
        splits[split] = report
    pictures = all("image" in part.column_names for part in faces.values())
    identities = all("identity" in part.column_names for part in faces.values())
    columns = [None] * pictures + ["identity"] * identities
    shared = [entry for column in columns for entry in shared_between_splits(faces, column)]
    folder = "memory" if data_dir is None else str(Path(data_dir))
    return Inspection(name, folder, labels, splits, shared, str(builder.left_out), builder.HOW_TO_OBTAIN)


def contact_sheet(faces: Dataset, *, columns: int = 12, rows: int = 8, size: int = 96, seed: int = 0) -> Image.Image:
    """Draws faces chosen at random in a grid, ordered by class where they have one; unreadable pictures are grey.

    Args:
        faces: One split with the columns `image` and `label`.
        columns: Faces per line, 1 or more.
        rows: Lines, at most.
        size: Pixels per side of each face.
        seed: Another seed chooses other faces.

    Returns:
        An RGB image, `columns * size` pixels wide and `size` high for each line that is needed.

    Raises:
        DataError: the dataset is empty or has no column `image`.

    Example:
        >>> from datasets import Dataset
        >>> from ciao_peft.data import paint_face
        >>> faces = Dataset.from_dict({"image": [paint_face(seed=n) for n in range(3)], "label": [0, 1, 0]})
        >>> contact_sheet(faces, columns=2, size=32).size
        (64, 64)
    """
    from PIL import Image, ImageOps

    from ..preprocessing.pictures import as_mode

    if "image" not in faces.column_names or not len(faces):
        raise DataError(f"There is no face to show: columns {faces.column_names}, {len(faces)} rows.")
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(faces))[: columns * rows].tolist()
    labels = faces["label"]
    if isinstance(labels[0], int):
        chosen.sort(key=lambda row: labels[row])
    sheet = Image.new("RGB", (columns * size, math.ceil(len(chosen) / columns) * size), "white")
    for place, row in enumerate(chosen):
        try:
            face = ImageOps.fit(as_mode(faces[row]["image"], "RGB"), (size, size))
        except (OSError, ValueError):
            face = Image.new("RGB", (size, size), "grey")
        sheet.paste(face, (place % columns * size, place // columns * size))
    return sheet


def _label_counts(faces: Dataset, labels: LabelSet) -> dict[str, float]:
    values = np.array(faces["label"])
    if values.ndim == 1:
        return dict(zip(labels.names, np.bincount(values, minlength=len(labels.names)).tolist(), strict=True))
    if labels.problem_type == "regression":
        return dict(zip(labels.names, values.mean(axis=0).round(4).tolist(), strict=True))
    if labels.problem_type == "single_label_classification":  # distributions: by their most voted class
        counts = np.bincount(values.argmax(axis=1), minlength=len(labels.names))
        return dict(zip(labels.names, counts.tolist(), strict=True))
    return dict(zip(labels.names, values.astype(int).sum(axis=0).tolist(), strict=True))


def _check_pictures(faces: Dataset, report: SplitReport) -> None:
    """Decodes every picture once, and compares their files."""
    hashes = picture_hashes(faces)
    labels = [str(label) for label in faces["label"]]
    sizes: Counter[str] = Counter()
    for row in range(len(faces)):
        try:
            image = faces[row]["image"]
            image.load()
        except (OSError, ValueError, SyntaxError) as error:
            report.num_unreadable += 1
            if len(report.unreadable) < 5:
                report.unreadable.append(f"row {row} cannot be read: {error}")
            continue
        sizes[f"{image.width}x{image.height} {image.mode}"] += 1
        extremes = image.getextrema()  # a pair, or one for each band where there are several
        report.blank += all(low == high for low, high in ([extremes] if len(image.getbands()) == 1 else extremes))
    report.sizes = dict(sizes.most_common(5))
    by_hash = defaultdict(set)
    for key, label in zip(hashes.tolist(), labels, strict=True):
        by_hash[key].add(label)
    report.copies = len(hashes) - len(by_hash)
    report.conflicts = sum(len(labels_of_picture) > 1 for labels_of_picture in by_hash.values())


def _told(count: float | None, official: float | None) -> str:
    if count is None:
        return "-"
    return f"{count:g}" if official in (None, count) else f"{count:g} ({official:g})"


def _row(label: str, cells: Any) -> str:
    values = cells if isinstance(cells, dict) else dict.fromkeys(cells, "")
    if label:
        return f"{label:<16}" + "".join(f"{value!s:>20}" for value in values.values())
    return " " * 16 + "".join(f"{name:>20}" for name in values)
