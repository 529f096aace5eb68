"""What was read, as a table, as lines of JSON, as pictures and as a video."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import DataError, MissingExtraError, quoted, shortened
from ..saving.files import local_path, refusals_told
from .frame import Frame

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

__all__ = [
    "COLUMNS",
    "annotate_frames",
    "face_rows",
    "frames_to_pandas",
    "json_line",
    "kind_of_copy",
    "refuse_originals",
    "write_json_lines",
]

VIDEOS = (".mp4", ".avi", ".mov", ".mkv")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
ADVICE = "Make room, or write elsewhere."
_ELSEWHERE = "Write elsewhere."

_TICKS = 1000  # a second

COLUMNS: tuple[str, ...] = ("source", "frame", "time", "track", "x", "y", "width", "height", "score")
"""What a row says of a face before the worlds have their say."""


def refuse_originals(source: Any, *targets: str | os.PathLike[str] | None) -> None:
    """Refuses to write over what is read.

    Args:
        source: A file or a folder, or a list with some; everything else has no file that could be lost.
        targets: Files that are to be written; None where none is.

    Raises:
        DataError: a target is one of the files, or a picture or video that lies in one of the folders.

    Example:
        >>> import tempfile
        >>> photo = Path(tempfile.mkdtemp(), "photo.png")
        >>> photo.touch()
        >>> refuse_originals(photo, None, photo.with_name("photo.csv"))
        >>> refuse_originals(photo, photo)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ciao_peft.errors.DataError: '...photo.png' is read here, and would be overwritten. Write elsewhere.
    """
    sources = [
        Path(one).expanduser()
        for one in (source if isinstance(source, (list, tuple)) else [source])
        if isinstance(one, (str, os.PathLike))
    ]
    for target in (Path(one).expanduser() for one in targets if one is not None):
        shown = target.suffix.lower() in (*PICTURES, *VIDEOS)
        for one in sources:
            with contextlib.suppress(OSError):  # it is not there: a new file, the address of a stream
                if target.samefile(one) or (shown and target.exists() and target.parent.samefile(one)):
                    raise DataError(f"'{shortened(str(target))}' is read here, and would be overwritten. {_ELSEWHERE}")


def kind_of_copy(path: str | os.PathLike[str]) -> Literal["video", "picture", "folder"]:
    """What an annotated copy is written as: by its suffix, or a folder where there is one or the name has no suffix.

    Args:
        path: Where it goes.

    Raises:
        DataError: it has the suffix of something else.

    Example:
        >>> kind_of_copy("out.mp4"), kind_of_copy("out.png"), kind_of_copy("out")
        ('video', 'picture', 'folder')
        >>> kind_of_copy("out.mp3")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ciao_peft.errors.DataError: 'out.mp3' has the suffix of no video (.mp4, .avi, .mov, .mkv) and no picture ...
    """
    place = local_path(path)
    suffix = place.suffix.lower()
    if place.is_dir() or not suffix:
        return "folder"
    if suffix not in (*VIDEOS, *PICTURES):
        raise DataError(
            f"{quoted(str(place))} has the suffix of no video ({', '.join(VIDEOS)}) and no picture "
            f"({', '.join(PICTURES)}). Give one of these; a folder has none, or is there already."
        )
    return "video" if suffix in VIDEOS else "picture"


def face_rows(frame: Frame) -> list[dict[str, Any]]:
    """A row of a table for each face of a frame: `COLUMNS`, and for each world what `Reading.to_pandas` says.

    Args:
        frame: As a `FaceReader` gives it.

    Example:
        >>> from PIL import Image
        >>> face_rows(Frame(source=None, index=0, time=None, picture=Image.new("RGB", (8, 6)), faces=()))
        []
    """
    rows: list[dict[str, Any]] = []
    for face in frame.faces:
        known = (frame.source, frame.index, frame.time, face.track, *face.box, face.score)
        row: dict[str, Any] = dict(zip(COLUMNS, known, strict=True))
        for world, answer in face.answers.items():
            if world in frame.classes:
                row[world] = None if answer is None else next(iter(answer))
            row.update({f"{world}.{label}": value for label, value in (answer or {}).items()})
        rows.append(row)
    return rows


def frames_to_pandas(frames: Iterable[Frame]) -> pd.DataFrame:
    """A table with a row for each face; see `Reading.to_pandas`.

    Example:
        >>> len(frames_to_pandas([]))
        0
    """
    import pandas as pd

    rows = [row for frame in frames for row in face_rows(frame)]
    table = pd.DataFrame(rows, columns=None if rows else list(COLUMNS))
    if len(table) and table["track"].notna().any():
        table["track"] = table["track"].astype("Int64")
    return table


def json_line(frame: Frame) -> str:
    """A frame as one line of JSON, with the end of the line.

    Example:
        >>> from PIL import Image
        >>> json_line(Frame(source="ö.png", index=0, time=None, picture=Image.new("RGB", (8, 6)), faces=()))
        '{"source": "ö.png", "frame": 0, "time": null, "width": 8, "height": 6, "faces": []}\\n'
    """
    return json.dumps(frame.to_dict(), ensure_ascii=False) + "\n"


def write_json_lines(frames: Iterable[Frame], path: str | os.PathLike[str]) -> int:
    """Writes one line of JSON for each frame as soon as it is read; see `Reading.to_json_lines`.

    Example:
        >>> import tempfile
        >>> write_json_lines([], tempfile.mkdtemp() + "/faces.jsonl")
        0
    """
    path, count = local_path(path), 0
    with refusals_told(DataError, path, ADVICE):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w", encoding="utf-8")
    with file:
        for frame in frames:
            line = json_line(frame)
            with refusals_told(DataError, path, ADVICE):
                file.write(line)
                file.flush()  # whoever follows the file sees each frame
            count += 1
    return count


def annotate_frames(frames: Iterable[Frame], path: str | os.PathLike[str]) -> int:
    """Writes frames with the boxes and answers of their faces; see `Reading.annotate`.

    Example:
        >>> import tempfile
        >>> annotate_frames([], tempfile.mkdtemp())
        0
    """
    path, kind = local_path(path), kind_of_copy(path)
    with refusals_told(DataError, path, ADVICE):
        (path if kind == "folder" else path.parent).mkdir(parents=True, exist_ok=True)
    if kind == "video":
        return _write_video(frames, path)
    count, names = 0, set()
    for frame in frames:
        if kind == "picture":
            if count:
                raise DataError(f"'{path}' is one picture, and there are several frames. Give a folder or a video.")
            target = path
        else:
            target = path / _name_of(frame, names)
        if frame.source is not None:  # of a folder, no picture is replaced that was there
            refuse_originals([frame.source, *([Path(frame.source).parent] * (target != path))], target)
        with refusals_told(DataError, target, ADVICE), _aside(target) as aside:
            frame.annotated().save(aside)
        count += 1
    if kind == "picture" and not count:
        raise DataError(f"There is no frame to write to '{path}'.")
    return count


def _name_of(frame: Frame, names: set[str]) -> str:
    """The name of the picture a frame came from, and its number where it is one of several."""
    stem = Path(frame.source or "frame").stem
    name = f"{stem}.png" if frame.time is None and frame.source else f"{stem}-{frame.index:06d}.png"
    if name in names:
        name = f"{stem}-{len(names):06d}.png"
    names.add(name)
    return name


@contextlib.contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A file next to the target that takes its place at the end, or is gone."""
    aside = target.with_name(f".{uuid.uuid4().hex}{target.suffix}")
    try:
        yield aside
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)


