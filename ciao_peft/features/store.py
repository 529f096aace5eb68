"""Rows of tensors in flat files that are mapped into memory, with an index that says whose features they are."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import zlib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..door import MAX_TEXT_BYTES, parse_json, read_file
from ..errors import FeatureCacheError, listed, shortened
from ..saving.digest import DIGEST, digest_of_folder, with_digest
from ..saving.files import local_path, refusals_told, write_file
from .checks import CHECKSUM_BYTES, CHECKSUM_FILE, RowChecks, as_bytes, read_exactly, row_checksums, rows_as_written
from .layout import (
    DTYPES,
    FeatureLayout,
    file_size,
    free_disk,
    make_file,
    map_tensors,
    open_to_fill,
    readable_size,
    tensor_file,
)
from .stored_depths import depths_of

__all__ = [
    "DONE_FILE",
    "FORMAT_VERSION",
    "INDEX_FILE",
    "FeatureFiles",
    "FeatureWriter",
    "key_hash",
]

FORMAT_VERSION = 2
_WITHOUT_CHECKSUMS = 1  # the last version whose folders have no checksum for each row
INDEX_FILE = "index.json"
DONE_FILE = "done.bin"
LOCK_FILE = ".lock"
_ASIDE = tuple(f".{name}*.tmp" for name in (INDEX_FILE, DONE_FILE, CHECKSUM_FILE))
"""Files while they are written; a kill may leave one behind."""
_WHERE = "Make room there, or give another folder, and run it again: rows that are stored already are kept."
_SECONDS_BETWEEN_SYNCS = 0.5
_SPOTS = 64
_KEY_NAMES = {
    "backbone": "another backbone, or the same with other weights",
    "backbone_dtype": "a backbone in another dtype",
    "targets": "other target modules",
    "preprocessing": "pixels prepared in another way",
    "input_size": "pixels of another size",
    "dtype": "another storage dtype",
    "views": "another number of views",
    "augmentation": "other augmentation settings",
    "excitation": "features without u",
    "depths": "other depths",
    "data": "other pictures, or the same in another order",
    "num_samples": "another number of samples",
}


def key_hash(key: dict[str, Any]) -> str:
    """A short name for a key, the same on every machine; whether u is stored does not change it.

    Args:
        key: Whose features they are, as plain data.

    Returns:
        16 hexadecimal digits.

    Example:
        >>> key_hash({"views": 1, "data": "0f"}) == key_hash({"data": "0f", "views": 1})
        True
    """
    whose = {name: value for name, value in key.items() if name != "excitation"}
    return hashlib.sha256(json.dumps(whose, sort_keys=True).encode()).hexdigest()[:16]


class FeatureFiles:
    """A folder of features, while it is filled and when it is read.

    Args:
        folder: Holds `index.json`, `features.<n>.bin`, `checksums.bin` with a number per row and tensor and, until it
            is complete, `done.bin` with a byte per row.
        key: Whose features they are. A folder with u serves a key without u, one with depths a key with fewer of them;
            `key` is then the folder's.

    Attributes:
        layout: Shapes, dtype and number of the rows; None before `create`.
        complete: Whether every row is written.
        checks: The checksums of the rows of a complete folder; None where an earlier version wrote it.

    Raises:
        FeatureCacheError: the folder holds something else, or features of something else; names what differs.

    Shapes:
        Tensor n is `(num_rows, ...)`, with the rest of its shape from the layout.

    Example:
        >>> import tempfile
        >>> files = FeatureFiles(tempfile.mkdtemp(), {"views": 1, "excitation": False})
        >>> files.create(FeatureLayout(((2,),), "float32", num_rows=3))
        >>> with files.writer() as writer:
        ...     writer.put(0, (torch.tensor([[1.0, 2.0], [3.0, 4.0]]),))
        >>> files.rows_left().tolist()
        [2]
    """

    folder: Path
    key: dict[str, Any]
    layout: FeatureLayout | None
    complete: bool

    def __init__(self, folder: str | os.PathLike[str], key: dict[str, Any]):
        self.folder = local_path(folder)
        self.key = key
        self.layout = None
        self.complete = False
        self.checks: RowChecks | None = None
        self._failed = False
        self._version = FORMAT_VERSION
        self._read_index()

    @property
    def lock_file(self) -> Path:
        """The lock that a process holds while it stores here.

        It lies next to the folder, which holds features alone; in it where nothing else can be written, as in a
        container's volume.
        """
        try:
            folder = self.folder.resolve()
        except (OSError, RuntimeError) as error:  # links that lead to each other
            self._refuse(f"cannot be reached ({error})")
        if folder.is_dir() and not os.access(folder.parent, os.W_OK):
            return folder / LOCK_FILE
        return folder.parent / f".{folder.name}.lock"

    @property
    def stored_layout(self) -> FeatureLayout:
        """The layout of a folder that has been created.

        Raises:
            FeatureCacheError: there are no files yet.
        """
        if self.layout is None:
            self._refuse("are not there yet")
        return self.layout

    def _refuse(self, what: str) -> NoReturn:
        raise FeatureCacheError(
            f"The stored features in '{self.folder}' {what}. Delete that folder, or give another one."
        )

    def _read_index(self) -> None:
        if not os.path.lexists(self.folder / INDEX_FILE):
            return
        path = self.folder / INDEX_FILE
        try:
            found = parse_json(
                read_file(path, MAX_TEXT_BYTES, error=FeatureCacheError), INDEX_FILE, error=FeatureCacheError
            )
            version, key, complete = (found[name] for name in ("format_version", "key", "complete"))
            key = {"excitation": False} | key  # as it was before u could be stored
            stored = FeatureLayout.from_dict(found["layout"])
            depths = depths_of(key)
            spots, self._failed = found.get("spots"), bool(found.get("failed"))
        except (FeatureCacheError, KeyError, TypeError) as error:
            self._refuse(f"have an index that cannot be read ({type(error).__name__}: {shortened(str(error))})")
        if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
            given = shortened(repr(version), 80)
            self._refuse(f"have format version {given}; this version reads {FORMAT_VERSION}")
        if (version > _WITHOUT_CHECKSUMS or DIGEST in found) and found.get(DIGEST) != digest_of_folder(found, {}):
            self._refuse(f"are damaged: what is in '{INDEX_FILE}' is not what was written")
        self.layout, self._version = stored, version
        if self._failed and key != self.key:
            self.layout = None  # of data that could not be read, and were mended since
            return
        if key["excitation"]:
            self.key = self.key | {"excitation": True}
        if depths and {*depths_of(self.key)} <= {*depths}:
            self.key = self.key | {"depths": key["depths"]}
        if key != self.key:
            changed = [name for name in self.key if key.get(name) != self.key[name]]
            if changed == ["depths"]:
                missing = [depth.path for depth in depths_of(self.key) if depth not in depths]
                self._refuse(f"are without the depths {listed(missing)}, which the active adapter reads")
            if changed == ["excitation"]:
                self._refuse("are without u, for which `include_excitation=True` asks")
            self._refuse(f"belong to {'; '.join(_KEY_NAMES.get(n, n) for n in changed) or 'something else'}")
        own = stored.dtype, stored.num_rows  # the key says both, and the key is the caller's
        rows = key["num_samples"] * key.get("views", 1) if "num_samples" in key else stored.num_rows
        if own != (key.get("dtype", stored.dtype), rows):
            self._refuse(f"are damaged: the index has {stored.num_rows} rows of {stored.dtype} for others")
        if depths and len(stored.shapes) <= len(depths) + (len(key["targets"]) if key["excitation"] else 0):
            self._refuse(f"are damaged: the index has {len(stored.shapes)} tensors for {len(depths)} depths and others")
        for index in range(len(stored.shapes)):
            self._check_size(tensor_file(self.folder, index).name, stored.file_bytes(index))
        if complete and version > _WITHOUT_CHECKSUMS:
            self._check_size(CHECKSUM_FILE, stored.num_rows * len(stored.shapes) * CHECKSUM_BYTES)
            self.checks = RowChecks(self.folder, stored)
        self.complete = complete is True
        if self.complete:
            if spots != self._spots():
                self._refuse("are damaged: what is in the files is not what was written")
            self._tidy()

    def _check_size(self, name: str, expected: int) -> None:
        if (size := file_size(self.folder / name)) != expected:
            self._refuse(f"are damaged: '{name}' has {size} bytes where {expected} were written")

    def _tidy(self) -> None:
        """Takes away what is of no use beside complete features: a kill may have left it."""
        for path in (self.folder / DONE_FILE, *(path for name in _ASIDE for path in self.folder.glob(name))):
            with contextlib.suppress(OSError):  # another reader does so as well, or nobody may write
                path.unlink()

    # -- writing ---------------------------------------------------------------------------------------------------

    def create(self, layout: FeatureLayout) -> None:
        """Makes empty files for all rows.

        Args:
            layout: Shapes, dtype and number of the rows.

        Raises:
            FeatureCacheError: the disk has no room for them, or the folder holds other things.
        """
        with refusals_told(FeatureCacheError, self.folder, _WHERE):
            self._make_files(layout)
            self.layout = layout
            self._write_index({"complete": False})

    def _make_files(self, layout: FeatureLayout) -> None:
        names = [*(tensor_file(self.folder, i).name for i in range(len(layout.shapes))), DONE_FILE, CHECKSUM_FILE]
        if self._failed:
            for path in (self.folder / INDEX_FILE, *self.folder.glob("features.*.bin")):
                path.unlink(missing_ok=True)
        if os.path.lexists(self.folder):
            found = {p.name for p in self.folder.iterdir()} if self.folder.is_dir() else {self.folder.name}
            ours = (*names, LOCK_FILE, *_ASIDE)
            if foreign := {name for name in found if not any(fnmatchcase(name, own) for own in ours)}:
                self._refuse(f"are none: {listed(foreign)} lies there")
        self.folder.mkdir(parents=True, exist_ok=True)
        needed = layout.row_bytes() * layout.num_rows + layout.num_rows
        free = free_disk(self.folder)
        if needed > 0.95 * free:
            raise FeatureCacheError(
                f"{layout.num_rows} rows of features take {readable_size(needed)}, and '{self.folder}' has "
                f"{readable_size(free)} free. Store them elsewhere, in dtype='bfloat16', or with fewer views."
            )
        sizes = [layout.file_bytes(index) for index in range(len(layout.shapes))]
        sizes += [layout.num_rows, layout.num_rows * len(layout.shapes) * CHECKSUM_BYTES]
        try:
            for name, size in zip(names, sizes, strict=True):
                make_file(self.folder / name, size)
        except BaseException:
            for name in names:  # the room goes back to whoever needs it
                with contextlib.suppress(OSError):
                    (self.folder / name).unlink()
            raise

    def resume(self) -> None:
        """Continues an interrupted pass, and forgets that an earlier one failed.

        A row counts as done where it is marked as done and lies there as its checksums say; all others are made anew.

        Raises:
            FeatureCacheError: the file that marks written rows is damaged, or the disk refuses.
        """
        layout = self.stored_layout
        with refusals_told(FeatureCacheError, self.folder, _WHERE):
            marks, has_checksums = self._marks(), self._version > _WITHOUT_CHECKSUMS
            marked = (marks == 1).nonzero().flatten()
            done, checksums = rows_as_written(self.folder, layout, marked, with_checksums=has_checksums)
            new = torch.zeros(layout.num_rows, dtype=torch.uint8, device="cpu")
            new[done] = 1
            if not torch.equal(new, marks) or not has_checksums:
                # In this order a kill between them leaves no row that is marked and has the checksum of another.
                write_file(self.folder / DONE_FILE, bytes(new.tolist()))
            if not has_checksums or len(done) < len(marked) or file_size(self.folder / CHECKSUM_FILE) != len(checksums):
                write_file(self.folder / CHECKSUM_FILE, checksums)
            if self._failed or not has_checksums:
                self._write_index({"complete": False})
        self._failed = False

    def _write_index(self, more: dict[str, Any]) -> None:
        content = {"format_version": FORMAT_VERSION, "key": self.key, "layout": self.stored_layout.to_dict(), **more}
        write_file(self.folder / INDEX_FILE, with_digest(content, {}))

    def rows_left(self) -> Tensor:
        """Numbers of the rows that are not written yet, in ascending order, `(rows,)` int64.

        Raises:
            FeatureCacheError: the file that marks written rows is damaged.
        """
        return (self._marks() != 1).nonzero().flatten()

    def _marks(self) -> Tensor:
        """One byte for each row, `(num_rows,)`: 1 where it was marked as done."""
        content = bytearray(read_exactly(self.folder, DONE_FILE, self.stored_layout.num_rows))
        return torch.frombuffer(content, dtype=torch.uint8)

    def writer(self) -> FeatureWriter:
        """Opens the files to fill in rows, in any order and from several processes; use it in a `with` block."""
        return FeatureWriter(self.folder, self.stored_layout)

    def mark_failed(self, reason: str) -> None:
        """Notes that the samples could not be read to their end; the folder may be filled anew from mended samples.

        Args:
            reason: The message of the error.
        """
        with contextlib.suppress(OSError):  # of a note that another process makes as well
            self._write_index({"complete": False, "failed": reason})

    def mark_complete(self) -> None:
        """Marks the folder as complete.

        Raises:
            FeatureCacheError: the disk refuses.
        """
        with refusals_told(FeatureCacheError, self.folder, _WHERE):
            self._write_index({"complete": True, "spots": self._spots()})
        self._tidy()
        self.complete, self.checks = True, RowChecks(self.folder, self.stored_layout)

    def _spots(self) -> list[int]:
        """Checksums of some rows of every tensor: cheap, and no other file of this size has them."""
        layout = self.stored_layout
        rows = sorted({round(i * (layout.num_rows - 1) / (_SPOTS - 1)) for i in range(_SPOTS)})
        sums = []
        for index in range(len(layout.shapes)):
            size = layout.file_bytes(index) // layout.num_rows
            checksum = 0
            try:
                with tensor_file(self.folder, index).open("rb") as file:
                    for row in rows:
                        file.seek(row * size)
                        checksum = zlib.crc32(file.read(size), checksum)
            except OSError as error:
                self._refuse(f"cannot be read ({error})")
            sums.append(checksum)
        return sums

    # -- reading ---------------------------------------------------------------------------------------------------

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, `(num_rows, ...)` each, mapped into memory: nothing is read before it is used."""
        return map_tensors(self.folder, self.stored_layout)


