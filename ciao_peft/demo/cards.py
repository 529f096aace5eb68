"""What a page shows, as HTML: the picture with its boxes, and a card for each world. Every text is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from ..config import CIAOConfig
from ..prediction import label_names
from ..scenes import Face

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

__all__ = ["STYLE", "card", "cards", "heat_over", "picture_uri", "said_in_short", "stage"]

# From black to light yellow over violet and orange, as matplotlib's inferno at 0, 0.25, 0.5, 0.75 and 1.
_HEAT = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))

Answer = Mapping[str, float]


def picture_uri(picture: Image, longest: int = 960) -> str:
    """A picture inside an address, so that no file of it lies on the disk.

    Args:
        picture: In RGB.
        longest: Pixels of its longer side, at most.

    Example:
        >>> from PIL import Image
        >>> picture_uri(Image.new("RGB", (8, 8)))[:23]
        'data:image/jpeg;base64,'
    """
    small = picture.copy()
    small.thumbnail((longest, longest))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def heat_over(face: np.ndarray, heat: np.ndarray) -> Image:
    """A face in gray with a map laid over it; where little passes, the face stays as it is.

    Args:
        face: `(height, width, 3)`, uint8.
        heat: `(H, W)`, 0 to 1.

    Returns:
        An image of the size of the face.

    Example:
        >>> import numpy as np
        >>> heat_over(np.full((4, 4, 3), 100, np.uint8), np.zeros((2, 2))).getpixel((0, 0))
        (100, 100, 100)
    """
    import numpy as np
    from PIL import Image

    height, width = face.shape[:2]
    gray = np.repeat((face @ np.array([0.299, 0.587, 0.114]))[:, :, None], 3, axis=2)
    spread = Image.fromarray(np.clip(heat, 0, 1).astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    strength = np.clip(np.asarray(spread), 0, 1)
    places = np.linspace(0, 1, len(_HEAT))
    colours = np.stack([np.interp(strength, places, channel) for channel in zip(*_HEAT, strict=True)], axis=2)
    veil = 0.75 * strength[:, :, None]
    return Image.fromarray((gray * (1 - veil) + colours * veil).round().astype(np.uint8))


def said_in_short(answer: Answer, config: CIAOConfig) -> str:
    """The headline of an answer.

    Args:
        answer: Values by label.
        config: The world's.

    Example:
        >>> config = CIAOConfig(problem_type="regression", num_labels=2)
        >>> said_in_short({"arousal": 0.25, "valence": -0.5}, config)
        'arousal +0.25, valence −0.50'
    """
    if config.problem_type == "regression":
        return ", ".join(f"{label} {_signed(value)}" for label, value in list(answer.items())[:3])
    ordered = sorted(answer.items(), key=lambda pair: -pair[1])
    if config.problem_type == "multi_label_classification":
        ordered = [pair for pair in ordered if pair[1] >= 0.5]
        return ", ".join(label for label, _ in ordered[:3]) or "nothing above 50 %"
    label, value = ordered[0]
    return f"{label} {_percent(value)}"


def stage(picture: Image, faces: Sequence[Face], chosen: int | None, spoken: Sequence[str] = ()) -> str:
    """The picture with a button around each face.

    Args:
        picture: In RGB.
        faces: In its pixels.
        chosen: Index of the face that the cards are about.
        spoken: What is said of each face, for those who hear the page.

    Returns:
        HTML; a button has the attribute `data-face` with the index of its face.

    Example:
        >>> from PIL import Image
        >>> from ciao_peft.detection import Box
        >>> html = stage(Image.new("RGB", (100, 50)), [Face(box=Box(10, 10, 20, 20), answers={})], 0)
        >>> 'left:10.00%;top:20.00%' in html, 'aria-pressed="true"' in html
        (True, True)
    """
    width, height = picture.size
    buttons = []
    for index, face in enumerate(faces):
        left, top = max(0, face.box.x), max(0, face.box.y)
        right, bottom = min(width, face.box.x + face.box.width), min(height, face.box.y + face.box.height)
        place = (
            f"left:{100 * left / width:.2f}%;top:{100 * top / height:.2f}%;"
            f"width:{100 * (right - left) / width:.2f}%;height:{100 * (bottom - top) / height:.2f}%"
        )
        number = index + 1 if face.track is None else face.track
        words = f"Face {number}" + (f": {spoken[index]}" if index < len(spoken) else "")
        small = " ciao-small" if (right - left) / width < 0.12 else ""
        buttons.append(
            f'<button type="button" class="ciao-box{small}" style="{place}" data-face="{index}" '
            f'aria-pressed="{"true" if index == chosen else "false"}" aria-label="{escape(words)}" '
            f'title="{escape(words)}"><span>{number}</span></button>'
        )
    alt = "Your picture, " + ("with one face" if len(faces) == 1 else f"with {len(faces)} faces")
    return (
        f'<div class="ciao-stage"><div class="ciao-frame"><img src="{picture_uri(picture)}" alt="{alt}">'
        f"{''.join(buttons)}</div></div>"
    )


def cards(made: Sequence[str]) -> str:
    """Cards side by side, as many as fit.

    Example:
        >>> cards(["<p>one</p>"])
        '<div class="ciao-cards"><p>one</p></div>'
    """
    return f'<div class="ciao-cards">{"".join(made)}</div>'


def card(
    key: str,
    config: CIAOConfig,
    answer: Answer | None,
    heat: str | None = None,
    course: tuple[Sequence[tuple[float, Answer]], float] | None = None,
    below: str = "",
) -> str:
    """What one world says of a face.

    Args:
        key: The world's.
        config: Its settings.
        answer: Values by label; None while there is no face.
        heat: The address of a picture of where it looks.
        course: What it said through a video, as pairs of seconds and answer, and the moment that is shown.
        below: HTML that stands under all of this.

    Example:
        >>> config = CIAOConfig(problem_type="regression", num_labels=1, id2label={0: "<u>"})
        >>> html = card("user/world", config, {"<u>": 0.5})
        >>> "<u>" in html, "&lt;u&gt;" in html
        (False, True)
    """
    title = key.rpartition("/")[2]
    headline = "" if answer is None else said_in_short(answer, config)
    shown = f'<img class="ciao-heat" src="{heat}" alt="Where {escape(title)} looks">' if heat else ""
    rows = "".join(_row(label, (answer or {}).get(label), config, answer) for label in label_names(config))
    line = "" if course is None else _course(*course, config)
    return (
        f'<section class="ciao-card" aria-label="{escape(title)}"><header><h3>{escape(title)}</h3>'
        f'<small title="{escape(key)}">{_KINDS[config.problem_type]}</small></header>'
        f'<p class="ciao-said">{escape(headline) or "&nbsp;"}</p>'
        f'<div class="ciao-both">{shown}<div class="ciao-rows">{rows}</div></div>{line}{below}</section>'
    )


_KINDS = {
    "single_label_classification": "one of",
    "multi_label_classification": "any of",
    "regression": "how much",
}


def _row(label: str, value: float | None, config: CIAOConfig, answer: Answer | None) -> str:
    if config.problem_type == "regression":
        most = max(1.0, *(abs(each) for each in (answer or {"": 0.0}).values()))
        share = 0.0 if value is None else value / most
        left = 50 + min(0.0, 50 * share)
        bar = f'<i class="ciao-two" style="left:{left:.1f}%;width:{abs(50 * share):.1f}%"></i><b></b>'
        text, strong = "" if value is None else _signed(value), False
    else:
        bar = f'<i style="width:{100 * (value or 0):.1f}%"></i>'
        text = "" if value is None else _percent(value)
        strong = value is not None and (
            value >= 0.5
            if config.problem_type == "multi_label_classification"
            else value == max((answer or {}).values(), default=None)
        )
    return (
        f'<div class="ciao-row{" ciao-strong" if strong else ""}"><span>{escape(label)}</span>'
        f'<span class="ciao-bar">{bar}</span><span class="ciao-value">{text}</span></div>'
    )


def _course(said: Sequence[tuple[float, Answer]], now: float, config: CIAOConfig) -> str:
    """Lines through time; the one that is strongest now stands out."""
    if len(said) < 2:
        return ""
    first, last = said[0][0], said[-1][0]
    nearest = min(said, key=lambda pair: abs(pair[0] - now))[1]
    signed = config.problem_type == "regression"
    strongest = max(nearest, key=lambda label: abs(nearest[label]))
    most = max(1.0, *(abs(value) for _, answer in said for value in answer.values()))

    def points(label: str) -> str:
        places = []
        for time, answer in said:
            height = answer[label] / most
            height = (1 + height) / 2 if signed else height
            places.append(f"{200 * (time - first) / ((last - first) or 1):.1f},{38 - 36 * height:.1f}")
        return " ".join(places)

    labels = [*(label for label in nearest if label != strongest), strongest]
    lines = "".join(
        f'<polyline points="{points(label)}" class="{"ciao-first" if label == strongest else ""}"/>' for label in labels
    )
    at = 200 * (now - first) / ((last - first) or 1)
    return (
        f'<svg class="ciao-course" viewBox="0 0 200 40" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(strongest)} through time">{lines}'
        f'<line x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="40"/></svg>'
    )


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _signed(value: Any) -> str:
    return f"{value:+.2f}".replace("-", "−")


STYLE = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; }
.gradio-container .html-container { padding: 0 !important; }
footer > :last-child:not(button):not(a) { display: none !important; }
.ciao-head h1 { font-size: 1.5rem; margin: 0.2rem 0 0.1rem; font-weight: 650; letter-spacing: -0.01em; }
.ciao-head p, .ciao-foot p { margin: 0; color: var(--body-text-color-subdued); line-height: 1.45; }
.ciao-foot p { font-size: 0.82rem; }
.ciao-stage { display: flex; justify-content: center; align-items: center; min-height: 18rem;
  background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary); border-radius: 8px;
  overflow: hidden; }
.ciao-stage p { color: var(--body-text-color-subdued); padding: 1rem; text-align: center; margin: 0; }
.ciao-frame { position: relative; line-height: 0; }
.ciao-frame img { max-width: 100%; max-height: 26rem; display: block; }
.ciao-box { position: absolute; border: 2px solid #fff; border-radius: 4px; background: none; padding: 0;
  box-shadow: 0 0 0 1px rgba(0, 0, 0, 0.55), inset 0 0 0 1px rgba(0, 0, 0, 0.35); cursor: pointer; }
.ciao-box span { position: absolute; left: -2px; top: -2px; font: 600 0.75rem/1.25rem system-ui, sans-serif;
  min-width: 1.25rem; text-align: center; background: #fff; color: #1c2b33; border-radius: 4px 0 4px 0; }
.ciao-box.ciao-small span { font-size: 0.6rem; line-height: 0.85rem; min-width: 0.85rem; }
.ciao-box[aria-pressed="true"] { border-color: #ffb000; z-index: 1; }
.ciao-box[aria-pressed="true"] span { background: #ffb000; }
.ciao-box:focus-visible { outline: 3px solid #1b7f79; outline-offset: 2px; }
.ciao-note { padding: 0.55rem 0.8rem; border-left: 3px solid #1b7f79; background: var(--background-fill-secondary);
  border-radius: 4px; margin: 0; overflow-wrap: anywhere; }
.ciao-note.ciao-bad { border-left-color: #c4501b; }
.ciao-cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: 0.8rem; }
.ciao-card { border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 0.75rem 0.9rem;
  background: var(--background-fill-primary); min-width: 0; }
.ciao-card header { display: flex; justify-content: space-between; align-items: baseline; gap: 0.5rem; }
.ciao-card h3 { margin: 0; font-size: 0.95rem; font-weight: 600; overflow-wrap: anywhere; }
.ciao-card small { color: var(--body-text-color-subdued); white-space: nowrap; }
.ciao-said { margin: 0.1rem 0 0.5rem; font-size: 1.05rem; font-weight: 600; color: #1b7f79; overflow-wrap: anywhere; }
.dark .ciao-said { color: #5cc4bd; }
.ciao-both { display: flex; gap: 0.8rem; align-items: flex-start; }
.ciao-heat { width: 7.5rem; height: 7.5rem; border-radius: 6px; flex: none; object-fit: cover; margin: 0 !important; }
.ciao-rows { flex: 1; min-width: 0; }
.ciao-row { display: grid; grid-template-columns: minmax(5.6rem, 30%) 1fr 3.1rem; gap: 0.45rem; align-items: center;
  font-size: 0.8rem; line-height: 1.25rem; }
.ciao-row > span:first-child { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.ciao-value { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums;
  color: var(--body-text-color-subdued); }
.ciao-strong { font-weight: 600; }
.ciao-strong .ciao-value { color: inherit; }
.ciao-bar { position: relative; height: 0.45rem; border-radius: 3px; background: var(--background-fill-secondary);
  box-shadow: inset 0 0 0 1px var(--border-color-primary); overflow: hidden; }
.ciao-bar i { position: absolute; left: 0; top: 0; bottom: 0; background: #8fb5b2; }
.ciao-strong .ciao-bar i, .ciao-bar .ciao-two { background: #1b7f79; }
.dark .ciao-bar i { background: #47706e; }
.dark .ciao-strong .ciao-bar i, .dark .ciao-bar .ciao-two { background: #5cc4bd; }
.ciao-bar b { position: absolute; left: 50%; top: 0; bottom: 0; width: 1px;
  background: var(--body-text-color-subdued); }
.ciao-course { width: 100%; height: 2.6rem; margin-top: 0.6rem; display: block; }
.ciao-course polyline { fill: none; stroke: #b9c4c6; stroke-width: 1; vector-effect: non-scaling-stroke; }
.ciao-course .ciao-first { stroke: #1b7f79; stroke-width: 2; }
.ciao-course line { stroke: #ffb000; stroke-width: 2; vector-effect: non-scaling-stroke; }
@media (max-width: 500px) {
  .ciao-heat { width: 5.5rem; height: 5.5rem; }
  .ciao-row { grid-template-columns: 5.4rem 1fr 3.1rem; }
  .ciao-stage { min-height: 12rem; }
}
"""
"""The style sheet of all of this; colours come from the page's theme, light or dark."""
