"""Pictures in Parquet files, WebDataset tars or folders, on this disk or behind a URL of fsspec, row by row."""

from __future__ import annotations

import bisect
import operator
import os
import posixpath
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..door import parse_json
from ..errors import CIAOError, DataError, DataNotFoundError, listed, quoted, shortened
from ..urls import SCHEMES, require_package

if TYPE_CHECKING:
    import tarfile

__all__ = ["Shards", "open_shards"]

_PICTURES = ("jpg", "jpeg", "png", "webp", "bmp", "ppm", "tif", "tiff")
_GIVE = "Give a file, a folder, a pattern such as 's3://bucket/faces/*.parquet', or a list of these"
_SCHEMES = (*SCHEMES, "file")
_COLUMNS = ("image", "jpg", "png", "jpeg", "webp")
_LABELS = ("label", "labels")
_LARGEST_PICTURE = 2**28
_LARGEST_LABEL = 2**20
_LARGEST_END = 2**20  # bytes behind the last file of a tar that are looked at; `tar` fills up to 10,240
_LARGEST_GROUP = 2**31  # bytes of a column in a row group of Parquet, which is read at once
_MOST_ROWS = 10**8  # of a Parquet file
_ROWS_AT_ONCE = 1024
_GROUPS_KEPT = 2  # row groups of Parquet that stay in memory


def open_shards(source: str | os.PathLike[str] | Sequence[str], **storage_options: Any) -> Shards:
    """Opens the pictures of many files as one dataset, of which any row can be read by itself.

    Nothing is read but what says where each picture lies: the footers of Parquet files, the headers in tars, the names
    in folders. Rows are in the order of the files' names, then in that of each file.

    Args:
        source: A file, a folder, a pattern with `*`, or several files; a path, or a URL that fsspec knows, such as
            `"s3://bucket/faces/*.parquet"`. A folder holds Parquet files, tars, or pictures: of these, the name of the
            folder next to the picture is its label, where each lies in one.
        storage_options: Of the store, as fsspec takes them.

    Returns:
        A map-style dataset of `{"image": ..., "label": ...}`, for `cache_features`, with Ray's workers too.

    Raises:
        DataNotFoundError: nothing is there.
        DataError: the files are of no known kind, or of several; one of them is damaged; or no path was given.
        MissingExtraError: the package for the store is not installed.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = tempfile.mkdtemp()
        >>> for name in ("fear", "joy"):
        ...     os.mkdir(f"{folder}/{name}")
        ...     Image.new("RGB", (8, 8)).save(f"{folder}/{name}/face.png")
        >>> faces = open_shards(folder)
        >>> len(faces), faces.label_names, faces.labels, sorted(faces[0]["image"])
        (2, ['fear', 'joy'], [0, 1], ['bytes', 'path'])
    """
    import fsspec

    sources = _paths_of(source)
    for one in sources:
        scheme, is_url, _ = one.partition("://")
        if "::" in one or (is_url and scheme not in _SCHEMES):
            raise DataError(
                f"{quoted(one)} is no URL that is read. Give a path, or a URL that begins with "
                f"{listed(f'{name}://' for name in _SCHEMES)} and names one store."
            )
        if is_url:
            require_package(scheme)
    files: list[str] = []
    try:
        filesystem = fsspec.core.url_to_fs(sources[0], **storage_options)[0]
        for one in sources:
            path = str(filesystem._strip_protocol(one))
            found = filesystem.glob(path) if "*" in path else [path]
            for name in sorted(map(str, found)):
                files += sorted(filesystem.find(name)) if filesystem.isdir(name) else [name]
        missing = [name for name in files if not filesystem.exists(name)] if len(files) < 100 else []
    except (OSError, ValueError, ImportError) as error:
        raise DataNotFoundError(
            f"{quoted(sources[0])} cannot be reached: {type(error).__name__}: {shortened(str(error))}"
        ) from error
    by_kind: dict[str, list[str]] = {}
    for name in files:
        by_kind.setdefault(_kind_of(name), []).append(name)
    by_kind.pop("", None)
    if missing or not by_kind:
        raise DataNotFoundError(f"There are no Parquet files, tars or pictures at {quoted(sources[0])}. {_GIVE}.")
    if len(by_kind) > 1:
        raise DataError(f"{quoted(sources[0])} holds files of several kinds: {listed(by_kind)}. Give one.")
    (kind, names), *_ = by_kind.items()
    return {"Parquet": _ParquetShards, "tar": _TarShards, "pictures": _PictureFiles}[kind](filesystem, names)


