"""What the mask lets through, as a picture: GradCAM++ of M, and the mask itself."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .adapters import Adapter, AdapterDict
from .config import CIAOConfig
from .errors import AdapterNotFoundError, ConfigError, InputError, NoActiveAdapterError, listed
from .model import CIAOModel
from .prediction import named_answers
from .preprocessing.pictures import open_picture

if TYPE_CHECKING:
    from PIL.Image import Image

Target = int | str | Sequence[int | str] | Tensor | Callable[[Tensor], Tensor]
"""What is asked about: a label for all rows, one for each, or a function from logits `(B, K)` to scores `(B,)`."""

VIEWS = ("saliency", "mask")


def gradcam_plus_plus(
    model: CIAOModel,
    pixel_values: Tensor | None = None,
    *,
    features: Sequence[Tensor] | None = None,
    adapter_name: str | None = None,
    target: Target | None = None,
    scaled: bool = True,
) -> Tensor:
    r"""Where on a face lies what the mask lets through and the answer rests on (GradCAM++ of M; Fig. 3).

    $$S^{xy} = \mathrm{ReLU} \sum_c w_c M_c^{xy} \qquad
      w_c = \sum_{xy} \frac{g^2}{2 g^2 + g^3 \sum_{xy} M_c} \, \mathrm{ReLU}(g) \qquad
      g = \partial s / \partial M_c^{xy}$$

    s is the score asked about, before any softmax. The fraction is computed as `1 / (2 + g sum(M))`, so that small
    gradients count as large ones do. It is derived for answers of a ReLU; where those of a backbone are signed, a sum
    below zero counts as zero. Maps of several masked convolutions are added after they were brought to the size of the
    pixels. The model is not changed by looking at it, and is looked at as in eval mode.

    Args:
        model: With an adapter.
        pixel_values: `(B, C, H, W)`; of clips `(B, T, C, H, W)`.
        features: What `extract_features` gave, or stored features of many faces, in place of the pixels.
        adapter_name: The world to look into; the active adapter when left out.
        target: What is asked about: a label's name or index, one of them per row, or a function from logits
            `(B, num_labels)` to scores `(B,)`. When left out, what the adapter says: the likeliest label, or for
            regression the value furthest from zero, downwards where it is negative. A named value is asked about
            upwards.
        scaled: Each face's map (each clip's maps together) from 0 to 1, a constant one 0; `False` gives S itself, in
            units of the score.

    Returns:
        `(B, H, W)` in float32 or wider, H and W those of the pixels; of clips `(B, T, H, W)`.

    Raises:
        InputError: pixels, features or `target` that do not fit.
        AdapterNotFoundError, NoActiveAdapterError: there is no such adapter.

    Example:
        >>> from torch import nn
        >>> from ciao_peft import CIAOConfig, get_ciao_model
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2))
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=3)
        >>> model = get_ciao_model(net, config, input_size=(3, 16, 16))
        >>> gradcam_plus_plus(model, torch.rand(4, 3, 16, 16), target=2).shape
        torch.Size([4, 16, 16])
    """
    name = _adapter_of(model, adapter_name)
    with torch.inference_mode(False), torch.enable_grad():
        source = _as_data(pixel_values, features)
        masks: dict[int, Tensor] = {}

        def watch(adapter: Adapter, index: int, inputs: Tensor, excitation: Callable[[], Tensor]) -> Tensor:
            with torch.no_grad():
                mask = adapter.mask(index, inputs, excitation)
            masks[index] = mask.detach().clone().requires_grad_()
            return masks[index].clone()  # what follows may write into it

        logits = _looked_at(model, name, watch).read(**source, adapter_names=[name])[name]
        scores = _scores(logits, target, model.adapters[name].config)
        found = list(masks.values())
        gradients = torch.autograd.grad(scores.sum(), found, materialize_grads=True)
        rows = len(logits) * (model.adapters[name].config.frames or 1)
        contributions = [
            _contribution(_by_row(mask.detach(), rows), _by_row(gradient, rows))
            for mask, gradient in zip(found, gradients, strict=True)
        ]
    saliency = torch.stack([_upsampled(one, model.input_size[1:]) for one in contributions]).sum(dim=0)
    saliency = _by_clip(saliency, model.adapters[name].config)
    return _scaled(saliency) if scaled else saliency


@torch.no_grad()
def mask_strength(
    model: CIAOModel,
    pixel_values: Tensor | None = None,
    *,
    features: Sequence[Tensor] | None = None,
    adapter_name: str | None = None,
) -> Tensor:
    """How much an adapter lets through, whatever there is: the mean of `1 / (a + I)` over the channels.

    Args:
        model: With an adapter.
        pixel_values: `(B, C, H, W)`; of clips `(B, T, C, H, W)`.
        features: What `extract_features` gave, or stored features of many faces, in place of the pixels.
        adapter_name: Which adapter's; the active one's when left out.

    Returns:
        `(B, H, W)` in float32 or wider, H and W those of the pixels; above 0, in units of one over the activation. With
        several masked convolutions the mean is over the channels of all. Of clips `(B, T, H, W)`.

    Raises:
        InputError: pixels or features that do not fit, or an adapter without inhibition.
        AdapterNotFoundError, NoActiveAdapterError: there is no such adapter.

    Example:
        >>> from torch import nn
        >>> from ciao_peft import CIAOConfig, get_ciao_model
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2))
        >>> config = CIAOConfig(problem_type="regression", num_labels=2, decay_init=2.0)
        >>> model = get_ciao_model(net, config, input_size=(3, 16, 16))
        >>> strength = mask_strength(model, torch.rand(4, 3, 16, 16))
        >>> tuple(strength.shape), bool(strength.max() <= 1 / 2)
        ((4, 16, 16), True)
    """
    name = _adapter_of(model, adapter_name)
    if not model.adapters[name].config.inhibition:
        raise InputError(f"The adapter {name!r} has no mask (inhibition=False). `gradcam_plus_plus` works without one.")
    gates: dict[int, Tensor] = {}

    def watch(adapter: Adapter, index: int, inputs: Tensor, excitation: Callable[[], Tensor]) -> Tensor:
        gates[index] = adapter.inhibition[index].gate(inputs)
        return adapter.mask(index, inputs, excitation)

    source = _as_data(pixel_values, features)
    config = model.adapters[name].config
    rows = len(_looked_at(model, name, watch).read(**source, adapter_names=[name])[name]) * (config.frames or 1)
    found = [_by_row(gate, rows) for gate in gates.values()]
    size, channels = model.input_size[1:], sum(gate.shape[1] for gate in found)
    return _by_clip(torch.stack([_upsampled(gate.sum(dim=1), size) for gate in found]).sum(dim=0) / channels, config)


# -- looking without touching ------------------------------------------------------------------------------------------


def _adapter_of(model: CIAOModel, name: str | None) -> str:
    name = model.active_adapter if name is None else name
    if name is None:
        raise NoActiveAdapterError(model.adapters)
    if name not in model.adapters:
        raise AdapterNotFoundError(name, model.adapters)
    return name


def _as_data(pixel_values: Tensor | None, features: Sequence[Tensor] | None) -> dict[str, Any]:
    def data(given: Any) -> Any:  # what inference mode made takes no part in gradients
        if not isinstance(given, Tensor):
            return given
        return given.clone() if given.is_inference() else given.detach()

    if isinstance(features, (list, tuple)):
        return {"pixel_values": data(pixel_values), "features": [data(one) for one in features]}
    return {"pixel_values": data(pixel_values), "features": data(features)}


def _looked_at(model: CIAOModel, name: str, watch: Callable[..., Tensor]) -> CIAOModel:
    """A model of the same backbone whose adapter `name` is a copy in eval mode, with `watch` in its mask's place."""
    original = copy.deepcopy(model.adapters[name]).eval()
    watched = copy.copy(original)
    watched.mask = lambda *args: watch(original, *args)
    view = copy.copy(model)
    view.__dict__["_modules"] = dict(model._modules)  # shared with the model until here
    view.training = False
    view.adapters = AdapterDict()
    for other, adapter in model.adapters.items():
        view.adapters[other] = watched if other == name else adapter
    return view


