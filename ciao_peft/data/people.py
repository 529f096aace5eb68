"""The numbers from which a face is drawn: person, expression and view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

__all__ = ["Colour", "Expression", "Person", "Point", "View", "as_colour"]

Point = tuple[float, float]
"""x to the right and y down."""

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255 each."""

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

    Example:
        >>> Expression(mouth_curve=1.0, mouth_open=0.4).vector.tolist()
        [0.0, 0.0, 0.0, 1.0, 0.4, 0.0, 0.0, 0.0]
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
        """All movements as `(8,)` float64, in the order of the arguments."""
        return np.array([getattr(self, field.name) for field in fields(self)])

    @classmethod
    def from_vector(cls, values: np.ndarray | Sequence[float]) -> Expression:
        """Makes an expression of eight values, each cut to its range.

        Args:
            values: `(8,)`, in the order of the arguments.

        Example:
            >>> Expression.from_vector([0, 0, 0, 2.0, -1.0, 0, 0, 0]).mouth_curve
            1.0
        """
        names = [field.name for field in fields(cls)]
        low = [0.0 if name in ("mouth_open", "nose_wrinkle") else -1.0 for name in names]
        return cls(**{n: float(np.clip(v, b, 1.0)) for n, v, b in zip(names, values, low, strict=True)})


@dataclass(frozen=True, kw_only=True)
class Person:
    """What stays the same in every picture of one identity.

    Args:
        face_width: Factor, 1 for an average face; so are the other widths, lengths, sizes and thicknesses.
        jaw: 1 for a pointed jaw; smaller is squarer.
        eye_distance: Factor.
        eye_size: Factor.
        eye_height: Shift of the eyes downwards, in half heads.
        brow_thickness: Factor.
        brow_height: Shift of the brows upwards, in half heads.
        brow_slant: How much lower the inner ends are at rest, in half heads.
        nose_length: Factor.
        nose_width: Factor.
        mouth_width: Factor.
        mouth_height: Shift of the mouth downwards, in half heads.
        mouth_rest: Curve of the resting mouth, in units of `Expression.mouth_curve`.
        lip_thickness: Factor.
        skin: Colour of the skin.
        hair: Colour of hair, brows and beard.
        iris: Colour of the eyes.
        hair_style: 0 bald, 1 a short cap, 2 long, 3 wavy, 4 only on the forehead's rim.
        fringe: How far the hair comes down the forehead, in half heads.
        glasses: Whether the person wears glasses.
        beard: Density, 0 for none to 1.

    Example:
        >>> person = Person.sample(np.random.default_rng(0))
        >>> person == Person.sample(np.random.default_rng(0))
        True
    """

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
        """Draws a person at random. Resting brows and mouths differ too: a resting face can look cross or glad.

        Args:
            rng: Source of the random numbers.
        """
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
    """Pose of the head, place in the picture, light and noise.

    Args:
        yaw: Turn to the side, in radians.
        pitch: Nod, in radians.
        roll: Tilt, in radians.
        shift: To the right and down, in shares of the image.
        zoom: Factor, 1 for a face that fills the picture.
        light: Factor of all pixels, 1 for full light.
        light_from: Direction in which the light grows, in radians from the right, clockwise.
        light_slope: Share by which the light grows from the middle to the edge in that direction.
        warmth: Share added to red and taken from blue.
        noise: Standard deviation of the noise, in grey values of 255.
        background: Colour behind the face.

    Example:
        >>> from ciao_peft.data import paint_face
        >>> bright = paint_face(view=View(light=1.0), size=16, seed=1)
        >>> dark = paint_face(view=View(light=0.5), size=16, seed=1)
        >>> bright.convert("L").getextrema() > dark.convert("L").getextrema()
        True
    """

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
        """Draws a view at random: heads turn by up to 25 degrees and tilt by up to 14.

        Args:
            rng: Source of the random numbers.
        """
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
    """Rounds red, green and blue down to whole numbers and cuts them to 0 to 255.

    Example:
        >>> as_colour([12.9, -3.0, 300.0])
        (12, 0, 255)
    """
    red, green, blue = (min(255, max(0, int(value))) for value in values)
    return red, green, blue
