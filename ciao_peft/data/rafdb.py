"""RAF-DB: faces from the web with seven basic expressions, each labelled by about forty people (Li et al. 2017)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import datasets

from ..checking import check_flag
from ..door import read_lines
from ..errors import DataError, DataNotFoundError
from .builder import IMAGE_SUFFIXES, FacesBuilder, LeftOut, image_problem, in_shards, walk
from .expressions import RAFDB, expression_name
from .labels import describe_labels
from .tables import repeated_row

__all__ = ["RafDb", "RafDbConfig"]

_LISTS = ("list_patition_label.txt", "list_partition_label.txt")  # the first is how the release spells it
_NAME = re.compile(r"(train|test)_\d+(_aligned)?", re.IGNORECASE)
_FOLDERS = {
    "train": "train",
    "train_set": "train",
    "test": "test",
    "test_set": "test",
    "val_set": "test",
    "val": "test",
}
_CLASSES = {expression_name(name): number for number, name in enumerate(RAFDB)}
_HOW = (
    "RAF-DB is given to researchers on request (whdeng.cn/RAF). Point `data_dir` at its folder basic/, with "
    "EmoLabel/list_patition_label.txt and Image/aligned/, or at class folders train/1/ ... test/7/ made of it."
)


@dataclass
class RafDbConfig(datasets.BuilderConfig):
    """Settings of `RafDb`.

    Args:
        aligned: Take the aligned faces of 100 pixels a side; otherwise the pictures as they were found.

    Raises:
        ConfigError: `aligned` is neither true nor false.

    Example:
        >>> RafDbConfig().aligned
        True
    """

    aligned: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("aligned", self.aligned)


class RafDb(FacesBuilder):
    """Reads the basic expressions of RAF-DB with the released splits `train` and `test`.

    Reads the release, `EmoLabel/list_patition_label.txt` with lines such as `train_00001.jpg 5` and the pictures
    anywhere below `data_dir`; or, where there is no such list, class folders `train/1/` to `test/7/` (or `train_set/`
    and `val_set/`), as they are passed on. Classes are numbered from 1 there: surprise, fear, disgust, happiness,
    sadness, anger, neutral.

    Columns: `image` and `label` in that order, from 0.

    Example:
        >>> import tempfile
        >>> from ciao_peft.data import load_faces, paint_face
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("EmoLabel", "Image/aligned"):
        ...     (folder / name).mkdir(parents=True)
        >>> paint_face(size=32).save(folder / "Image/aligned/test_0001_aligned.jpg")
        >>> _ = (folder / "EmoLabel/list_patition_label.txt").write_text("test_0001.jpg 4")
        >>> faces = load_faces("rafdb", folder, streaming=True)["test"]
        >>> [faces.features["label"].int2str(face["label"]) for face in faces]
        ['happiness']
    """

    BUILDER_CONFIG_CLASS = RafDbConfig
    config: RafDbConfig
    HOW_TO_OBTAIN: ClassVar[str] = _HOW

    def _info(self) -> datasets.DatasetInfo:
        features = {"image": datasets.Image(mode="RGB"), "label": datasets.ClassLabel(names=list(RAFDB))}
        description = describe_labels("RAF-DB: faces from the web.", "single_label_classification", RAFDB)
        return datasets.DatasetInfo(description=description, features=datasets.Features(features))

    def official_counts(self) -> dict[str, int]:
        """The 12,271 and 3,068 faces of basic expressions."""
        return {"train": 12271, "test": 3068}

    def official_labels(self) -> dict[str, tuple[int, ...]]:
        """Faces per label, in the order of the labels."""
        return {"train": (1290, 281, 717, 4772, 1982, 705, 2524), "test": (329, 74, 160, 1185, 478, 162, 680)}

    def _split_generators(self, dl_manager: object) -> list[datasets.SplitGenerator]:
        left_out = LeftOut()
        files = walk(self.folder)
        images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
        # The compound expressions have a list of the same name and other classes.
        lists = [path for path in files if path.name in _LISTS and "compound" not in map(str.lower, path.parts)]
        if lists:
            table = min(lists, key=lambda path: (len(path.parts), path))
            splits = self._listed(table, images, left_out)
        else:
            splits = self._in_folders(images, left_out)
        self._report(left_out)
        return [
            datasets.SplitGenerator(name=name, gen_kwargs={"shards": in_shards(splits[name])})
            for name in ("train", "test")
            if splits[name]
        ]

    def _listed(self, table: Path, images: list[Path], left_out: LeftOut) -> dict[str, list[tuple[str, int]]]:
        wanted = {path.stem.lower(): str(path) for path in reversed(images) if self._is_wanted(path)}
        splits: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
        seen: dict[str, str] = {}
        for number, line in enumerate(read_lines(table, error=DataError), start=1):
            if not line.strip():
                continue
            fields = line.split()
            stem = Path(fields[0]).stem.lower()
            match = _NAME.fullmatch(stem)
            if len(fields) != 2 or match is None or fields[1] not in _IDS:
                left_out.add(f"malformed row of {table.name}", f"line {number}")
                continue
            path = wanted.get(f"{stem}_aligned" if self.config.aligned else stem)
            if stem in seen:
                left_out.add(repeated_row(table, seen[stem] == fields[1]), fields[0])
            elif path is None:
                left_out.add(f"row of {table.name} without its picture", fields[0])
            else:
                splits[match[1].lower()].append((path, int(fields[1]) - 1))
            seen.setdefault(stem, fields[1])
        if not any(splits.values()):
            which = "aligned" if self.config.aligned else "original"
            raise DataError(
                f"No row of {str(table)!r} has its {which} picture below {str(self.folder)!r}. Left out: {left_out}. "
                f"Unpack Image/{which}, or set `aligned={not self.config.aligned}`."
            )
        return splits

    def _is_wanted(self, path: Path) -> bool:
        return path.stem.lower().endswith("_aligned") == self.config.aligned

    def _in_folders(self, images: list[Path], left_out: LeftOut) -> dict[str, list[tuple[str, int]]]:
        splits: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
        for path in images:
            parts = path.relative_to(self.folder).parts[:-1]
            split = next((_FOLDERS[part.lower()] for part in parts[::-1] if part.lower() in _FOLDERS), None)
            name = parts[-1] if parts else ""
            label = int(name) - 1 if name in _IDS else _CLASSES.get(expression_name(name))
            if split is None or label is None:
                left_out.add("image outside class folders such as train/1/", path.name)
            else:
                splits[split].append((str(path), label))
        if not any(splits.values()):
            raise DataNotFoundError(
                f"No RAF-DB in {str(self.folder)!r}: looked for {_LISTS[0]} and for class folders such as train/1/; "
                f"found {len(images)} images elsewhere. {_HOW}"
            )
        return splits

    def _generate_examples(  # pyright: ignore[reportIncompatibleMethodOverride] - called with gen_kwargs
        self, shards: list[list[tuple[str, int]]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        left_out = LeftOut()
        for path, label in (item for shard in shards for item in shard):
            if problem := image_problem(path):
                left_out.add(problem, path)
            else:
                yield path, {"image": path, "label": label}
        self._report(left_out)


_IDS = {str(number + 1) for number in range(len(RAFDB))}