# -- the mathematics ---------------------------------------------------------------------------------------------------


def _scores(logits: Tensor, target: Target | None, config: CIAOConfig) -> Tensor:
    """What is asked about, one number per row."""
    if target is None:
        if config.problem_type != "regression":
            return logits.amax(dim=1)
        furthest = logits.abs().argmax(dim=1, keepdim=True)
        chosen = logits.gather(1, furthest)
        return (chosen * chosen.detach().sign()).squeeze(1)
    if callable(target):
        scores = target(logits)
        if not isinstance(scores, Tensor) or scores.shape != logits.shape[:1]:
            got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise InputError(f"A function as `target` must return a tensor of shape ({len(logits)},); got {got}.")
        return scores
    if isinstance(target, Tensor):
        target = target.tolist()
    targets = [target] * len(logits) if isinstance(target, (int, str)) else list(target)
    if len(targets) != len(logits):
        raise InputError(f"`target` must be one label, or one for each of the {len(logits)} rows; got {len(targets)}.")
    indices = torch.tensor([_index(one, config) for one in targets], device=logits.device)
    return logits.gather(1, indices[:, None]).squeeze(1)


def _index(label: Any, config: CIAOConfig) -> int:
    for index, name in config.id2label.items():
        if label == name or (label == index and isinstance(label, int) and not isinstance(label, bool)):
            return index
    raise InputError(
        f"There is no label {label!r}. Labels: {', '.join(map(repr, config.id2label.values()))}, or their indices from "
        f"0 to {config.num_labels - 1}."
    )


