"""`ciao predict --faces`: every face of pictures, videos, cameras and streams, told as it is read."""

from __future__ import annotations

import argparse
import contextlib
import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import ConfigError, listed
from .flags import add_flag

if TYPE_CHECKING:
    from ..reader import FaceReader, Frame
    from .worlds import World

__all__ = ["add_face_flags", "is_live", "read_faces", "reads_faces"]


def add_face_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of reading faces.

    Args:
        parser: Of `ciao predict`.
    """
    faces = parser.add_argument_group("every face of a picture, video, camera or stream")
    detectors = "yunet|haar|dlib"
    faces.add_argument(
        "--faces", nargs="?", const="yunet", metavar=detectors, help="find and read every face (default: yunet)"
    )
    faces.add_argument(
        "--annotate", metavar="OUT", help="write the frames with boxes and answers: a video, a picture, or a folder"
    )
    faces.add_argument(
        "--smoothing",
        choices=["one-euro", "exponential", "off"],
        default="one-euro",
        help="of what is said of a person over time (default: %(default)s)",
    )
    add_flag(faces, "max_frames", type=int, metavar="N", help="stop after so many frames")


def is_live(word: str) -> bool:
    """Whether a word names a camera (a number) or a stream (an address).

    Example:
        >>> is_live("0"), is_live("rtsp://10.0.0.2/door"), is_live("clip.mp4")
        (True, True, False)
    """
    from ..data.frames import is_stream

    return (word.isdecimal() and not Path(word).exists()) or is_stream(word)


def reads_faces(options: argparse.Namespace, sources: Sequence[str]) -> bool:
    """Whether faces are to be found, or pictures are faces already.

    Args:
        options: What was parsed.
        sources: What is to be read.

    Raises:
        ConfigError: a flag of reading faces without faces to read.
    """
    if options.faces or options.annotate or any(map(is_live, sources)):
        return True
    if options.max_frames is not None or options.smoothing != "one-euro":
        raise ConfigError("`--max_frames` and `--smoothing` are of reading faces; give `--faces` with them.")
    return False


def read_faces(worlds: Sequence[World], sources: Sequence[str], options: argparse.Namespace) -> None:
    """Reads every face of the sources, and writes or prints it frame by frame.

    A table, lines of JSON and an annotated copy are written in one pass; without table and lines, the answers are
    printed. Ctrl-C ends a camera or a stream, and what was read is there.

    Args:
        worlds: On one model.
        sources: Files, folders, numbers of cameras, addresses of streams.
        options: What was parsed.

    Raises:
        ConfigError: adapters of several encoders, or a file that cannot be written.
        DataError, InputError: as for `FaceReader.read`.
    """
    from ..reader import FaceReader, annotate_frames
    from ..saving.files import refusals_told

    models = list(dict.fromkeys(world.model for world in worlds))
    if len(models) > 1:
        raise ConfigError(
            f"Faces are read by adapters of one encoder at a time; {listed(world.name for world in worlds)} are of "
            f"{len(models)}. Call this once for each encoder."
        )
    if options.max_frames is not None and options.max_frames < 1:
        raise ConfigError(f"`--max_frames` must be 1 or more; got {options.max_frames}.")
    reader = FaceReader(
        models[0],
        [world.adapter_name for world in worlds],
        detector=options.faces or "yunet",
        smoothing=options.smoothing,
        batch_size=options.batch_size,
    )
    with contextlib.ExitStack() as files:
        tellers: list[Callable[[Frame], None]] = []
        for path, teller in ((options.csv, _table), (options.json, _lines)):
            if path:
                with refusals_told(ConfigError, path, "Name another file."):
                    tellers.append(teller(reader, files.enter_context(open(path, "w", encoding="utf-8", newline=""))))
        writes, quiet = bool(tellers or options.annotate), bool(tellers)
        counts = {"frames": 0, "faces": 0}

        def told() -> Iterator[Frame]:
            for frame in _frames(reader, sources, options.max_frames):
                for tell in tellers:
                    tell(frame)
                if not quiet:
                    _print(frame)
                counts["frames"] += 1
                counts["faces"] += len(frame.faces)
                yield frame

        if options.annotate:
            annotate_frames(told(), options.annotate)
        else:
            for _ in told():
                pass
    if writes:
        places = ", ".join(filter(None, (options.csv, options.json, options.annotate)))
        told_of = " in ".join(
            f"{count} {name if count != 1 else name[:-1]}" for name, count in reversed(counts.items())
        )
        print(f"{told_of}: {places}")


def _frames(reader: FaceReader, sources: Sequence[str], most: int | None) -> Iterator[Frame]:
    left = most
    for source in sources:
        live = is_live(source)
        try:
            with reader.read(int(source) if live and source.isdecimal() else source) as reading:
                for frame in reading:
                    yield frame
                    if left is not None:
                        left -= 1
                        if left == 0:
                            return
        except KeyboardInterrupt:
            if not live:
                raise


def _table(reader: FaceReader, file: IO[str]) -> Callable[[Frame], None]:
    from ..reader import COLUMNS, face_rows

    columns = list(COLUMNS)
    for name, labels in reader.labels.items():
        columns += [name] * (name in reader.classes) + [f"{name}.{label}" for label in labels]
    table = csv.DictWriter(file, columns, lineterminator="\n", restval="")
    table.writeheader()

    def tell(frame: Frame) -> None:
        rows: list[dict[str, Any]] = face_rows(frame)
        table.writerows(rows)
        file.flush()

    return tell


def _lines(_: FaceReader, file: IO[str]) -> Callable[[Frame], None]:
    from ..reader import json_line

    def tell(frame: Frame) -> None:
        file.write(json_line(frame))
        file.flush()  # whoever follows the file sees each frame

    return tell


def _print(frame: Frame) -> None:
    where = frame.source or "picture"
    where += "" if frame.time is None else f" {frame.time:.2f} s"
    if not frame.faces:
        print(f"{where}  no face", flush=True)
    for face in frame.faces:
        who = "" if face.track is None else f"#{face.track} "
        told = [
            f"{name}: unsure"
            if answer is None
            else f"{name}: " + ", ".join(f"{k} {v:.3f}" for k, v in list(answer.items())[:3])
            for name, answer in face.answers.items()
        ]
        print(f"{where}  {who}at {face.box.x},{face.box.y}  {' | '.join(told)}", flush=True)
