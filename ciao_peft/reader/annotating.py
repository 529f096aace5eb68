"""Draws boxes and answers into a picture."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..detection import Box
from ..scenes import Face

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["annotated"]

# Told apart on light and dark pictures, and by people who see few colours (Okabe and Ito).
_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))


def annotated(picture: Image, faces: Iterable[Face], classes: Collection[str] = ()) -> Image:
    """A copy of a picture with a box around each face, its number, and what each world says of it.

    Args:
        picture: In any mode.
        faces: What was found in it.
        classes: Worlds that answer with one class of several; of these the likeliest class is written.

    Returns:
        A picture of the same size in mode RGB.

    Example:
        >>> from PIL import Image
        >>> from ciao_peft.detection import Box
        >>> picture = annotated(Image.new("RGB", (64, 64)), [Face(box=Box(8, 8, 40, 40), answers={})])
        >>> picture.getpixel((8, 20))
        (230, 159, 0)
    """
    from PIL import ImageDraw, ImageFont

    drawn = picture.convert("RGB")
    drawn = drawn.copy() if drawn is picture else drawn
    pen = ImageDraw.Draw(drawn, "RGBA")
    width = max(1, round(min(drawn.size) / 240))
    font: Any = ImageFont.load_default(size=max(9, round(min(drawn.size) / 40)))
    faces = list(faces)
    taken = [face.box for face in faces]
    for index, face in enumerate(faces):
        colour = _COLOURS[(index if face.track is None else face.track - 1) % len(_COLOURS)]
        x, y, wide, high = face.box
        pen.rectangle((x, y, x + wide - 1, y + high - 1), outline=colour, width=width)
        lines = [f"{world}: {_said(answer, world in classes)}" for world, answer in face.answers.items()]
        text = "\n".join([*([] if face.track is None else [f"#{face.track}"]), *lines])
        if not text:
            continue
        left, top, right, bottom = (round(side) for side in pen.multiline_textbbox((0, 0), text, font=font))
        label = _free_place(face.box, (right - left + 4, bottom - top + 4), taken, drawn.size)
        taken.append(label)
        pen.rectangle((label.x, label.y, label.x + label.width - 1, label.y + label.height - 1), fill=(0, 0, 0, 150))
        pen.multiline_text((label.x + 2 - left, label.y + 2 - top), text, font=font, fill=colour)
    return drawn


def _free_place(face: Box, size: tuple[int, int], taken: Sequence[Box], picture: tuple[int, int]) -> Box:
    """Where the words about a face hide least: below it, above it, to its right or to its left."""
    (wide, high), (most_wide, most_high) = size, picture
    corners = (
        *((face.x, face.y + face.height), (face.x, face.y - high)),
        *((face.x + face.width, face.y), (face.x - wide, face.y)),
    )
    inside = [(max(0, min(x, most_wide - wide)), max(0, min(y, most_high - high))) for x, y in corners]
    places = [Box(x, y, wide, high) for x, y in inside]
    return min(places, key=lambda place: sum(_hidden(place, box) for box in taken))


def _hidden(place: Box, box: Box) -> int:
    across = min(place.x + place.width, box.x + box.width) - max(place.x, box.x)
    down = min(place.y + place.height, box.y + box.height) - max(place.y, box.y)
    return max(0, across) * max(0, down)


def _said(answer: Mapping[str, float] | None, one_class: bool) -> str:
    if answer is None:
        return "unsure"
    return ", ".join(f"{label} {value:.2f}" for label, value in list(answer.items())[: 1 if one_class else 2])
