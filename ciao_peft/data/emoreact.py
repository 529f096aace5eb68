"""EmoReact: clips of children who react, with eight labels at once (Nojavanasghari et al. 2016)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import datasets
import numpy as np

from ..checking import check_choice, check_number, make_plain
from ..door import read_lines
from ..errors import DataError, DataNotFoundError
from .builder import VIDEO_SUFFIXES, FacesBuilder, LeftOut, in_shards, walk
from .clip_faces import clip_faces
from .expressions import EMOREACT
from .frames import sample_frames
from .labels import describe_labels
from .localizer import MISSING, FaceLocalizer, crop_faces
from .tables import repeated_row

__all__ = ["Clip", "EmoReact", "EmoReactConfig", "clip_means"]

_SPLITS = {"train": "Train", "validation": "Validation", "test": "Test"}
_FILES = {"train": "train", "validation": "val", "test": "test"}
_COUNTS = {"train": 432, "validation": 303, "test": 367}
_POSITIVES = {
    "train": (148, 132, 144, 224, 114, 60, 17, 53),
    "validation": (106, 97, 93, 169, 79, 31, 13, 40),
    "test": (131, 115, 118, 211, 105, 46, 20, 38),
}
_HOW = (
    "EmoReact is given to researchers who sign its agreement (repository bnojavan/EmoReact). Point `data_dir` at "
    "EmoReact_V_1.0, with Data/, Labels/ and the files of names in it."
)


@dataclass
class EmoReactConfig(datasets.BuilderConfig):
    """Settings of `EmoReact`.

    Args:
        frames_per_clip: Face frames per clip, spread evenly over it; 10 in the released code. 0 gives one row per clip
            with the path of its video and no faces.
        task: `"labels"`: eight labels, each 0 or 1. `"valence"`: the mean rating, 1 to 7.
        detector: How faces are found: `"haar"`, a YuNet .onnx or cascade .xml file, or a function (see
            `FaceLocalizer`).
        margin: Space around the face, in shares of its longer side.
        missing: What happens to frames without a face: `"nearest"`, `"skip"`, `"whole"` or `"error"` (see
            `crop_faces`).
        size: Larger faces are scaled down to this many pixels a side.

    Raises:
        DataError: there is no such task or `missing`, or `frames_per_clip` is negative.

    Example:
        >>> EmoReactConfig(frames_per_clip=4).task
        'labels'
    """

    frames_per_clip: int = 10
    task: str = "labels"
    detector: Any = "haar"
    margin: float = 0.15
    missing: str = "nearest"
    size: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        make_plain(self)
        check_number("frames_per_clip", self.frames_per_clip, int, 0, error=DataError)
        if self.task not in ("labels", "valence"):
            raise DataError(f"EmoReact has no task {self.task!r}. Tasks: 'labels', 'valence'.")
        check_choice("missing", self.missing, MISSING, DataError)


class Clip(NamedTuple):
    """One row of the label files with its video.

    Args:
        name: File name of the video.
        path: Path of the video.
        labels: Eight numbers, 0 or 1, in the order of `EMOREACT`.
        valence: The mean rating, 1 to 7.
    """

    name: str
    path: str
    labels: list[float]
    valence: float


class EmoReact(FacesBuilder):
    """Reads EmoReact with the released splits `train`, `validation` and `test`.

    Row i of the label file belongs to row i of the file of names; the order of the videos in their folder means
    nothing. Nobody published who is in which clip, and the same topics with the same children may occur in several
    splits.

    Columns: `image` (a face), `label` by `task`, `labels`, `valence`, `clip` (name of the video) and `frame` (its
    number in the video); or with `frames_per_clip=0`: `video` (a path), `label`, `labels`, `valence` and `clip`. Videos
    are read with PyAV or OpenCV. `clip_means` turns scores of frames into scores of clips.

    Example:
        >>> import tempfile
        >>> from ciao_peft.data import load_faces
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "TOYS1_1.mp4").touch()
        >>> _ = (folder / "Train_names.txt").write_text("'TOYS1_1.mp4'")
        >>> _ = (folder / "train_labels.text").write_text("1,0,0,1,0,0,0,0,5.5")
        >>> clips = load_faces("emoreact", folder, frames_per_clip=0, streaming=True)["train"]
        >>> [(clip["clip"], clip["label"][:4]) for clip in clips]
        [('TOYS1_1.mp4', [1.0, 0.0, 0.0, 1.0])]
    """

    BUILDER_CONFIG_CLASS = EmoReactConfig
    config: EmoReactConfig
    HOW_TO_OBTAIN: ClassVar[str] = _HOW
    DEFAULT_WRITER_BATCH_SIZE = 200

    def _code(self) -> tuple[str, ...]:
        return (sample_frames.__module__, crop_faces.__module__, clip_faces.__module__)

    def _info(self) -> datasets.DatasetInfo:
        eight = datasets.List(datasets.Value("float32"), length=len(EMOREACT))
        valence = self.config.task == "valence"
        rows: dict[str, Any] = {
            "label": datasets.List(datasets.Value("float32"), length=1) if valence else eight,
            "labels": eight,
            "valence": datasets.Value("float32"),
            "clip": datasets.Value("string"),
        }
        if self.config.frames_per_clip:
            features = {"image": datasets.Image(), **rows, "frame": datasets.Value("int32")}
        else:
            features = {"video": datasets.Value("string"), **rows}
        problem_type = "regression" if valence else "multi_label_classification"
        names = ["valence"] if valence else EMOREACT
        description = describe_labels("EmoReact: children who react.", problem_type, names)
        return datasets.DatasetInfo(description=description, features=datasets.Features(features))

    def official_counts(self) -> dict[str, int]:
        """432, 303 and 367 clips, times the frames of each clip."""
        return {split: count * max(1, self.config.frames_per_clip) for split, count in _COUNTS.items()}

    def official_labels(self) -> dict[str, tuple[int, ...]]:
        """Clips with the label on, times the frames of each clip; none for valence."""
        if self.config.task == "valence":
            return {}
        times = max(1, self.config.frames_per_clip)
        return {split: tuple(times * count for count in counts) for split, counts in _POSITIVES.items()}

    def _split_generators(self, dl_manager: object) -> list[datasets.SplitGenerator]:
        folder, left_out = self.folder, LeftOut()
        files = walk(folder)
        videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
        generators = []
        for split in _SPLITS:
            names, labels = _find(files, split, "names"), _find(files, split, "labels")
            if names is None and labels is None:
                continue
            if names is None or labels is None:
                present, lacking = (names, "labels") if names else (labels, "names")
                raise DataNotFoundError(
                    f"Beside {str(present)!r} there is no file with the {lacking} of {split}. {_HOW}"
                )
            clips = _paired(names, labels, _Videos(videos, split), left_out)
            # A few clips a shard: one takes a second or more.
            generators.append(datasets.SplitGenerator(name=split, gen_kwargs={"shards": in_shards(clips, size=8)}))
        if not generators:
            raise DataNotFoundError(
                f"No EmoReact in {str(folder)!r}: looked for Train_names.txt and Labels/train_labels.text (and the "
                f"same for val and test), found {len(videos)} videos and {len(files) - len(videos)} other files. {_HOW}"
            )
        self._report(left_out)
        return generators

    def _generate_examples(  # pyright: ignore[reportIncompatibleMethodOverride] - called with gen_kwargs
        self, shards: list[list[Clip]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        config, left_out = self.config, LeftOut()
        localizer = None
        for clip in (clip for shard in shards for clip in shard):
            row = {"labels": clip.labels, "valence": clip.valence, "clip": clip.name}
            row["label"] = [clip.valence] if config.task == "valence" else clip.labels
            if not config.frames_per_clip:
                yield clip.name, {"video": clip.path, **row}
                continue
            localizer = localizer or FaceLocalizer(config.detector, margin=config.margin, size=config.size)
            faces = clip_faces(clip.path, clip.name, config.frames_per_clip, localizer, config.missing, left_out)
            for number, png in faces:
                yield (
                    f"{clip.name} {number}",
                    {"image": {"bytes": png, "path": None}, **row, "frame": number},
                )
        self._report(left_out)


def clip_means(scores: Any, clips: Iterable[str]) -> tuple[np.ndarray, list[str]]:
    """Averages scores over the frames of each clip, by which clips are scored.

    Args:
        scores: Logits or labels of each frame, `(frames, L)`, floats.
        clips: The name of the clip of each frame, `(frames,)`.

    Returns:
        The means, `(clips, L)` float64, and the names of the clips, in the order of their first frames.

    Raises:
        DataError: the numbers of frames and clip names differ, or both are 0.

    Example:
        >>> clip_means([[0.0], [1.0], [5.0]], ["a", "a", "b"])
        (array([[0.5],
               [5. ]]), ['a', 'b'])
    """
    values = np.asarray(scores, dtype=np.float64)
    names = list(clips)
    if len(values) != len(names) or not names:
        raise DataError(f"There must be one clip per frame; got {len(values)} frames and {len(names)} clips.")
    index = {name: number for number, name in enumerate(dict.fromkeys(names))}
    rows = np.array([index[name] for name in names])
    sums = np.zeros((len(index), *values.shape[1:]))
    np.add.at(sums, rows, values)
    counts = np.bincount(rows).reshape(-1, *[1] * (values.ndim - 1))
    return sums / counts, list(index)


def _find(files: list[Path], split: str, kind: str) -> Path | None:
    """The file of names or labels of a split: `Val_names.txt`, `val_labels.text`; nearest to the top first."""
    stems = {f"{name}_{kind}" for name in (_FILES[split], split)}
    matches = [path for path in files if path.stem.lower() in stems and path.suffix.lower() in (".txt", ".text")]
    return min(matches, key=lambda path: (len(path.parts), path), default=None)


class _Videos:
    """Finds a video by its name: in the split's own folder, or in one for all of them."""

    def __init__(self, videos: list[Path], split: str):
        own = [path for path in videos if path.parent.name.lower() in (_SPLITS[split].lower(), _FILES[split])]
        foreign = {name.lower() for other in _SPLITS for name in (_SPLITS[other], _FILES[other]) if other != split}
        shared = [path for path in videos if path.parent.name.lower() not in foreign]
        self.exact: dict[str, Path] = {}
        self.plain: dict[str, Path] = {}
        for path in (*own, *shared):
            self.exact.setdefault(path.name, path)
            self.plain.setdefault(_plain(path.name), path)

    def __getitem__(self, name: str) -> Path | None:
        return self.exact.get(name) or self.exact.get(f"{name}.mp4") or self.plain.get(_plain(name))


