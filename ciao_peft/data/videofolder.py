"""Videos of your own: a folder per class, or a table of labels in the folder of the videos."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import datasets

from ..checking import check_choice, check_number
from ..errors import DataError
from .builder import VIDEO_SUFFIXES, LeftOut
from .clip_faces import clip_faces
from .imagefolder import ImageFolder, ImageFolderConfig
from .localizer import MISSING, FaceLocalizer
from .rows import Row

__all__ = ["VideoFolder", "VideoFolderConfig"]


@dataclass
class VideoFolderConfig(ImageFolderConfig):
    """Settings of `VideoFolder`; those of `ImageFolderConfig`, which count videos, and these.

    Args:
        frames_per_clip: Frames of each video, spread evenly over it, 1 or more.
        detector: How the face is found in a frame, as `FaceLocalizer` takes it; `None` where frames are faces already.
        margin: Space around the face, in shares of its longer side.
        missing: What happens to frames without a face: `"nearest"`, `"skip"`, `"whole"` or `"error"` (`crop_faces`).
        size: Larger faces are scaled down to this many pixels a side.

    Raises:
        DataError: a setting has the wrong type or is out of its range.

    Example:
        >>> VideoFolderConfig(frames_per_clip=4, detector=None).min_images_per_class
        20
    """

    frames_per_clip: int = 10
    detector: Any = "haar"
    margin: float = 0.15
    missing: str = "nearest"
    size: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("frames_per_clip", self.frames_per_clip, int, 1, error=DataError)
        check_choice("missing", self.missing, MISSING, DataError)


class VideoFolder(ImageFolder):
    """Reads a folder of videos, laid out as `ImageFolder` takes pictures, with a row for each frame.

    Columns: `image` (a face), `label`, `clip` (the video's path in the folder), `frame` (its number in the video) and,
    where the metadata has it, `identity`. `clips` makes one sample of a video's rows, and `clip_means` averages scores
    over them. Videos are read with PyAV or OpenCV, which the extra `video` installs.

    Example:
        >>> import tempfile
        >>> from ciao_peft.data import load_faces
        >>> load_faces("videofolder", tempfile.mkdtemp(), streaming=True)
        Traceback (most recent call last):
        ...
        ciao_peft.errors.DataNotFoundError: No video in '...' (0 other files). Looked for `train/` and `test/` ...
    """

    BUILDER_CONFIG_CLASS = VideoFolderConfig
    config: VideoFolderConfig  # pyright: ignore[reportIncompatibleVariableOverride] - made by BUILDER_CONFIG_CLASS
    SUFFIXES: ClassVar[tuple[str, ...]] = VIDEO_SUFFIXES
    NOUN: ClassVar[str] = "video"
    SHARD: ClassVar[int] = 8  # one takes a second or more
    DEFAULT_WRITER_BATCH_SIZE = 200

    def _code(self) -> tuple[str, ...]:
        return (*super()._code(), clip_faces.__module__, FaceLocalizer.__module__)

    def _more_features(self, splits: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
        return {"clip": datasets.Value("string"), "frame": datasets.Value("int32")}

    def _generate_examples(
        self, shards: list[list[Row]], classes: bool, who: bool
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        config, left_out = self.config, LeftOut()
        localizer = None
        for row in (row for shard in shards for row in shard):
            if localizer is None and config.detector is not None:
                localizer = FaceLocalizer(config.detector, margin=config.margin, size=config.size)
            name = Path(row.path).relative_to(self.folder).as_posix()
            given = self._labels_of(row, classes, who)
            for number, png in clip_faces(row.path, name, config.frames_per_clip, localizer, config.missing, left_out):
                picture = {"bytes": png, "path": None}
                yield f"{name} {number}", {"image": picture, **given, "clip": name, "frame": number}
        self._report(left_out)
