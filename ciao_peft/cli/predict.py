"""`ciao predict`: what saved adapters say of pictures, folders and videos.

The body has three steps: `adapters_and_sources` tells the words apart, `read_sources` gives one `Answered` for each
picture or frame, and `written` turns these into CSV, JSON or lines. Another way to read sources replaces the second.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ConfigError, DataError, DataNotFoundError, listed, quoted
from .faces import add_face_flags, is_live, read_faces, reads_faces
from .flags import add_flag
from .worlds import World, load_worlds

if TYPE_CHECKING:
    pass

__all__ = ["Answered", "adapters_and_sources", "add_commands", "read_sources"]


class Answered(NamedTuple):
    """What was read of one picture, frame or clip.

    Args:
        file: The file.
        frame: Number of the frame in a video, from 0; `None` for a picture, and for a whole clip.
        answers: For each world `{label: value}`, likeliest first.
    """

    file: str
    frame: int | None
    answers: dict[str, dict[str, float]]


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `predict`."""
    predict = commands.add_parser(
        "predict",
        help="read pictures, folders and videos with saved adapters",
        usage="%(prog)s ADAPTER ... FILE|FOLDER|VIDEO|CAMERA ... [--csv OUT] [--json OUT] [--annotate OUT]",
        description="Reads faces with one or more adapters and prints or writes what each says. A picture is one "
        "face; of a folder the pictures and videos that lie in it are read; of a video some frames, spread evenly over "
        "it.\n\n"
        "    ciao predict ciao/everyday-six face.jpg\n"
        "    ciao predict runs/mine/adapter faces --csv answers.csv\n"
        "    ciao predict ciao/everyday-six clip.mp4 --annotate annotated.mp4 --csv faces.csv\n"
        "    ciao predict ciao/everyday-six 0 --faces\n\n"
        "With --faces or --annotate every face of a picture is found and read, and every frame of a video; a number is "
        "a camera, and rtsp://... a stream.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    predict.add_argument(
        "words",
        metavar="ADAPTER ... FILE",
        nargs="+",
        help="adapters (folders, user/name, or names of `ciao adapters`), then what is to be read",
    )
    predict.add_argument("--csv", metavar="OUT", help="write a table: a row for each picture, columns for each adapter")
    predict.add_argument("--json", metavar="OUT", help="write the same as JSON")
    predict.add_argument(
        "--frames", type=int, default=10, metavar="N", help="frames of each video; 0: all (default: 10)"
    )
    add_flag(predict, "batch_size", type=int, default=32, metavar="N", help="pictures read at once (default: 32)")
    add_face_flags(predict)
    predict.set_defaults(run=_predict)


def _predict(options: argparse.Namespace) -> None:
    from ..reader import kind_of_copy, refuse_originals
    from ..saving.adapter_folder import CONFIG_FILE, WEIGHTS_FILE

    adapters, sources = adapters_and_sources(options.words)
    saved = [Path(adapter, name) for adapter in adapters for name in (CONFIG_FILE, WEIGHTS_FILE)]
    refuse_originals([*sources, *saved], options.csv, options.json, options.annotate)
    if options.csv and options.json and Path(options.csv).absolute() == Path(options.json).absolute():
        raise ConfigError(f"`--csv` and `--json` both name {quoted(options.csv)}; give each a file of its own.")
    if options.annotate:
        kind_of_copy(options.annotate)
    if reads_faces(options, sources):
        read_faces(load_worlds(adapters), sources, options)
        return
    files = _files(sources)
    worlds = load_worlds(adapters)
    answered = read_sources(worlds, files, frames=options.frames, batch_size=options.batch_size)
    if not options.csv and not options.json:
        for one in answered:
            print(_line(one))
        return
    rows = list(answered)
    for path, content in ((options.csv, _as_csv), (options.json, _as_json)):
        if path:
            from ..saving.files import refusals_told, write_file

            with refusals_told(ConfigError, path, "Name another file."):
                write_file(path, content(rows, worlds))
            print(f"{len(rows)} rows: {path}")