def _plain(name: str) -> str:
    """Without apostrophes, case and ending: some users strip them from the files."""
    stem = name[: name.rindex(".")] if name.lower().endswith(VIDEO_SUFFIXES) else name
    return stem.replace("'", "").replace("\u2019", "").lower()


def _unquoted(line: str) -> str:
    """The name that MATLAB wrote: `'80''sTOYS105_2.mp4'` is 80'sTOYS105_2.mp4."""
    line = line.strip()
    if len(line) >= 2 and line[0] == line[-1] == "'":
        return line[1:-1].replace("''", "'")
    return line


def _paired(names: Path, labels: Path, videos: _Videos, left_out: LeftOut) -> list[Clip]:
    """Row i of the names with row i of the labels.

    Raises:
        DataError: they have different numbers of rows, so that no pairing can be trusted.
    """
    rows = {
        path: "".join(read_lines(path, errors="replace", error=DataError)).rstrip().splitlines()
        for path in (names, labels)
    }
    if len(rows[names]) != len(rows[labels]):
        raise DataError(
            f"{str(names)!r} has {len(rows[names])} names but {str(labels)!r} has {len(rows[labels])} rows: which "
            "label belongs to which clip cannot be told. Take both files from the release again."
        )
    clips: list[Clip] = []
    seen: dict[Path, tuple[float, ...]] = {}
    for number, (line, text) in enumerate(zip(rows[names], rows[labels], strict=True), start=1):
        name, values = _unquoted(line), _values(text)
        path = videos[name]
        if values is None:
            left_out.add(f"malformed row of {labels.name}", f"line {number}")
        elif path is None:
            left_out.add(f"name in {names.name} without its video", name)
        elif path in seen:
            left_out.add(repeated_row(names, seen[path] == tuple(values), "name"), name)
        else:
            seen[path] = tuple(values)
            clips.append(Clip(path.name, str(path), values[:-1], values[-1]))
    if not clips:
        raise DataError(f"No clip of {str(names)!r} can be used. Left out: {left_out}.")
    return clips


def _values(text: str) -> list[float] | None:
    """Eight labels of 0 or 1 and the valence, or `None`."""
    try:
        values = [float(field) for field in text.split(",")]
    except ValueError:
        return None
    if len(values) != len(EMOREACT) + 1 or any(value not in (0.0, 1.0) for value in values[:-1]):
        return None
    return values if math.isfinite(values[-1]) and 1 <= values[-1] <= 7 else None