class FeatureWriter:
    """Fills in rows of a folder; after a kill, every row that is marked as done is on the disk.

    Use it as a context manager. Rows are marked as done at most half a second after they were put.

    Args:
        folder: The folder, with files of the right size.
        layout: Shapes, dtype and number of the rows.

    Shapes:
        Tensors are put as `(rows, ...)`, with the rest of their shapes from the layout.
    """

    layout: FeatureLayout

    def __init__(self, folder: Path, layout: FeatureLayout):
        self.layout = layout
        self._folder = folder
        paths = [
            *(tensor_file(folder, n) for n in range(len(layout.shapes))),
            folder / CHECKSUM_FILE,
            folder / DONE_FILE,
        ]
        with contextlib.ExitStack() as opened:
            *self._files, self._checksums, self._done = [opened.enter_context(open_to_fill(path)) for path in paths]
            self._open = opened.pop_all()
        self._put: list[tuple[int, int]] = []
        self._synced = time.monotonic()

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        with refusals_told(FeatureCacheError, self._folder, _WHERE), self._open:
            self.sync()

    def put(self, first_row: int, tensors: tuple[Tensor, ...]) -> None:
        """Writes rows that follow one another.

        Args:
            first_row: Number of the first row.
            tensors: The tensors that cross the cut, `(rows, ...)` each, any floating dtype on any device.

        Raises:
            FeatureCacheError: a tensor has another shape than the layout says, or the disk refuses.
        """
        with refusals_told(FeatureCacheError, self._folder, _WHERE):
            self._put_rows(first_row, tensors)

    def _put_rows(self, first_row: int, tensors: tuple[Tensor, ...]) -> None:
        columns: list[list[int]] = []
        if len(tensors) != len(self._files):
            raise FeatureCacheError(
                f"{len(tensors)} tensors of features came where '{self._folder}' holds {len(self._files)}. Delete that "
                "folder, or give another one."
            )
        for file, shape, tensor in zip(self._files, self.layout.shapes, tensors, strict=True):
            stored = tensor.detach().to("cpu", DTYPES[self.layout.dtype]).contiguous()
            if tuple(stored.shape[1:]) != shape:
                raise FeatureCacheError(f"Features of shape {tuple(stored.shape[1:])} came where {shape} was expected.")
            file.seek(first_row * torch.Size(shape).numel() * stored.element_size())
            file.write(stored.view(-1).view(torch.uint8).numpy().data)
            columns.append(row_checksums(stored))
        self._checksums.seek(first_row * len(columns) * CHECKSUM_BYTES)
        self._checksums.write(as_bytes(columns))
        self._put.append((first_row, len(tensors[0])))
        if time.monotonic() - self._synced > _SECONDS_BETWEEN_SYNCS:
            self.sync()

    def sync(self) -> None:
        """Flushes the rows to the disk and then marks them as done, never the other way round."""
        for file in (*self._files, self._checksums):
            file.flush()
            os.fsync(file.fileno())
        for first_row, count in self._put:
            self._done.seek(first_row)
            self._done.write(b"\1" * count)
        self._done.flush()
        self._put.clear()
        self._synced = time.monotonic()
