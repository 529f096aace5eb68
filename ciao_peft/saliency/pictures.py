"""Pictures of saliency: faces as rows, worlds or networks as columns."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from ..adapters import Adapter
from ..config import CIAOConfig
from ..drawing import as_png, blank_figure
from ..errors import ConfigError, InputError, listed, quoted
from ..model import CIAOModel
from ..prediction import check_preprocessing, named_answers
from ..preprocessing import Preprocessing
from ..preprocessing.pictures import as_mode, open_picture
from .maps import gradcam_plus_plus, mask_strength

__all__ = ["VIEWS", "draw_saliency", "saliency_picture"]

if TYPE_CHECKING:
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from PIL.Image import Image

VIEWS = ("saliency", "mask")
"""What `saliency_picture` can show: GradCAM++ of M, and the mean of what M multiplies u by."""


def saliency_picture(
    model: CIAOModel,
    images: Any,
    adapter_names: Sequence[str] | Mapping[str, str] | None = None,
    *,
    views: Sequence[str] = ("saliency",),
    features: Tensor | Sequence[Tensor] | None = None,
    names: Sequence[str] | None = None,
) -> bytes:
    """Draws faces as an encoder sees them, and next to each where every world looks and what it says.

    The six networks of the paper are adapters of one model, and its Fig. 3 is a picture of all of them. The picture
    shows the faces themselves: ask the people before it is published.

    Args:
        model: A model that has a preprocessing.
        images: Paths, PIL images or arrays, as `model.predict` takes them; one row each, or a single one.
        adapter_names: The worlds, or their names by the titles of their columns; all when left out.
        views: `"saliency"` (GradCAM++ of M), `"mask"` (the mean of what M multiplies u by), or both. Worlds without
            inhibition have no mask to show.
        features: The features of these images, as `extract_features` gives them or as they are stored. The frozen
            trunk then does not run again; adapters with an encoder of their own (`tuning="full"`) still read the
            images.
        names: One text for each image, to stand under it.

    Returns:
        A PNG file's content, as `save_pretrained` and `push_to_hub` take it for `picture`.

    Raises:
        ConfigError: `views` names something else.
        InputError: the model has no preprocessing, features are of another number of images, or there is nothing to
            draw.
        DataError: a picture cannot be read.
        AdapterNotFoundError: a name is not loaded.
        MissingExtraError: matplotlib is missing; `pip install 'ciao_peft[plots]'` brings it.

    Example:
        >>> import numpy as np
        >>> from ciao_peft import get_ciao_model, load_encoder
        >>> model = get_ciao_model(load_encoder("small-face"), CIAOConfig(problem_type="regression", num_labels=2))
        >>> saliency_picture(model, [np.zeros((64, 64, 3), dtype=np.uint8)], views=("saliency", "mask"))[1:4]
        b'PNG'
    """
    if unknown := set(views) - set(VIEWS):
        raise ConfigError(f"`views` knows {listed(VIEWS)}; got {listed(unknown)}.")
    preprocessing = check_preprocessing(model.preprocessing)
    if isinstance(images, str | bytes | os.PathLike) or not isinstance(images, Iterable) or _is_one_array(images):
        images = [images]
    chosen = list(model.adapters) if adapter_names is None else adapter_names
    titles = dict(chosen) if isinstance(chosen, Mapping) else {name: name for name in chosen}
    titles = {title: model.resolve_adapter(name) for title, name in titles.items()}
    images = list(images)
    stored = [features] if isinstance(features, Tensor) else features
    if stored is not None and any(len(tensor) != len(images) for tensor in stored):
        raise InputError(f"`features` must have a row for each of the {len(images)} images; got {len(stored[0])}.")
    pixels = None
    maps: dict[str, Tensor] = {}
    captions: dict[str, list[str]] = {}
    for title, name in titles.items():
        config = model.adapters[name].config
        source: Tensor | None = None
        from_features = stored if model.adapters[name].encoder is None else None
        if from_features is None:
            if pixels is None:
                pixels = preprocessing(images).to(next(model.backbone.parameters()).device)
            source = pixels
        if "saliency" in views:
            column = title if len(views) == 1 else f"{title}: saliency"
            maps[column] = gradcam_plus_plus(model, source, features=from_features, adapter_name=name)
            logits = model.read_with_mask(Adapter.mask, source, features=from_features, adapter_name=name).detach()
            captions[column] = [_said(answer, config) for answer in named_answers(logits, config)]
        if "mask" in views and config.inhibition:
            column = title if len(views) == 1 else f"{title}: mask"
            maps[column] = mask_strength(model, source, features=from_features, adapter_name=name)
    faces = [_fitted(preprocessing, image) for image in images]
    return draw_saliency(faces, maps, captions=captions, names=names)


def _is_one_array(images: Any) -> bool:
    """Whether it is a picture `(h, w)` or `(h, w, channels)`, whose lines would be taken for pictures."""
    shape = getattr(images, "shape", ())
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))


def _fitted(preprocessing: Preprocessing, image: Any) -> Any:
    pixels = preprocessing.fit(open_picture(image))
    return pixels[:, :, ::-1] if preprocessing.mode == "BGR" else pixels


def _said(answer: Mapping[str, float], config: CIAOConfig) -> str:
    """What a world says of a face in two short lines at most, first what its map is about."""
    if config.problem_type == "regression":
        ordered = sorted(answer.items(), key=lambda pair: -abs(pair[1]))
        return "\n".join(f"{name} {value:+.2f}" for name, value in ordered[:2])
    first, *rest = answer.items()
    more = [pair for pair in rest[:1] if config.problem_type == "multi_label_classification" and pair[1] >= 0.5]
    return "\n".join(f"{name} {value:.0%}" for name, value in [first, *more])


def draw_saliency(
    faces: Sequence[Image | Any],
    maps: Mapping[str, Tensor],
    *,
    captions: Mapping[str, Sequence[str]] | None = None,
    names: Sequence[str] | None = None,
) -> bytes:
    """Draws faces as rows and worlds or networks as columns, with each map laid over its face.

    The colours of a column run from its smallest value over all faces to its largest, as the bar below them says.

    Args:
        faces: B pictures: arrays `(h, w)`, `(h, w, 1)` or `(h, w, 3)` of uint8, or PIL images, which are drawn upright
            and as an encoder sees their colours, transparent parts on white.
        maps: `(B, H, W)` by the column's title, as `gradcam_plus_plus` and `mask_strength` give them; of one model or
            of several.
        captions: By title, one text under each face.
        names: One text under each face by itself, such as what it shows.

    Returns:
        A PNG file's content.

    Raises:
        InputError: no face, no map, or maps, captions and names that are not one for each face.
        DataError: a PIL image cannot be decoded.
        MissingExtraError: matplotlib is missing; `pip install 'ciao_peft[plots]'` brings it.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> faces = [np.zeros((64, 64, 3), dtype=np.uint8)] * 2
        >>> draw_saliency(faces, {"adults": torch.rand(2, 64, 64)}, names=["Ada", "Bo"])[1:4]
        b'PNG'
    """
    captions = captions or {}
    if len(faces) == 0 or not maps:
        raise InputError(f"There is nothing to draw: {len(faces)} faces, {len(maps)} maps.")
    for title, values in maps.items():
        if values.ndim != 3 or len(values) != len(faces) or not bool(values.isfinite().all()):
            raise InputError(
                f"The maps {quoted(title)} must be ({len(faces)}, H, W), one for each face, and finite; got "
                f"{tuple(values.shape)}."
            )
    for title, texts in captions.items():
        if title not in maps or len(texts) != len(faces):
            raise InputError(
                f"`captions` must have {len(faces)} texts, one for each face, under a title of {listed(maps)}; got "
                f"{len(texts)} under {quoted(title)}."
            )
    if names is not None and len(names) != len(faces):
        raise InputError(f"`names` must be {len(faces)} texts, one for each face; got {len(names)}.")
    return _draw(faces, maps, captions, [""] * len(faces) if names is None else names)


def _draw(
    faces: Sequence[Any],
    maps: Mapping[str, Tensor],
    captions: Mapping[str, Sequence[str]],
    names: Sequence[str],
) -> bytes:
    import textwrap

    import numpy as np
    from PIL import Image

    lines = max((text.count("\n") + 1 for texts in [*captions.values(), names] for text in texts if text), default=0)
    titles = {
        title: "\n".join(textwrap.fill(line, 18, break_long_words=False) for line in title.split("\n"))
        for title in maps
    }
    above = 0.15 + 0.15 * max(title.count("\n") + 1 for title in titles.values())
    columns = 1 + len(maps)
    figure = blank_figure(1.4 * columns, (1.4 + 0.15 * lines) * len(faces) + above + 0.3)
    layout = cast("ConstrainedLayoutEngine", figure.get_layout_engine())
    layout.set(w_pad=0.03, h_pad=0.03, wspace=0.0, hspace=0.0)
    grid = figure.subplots(len(faces), columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for row, face in enumerate(faces):
        picture = as_mode(open_picture(face), "RGB") if isinstance(face, Image.Image) else face
        pixels = np.atleast_3d(np.asarray(picture))
        pixels = pixels.repeat(3, axis=2) if pixels.shape[2] == 1 else pixels
        gray = pixels @ np.array([0.299, 0.587, 0.114])
        height, width = gray.shape
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        grid[row, 0].imshow(pixels)
        grid[row, 0].set_xlabel(names[row], fontsize=8, labelpad=2)
        for axes, (title, values) in zip(grid[row, 1:], maps.items(), strict=True):
            values = values.detach()
            low, high = float(values.min()), float(values.max())
            heat = (values[row].float().cpu().numpy() - low) / ((high - low) or 1)
            axes.imshow(gray, cmap="gray", vmin=0, vmax=255)
            veil = 0.75 * np.clip(heat, 0, 1)  # where little passes, the face stays as it is
            axes.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=veil, extent=extent, interpolation="bilinear")
            if title in captions:
                axes.set_xlabel(captions[title][row], fontsize=8, labelpad=2)
            if row == 0:
                axes.set_title(titles[title], fontsize=9, pad=4)
    width, height = figure.get_size_inches()
    layout.set(rect=(0, 0.3 / height, 1, 1 - 0.3 / height))  # the bar stands below the rest
    length = min(2.0, width - 1.9)
    left = (width - length - 1.5) / 2 + 0.4  # inches; the words take 0.4 before it and 1.1 behind it
    bar = figure.add_axes((left / width, 0.12 / height, length / width, 0.08 / height), in_layout=False)
    bar.imshow(np.linspace(0, 1, 256)[None], cmap="inferno", aspect="auto")
    bar.set_axis_off()
    for place, side, text in ((-0.03, "right", "least"), (1.03, "left", "most in its column")):
        bar.text(place, 0.45, text, transform=bar.transAxes, ha=side, va="center", fontsize=8, in_layout=False)
    return as_png(figure, dpi=100)
