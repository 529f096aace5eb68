"""Painted faces: a dataset that needs no download, with several worlds that read the same faces differently."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import datasets
import numpy as np

from ..checking import check_number, make_plain
from ..errors import DataError
from .builder import FacesBuilder
from .labels import describe_labels
from .painting import paint_face
from .people import Expression, Person, View

__all__ = [
    "AFFECT",
    "EIGHT",
    "PROTOTYPES",
    "SEVEN",
    "SIGNALS",
    "WORLDS",
    "PaintedFaces",
    "PaintedFacesConfig",
    "label_of",
    "sample_expression",
]

# Each class of a world at full strength, by movement:
# brow_raise, brow_frown, eye_open, mouth_curve, mouth_open, mouth_width, mouth_skew, nose_wrinkle
PROTOTYPES = {
    "neutral": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    "happiness": (0.1, -0.1, -0.1, 1.0, 0.35, 0.6, 0.0, 0.1),
    "sadness": (0.15, -0.9, -0.4, -0.9, 0.0, -0.2, 0.0, 0.0),
    "surprise": (1.0, -0.2, 1.0, 0.0, 0.85, -0.5, 0.0, 0.0),
    "fear": (0.7, -0.75, 0.9, -0.5, 0.4, 0.6, 0.0, 0.0),
    "disgust": (-0.4, 0.5, -0.5, -0.45, 0.15, 0.1, 0.0, 1.0),
    "anger": (-0.7, 1.0, 0.35, -0.6, 0.1, -0.2, 0.0, 0.3),
    "contempt": (0.1, 0.1, -0.25, 0.1, 0.0, 0.0, 0.9, 0.0),
}
# The world of seven shares the names, not the meanings: an open mouth under raised brows is fear there, brows raised
# over a nearly shut one are surprise, a wrinkled nose belongs to anger, and a crooked mouth to disgust.
_SEVEN_PROTOTYPES = {
    "anger": (-0.5, 0.8, -0.1, -0.3, 0.1, 0.0, 0.0, 0.8),
    "disgust": (0.0, 0.2, -0.3, -0.5, 0.0, 0.0, 0.8, 0.2),
    "fear": (0.6, -0.4, 0.7, -0.1, 1.0, 0.0, 0.0, 0.0),
    "happiness": (0.2, 0.0, -0.1, 0.9, 0.1, 0.4, 0.1, 0.0),
    "neutral": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    "sadness": (0.1, -0.9, -0.3, -0.6, 0.0, 0.0, 0.0, 0.0),
    "surprise": (0.9, -0.4, 0.9, -0.2, 0.35, 0.3, 0.0, 0.0),
}
EIGHT = tuple(PROTOTYPES)
SEVEN = tuple(_SEVEN_PROTOTYPES)
AFFECT = ("arousal", "valence")
SIGNALS = ("curiosity", "uncertainty", "excitement", "happiness", "surprise", "disgust", "fear", "frustration")
WORLDS = {"eight": EIGHT, "seven": SEVEN, "affect": AFFECT, "signals": SIGNALS}

_PROBLEMS = {
    "eight": "single_label_classification",
    "seven": "single_label_classification",
    "affect": "regression",
    "signals": "multi_label_classification",
}
_SPLITS = {"train": 0, "validation": 1, "test": 2}
_CLASSES = {"eight": PROTOTYPES, "seven": _SEVEN_PROTOTYPES}
# How much each movement counts when a world says which prototype a face is nearest to, and how far from rest a face
# must be before it is more than neutral.
_WEIGHTS = {
    "eight": np.array([1.0, 1.0, 1.0, 1.0, 1.2, 0.6, 1.3, 1.2]),
    "seven": np.array([1.2, 1.2, 1.2, 0.9, 0.9, 0.3, 1.3, 1.0]),
}
_RESTING = {"eight": 0.6, "seven": 0.62}


def label_of(expression: Expression, world: str, *, roll: float = 0.0) -> int | list[float]:
    """Labels a face as one of the painted worlds does.

    `"eight"` and `"seven"` name the nearest prototype, each by its own measure, and share seven names but not their
    borders: four faces in ten are called something else in the other world. `"affect"` gives arousal and
    valence in [-1, 1]. `"signals"` switches eight labels on or off; the head's tilt counts there too.

    Args:
        expression: The movements of the face.
        world: `"eight"`, `"seven"`, `"affect"` or `"signals"`.
        roll: Tilt of the head in radians.

    Returns:
        An index into `WORLDS[world]` for the two worlds of classes, else one float per name in it.

    Raises:
        DataError: no such world.

    Example:
        >>> wide_eyed = Expression(brow_raise=0.7, brow_frown=-0.3, eye_open=0.8, mouth_open=0.9)
        >>> EIGHT[label_of(wide_eyed, "eight")], SEVEN[label_of(wide_eyed, "seven")]
        ('surprise', 'fear')
    """
    if world not in WORLDS:
        raise DataError(f"There is no painted world {world!r}. Worlds: {', '.join(map(repr, WORLDS))}.")
    if world == "affect":
        return _affect(expression)
    if world == "signals":
        return _signals(expression, roll)
    names, weights, vector = WORLDS[world], _WEIGHTS[world], expression.vector
    vector[6] = abs(vector[6])  # either corner of the mouth
    if np.sqrt((weights * vector**2).sum()) < _RESTING[world]:
        return names.index("neutral")
    distance: dict[str, float] = {}
    for name, prototype in _CLASSES[world].items():
        if name != "neutral":
            # A class is shown weakly or strongly: measure to the strength of it that comes nearest.
            full = np.array(prototype)
            strength = np.clip((weights * vector * full).sum() / (weights * full**2).sum(), 0.0, 1.3)
            distance[name] = float((weights * (vector - strength * full) ** 2).sum())
    return names.index(min(distance, key=distance.__getitem__))


def _affect(e: Expression) -> list[float]:
    tension = abs(e.brow_frown) + 0.6 * e.nose_wrinkle
    arousal = (
        0.75 * e.eye_open
        + 1.1 * e.mouth_open
        + 0.5 * e.brow_raise**2
        + 0.45 * tension
        + 0.35 * abs(e.mouth_curve)
        - 0.6
    )
    # Bared teeth please in a smile and displease in a scowl.
    valence = 1.2 * e.mouth_curve - 0.5 * max(0.0, e.brow_frown) - 0.7 * e.nose_wrinkle - 0.3 * max(0.0, -e.brow_frown)
    valence += 0.6 * e.mouth_open * e.mouth_curve - 0.35 * abs(e.mouth_skew)
    return [float(np.tanh(arousal)), float(np.tanh(valence))]


def _signals(e: Expression, roll: float) -> list[float]:
    tilt = abs(roll) / 0.12
    evidence = (
        0.7 * e.brow_raise + 0.5 * e.eye_open + 0.55 * tilt - 0.5 * e.nose_wrinkle - 0.7,
        0.9 * abs(e.mouth_skew) - 0.5 * e.brow_frown + 0.35 * tilt - 0.4 * e.mouth_width - 0.65,
        1.1 * e.mouth_open + 0.7 * e.mouth_curve + 0.4 * e.eye_open - 0.6,
        1.0 * e.mouth_curve - 0.4 * e.nose_wrinkle - 0.25,
        0.8 * e.brow_raise + 0.8 * e.mouth_open - 0.65,
        1.0 * e.nose_wrinkle - 0.4 * e.mouth_curve - 0.5,
        0.8 * e.eye_open - 0.8 * e.brow_frown + 0.3 * e.mouth_width - 0.8,
        0.9 * e.brow_frown - 0.6 * e.mouth_curve - 0.5 * e.brow_raise - 0.6,
    )
    return [float(value > 0) for value in evidence]


@dataclass
class PaintedFacesConfig(datasets.BuilderConfig):
    """Settings of `PaintedFaces`.

    Args:
        world: Which labels the faces get: `"eight"`, `"seven"`, `"affect"` or `"signals"`. The pictures and their order
            are the same in every world.
        num_train: Training images.
        num_validation: Validation images.
        num_test: Test images.
        images_per_identity: Pictures of each person. Nobody is in two splits.
        size: Pixels per side, 16 or more.
        label_noise: Spread of what the labeller sees around what the face does, so that cases near a border are
            called this or that. 0 for labels without any doubt.
        seed: Other seeds give other people.

    Raises:
        DataError: there is no such world, or a number is out of its range.

    Example:
        >>> PaintedFacesConfig(world="affect", num_train=100).size
        64
    """

    world: str = "eight"
    num_train: int = 3000
    num_validation: int = 600
    num_test: int = 900
    images_per_identity: int = 15
    size: int = 64
    label_noise: float = 0.06
    seed: int = 0

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: Any = None) -> str:
        """Names the cache folder. The world is not part of the name: one set of pictures serves all worlds."""
        drawn = {name: value for name, value in config_kwargs.items() if name != "world"}
        return super().create_config_id(drawn, custom_features)

    def __post_init__(self) -> None:
        super().__post_init__()
        make_plain(self)
        if self.world not in WORLDS:
            raise DataError(f"There is no painted world {self.world!r}. Worlds: {', '.join(map(repr, WORLDS))}.")
        lowest = {"num_train": 1, "num_validation": 0, "num_test": 0, "images_per_identity": 1, "size": 16, "seed": 0}
        for name, low in lowest.items():
            check_number(name, getattr(self, name), int, low, of="the painted faces", error=DataError)
        if not 0 <= self.label_noise <= 1:
            raise DataError(f"`label_noise` must be between 0 and 1; got {self.label_noise!r}.")


class PaintedFaces(FacesBuilder):
    """Faces drawn by `paint_face`, the same for the same seed on every machine.

    Columns: `image`, `label` (by `world`), `identity` (whole number, never shared between splits) and `movements`, the
    eight values of `Expression` behind the picture.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> builder = PaintedFaces(world="affect", num_train=6, num_validation=2, num_test=2, cache_dir=folder)
        >>> builder.download_and_prepare()
        >>> builder.as_dataset(split="train").num_rows
        6
    """

    BUILDER_CONFIG_CLASS = PaintedFacesConfig
    config: PaintedFacesConfig
    NEEDS_DATA_DIR: ClassVar[bool] = False

    def _code(self) -> tuple[str, ...]:
        return (paint_face.__module__, Person.__module__)

    def _info(self) -> datasets.DatasetInfo:
        features: dict[str, Any] = {"image": datasets.Image()}
        for world, names in WORLDS.items():
            classes = world in _CLASSES
            values = datasets.List(datasets.Value("float32"), length=len(names))
            features[f"label_{world}"] = datasets.ClassLabel(names=list(names)) if classes else values
        features["identity"] = datasets.Value("int32")
        features["movements"] = datasets.List(datasets.Value("float32"), length=8)
        return datasets.DatasetInfo(
            description="Painted faces in several worlds.", features=datasets.Features(features)
        )

    def as_dataset(self, *args: Any, **kwargs: Any) -> Any:
        """The faces with the labels of the config's world, as `label`."""
        return self._in_world(super().as_dataset(*args, **kwargs))

    def as_streaming_dataset(self, *args: Any, **kwargs: Any) -> Any:
        """The same faces as `as_dataset`, drawn while you iterate."""
        return self._in_world(super().as_streaming_dataset(*args, **kwargs))

    def _in_world(self, faces: Any) -> Any:
        world = self.config.world
        faces = faces.rename_column(f"label_{world}", "label")
        faces = faces.remove_columns([f"label_{other}" for other in WORLDS if other != world])
        for split in faces.values() if isinstance(faces, dict) else [faces]:
            split.info.description = describe_labels("Painted faces.", _PROBLEMS[world], WORLDS[world])
        return faces

    def _split_generators(self, dl_manager: object) -> list[datasets.SplitGenerator]:
        config = self.config
        counts = {"train": config.num_train, "validation": config.num_validation, "test": config.num_test}
        generators = []
        for split, count in counts.items():
            people = list(range(-(-count // config.images_per_identity)))
            if people:
                gen_kwargs = {"people": people, "split": split, "count": count}
                generators.append(datasets.SplitGenerator(name=split, gen_kwargs=gen_kwargs))
        return generators

    def _generate_examples(  # pyright: ignore[reportIncompatibleMethodOverride] - called with gen_kwargs
        self, people: list[int], split: str, count: int
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.config
        for number in people:
            who = (config.seed, _SPLITS[split], number)
            person = Person.sample(np.random.default_rng(who))
            first = number * config.images_per_identity
            for row in range(first, min(first + config.images_per_identity, count)):
                rng = np.random.default_rng((*who, row))
                expression, view = sample_expression(rng), View.sample(rng)
                image = paint_face(person, expression, view, size=config.size, seed=int(rng.integers(2**31)))
                seen = Expression.from_vector(expression.vector + config.label_noise * rng.standard_normal(8))
                bitmap = io.BytesIO()
                image.save(bitmap, "BMP")  # noise does not compress, and this is read three times faster than PNG
                example: dict[str, Any] = {f"label_{world}": label_of(seen, world, roll=view.roll) for world in WORLDS}
                example["image"] = {"bytes": bitmap.getvalue(), "path": None}
                example["identity"] = number + 1_000_000 * _SPLITS[split]
                example["movements"] = expression.vector.astype(np.float32)
                yield row, example


def sample_expression(rng: np.random.Generator) -> Expression:
    """Draws an expression at random: a prototype at some strength, blended with a second one, with disturbed movements.

    Args:
        rng: Source of the random numbers.

    Example:
        >>> expression = sample_expression(np.random.default_rng(0))
        >>> EIGHT[label_of(expression, "eight")] in PROTOTYPES
        True
    """
    first, second = rng.choice(len(EIGHT), size=2, replace=False)
    strength, blend = rng.uniform(0.55, 1.2), rng.uniform(0.0, 0.4)
    vector = np.array(PROTOTYPES[EIGHT[first]]) * (1 - blend) + np.array(PROTOTYPES[EIGHT[second]]) * blend
    vector = vector * strength * np.where(np.arange(8) == 6, rng.choice([-1, 1]), 1)
    return Expression.from_vector(vector + rng.normal(0, 0.1, 8))
