"""Draws boxes and answers into a picture."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

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
    pen = ImageDraw.Draw(drawn)
    width = max(1, round(min(drawn.size) / 240))
    font: Any = ImageFont.load_default(size=max(10, round(min(drawn.size) / 32)))
    for index, face in enumerate(faces):
        colour = _COLOURS[(index if face.track is None else face.track - 1) % len(_COLOURS)]
        x, y, wide, high = face.box
        pen.rectangle((x, y, x + wide - 1, y + high - 1), outline=colour, width=width)
        lines = [f"{world}: {_said(answer, world in classes)}" for world, answer in face.answers.items()]
        text = "\n".join([*([] if face.track is None else [f"#{face.track}"]), *lines])
        if not text:
            continue
        left, top, right, bottom = pen.multiline_textbbox((x, y + high + width), text, font=font)
        # Into the picture where it would leave it.
        across = min(0, drawn.width - right - 2) if left >= 0 else -left
        down = min(0, drawn.height - bottom - 2)
        box = (left + across - 1, top + down - 1, right + across + 1, bottom + down + 1)
        pen.rectangle(box, fill=(0, 0, 0))
        pen.multiline_text((x + across, y + high + width + down), text, font=font, fill=colour)
    return drawn


def _said(answer: Mapping[str, float] | None, one_class: bool) -> str:
    if answer is None:
        return "unsure"
    return ", ".join(f"{label} {value:.2f}" for label, value in list(answer.items())[: 1 if one_class else 4])