def _by_row(maps: Tensor, rows: int) -> Tensor:
    """`(B, C, h, w)` in float32 or wider. Where attention folded heads into the batch, they count as channels."""
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    return maps if len(maps) == rows else maps.unflatten(0, (rows, -1)).flatten(1, 2)


def _by_clip(maps: Tensor, config: CIAOConfig) -> Tensor:
    return maps if config.frames is None else maps.unflatten(0, (-1, config.frames))


def _contribution(mask: Tensor, gradient: Tensor) -> Tensor:
    """S, `(B, h, w)`, of M and g, `(B, C, h, w)`."""
    total = mask.sum(dim=(2, 3), keepdim=True).relu()
    gain = gradient.relu()
    weights = (gain / (2 + total * gain)).sum(dim=(2, 3), keepdim=True)
    return (weights * mask).sum(dim=1).relu()


def _upsampled(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps[:, None], size=tuple(size), mode="bilinear", align_corners=False).squeeze(1)


def _scaled(maps: Tensor) -> Tensor:
    each = tuple(range(1, maps.ndim))
    maps = maps - maps.amin(dim=each, keepdim=True)
    largest = maps.amax(dim=each, keepdim=True)
    return maps / torch.where(largest > 0, largest, 1)


# -- pictures ----------------------------------------------------------------------------------------------------------


