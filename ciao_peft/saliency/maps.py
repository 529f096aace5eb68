"""What the mask lets through: GradCAM++ of M, and the mask itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypedDict, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..adapters import Adapter
from ..checking import is_number
from ..config import CIAOConfig
from ..errors import InputError, quoted
from ..inhibition import InhibitoryLayer
from ..model import CIAOModel
from ..prediction import label_names

__all__ = ["Target", "gradcam_plus_plus", "mask_strength"]

Target = int | str | Sequence[int | str] | Tensor | Callable[[Tensor], Tensor]
"""What a map is to explain: a label for all rows, one for each, or a function from logits `(B, K)` to scores `(B,)`."""


class _Batch(TypedDict):
    pixel_values: Tensor | None
    features: Tensor | Sequence[Tensor] | None


def gradcam_plus_plus(
    model: CIAOModel,
    pixel_values: Tensor | None = None,
    *,
    features: Tensor | Sequence[Tensor] | None = None,
    adapter_name: str | None = None,
    target: Target | None = None,
    scaled: bool = True,
) -> Tensor:
    r"""Maps the regions, after the mask, that support the answer (GradCAM++ of M; Fig. 3).

    $$S^{xy} = \mathrm{ReLU} \sum_c w_c M_c^{xy} \qquad
      w_c = \sum_{xy} \frac{g^2}{2 g^2 + g^3 \sum_{xy} M_c} \, \mathrm{ReLU}(g) \qquad
      g = \partial s / \partial M_c^{xy}$$

    - s is the score of the target, before any softmax.
    - M is the mask of Eq. 1, c its channels, and (x, y) its positions.
    - g is the gradient of the score, and `w_c` the weight of a channel.

    The fraction is computed as `1 / (2 + g sum(M))`, so that small gradients count as large ones do. It is derived for
    answers of a ReLU; where M is signed, as E or the backbone may make it, a sum below zero counts as zero. The maps of
    several masked convolutions are brought to the size of the pixels and added. A copy of the adapter in eval mode is
    used, and the model is not changed.

    Args:
        model: A model with an adapter.
        pixel_values: `(B, C, H, W)`; of clips `(B, T, C, H, W)`.
        features: What `extract_features` gave, or stored features of many faces, in place of the pixels.
        adapter_name: The world to look into; the active adapter when left out.
        target: What the map is to explain: a label's name or index, one of them per row, or a function from logits
            `(B, num_labels)` to scores `(B,)`. When left out, what the adapter says: the likeliest label, or for
            regression the value furthest from zero, negated where it is negative. A named value is never negated.
        scaled: Scale each face's map (each clip's maps together) to 0 to 1, a constant map to 0; `False` gives S
            itself, in units of the score.

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
    name = model.resolve_adapter(adapter_name)
    with torch.inference_mode(False), torch.enable_grad():
        source = _as_data(pixel_values, features)
        masks: dict[int, Tensor] = {}

        def watch(adapter: Adapter, index: int, inputs: Tensor, excitation: Callable[[], Tensor]) -> Tensor:
            with torch.no_grad():
                mask = adapter.mask(index, inputs, excitation)
            masks[index] = mask.detach().clone().requires_grad_()
            return masks[index].clone()  # what follows may write into it

        logits = model.read_with_mask(watch, **source, adapter_name=name)
        scores = _scores(logits, target, model.adapters[name].config)
        seen = list(masks.values())
        gradients = torch.autograd.grad(scores.sum(), seen, materialize_grads=True)
        rows = len(logits) * (model.adapters[name].config.frames or 1)
        contributions = [
            _contribution(_by_row(mask.detach(), rows), _by_row(gradient, rows))
            for mask, gradient in zip(seen, gradients, strict=True)
        ]
    saliency = torch.stack([_upsampled(each, model.input_size[1:]) for each in contributions]).sum(dim=0)
    saliency = _by_clip(saliency, model.adapters[name].config)
    return _scaled(saliency) if scaled else saliency


