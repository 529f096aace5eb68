"""Rows of frames as clips: one sample each, with its frames in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..checking import check_number
from ..errors import DataError
from .frames import frame_places

__all__ = ["Clips", "clips"]

_LABELS = ("labels", "label")


class Clips:
    """A map-style dataset of clips, over the rows of their frames.

    A sample has `image` or `pixel_values`, a list of the clip's frames, and the label and name of the clip.

    Args:
        faces: The rows of frames: a `datasets.Dataset`, or a map-style dataset of dicts.
        rows: Numbers of the rows that are the frames of each clip, in order; `(clips, frames)` int64.
        names: Names of the clips, one per row of `rows`.
        column: Key under which a sample has the name of its clip.

    Shapes:
        A sample's `pixel_values` is a list of `frames` tensors `(C, H, W)`.

    Example:
        >>> faces = [{"image": n, "label": 1} for n in range(4)]
        >>> dataset = Clips(faces, np.array([[0, 1], [2, 3]]), ["a", "b"])
        >>> len(dataset), dataset.frames, dataset[1]
        (2, 2, {'image': [2, 3], 'label': 1, 'clip': 'b'})
    """

    faces: Any
    rows: np.ndarray
    names: list[Any]
    column: str

    def __init__(self, faces: Any, rows: np.ndarray, names: list[Any], column: str = "clip"):
        self.faces, self.rows, self.names, self.column = faces, rows, names, column

    @property
    def frames(self) -> int:
        """Number of frames in each clip."""
        return self.rows.shape[1]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        samples = [self.faces[int(row)] for row in self.rows[index]]
        shown = {key: [s[key] for s in samples] for key in ("image", "pixel_values") if key in samples[0]}
        told = {key: samples[0][key] for key in _LABELS if key in samples[0]}
        return {**shown, **told, self.column: self.names[index]}

    def select(self, indices: Sequence[int]) -> Clips:
        """Takes a part of the clips; the rows of frames are shared, not copied.

        Args:
            indices: Numbers of the clips to keep, in the new order.

        Example:
            >>> clips([{"image": n, "clip": n // 2} for n in range(4)], frames=2).select([1])[0]
            {'image': [2, 3], 'clip': 1}
        """
        chosen = [int(index) for index in indices]
        return Clips(self.faces, self.rows[chosen], [self.names[index] for index in chosen], self.column)


def clips(faces: Any, frames: int = 10, column: str = "clip") -> Any:
    """Groups rows of frames into clips, for adapters with `frames` in their config.

    A clip has the rows with one name in `column`, in the order of the column `frame` if there is one, in the order of
    the rows otherwise; clips come in the order of their first rows. If a clip has more than `frames` rows, the middle
    one of each of `frames` equal parts is taken; if it has fewer, its last frame is repeated. Nothing is copied:
    features are stored once per row, not once per clip.

    Args:
        faces: A `datasets.Dataset` such as `load_faces("emoreact", folder)` gives, a map-style dataset of dicts, or a
            dict of several splits.
        frames: Number of frames in each clip, 1 or more.
        column: Name of the column that says which clip a row belongs to.

    Returns:
        `Clips`, or a dict of them for each split.

    Raises:
        DataError: no such column, `frames` is no number of frames, or one clip has rows with different labels.

    Example:
        >>> faces = [{"image": n, "label": 0, "clip": name} for n, name in enumerate("abaab")]
        >>> [(clip["clip"], clip["image"]) for clip in clips(faces, frames=3)]
        [('a', [0, 2, 3]), ('b', [1, 4, 4])]
    """
    if isinstance(faces, Mapping):
        return {split: clips(rows, frames, column) for split, rows in faces.items()}
    check_number("frames", frames, int, 1, error=DataError)
    columns = _columns(faces, (column, "frame", *_LABELS))
    if column not in columns:
        raise DataError(f"Clips need a column that says which clip a row is of; there is no {column!r}.")
    rows: dict[Any, list[int]] = {}
    for row, name in enumerate(columns[column]):
        rows.setdefault(name, []).append(row)
    if "frame" in columns:
        rows = {name: sorted(own, key=columns["frame"].__getitem__) for name, own in rows.items()}
    for key in (key for key in _LABELS if key in columns):
        labels = [np.asarray(value).tolist() for value in columns[key]]
        for name, own in rows.items():
            if any(labels[row] != labels[own[0]] for row in own):
                raise DataError(f"The rows of the clip {name!r} differ in {key!r}; a clip has one label.")
    chosen = [[own[place] for place in frame_places(len(own), frames)] for own in rows.values()]
    return Clips(faces, np.array(chosen, dtype=np.int64).reshape(-1, frames), list(rows), column)


def _columns(faces: Any, names: Sequence[str]) -> dict[str, list[Any]]:
    """Those of the columns that are there, without decoding the pictures of a table."""
    if hasattr(faces, "column_names"):
        present = [name for name in names if name in faces.column_names]
        return {name: list(values) for name, values in faces.select_columns(present).with_format(None)[:].items()}
    samples = [{name: row[name] for name in names if name in row} for row in (faces[i] for i in range(len(faces)))]
    return {name: [sample[name] for sample in samples] for name in (samples[0] if samples else ())}