def saliency_picture(
    model: CIAOModel,
    images: Sequence[Any],
    adapter_names: Sequence[str] | None = None,
    *,
    views: Sequence[str] = ("saliency",),
) -> bytes:
    """Faces as an encoder sees them, and beside each where every world looks and what it says.

    It shows the faces themselves: ask the people before it is published.

    Args:
        model: With a preprocessing.
        images: Paths, PIL images or arrays, as `model.predict` takes them; one row each.
        adapter_names: The worlds; all when left out.
        views: `"saliency"` (GradCAM++ of M), `"mask"` (the mean of `1 / (a + I)`), or both. Worlds without inhibition
            have no mask to show.

    Returns:
        A PNG file's content, as `save_pretrained` and `push_to_hub` take it for `picture`.

    Raises:
        ConfigError: `views` names something else.
        InputError: the model has no preprocessing, or there is nothing to draw.
        DataError: a picture cannot be read.
        AdapterNotFoundError: a name is not loaded.
    """
    if unknown := set(views) - set(VIEWS):
        raise ConfigError(f"`views` knows {listed(VIEWS)}; got {listed(unknown)}.")
    if model.preprocessing is None:
        raise InputError(
            "This backbone does not say how pictures must be prepared for it; give `preprocessing=` to get_ciao_model."
        )
    names = [_adapter_of(model, name) for name in (model.adapters if adapter_names is None else adapter_names)]
    images = list(images)
    pixels = model.preprocessing(images).to(next(model.backbone.parameters()).device)
    maps: dict[str, Tensor] = {}
    captions: dict[str, list[str]] = {}
    for name in names:
        config = model.adapters[name].config
        if "saliency" in views:
            title = name if len(views) == 1 else f"{name}: saliency"
            maps[title] = gradcam_plus_plus(model, pixels, adapter_name=name)
            logits = _looked_at(model, name, Adapter.mask).read(pixels, adapter_names=[name])[name].detach()
            captions[title] = [_said(answer, config) for answer in named_answers(logits, config)]
        if "mask" in views and config.inhibition:
            maps[name if len(views) == 1 else f"{name}: mask"] = mask_strength(model, pixels, adapter_name=name)
    faces = [_fitted(model, image) for image in images]
    return draw_saliency(faces, maps, captions=captions)


def _fitted(model: CIAOModel, image: Any) -> Any:
    pixels = model.preprocessing.fit(open_picture(image))
    return pixels[:, :, ::-1] if model.preprocessing.mode == "BGR" else pixels


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
) -> bytes:
    """Faces as rows, worlds or networks as columns, each map laid over its face.

    The colours of a column go from its smallest value to its largest, over all faces.

    Args:
        faces: B pictures: arrays `(h, w)`, `(h, w, 1)` or `(h, w, 3)` of uint8, or PIL images.
        maps: `(B, H, W)` by the column's title, as `gradcam_plus_plus` and `mask_strength` give them; of one model or
            of several.
        captions: By title, one text under each face.

    Returns:
        A PNG file's content.

    Raises:
        InputError: no face, no map, or maps and captions that are not one for each face.
        ModuleNotFoundError: matplotlib is missing; `pip install 'ciao_peft[plots]'` brings it.
    """
    captions = captions or {}
    if len(faces) == 0 or not maps:
        raise InputError(f"There is nothing to draw: {len(faces)} faces, {len(maps)} maps.")
    for title, values in maps.items():
        if values.ndim != 3 or len(values) != len(faces) or not bool(values.isfinite().all()):
            raise InputError(
                f"The maps {title!r} must be ({len(faces)}, H, W), one for each face, and finite; got "
                f"{tuple(values.shape)}."
            )
    for title, texts in captions.items():
        if title not in maps or len(texts) != len(faces):
            raise InputError(
                f"`captions` must have {len(faces)} texts, one for each face, under a title of {listed(maps)}; got "
                f"{len(texts)} under {title!r}."
            )
    return _draw(faces, maps, captions)


def _draw(faces: Sequence[Any], maps: Mapping[str, Tensor], captions: Mapping[str, Sequence[str]]) -> bytes:
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = max((text.count("\n") + 1 for texts in captions.values() for text in texts), default=0)
    columns = 1 + len(maps)
    figure = Figure(figsize=(1.4 * columns, (1.4 + 0.15 * lines) * len(faces) + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.0, hspace=0.0)
    grid = figure.subplots(len(faces), columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for row, face in enumerate(faces):
        pixels = np.atleast_3d(np.asarray(face))
        pixels = pixels.repeat(3, axis=2) if pixels.shape[2] == 1 else pixels
        gray = pixels @ np.array([0.299, 0.587, 0.114])
        height, width = gray.shape
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        grid[row, 0].imshow(pixels)
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
                axes.set_title(title, fontsize=9, pad=4)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100, metadata={"Software": None})
    return file.getvalue()