@torch.no_grad()
def mask_strength(
    model: CIAOModel,
    pixel_values: Tensor | None = None,
    *,
    features: Tensor | Sequence[Tensor] | None = None,
    adapter_name: str | None = None,
) -> Tensor:
    r"""Maps how much an adapter lets through, whatever the backbone answers.

    $$\bar{m}^{xy} = \frac{1}{C'} \sum_c \frac{s}{a_c + I_c^{xy}}$$

    This is what M multiplies u by, or u + E, averaged over the C' channels: a is the decay of a channel, I its
    inhibition; s is 1 for Eq. 1, and in the rescaled form the value at which a started, or 1 where that is below
    (`InhibitoryLayer.gate` has the others). E itself, which an adapter with `excitation_rank` adds to u, is not seen in
    it: where E is large, much may go on from a place where little of u passes. `gradcam_plus_plus` sees all of M.

    Args:
        model: A model with an adapter.
        pixel_values: `(B, C, H, W)`; of clips `(B, T, C, H, W)`.
        features: What `extract_features` gave, or stored features of many faces, in place of the pixels.
        adapter_name: The world to look into; the active adapter when left out.

    Returns:
        `(B, H, W)` in float32 or wider, H and W those of the pixels; above 0, in units of one over the activation for
        Eq. 1 and without a unit in the rescaled form. With
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
        >>> tuple(strength.shape), bool(strength.max() <= 1)
        ((4, 16, 16), True)
    """
    name = model.resolve_adapter(adapter_name)
    if not model.adapters[name].config.inhibition:
        raise InputError(
            f"The adapter {quoted(name)} has no mask (inhibition=False). `gradcam_plus_plus` works without one."
        )
    gates: dict[int, Tensor] = {}

    def watch(adapter: Adapter, index: int, inputs: Tensor, excitation: Callable[[], Tensor]) -> Tensor:
        u = adapter.excitation_of(index, inputs, excitation)
        gates[index] = cast(InhibitoryLayer, adapter.inhibition[index]).gate(inputs, u)
        return adapter.mask(index, inputs, excitation)

    source = _as_data(pixel_values, features)
    config = model.adapters[name].config
    rows = len(model.read_with_mask(watch, **source, adapter_name=name)) * (config.frames or 1)
    strengths = [_by_row(gate, rows) for gate in gates.values()]
    size, channels = model.input_size[1:], sum(strength.shape[1] for strength in strengths)
    total = torch.stack([_upsampled(strength.sum(dim=1), size) for strength in strengths]).sum(dim=0)
    return _by_clip(total / channels, config)


def _as_data(pixel_values: Tensor | None, features: Tensor | Sequence[Tensor] | None) -> _Batch:
    def data(value: Any) -> Any:  # what inference mode made takes no part in gradients
        if not isinstance(value, Tensor):
            return value
        return value.clone() if value.is_inference() else value.detach()

    if isinstance(features, (list, tuple)):
        return {"pixel_values": data(pixel_values), "features": [data(tensor) for tensor in features]}
    return {"pixel_values": data(pixel_values), "features": data(features)}


# -- the mathematics ---------------------------------------------------------------------------------------------------


def _scores(logits: Tensor, target: Target | None, config: CIAOConfig) -> Tensor:
    """The score to explain, one number per row."""
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
    indices = torch.tensor([_index(label, config) for label in targets], device=logits.device)
    return logits.gather(1, indices[:, None]).squeeze(1)


def _index(label: Any, config: CIAOConfig) -> int:
    for index, name in enumerate(label_names(config)):
        if label == name or (label == index and is_number(label, int)):
            return index
    raise InputError(
        f"There is no label {quoted(label)}. Labels: {', '.join(map(repr, label_names(config)))}, or their indices "
        f"from 0 to {config.num_labels - 1}."
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