def _write_video(frames: Iterable[Frame], path: Path) -> int:
    try:
        import av
        from av.error import FFmpegError
    except ImportError:
        raise MissingExtraError("PyAV", "Writing a video", "video") from None
    count, before, container, stream = 0, -1, None, None
    with refusals_told(DataError, path, ADVICE), _aside(path) as aside:
        try:
            for frame in frames:
                refuse_originals(frame.source, path)
                picture = frame.annotated()
                if container is None or stream is None:
                    container = av.open(str(aside), mode="w")
                    # A frame is shown when the source showed it, however irregular that was.
                    stream: Any = container.add_stream("mpeg4", rate=30)
                    stream.width, stream.height = (side + side % 2 for side in picture.size)
                    stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
                    stream.codec_context.time_base = Fraction(1, _TICKS)
                image = av.VideoFrame.from_image(_fitted(picture, (stream.width, stream.height)))
                now = round(_TICKS * (count / 30 if frame.time is None else frame.time))
                before = image.pts = max(now, before + 1)
                image.time_base = Fraction(1, _TICKS)
                for packet in stream.encode(image):
                    container.mux(packet)
                count += 1
            if container is None or stream is None:
                raise DataError(f"There is no frame to write to '{path}'.")
            for packet in stream.encode():
                container.mux(packet)
        except FFmpegError as error:
            raise DataError(f"'{path}' cannot be written as a video: {error}. {ADVICE}") from error
        finally:
            if container is not None:
                container.close()
    return count


def _fitted(picture: Image, size: tuple[int, int]) -> Image:
    """A picture in a video of another size: as large as fits, with black around."""
    from PIL import Image, ImageOps

    if picture.size == size:
        return picture
    if (
        picture.width <= size[0]
        and picture.height <= size[1]
        and size[0] - picture.width < 2 > size[1] - picture.height
    ):
        canvas = Image.new("RGB", size)  # an odd size, made even
        canvas.paste(picture)
        return canvas
    return ImageOps.pad(picture, size)
