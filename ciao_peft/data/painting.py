"""Draws faces from numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .people import Colour, Expression, Person, Point, View, as_colour

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

__all__ = ["paint_face"]

_SUPERSAMPLING = 3  # drawn that many times larger and averaged down: PIL draws no soft edges itself


def paint_face(
    person: Person | None = None,
    expression: Expression | None = None,
    view: View | None = None,
    *,
    size: int = 64,
    seed: int = 0,
) -> Image.Image:
    """Draws one face; the same arguments always give the same pixels.

    Args:
        person: Whose face it is; somebody chosen by `seed` when left out.
        expression: What the face does; it is at rest when left out.
        view: Pose, light and noise; straight on, evenly lit and without noise when left out.
        size: Pixels per side, 16 or more.
        seed: Chooses the person, when none is given, and the noise.

    Returns:
        An RGB image of `size` x `size` pixels.

    Example:
        >>> glad = paint_face(expression=Expression(mouth_curve=1.0, mouth_open=0.4), size=48, seed=3)
        >>> glad.size, glad.mode
        ((48, 48), 'RGB')
    """
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(seed)
    person = person or Person.sample(rng)
    expression = expression or Expression()
    view = view or View()
    large = size * _SUPERSAMPLING
    image = Image.new("RGB", (large, large), view.background)
    _Painter(ImageDraw.Draw(image), person, expression, view, large).paint()
    pixels = np.asarray(image.reduce(_SUPERSAMPLING), dtype=np.float32)
    return Image.fromarray(_light(pixels, view, rng))


def _light(pixels: np.ndarray, view: View, rng: np.random.Generator) -> np.ndarray:
    size = len(pixels)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
    slope = 1 + view.light_slope * (x * np.cos(view.light_from) + y * np.sin(view.light_from))
    tint = np.array([1 + view.warmth, 1.0, 1 - view.warmth], dtype=np.float32)
    lit = pixels * (view.light * slope)[..., None] * tint
    lit += view.noise * rng.standard_normal(pixels.shape, dtype=np.float32)
    return lit.clip(0, 255).round().astype(np.uint8)


def _shade(colour: Colour, factor: float) -> Colour:
    return as_colour([value * factor for value in colour])


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    return as_colour([a * (1 - share) + b * share for a, b in zip(first, second, strict=True)])


_CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 25)), np.sin(np.linspace(0, 2 * np.pi, 25))], axis=1)


class _Painter:
    """Draws one face. Lengths are in half heads: (0, 0) is between the eyes and the mouth, y = 1 the chin."""

    def __init__(self, draw: ImageDraw.ImageDraw, person: Person, expression: Expression, view: View, size: int):
        self.draw, self.person, self.expression, self.view, self.size = draw, person, expression, view, size
        self.strokes: list[tuple[np.ndarray, Colour, int, float]] = []  # outline, colour, width (0: filled), lift
        self.eye_y = -0.14 + person.eye_height
        self.nose_y = 0.24 * person.nose_length - 0.03 * expression.nose_wrinkle
        self.mouth_y = 0.53 + person.mouth_height - 0.03 * expression.nose_wrinkle

    def paint(self) -> None:
        self._hair_behind()
        self._head()
        self._nose()
        self._mouth()
        for side in (-1, 1):
            self._eye(side)
            self._brow(side)
        self._hair_in_front()
        if self.person.glasses:
            self._glasses()

        self._draw_strokes()

    def _draw_strokes(self) -> None:
        # All of them are turned in one go: twenty times fewer calls than one by one.
        points = np.concatenate([stroke[0] for stroke in self.strokes])
        lengths = [len(stroke[0]) for stroke in self.strokes]
        pixels = self._project(points, np.repeat([stroke[3] for stroke in self.strokes], lengths))
        start = 0
        for (_, colour, width, _), length in zip(self.strokes, lengths, strict=True):
            outline = pixels[start : start + length]
            start += length
            if width:
                self.draw.line(outline, fill=colour, width=width, joint="curve")
            else:
                self.draw.polygon(outline, fill=colour)

    def _project(self, points: np.ndarray, lift: np.ndarray) -> list[Point]:
        """Turns the head: points on the front of an ellipsoid, `lift` above it, to pixels."""
        x, y = points[:, 0], points[:, 1]
        depth = 0.6 * np.sqrt(np.clip(1 - (x / 0.95) ** 2 - (y / 1.3) ** 2, 0, None)) + lift
        view = self.view
        x = x * np.cos(view.yaw) + depth * np.sin(view.yaw)
        y = y * np.cos(view.pitch) + depth * np.sin(view.pitch)
        cos, sin = np.cos(view.roll), np.sin(view.roll)
        x, y = x * cos - y * sin, x * sin + y * cos
        scale = 0.47 * self.size * view.zoom
        left, top = (0.5 + view.shift[0]) * self.size, (0.5 + view.shift[1]) * self.size
        return list(zip((left + scale * x).tolist(), (top + scale * y).tolist(), strict=True))

    def _fill(self, points: np.ndarray, colour: Colour, lift: float = 0.0) -> None:
        self.strokes.append((points, colour, 0, lift))

    def _line(self, points: np.ndarray, colour: Colour, width: float, lift: float = 0.0) -> None:
        self.strokes.append((points, colour, max(1, round(width * 0.47 * self.size)), lift))

    def _outline(self, grow: float = 1.0) -> np.ndarray:
        angle = np.linspace(0, 2 * np.pi, 60)
        cos, sin = np.cos(angle), np.sin(angle)
        # Below the eyes a superellipse: the exponent makes the jaw pointed (1) or square (small).
        width = np.sign(cos) * np.abs(cos) ** np.where(sin > 0, self.person.jaw, 1.0)
        chin = 1.0 + 0.09 * self.expression.mouth_open
        height = np.where(sin > 0, chin, 1.12) * sin
        return np.stack([0.76 * self.person.face_width * grow * width, grow * height], axis=1)

    def _head(self) -> None:
        skin = self.person.skin
        for side in (-1, 1):
            self._fill(_ellipse(side * 0.77 * self.person.face_width, 0.02, 0.11, 0.19), _shade(skin, 0.86))
        for grow, factor in ((1.0, 0.84), (0.94, 0.92), (0.86, 0.98), (0.72, 1.02)):  # rounder than one flat colour
            self._fill(self._outline(grow), _shade(skin, factor))
        if self.person.beard:
            beard = self._outline(0.97)
            beard = beard[beard[:, 1] > 0.2]
            rim = np.stack([beard[::-1, 0] * 0.62, np.maximum(0.3, beard[::-1, 1] - 0.42)], axis=1)
            self._fill(np.concatenate([beard, rim]), _mix(skin, self.person.hair, self.person.beard))
        glow = max(0.0, self.expression.mouth_curve)
        for side in (-1, 1):
            cheek = _ellipse(side * 0.42 * self.person.face_width, 0.24 - 0.05 * glow, 0.15, 0.11)
            self._fill(cheek, _mix(_shade(skin, 1.0), (214, 110, 96), 0.1 + 0.1 * glow))

    def _eye(self, side: int) -> None:
        person, expression = self.person, self.expression
        centre = side * 0.33 * person.eye_distance
        half = 0.155 * person.eye_size
        squint = 0.03 * max(0.0, expression.mouth_curve) + 0.035 * expression.nose_wrinkle
        opening = max(0.004, (0.075 + 0.07 * expression.eye_open) * person.eye_size - 0.4 * squint)
        upper, lower = 1.15 * opening, max(0.004, 0.7 * opening - squint)

        def lids(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            bow = np.clip(1 - ((x - centre) / half) ** 2, 0, None)
            return self.eye_y - upper * bow, self.eye_y + lower * bow

        self._fill(_ellipse(centre, self.eye_y - 0.03, half * 1.35, 0.17), _shade(person.skin, 0.9))
        x = np.linspace(centre - half, centre + half, 15)
        above, below = lids(x)
        self._fill(_between(x, above, below), (240, 238, 234))
        for radius, colour in ((0.085, person.iris), (0.042, (12, 10, 10))):
            iris = _ellipse(centre, self.eye_y - 0.012, radius * person.eye_size, radius * person.eye_size)
            iris[:, 1] = np.clip(iris[:, 1], *lids(iris[:, 0]))
            self._fill(iris, colour)
        self._line(np.stack([x, above], axis=1), _shade(person.skin, 0.3), 0.028)
        self._line(np.stack([x, below], axis=1), _shade(person.skin, 0.6), 0.014)

    def _brow(self, side: int) -> None:
        person, expression = self.person, self.expression
        s = np.linspace(0, 1, 9)  # from the inner end to the outer one
        inner = 0.12 - 0.035 * max(0.0, expression.brow_frown)
        x = inner + (0.44 * person.eye_distance - 0.02) * s
        frown = 0.13 * expression.brow_frown + person.brow_slant
        height = self.eye_y - 0.225 - person.brow_height - 0.1 * expression.brow_raise
        arch = 0.05 + 0.03 * max(0.0, expression.brow_raise)
        y = height - arch * np.sin(np.pi * s) + frown * (1 - s) ** 1.3 - 0.45 * frown * s
        thickness = 0.034 * person.brow_thickness * (1.1 - 0.75 * s)
        self._fill(_between(side * x, y - thickness, y + thickness), _shade(person.hair, 0.8))
        if expression.brow_frown > 0.3:  # the fold between cross brows
            fold = np.array([[side * 0.05, height - 0.02], [side * 0.04, height + 0.13]])
            self._line(fold, _shade(person.skin, 0.6), 0.02, lift=0.02)

    def _nose(self) -> None:
        person, wrinkle = self.person, self.expression.nose_wrinkle
        half = 0.13 * person.nose_width * (1 + 0.15 * wrinkle)
        side = 1 if self.view.yaw >= 0 else -1
        bridge = np.array([[0.06, self.eye_y], [0.045, 0.05], [half / 0.95, self.nose_y - 0.03], [0.02, self.nose_y]])
        self._fill(bridge * [-side, 1], _shade(person.skin, 0.8), lift=0.06)
        self._fill(_ellipse(0, self.nose_y - 0.03, half * 0.75, 0.075), _shade(person.skin, 1.06), lift=0.12)
        for s in (-1, 1):
            self._fill(_ellipse(s * half * 0.62, self.nose_y, half * 0.3, 0.026), _shade(person.skin, 0.42), lift=0.06)
            wing = np.array(
                [
                    [s * half, self.nose_y - 0.07],
                    [s * half * 1.12, self.nose_y - 0.01],
                    [s * half * 0.9, self.nose_y + 0.02],
                ]
            )
            self._line(wing, _shade(person.skin, 0.62), 0.02, lift=0.03)
            if wrinkle > 0.2:
                for row in (0.0, 0.07):
                    crease = np.array([[s * 0.03, -0.06 + row], [s * 0.1, -0.03 + row]])
                    self._line(crease, _shade(person.skin, 1 - 0.45 * wrinkle), 0.022, lift=0.04)
            depth = max(wrinkle, 0.9 * max(0.0, self.expression.mouth_curve))
            if depth > 0.15:  # the fold from nose to mouth
                fold = np.array(
                    [[s * half * 1.25, self.nose_y], [s * 0.3, self.nose_y + 0.13], [s * 0.37, self.mouth_y - 0.04]]
                )
                self._line(fold, _shade(person.skin, 1 - 0.32 * depth), 0.022)

    def _mouth(self) -> None:
        person, e = self.person, self.expression
        s = np.linspace(-1, 1, 21)
        bow = 1 - s**2
        half = (
            0.27 * person.mouth_width * (1 + 0.26 * e.mouth_width + 0.1 * max(0.0, e.mouth_curve) - 0.12 * e.mouth_open)
        )
        curve = e.mouth_curve + person.mouth_rest
        line = (
            self.mouth_y
            - 0.16 * curve * (s**2 - 0.4)
            - 0.085 * e.mouth_skew * np.where(s * e.mouth_skew > 0, np.abs(s), 0) * np.sign(e.mouth_skew)
        )
        above = line - (0.07 * e.mouth_open + 0.05 * e.nose_wrinkle) * bow
        below = line + (0.3 * e.mouth_open + 0.03 * e.nose_wrinkle) * np.sqrt(bow)
        thickness = person.lip_thickness * (1 + 0.2 * min(0.0, e.mouth_width))
        lips = _mix(person.skin, (168, 62, 62), 0.55)
        x = half * s
        dip = 1 - 0.35 * np.exp(-((s / 0.16) ** 2))
        self._fill(_between(x, above - 0.055 * thickness * bow * dip, above), _shade(lips, 0.9))
        self._fill(_between(x, below, below + 0.07 * thickness * bow), lips)
        if e.mouth_open > 0.04 or e.nose_wrinkle > 0.3:
            self._fill(_between(x, above, below), (64, 20, 24))
            teeth = np.minimum(above + 0.075 * bow, below)
            self._fill(_between(x * 0.94, above, teeth), (236, 232, 222))
            if e.mouth_open > 0.45:
                tongue = np.clip(s / 0.6, -1, 1)
                top = below - 0.09 * (1 - tongue**2)
                self._fill(_between(x, np.maximum(top, teeth), below), (176, 74, 80))
        else:
            self._line(np.stack([x, line], axis=1), _shade(lips, 0.45), 0.026)
        for end in (0, -1):
            corner = _ellipse(x[end], line[end], 0.022, 0.022)
            self._fill(corner, _shade(person.skin, 0.55))

    def _hair_behind(self) -> None:
        person = self.person
        if person.hair_style in (1, 2, 3):
            drop = {1: 0.15, 2: 1.25, 3: 0.55}[person.hair_style]
            cap = _ellipse(0, -0.3, 0.93 * person.face_width, 0.98)
            self._fill(cap, _shade(person.hair, 0.8))
            if drop > 0.2:
                width = 0.93 * person.face_width
                strands = np.array([[-width, -0.3], [width, -0.3], [width * 1.02, drop], [-width * 1.02, drop]])
                self._fill(strands, _shade(person.hair, 0.7))

    def _hair_in_front(self) -> None:
        person = self.person
        if person.hair_style == 0:
            return  # bald
        angle = np.linspace(np.pi * 1.04, np.pi * 1.96, 25)
        rim = np.stack([0.8 * person.face_width * np.cos(angle), 1.17 * np.sin(angle)], axis=1)
        x = rim[::-1, 0]
        parting = {1: 0.0, 2: 0.35, 3: -0.3, 4: 0.0}[person.hair_style]
        line = -0.92 + person.fringe + 0.28 * ((x - parting) / 0.8) ** 2
        if person.hair_style == 3:
            line = line + 0.05 * np.sin(17 * x)
        self._fill(np.concatenate([rim, np.stack([x, np.minimum(line, -0.42)], axis=1)]), person.hair)

    def _glasses(self) -> None:
        frame = (32, 28, 30)
        for side in (-1, 1):
            self._line(_ellipse(side * 0.34, self.eye_y + 0.02, 0.24, 0.19), frame, 0.03, lift=0.04)
        self._line(np.array([[-0.1, self.eye_y], [0.1, self.eye_y]]), frame, 0.03, lift=0.08)


def _ellipse(x: float, y: float, width: float, height: float) -> np.ndarray:
    return _CIRCLE * (width, height) + (x, y)


def _between(x: np.ndarray, above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """The closed outline of what lies between two curves over the same x."""
    return np.concatenate([np.stack([x, above], axis=1), np.stack([x, below], axis=1)[::-1]])