def _paths_of(source: Any) -> list[str]:
    """What was given, as texts; an empty one would be the folder where the program was started."""
    if isinstance(source, (str, os.PathLike)):
        sources: list[Any] = [source]
    elif isinstance(source, Iterable) and not isinstance(source, (bytes, Mapping)):
        sources = list(source)
    else:
        raise DataError(f"`source` says where pictures lie; got {quoted(source)}. {_GIVE}.")
    paths = [os.fspath(one) if isinstance(one, (str, os.PathLike)) else one for one in sources]
    if wrong := [one for one in paths if not isinstance(one, str)]:
        raise DataError(f"`source` says where pictures lie; got {quoted(wrong[0])} among others. {_GIVE}.")
    if not paths or not all(path.strip() for path in paths):
        raise DataNotFoundError(f"No file was given to read pictures from: `source` is {quoted(source)}. {_GIVE}.")
    return paths


def _kind_of(path: str) -> str:
    ending = posixpath.basename(path).rpartition(".")[2].lower()
    return {"parquet": "Parquet", "tar": "tar"}.get(ending, "pictures" if ending in _PICTURES else "")


class Shards:
    """Pictures that lie in many files, as `open_shards` opens them.

    Args:
        filesystem: Of fsspec.
        paths: Of the files, as the filesystem has them.

    Attributes:
        labels: One for each row, or None where there are none.
        label_names: Names of the classes in the order of their ids, where they are known.
    """

    labels: list[Any] | None
    label_names: list[str] | None

    def __init__(self, filesystem: Any, paths: Sequence[str]):
        self._filesystem, self._paths = filesystem, list(paths)
        self.labels = self.label_names = None
        self._look()

    def _look(self) -> None:
        raise NotImplementedError

    def _pictures(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        rows = [self._row(index) for index in indices]
        if not rows:
            return []
        with _damage_told(f"Rows {rows[0]} to {rows[-1]} cannot be read"):
            pictures = self._pictures(rows)
        if self.labels is None:
            return [{"image": picture} for picture in pictures]
        return [{"image": picture, "label": self.labels[row]} for picture, row in zip(pictures, rows, strict=True)]

    def _row(self, index: int) -> int:
        """The number of a row that may be counted from the end."""
        if not -len(self) <= (number := operator.index(index)) < len(self):
            raise IndexError(f"There are {len(self)} rows; got the index {index}.")
        return number % len(self)

    def _part(self, path: str, start: int, size: int) -> bytes:
        return self._filesystem.cat_file(path, start=start, end=start + size)


class _PictureFiles(Shards):
    def _look(self) -> None:
        folders = [posixpath.dirname(path) for path in self._paths]
        above = posixpath.commonpath(self._paths) if len(self._paths) > 1 else folders[0]
        if above not in folders:
            self.label_names = sorted({posixpath.basename(folder) for folder in folders})
            place = {name: number for number, name in enumerate(self.label_names)}
            self.labels = [place[posixpath.basename(folder)] for folder in folders]

    def __len__(self) -> int:
        return len(self._paths)

    def _pictures(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        found = []
        for row in rows:
            path = self._paths[row]
            if (size := int(self._filesystem.size(path) or 0)) > _LARGEST_PICTURE:
                raise DataError(f"{quoted(path)} has {size:,} bytes, which no picture needs.")
            found.append({"bytes": self._filesystem.cat_file(path), "path": path})
        return found


class _TarShards(Shards):
    """WebDataset's: the files of a sample follow one another and have one name up to the first dot."""

    def _look(self) -> None:
        self._members: list[tuple[int, int, int]] = []  # number of the tar, place and size of the picture in it
        labels: list[Any] = []
        for number, path in enumerate(self._paths):
            for picture, label in self._samples(path):
                self._members.append((number, *picture))
                labels.append(label)
        if not self._members:
            raise DataError(f"{quoted(self._paths[0])} holds no pictures.")
        with_label = sum(label is not None for label in labels)
        if with_label not in (0, len(labels)):
            raise DataError(
                f"{len(labels) - with_label} of the {len(labels)} pictures in {quoted(self._paths[0])} and others have "
                "no label ('.cls', or 'label' in '.json'). Give all of them one, or none."
            )
        self.labels = labels if with_label else None

    def _samples(self, path: str) -> Iterable[tuple[tuple[int, int], Any]]:
        import tarfile

        sample, keys = _Sample(path), set[str]()
        with (
            _damage_told(f"{quoted(path)} is no tar that can be read"),
            self._filesystem.open(path, "rb") as file,
            tarfile.open(fileobj=file, mode="r:") as tar,
        ):
            for member in tar:
                key, ending = _sample_and_ending(member.name)
                if member.isdir() or not key:  # other programs' notes, such as `._face.png`
                    continue
                if key != sample.key:
                    yield from sample.checked()
                    if key in keys:
                        raise DataError(
                            f"{quoted(path)} has files of the sample {quoted(key)} in two places, and those of one "
                            "sample must follow one another. Pack it again in the order of names."
                        )
                    keys.add(key)
                    sample = _Sample(path, key)
                sample.add(tar, member, ending)
            file.seek(tar.offset)
            if len(end := file.read(512)) < 512 or any(end):  # `tarfile` takes what is damaged for the end
                raise DataError(f"{quoted(path)} is cut off or damaged behind byte {tar.offset:,}. Copy it again.")
            if any(file.read(_LARGEST_END)):
                raise DataError(
                    f"{quoted(path)} goes on behind its end at byte {tar.offset:,}, as tars do that were put together "
                    "with `cat`. Give them as several files, or join them with `tar --concatenate`."
                )
        yield from sample.checked()

    def __len__(self) -> int:
        return len(self._members)

    def _pictures(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        found = []
        for row in rows:
            number, start, size = self._members[row]
            found.append({"bytes": self._part(self._paths[number], start, size), "path": None})
        return found


def _sample_and_ending(name: str) -> tuple[str, str]:
    """What WebDataset takes for the name of a sample, and for what the file is of it; no name where it is none's."""
    folder, file = posixpath.split(name)
    stem, _, ending = file.partition(".")
    return (posixpath.join(folder, stem), ending.lower()) if stem and ending else ("", "")


class _Sample:
    """Files of a tar that belong together: one picture, and at most one label.

    Args:
        path: Of the tar.
        key: Name of the sample.
    """

    def __init__(self, path: str, key: str = ""):
        self._path, self.key = path, key
        self._picture: tuple[str, int, int] | None = None  # name, place and size
        self._label: tuple[str, Any] | None = None  # name of its file, and what that says

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo, ending: str) -> None:
        """Takes a file for what its ending says; others are left alone."""
        if ending not in (*_PICTURES, "cls", "json"):
            return
        name = f"{quoted(member.name)} in {quoted(self._path)}"
        if not member.isreg() or member.issparse():
            raise DataError(f"{name} is a link or the like. Pack the files themselves (`tar --dereference`).")
        if ending in _PICTURES:
            if self._picture is not None:
                raise DataError(f"{name} is a second picture of one sample, beside {quoted(self._picture[0])}.")
            if not 0 <= member.size <= _LARGEST_PICTURE:
                raise DataError(f"{name} has no size of a picture.")
            self._picture = member.name, member.offset_data, member.size
            return
        if not 0 <= member.size <= _LARGEST_LABEL:
            raise DataError(f"{name} has {member.size:,} bytes, which no label needs.")
        content = tar.extractfile(member)
        label = _label_in(b"" if content is None else content.read(), ending, self._path)
        if label is None:
            return
        if self._label is not None and self._label[1] != label:
            before, said = self._label
            raise DataError(f"{name} says {quoted(label)}, and {quoted(before)} of the same sample {quoted(said)}.")
        self._label = member.name, label

    def checked(self) -> Iterator[tuple[tuple[int, int], Any]]:
        """Place and size of the picture and its label, where there is a picture."""
        if self._picture is not None:
            yield self._picture[1:], None if self._label is None else self._label[1]
        elif self._label is not None:
            raise DataError(
                f"{quoted(self._label[0])} in {quoted(self._path)} is the label of no picture. Give the files of a "
                f"sample one name up to the first dot, and one of the endings {listed(_PICTURES)} to its picture."
            )


def _label_in(content: bytes, ending: str, path: str) -> Any:
    if ending == "cls":
        text = content.decode("ascii", "replace").strip()
        if not re.fullmatch(r"-?[0-9]{1,17}", text):
            raise DataError(f"A '.cls' in {quoted(path)} is no whole number: {quoted(text)}.")
        return int(text)
    values = parse_json(content, path, error=DataError)
    return values.get("label") if isinstance(values, Mapping) else None


class _ParquetShards(Shards):
    def _look(self) -> None:
        self._groups: list[tuple[int, int]] = []  # file and row group
        self._firsts, total = [], 0
        labels: list[Any] = []
        for number, path in enumerate(self._paths):
            with _damage_told(f"{quoted(path)} is no Parquet file that can be read"), self._opened(path) as file:
                names = file.schema_arrow.names
                column = next((name for name in _COLUMNS if name in names), None)
                label = next((name for name in _LABELS if name in names), None)
                if column is None:
                    raise DataError(f"{quoted(path)} has no column of pictures, 'image'; it has {listed(names)}.")
                if number and (column, label) != (self._column, self._label):
                    raise DataError(f"{quoted(path)} has other columns than {quoted(self._paths[0])}.")
                if not number:
                    self._column, self._label = column, label
                    self.label_names = _names_in(file.schema_arrow.metadata, label, path)
                elif _names_in(file.schema_arrow.metadata, label, path) != self.label_names:
                    raise DataError(f"{quoted(path)} has other classes than {quoted(self._paths[0])}.")
                if (rows := file.metadata.num_rows) > _MOST_ROWS:
                    raise DataError(f"{quoted(path)} says that it has {rows:,} rows; at most {_MOST_ROWS:,} are read.")
                for group in range(file.num_row_groups):
                    self._groups.append((number, group))
                    self._firsts.append(total)
                    total += file.metadata.row_group(group).num_rows
                    _refuse_large(file, group, column, path)
                    if label is not None:
                        labels += _values(file, group, label, path)
        self._total, self.labels = total, labels if self._label is not None else None
        self._kept: OrderedDict[int, list[Any]] = OrderedDict()

    def _opened(self, path: str) -> Any:
        from pyarrow import parquet

        return parquet.ParquetFile(self._filesystem.open(path, "rb"))

    def __len__(self) -> int:
        return self._total

    def _pictures(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        found = []
        for row in rows:
            place = bisect.bisect_right(self._firsts, row) - 1
            picture = self._group(place)[row - self._firsts[place]]
            if isinstance(picture, bytes):
                picture = {"bytes": picture, "path": None}
            if not isinstance(picture, Mapping) or not isinstance(picture.get("bytes"), bytes):
                raise DataError(f"Row {row} has no picture in its column {quoted(self._column)}.")
            if len(picture["bytes"]) > _LARGEST_PICTURE:
                raise DataError(f"Row {row} has {len(picture['bytes']):,} bytes, which no picture needs.")
            found.append({"bytes": picture["bytes"], "path": picture.get("path")})
        return found

    def _group(self, place: int) -> list[Any]:
        """The pictures of a row group, those of the last ones kept."""
        if place not in self._kept:
            number, group = self._groups[place]
            with self._opened(self._paths[number]) as file:
                self._kept[place] = _values(file, group, self._column, self._paths[number])
            while len(self._kept) > _GROUPS_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(place)
        return self._kept[place]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": OrderedDict()}


def _values(file: Any, group: int, column: str, path: str) -> list[Any]:
    """A column of a row group; never more at a time than may be read, whatever the file says of itself."""
    size, read, values = _refuse_large(file, group, column, path), 0, []
    # A value may stand once and be meant in every row: no batch is larger than its rows times all of the group.
    rows_at_once = min(max(_LARGEST_GROUP // max(size, 1), 1), _ROWS_AT_ONCE)
    for batch in file.iter_batches(rows_at_once, row_groups=[group], columns=[column]):
        if (read := read + batch.nbytes) > _LARGEST_GROUP:
            raise _too_large(group, column, path, f"more than {_LARGEST_GROUP:,}")
        values += batch[column].to_pylist()
    if len(values) != (rows := file.metadata.row_group(group).num_rows):
        raise DataError(f"Row group {group} of {quoted(path)} is damaged: it has {len(values):,} of its {rows:,} rows.")
    return values


def _refuse_large(file: Any, group: int, column: str, path: str) -> int:
    """The bytes that a column of a row group has, unpacked, as the file says."""
    about = file.metadata.row_group(group)
    parts = [about.column(number) for number in range(about.num_columns)]
    size = sum(part.total_uncompressed_size for part in parts if part.path_in_schema.split(".")[0] == column)
    if not 0 <= size <= _LARGEST_GROUP:
        raise _too_large(group, column, path, f"{size:,}")
    return size


def _too_large(group: int, column: str, path: str, size: str) -> DataError:
    return DataError(
        f"Row group {group} of {quoted(path)} has {size} bytes in its column {quoted(column)}; at most "
        f"{_LARGEST_GROUP:,} are read at once. Write the file again with fewer rows in a group (`row_group_size=1000`)."
    )


@contextmanager
def _damage_told(what: str) -> Iterator[None]:
    """A `with` block in which whatever a reader raises on damaged files is a `DataError`."""
    try:
        yield
    except CIAOError:
        raise
    except Exception as error:
        raise DataError(f"{what}: {shortened(str(error) or type(error).__name__)}") from error


def _names_in(metadata: Mapping[bytes, bytes] | None, label: str | None, path: str) -> list[str] | None:
    """Names of the classes, as `datasets` writes them into a file."""
    try:
        info = parse_json((metadata or {})[b"huggingface"], path, error=DataError)
        names = info["info"]["features"][label]["names"]
    except (KeyError, TypeError, DataError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