def adapters_and_sources(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tells adapters from what they are to read: adapters come first.

    An adapter is a folder with a saved one, a name of `ciao adapters`, or `user/name` on the Hub where no such file or
    folder exists here.

    Args:
        words: Of the command line.

    Raises:
        ConfigError: there are no adapters, or nothing to read.
        DataNotFoundError: a file or folder is not there.

    Example:
        >>> adapters_and_sources(["ciao/everyday-six", "user/ciao-jaffe", "."])
        (['ciao/everyday-six', 'user/ciao-jaffe'], ['.'])
    """
    first = next((place for place, word in enumerate(words) if not _is_adapter(word)), len(words))
    adapters, sources = list(words[:first]), list(words[first:])
    for word in sources:
        if not Path(word).exists() and not is_live(word):
            raise DataNotFoundError(f"There is no file, folder or adapter {quoted(word)}. `ciao adapters` lists names.")
        if _is_adapter(word):
            raise ConfigError(f"{quoted(word)} is an adapter; adapters come before what they read.")
    if not adapters:
        raise ConfigError(
            "Which adapter? ciao predict ADAPTER ... FILE ...; `ciao adapters` lists those in the package."
        )
    if not sources:
        raise ConfigError(f"What is to be read with {listed(adapters)}? Give a picture, a folder or a video.")
    return adapters, sources


def _is_adapter(word: str) -> bool:
    from ..hub import is_hub_id, list_adapters
    from ..saving.adapter_folder import CONFIG_FILE

    path = Path(word)
    if path.exists():
        return (path / CONFIG_FILE).exists()
    return word in list_adapters() or (is_hub_id(word) and not path.suffix)


def read_sources(
    worlds: Sequence[World], files: Iterable[Path], *, frames: int = 10, batch_size: int = 32
) -> Iterator[Answered]:
    """Reads pictures and videos with every world.

    Args:
        worlds: As `load_worlds` returns them.
        files: Pictures and videos.
        frames: Frames of a video that are read by themselves, spread evenly over it; 0 for all. An adapter that reads
            clips takes as many as it was trained on.
        batch_size: Pictures read at once.

    Yields:
        One `Answered` for each picture and frame; for a video read as a clip, one for all of it.

    Raises:
        DataError: a file cannot be read, or a picture is given to an adapter that reads clips.
    """
    lengths: set[int | None] = {world.model.peft_config[world.adapter_name].frames for world in worlds}
    if len(lengths) > 1:
        raise ConfigError("Adapters for pictures and adapters for clips answer differently; give one kind at a time.")
    (length,) = lengths
    items = _pictures(files, frames) if length is None else _clips(files, length)
    # No more frames in memory than a few batches; pictures are paths, and are opened by `predict`.
    while block := list(islice(items, 4 * batch_size)):
        found: list[dict[str, Any]] = [{} for _ in block]
        for model in dict.fromkeys(world.model for world in worlds):
            names = {world.adapter_name: world.name for world in worlds if world.model is model}
            answers = model.predict([item[2] for item in block], adapter_names=list(names), batch_size=batch_size)
            for of_one, answer in zip(found, answers, strict=True):
                of_one.update({names[name]: values for name, values in answer.items()})
        for (file, frame, _), of_one in zip(block, found, strict=True):
            yield Answered(file, frame, {world.name: of_one[world.name] for world in worlds})


def _files(sources: Iterable[str]) -> list[Path]:
    """The pictures and videos, those that lie directly in a folder included; damaged ones of a folder are said."""
    from ..data.builder import IMAGE_SUFFIXES, VIDEO_SUFFIXES, image_problem

    files: list[Path] = []
    for source in map(Path, sources):
        if not source.is_dir():
            files.append(source)
            continue
        inside = sorted(path for path in source.iterdir() if not path.name.startswith("."))
        kept = [path for path in inside if path.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)]
        problems = {path: image_problem(path) for path in kept if path.suffix.lower() in IMAGE_SUFFIXES}
        for path, problem in problems.items():
            if problem:
                print(f"ciao: left out: {path} ({problem})", file=sys.stderr)
        kept = [path for path in kept if not problems.get(path)]
        if not kept:
            deeper = next((path for path in inside if path.is_dir()), None)
            how = "" if deeper is None else f" Folders in it are not searched; name them: {quoted(str(deeper))}."
            raise DataNotFoundError(
                f"There is no picture and no video in {quoted(str(source))}; it has {len(inside)} other entries.{how}"
            )
        files += kept
    return files


def _pictures(files: Iterable[Path], frames: int) -> Iterator[tuple[str, int | None, Any]]:
    from ..data import read_frames, sample_frames

    if frames < 0:
        raise ConfigError(f"`--frames` must be 0 or more; got {frames}.")
    for path in files:
        if not _is_video(path):
            yield str(path), None, str(path)
            continue
        pictures = sample_frames(path, frames) if frames else enumerate(read_frames(path))
        for number, picture in pictures:
            yield str(path), number, picture


def _clips(files: Iterable[Path], length: int) -> Iterator[tuple[str, int | None, Any]]:
    from ..data import sample_frames

    for path in files:
        if not _is_video(path):
            raise DataError(f"The adapter reads clips of {length} frames, and {quoted(str(path))} is no video.")
        yield str(path), None, [picture for _, picture in sample_frames(path, length)]


def _is_video(path: Path) -> bool:
    from ..data.builder import VIDEO_SUFFIXES

    return path.suffix.lower() in VIDEO_SUFFIXES


def _line(one: Answered) -> str:
    where = one.file if one.frame is None else f"{one.file} {one.frame}"
    told = [
        (f"{name}: " if len(one.answers) > 1 else "")
        + ", ".join(f"{label} {value:.3f}" for label, value in list(answer.items())[:3])
        for name, answer in one.answers.items()
    ]
    return f"{where}  {' | '.join(told)}"


def _as_csv(rows: Sequence[Answered], worlds: Sequence[World]) -> str:
    """A column with the answer of each world that has classes or labels, and one for each of its values."""
    configs = {world.name: world.model.peft_config[world.adapter_name] for world in worlds}
    columns: dict[str, list[str]] = {name: list((config.id2label or {}).values()) for name, config in configs.items()}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    head = ["file", "frame"]
    for name, labels in columns.items():
        head += [name] * (configs[name].problem_type != "regression") + [f"{name}.{label}" for label in labels]
    table.writerow(head)
    for one in rows:
        cells: list[Any] = [one.file, "" if one.frame is None else one.frame]
        for name, labels in columns.items():
            answer, kind = one.answers[name], configs[name].problem_type
            if kind == "single_label_classification":
                cells.append(next(iter(answer)))
            elif kind == "multi_label_classification":
                cells.append("; ".join(label for label in labels if answer[label] >= 0.5))
            cells += [f"{answer[label]:.6g}" for label in labels]
        table.writerow(cells)
    return text.getvalue()


def _as_json(rows: Sequence[Answered], worlds: Sequence[World]) -> bytes:
    from ..saving.files import to_json

    return to_json([one._asdict() for one in rows])
