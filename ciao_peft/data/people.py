"""The numbers a face is drawn from: who it is, what the face does, how it is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

Point = tuple[float, float]
Colour = tuple[int, int, int]

_SKINS = (
    (255, 224, 200),
    (240, 200, 168),
    (222, 174, 138),
    (198, 142, 104),
    (158, 106, 74),
    (118, 76, 54),
    (86, 56, 42),
)
_HAIRS = ((28, 22, 20), (58, 38, 26), (96, 62, 36), (146, 98, 52), (204, 166, 102), (150, 150, 152), (122, 52, 28))
_IRISES = ((58, 38, 24), (92, 62, 34), (70, 96, 122), (76, 104, 70))


@dataclass(frozen=True, kw_only=True)
class Expression:
    """What the muscles of a face do. 0 everywhere is the face at rest; `vector` has them in this order.

    Args:
        brow_raise: Both brows, -1 lowered to 1 raised.
        brow_frown: Inner ends of the brows, -1 up (worried) to 1 down and together (cross).
        eye_open: -1 closed, 1 wide open.
        mouth_curve: Corners of the mouth, -1 down to 1 up.
        mouth_open: 0 shut to 1 wide open.
        mouth_width: -1 pursed to 1 stretched.
        mouth_skew: One corner higher: -1 the left one, 1 the right one, as the image shows it.
        nose_wrinkle: 0 to 1: nose and upper lip drawn up.
    """

    brow_raise: float = 0.0
    brow_frown: float = 0.0
    eye_open: float = 0.0
    mouth_curve: float = 0.0
    mouth_open: float = 0.0
    mouth_width: float = 0.0
    mouth_skew: float = 0.0
    nose_wrinkle: float = 0.0

    @property
    def vector(self) -> np.ndarray:
        """`(8,)` float64, in the order of the arguments."""
        return np.array([getattr(self, field.name) for field in fields(self)])

    @classmethod
    def from_vector(cls, values: Sequence[float]) -> Expression:
        """The expression with these eight values, each cut to its range."""
        names = [field.name for field in fields(cls)]
        low = [0.0 if name in ("mouth_open", "nose_wrinkle") else -1.0 for name in names]
        return cls(**{n: float(np.clip(v, b, 1.0)) for n, v, b in zip(names, values, low, strict=True)})


@dataclass(frozen=True, kw_only=True)
class Person:
    """What stays the same in every picture of one identity. Lengths are factors of an average face, around 1."""

    face_width: float
    jaw: float
    eye_distance: float
    eye_size: float
    eye_height: float
    brow_thickness: float
    brow_height: float
    brow_slant: float
    nose_length: float
    nose_width: float
    mouth_width: float
    mouth_height: float
    mouth_rest: float
    lip_thickness: float
    skin: Colour
    hair: Colour
    iris: Colour
    hair_style: int
    fringe: float
    glasses: bool
    beard: float

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Person:
        """Somebody at random. Brows and mouth at rest differ too: a resting face can look cross or glad."""
        hair = _HAIRS[rng.integers(len(_HAIRS))]
        skin = np.array(_SKINS[rng.integers(len(_SKINS))]) * rng.uniform(0.92, 1.05, 3)
        return cls(
            face_width=rng.uniform(0.84, 1.12),
            jaw=rng.uniform(0.55, 1.0),
            eye_distance=rng.uniform(0.88, 1.14),
            eye_size=rng.uniform(0.82, 1.2),
            eye_height=rng.uniform(-0.06, 0.05),
            brow_thickness=rng.uniform(0.6, 1.6),
            brow_height=rng.uniform(-0.04, 0.05),
            brow_slant=rng.uniform(-0.035, 0.035),
            nose_length=rng.uniform(0.85, 1.15),
            nose_width=rng.uniform(0.75, 1.35),
            mouth_width=rng.uniform(0.84, 1.14),
            mouth_height=rng.uniform(-0.05, 0.05),
            mouth_rest=rng.uniform(-0.16, 0.16),
            lip_thickness=rng.uniform(0.6, 1.5),
            skin=as_colour(skin),
            hair=as_colour(np.array(hair) * rng.uniform(0.85, 1.15)),
            iris=_IRISES[rng.integers(len(_IRISES))],
            hair_style=int(rng.integers(5)),
            fringe=rng.uniform(0.0, 0.34),
            glasses=bool(rng.random() < 0.2),
            beard=float(rng.choice([0.0, 0.0, 0.0, rng.uniform(0.3, 0.9)])),
        )


@dataclass(frozen=True, kw_only=True)
class View:
    """How the face is looked at: pose in radians, shift and zoom in shares of the image, light and noise."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    shift: Point = (0.0, 0.0)
    zoom: float = 1.0
    light: float = 1.0
    light_from: float = 0.0
    light_slope: float = 0.0
    warmth: float = 0.0
    noise: float = 0.0
    background: Colour = (128, 128, 128)

    @classmethod
    def sample(cls, rng: np.random.Generator) -> View:
        """A snapshot at random: heads turn by up to 25 degrees, tilt by up to 14."""
        return cls(
            yaw=float(np.clip(rng.normal(0, 0.2), -0.44, 0.44)),
            pitch=float(np.clip(rng.normal(0, 0.08), -0.2, 0.2)),
            roll=float(np.clip(rng.normal(0, 0.1), -0.25, 0.25)),
            shift=(rng.uniform(-0.035, 0.035), rng.uniform(-0.035, 0.035)),
            zoom=rng.uniform(0.92, 1.1),
            light=rng.uniform(0.7, 1.12),
            light_from=rng.uniform(0, 2 * np.pi),
            light_slope=rng.uniform(0.0, 0.4),
            warmth=rng.uniform(-0.07, 0.07),
            noise=rng.uniform(2.0, 7.0),
            background=as_colour(rng.uniform(20, 235) + rng.uniform(-30, 30, 3)),
        )


def as_colour(values: np.ndarray | Sequence[float]) -> Colour:
    """Red, green and blue as whole numbers, each cut to 0..255."""
    red, green, blue = (min(255, max(0, int(value))) for value in values)
    return red, green, blue
