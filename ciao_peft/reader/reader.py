"""`FaceReader`: the faces of pictures, videos, cameras and streams, each read in many worlds."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from torch import Tensor

from ..adapters import Adapter
from ..checking import check_number
from ..config import CIAOConfig
from ..detection import FaceFinder, FoundFace, finder_of
from ..errors import InputError, quoted
from ..model import CIAOModel
from ..prediction import check_preprocessing
from ..preprocessing.ahead import in_threads
from ..probabilities import Prior
from ..scenes import Answers, Face, WorldReader, faces_in
from .frame import Frame
from .smoothing import Smoother, make_smoother
from .sources import Shot, open_source
from .tracking import Tracker
from .writing import annotate_frames, frames_to_pandas, refuse_originals, write_json_lines

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from PIL.Image import Image

__all__ = ["FaceReader", "Reading"]

_AHEAD = 8
"""Frames that are held at once, at most, where nobody waits for each."""


class Reading(Iterator[Frame]):
    """The frames of one source, read while you iterate; each is given once.

    The methods read what is left to the end. What was given is not kept, so that a video may be of any length.

    Args:
        frames: Where they come from.
        source: The files and folders that are read, which are not written over.

    Example:
        >>> from PIL import Image
        >>> frame = Frame(source=None, index=0, time=None, picture=Image.new("RGB", (8, 6)), faces=())
        >>> reading = Reading(iter([frame]))
        >>> [frame.index for frame in reading], list(reading)
        ([0], [])
    """

    def __init__(self, frames: Iterator[Frame], source: Any = None):
        self._frames, self._source = frames, source

    def __iter__(self) -> Reading:
        return self

    def __next__(self) -> Frame:
        return next(self._frames)

    def close(self) -> None:
        """Lets go of the video or camera before its end.

        Example:
            >>> reading = Reading(iter(()))
            >>> reading.close()
        """
        if isinstance(self._frames, Generator):
            self._frames.close()

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def to_pandas(self) -> pd.DataFrame:
        """A table with a row for each face.

        Returns:
            Columns `source`, `frame`, `time`, `track`, `x`, `y`, `width`, `height`, `score`; then for each world the
            likeliest class under its name, where it answers with one class of several, and `world.label` for each
            value. Frames without a face have no row.

        Example:
            >>> list(Reading(iter(())).to_pandas().columns)[:4]
            ['source', 'frame', 'time', 'track']
        """
        return frames_to_pandas(self)

    def to_json_lines(self, path: str | os.PathLike[str]) -> int:
        """Writes one line of JSON for each frame, with or without faces, as soon as it is read.

        Args:
            path: The file; replaced if there is one.

        Returns:
            How many frames there were.

        Raises:
            DataError: the file cannot be written, or is what is read; or the source has a fault: the lines before it
                are there.

        Example:
            >>> import tempfile
            >>> Reading(iter(())).to_json_lines(tempfile.mkdtemp() + "/faces.jsonl")
            0
        """
        refuse_originals(self._source, path)
        return write_json_lines(self, path)

    def annotate(self, path: str | os.PathLike[str]) -> int:
        """Writes the frames with the boxes, numbers and answers of their faces.

        Args:
            path: A video (`.mp4`, `.avi`, `.mov`, `.mkv`), a picture (`.png`, `.jpg`, ...), or a folder for a picture
                of each frame: one that is there, or a name without a suffix.

        Returns:
            How many frames there were.

        Raises:
            DataError: it cannot be written, has another suffix, is what is read, there are several frames for one
                picture, or none for a video.
            MissingExtraError: PyAV is missing, for a video.

        Example:
            >>> import tempfile
            >>> from PIL import Image
            >>> frame = Frame(source=None, index=0, time=None, picture=Image.new("RGB", (8, 6)), faces=())
            >>> Reading(iter([frame])).annotate(tempfile.mkdtemp() + "/faces.png")
            1
        """
        return annotate_frames(self, path)


class _Seen(NamedTuple):
    """A frame whose faces were found and not read yet."""

    shot: Shot
    picture: Image
    faces: list[FoundFace]
    fitted: list[np.ndarray]


class FaceReader:
    """Reads the faces of pictures, videos, cameras and streams: found, aligned, encoded once, read in many worlds.

    Faces of several frames are read in one batch. In videos, cameras and streams each person is followed and has a
    number, and what is said of a person is smoothed over time. Frames are read when they are asked for, and a few are
    held at once.

    Args:
        model: Its preprocessing says how a face is fed: aligned by its landmarks, or as the square around it.
        adapter_names: The worlds; all of the model when left out.
        detector: As for `ciao_peft.detection.FaceFinder`: `"yunet"`, `"haar"` (the paper's), `"dlib"`, a function; or
            a finder or a `ciao_peft.data.FaceLocalizer` with settings of its own.
        smoothing: `"one-euro"`, `"exponential"`, `"off"`, or a smoother with settings of its own.
        tracker: Its settings are those by which people are followed in each source, anew from the number 1.
        prior: How frequent the classes are where the answers are wanted, as for `CIAOModel.predict`.
        min_confidence: Answer None where the likeliest class is less probable than this, 0 to 1; before smoothing.
        batch_size: Faces read at once.
        threads: That find and align faces; as many as there are cores when left out.

    Raises:
        InputError: the model is in training mode, has no preprocessing or no adapter, or one that reads clips.
        AdapterNotFoundError: a name is not loaded.
        ConfigError, DataError, MissingExtraError: a setting cannot work, or the detector's package is missing.

    Example:
        >>> import numpy as np
        >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
        >>> from ciao_peft.data import paint_face
        >>> config = CIAOConfig(problem_type="regression", num_labels=2, id2label={0: "arousal", 1: "valence"})
        >>> model = get_ciao_model(load_encoder("small-face"), config, "affect").eval()
        >>> scene = np.full((240, 320, 3), 110, np.uint8)
        >>> scene[60:180, 100:220] = paint_face(seed=2, size=120)
        >>> reader = FaceReader(model)
        >>> for frame in reader.read(scene):
        ...     for face in frame.faces:
        ...         print(face.box.x // 10, sorted(face.answers["affect"]))
        11 ['arousal', 'valence']
    """

    def __init__(
        self,
        model: CIAOModel,
        adapter_names: Sequence[str] | None = None,
        *,
        detector: Any = "yunet",
        smoothing: str | Smoother | None = "one-euro",
        tracker: Tracker | None = None,
        prior: Prior | None = None,
        min_confidence: float | None = None,
        batch_size: int = 32,
        threads: int | None = None,
    ):
        if model.training:
            raise InputError("Reading is for inference: dropout would blur what the worlds see. Call `model.eval()`.")
        preprocessing = check_preprocessing(model.preprocessing)
        if isinstance(adapter_names, str):
            raise InputError(f"`adapter_names` takes a list of names; got the text {quoted(adapter_names)}.")
        names = list(model.adapters) if adapter_names is None else [model.resolve_adapter(n) for n in adapter_names]
        if not names:
            raise InputError("There is no world to read in: load an adapter with `model.load_adapter`.")
        if threads is not None:
            check_number("threads", threads, int, 1)
        self.finder = finder_of(detector)
        self.smoother = make_smoother(smoothing)
        self.tracker, self.threads = tracker, threads

        def read(pixels: Tensor) -> Mapping[str, Tensor]:
            return model.read(pixels.to(next(model.backbone.parameters()).device), adapter_names=names)

        self._worlds = WorldReader(
            read=read,
            configs={name: cast("Adapter", model.adapters[name]).config for name in names},
            preprocessing=preprocessing,
            prior=prior,
            min_confidence=min_confidence,
            batch_size=batch_size,
        )

    finder: FaceFinder
    smoother: Smoother | None
    tracker: Tracker | None
    threads: int | None

    @property
    def adapter_names(self) -> list[str]:
        """The worlds it reads in.

        Example:
            >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
            >>> config = CIAOConfig(problem_type="regression", num_labels=2)
            >>> FaceReader(get_ciao_model(load_encoder("small-face"), config).eval()).adapter_names
            ['default']
        """
        return list(self._worlds.configs)

    @property
    def labels(self) -> dict[str, list[str]]:
        """The names of what each world says, in the order of their indices.

        Example:
            >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
            >>> config = CIAOConfig(problem_type="regression", num_labels=2, id2label={0: "arousal", 1: "valence"})
            >>> FaceReader(get_ciao_model(load_encoder("small-face"), config).eval()).labels
            {'default': ['arousal', 'valence']}
        """
        return {name: list((config.id2label or {}).values()) for name, config in self._worlds.configs.items()}

    @property
    def classes(self) -> frozenset[str]:
        """Names of the worlds that answer with one class of several.

        Example:
            >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
            >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
            >>> sorted(FaceReader(get_ciao_model(load_encoder("small-face"), config).eval()).classes)
            ['default']
        """
        single = "single_label_classification"
        return frozenset(name for name, config in self._worlds.configs.items() if config.problem_type == single)

    def read(self, source: Any, *, follow: bool | None = None, fps: float = 30.0, every: int = 1) -> Reading:
        """Reads the faces of a source.

        Args:
            source: A picture (path, PIL image, array `(H, W)` or `(H, W, 3)` of uint8), a folder of pictures and
                videos, a video, the number of a camera, the address of a stream (`rtsp://...`), or a list or generator
                of pictures.
            follow: Whether pictures are frames that follow one another, whose people are followed. When left out, those
                of videos, cameras, streams and generators are; those of lists and folders are not.
            fps: Frames a second where a source does not say when each is shown.
            every: Only each so-manyth picture is looked at, beginning with the first.

        Returns:
            The frames, read while you iterate: `for frame in reader.read("clip.mp4"): ...`.

        Raises:
            DataNotFoundError: there is no such file or camera, or the folder has neither a picture nor a video.
            DataError: a picture or video cannot be read; a video ends early, after the frames before it; a detector
                gave something else than boxes.
            InputError: the source is none of these, or `fps` or `every` is no such number.

        Example:
            >>> from PIL import Image
            >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
            >>> config = CIAOConfig(problem_type="regression", num_labels=2)
            >>> model = get_ciao_model(load_encoder("small-face"), config).eval()
            >>> moving = (Image.new("RGB", (64, 64)) for _ in range(2))
            >>> [(frame.index, frame.time, len(frame.faces)) for frame in FaceReader(model).read(moving, fps=10)]
            [(0, 0.0, 0), (1, 0.1, 0)]
        """
        check_number("every", every, int, 1, error=InputError)
        shots = open_source(source, follow=follow, fps=fps)
        return Reading(self._frames(shots.shots, shots.live, follow is not False, every), source)

    def _frames(self, shots: Iterator[Shot], live: bool, follow: bool, every: int) -> Iterator[Frame]:
        ahead, threads = (1, 1) if live else (_AHEAD, self.threads)
        seen = in_threads(self._look, islice(shots, 0, None, every), ahead=ahead, threads=threads)
        people, source, configs = None, None, self._worlds.configs
        classes = self.classes
        try:
            for group, problem in _groups(seen, ahead, self._worlds.batch_size):
                said = iter(self._worlds.answers([face for one in group for face in one.fitted]))
                for one in group:
                    if people is None or one.shot.source != source:
                        people, source = _People(self.tracker, self.smoother, configs), one.shot.source
                    faces = [Face(box=face.box, score=face.score, answers=next(said)) for face in one.faces]
                    if follow and one.shot.time is not None:
                        faces = people.followed(faces, one.shot.time, one.picture.size)
                    yield Frame(
                        source=one.shot.source,
                        index=one.shot.number,
                        time=one.shot.time,
                        picture=one.picture,
                        faces=tuple(sorted(faces, key=lambda face: -face.box.area)),
                        classes=classes,
                    )
                if problem is not None:
                    raise problem
        finally:
            for each in (seen, shots):
                if isinstance(each, Generator):
                    each.close()

    def _look(self, shot: Shot) -> _Seen:
        return _Seen(shot, *faces_in(shot.picture, self.finder, self._worlds.preprocessing))


def _groups(seen: Iterator[_Seen], most: int, batch_size: int) -> Iterator[tuple[list[_Seen], BaseException | None]]:
    """So many frames at once that their faces make a batch; what went wrong comes with the frames before it."""
    group, faces = [], 0
    while True:
        try:
            one = next(seen)
        except StopIteration:
            break
        except Exception as problem:
            yield group, problem
            return
        group.append(one)
        faces += len(one.faces)
        if len(group) >= most or faces >= batch_size:
            yield group, None
            group, faces = [], 0
    if group:
        yield group, None


class _People:
    """Who is in a source, and what was said of each."""

    def __init__(self, tracker: Tracker | None, smoother: Smoother | None, configs: Mapping[str, CIAOConfig]):
        settings = {} if tracker is None else {"overlap": tracker.overlap, "max_gap": tracker.max_gap}
        self.tracker, self.smoother, self.configs = Tracker(**settings), smoother, configs
        self.said: dict[tuple[int, str], tuple[float, Any]] = {}

    def followed(self, faces: list[Face], time: float, size: tuple[int, int]) -> list[Face]:
        numbers = self.tracker.update([face.box for face in faces], time, size)
        known = self.tracker.followed
        self.said = {key: value for key, value in self.said.items() if key[0] in known}
        return [
            replace(face, track=number, answers=self._smoothed(number, face.answers, time))
            for face, number in zip(faces, numbers, strict=True)
        ]

    def _smoothed(self, number: int, answers: Answers, time: float) -> Answers:
        if self.smoother is None:
            return answers
        smoothed: dict[str, Mapping[str, float] | None] = {}
        for world, answer in answers.items():
            if answer is None:
                smoothed[world] = None
                continue
            names = sorted(answer)
            before, state = self.said.get((number, world), (time, None))
            state, values = self.smoother(state, [answer[name] for name in names], time - before)
            self.said[number, world] = time, state
            steady = {name: round(value, 6) for name, value in zip(names, values, strict=True)}
            is_regression = self.configs[world].problem_type == "regression"
            order = list(answer) if is_regression else sorted(names, key=lambda name: -steady[name])
            smoothed[world] = {name: steady[name] for name in order}
        return smoothed
