"""Loads encoders by name: networks trained without affect labels, each with the preprocessing it needs."""

from __future__ import annotations

import importlib
import os
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from ..errors import EncoderNotFoundError, listed, quoted
from ..hub import is_hub_id
from ..remote import is_url
from ..surroundings import RANDOM_STATE, outside_inference, random_state_kept

__all__ = ["list_encoders", "load_encoder"]

_ENCODERS = {
    "dlib-face": "dlib_face:load",
    "prior_knowledge": "prior_knowledge:load",
    "small-face": "small_face:load",
    "vggface2": "vggface2:load",
}


def list_encoders() -> list[str]:
    """The names that `load_encoder` accepts, besides `timm/NAME`, folders and repositories.

    Example:
        >>> list_encoders()
        ['dlib-face', 'prior_knowledge', 'small-face', 'vggface2']
    """
    return sorted(_ENCODERS)


def load_encoder(name: str | os.PathLike[str], *, pretrained: bool = True, **settings: Any) -> nn.Module:
    """Loads an encoder, in eval mode and float32.

    The encoder has these attributes: `preprocessing`, the `Preprocessing` of its pictures; `input_size`, their
    channels, height and width; `name`, the name given here; and `revision`, which identifies its weights (`"random"`
    if they are untrained). A model of transformers without `preprocessor_config.json` lacks the first two.

    Args:
        name: One of `list_encoders()`; `timm/NAME` for a model of timm; a folder written by `save_encoder` or by
            `save_pretrained` of transformers, `user/name` for an encoder or a model of either library on the Hub, or
            the URL of such a folder in a store, such as `s3://bucket/encoder`.
        pretrained: Whether to load trained weights; otherwise they are random, drawn from torch's global
            random state. Trained ones leave that as it is.
        settings: Settings of the encoder. `vggface2` and `prior_knowledge`, which ship without weights, take `weights`,
            a folder or repository with them; `dlib-face` takes `levels`, 1 to 3 or with `weights` to 5, behind which it
            is cut; `small-face` takes the settings of `SmallFace`, and timm's models those
            of `timm.create_model`. Folders and repositories take a `preprocessing` that replaces their own, and
            `revision`, `token`, `storage_options` and the like of `ciao_peft.hub.read_pretrained`.

    Returns:
        A network whose last convolutions an adapter can mask.

    Raises:
        EncoderNotFoundError: no encoder has this name.
        ConfigError: the encoder ships without trained weights, and none were given.
        AdapterFileError: the folder or repository holds no encoder, or a damaged one.
        HubError, RemoteError: the Hub or the store does not give the files.

    Example:
        >>> import torch
        >>> encoder = load_encoder("small-face")
        >>> encoder.input_size
        (3, 64, 64)
        >>> encoder(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 128])
    """
    # Builders draw first weights that the trained ones replace: a training in another thread draws before or after.
    kept = random_state_kept() if pretrained else nullcontext()
    with kept, RANDOM_STATE, outside_inference():
        encoder = _loaded(os.path.expanduser(os.fspath(name)), pretrained, settings)
    default = torch.get_default_dtype()
    if default != torch.float32 and all(tensor.dtype == default for tensor in encoder.parameters()):
        encoder.float()
    return encoder.eval()


def _loaded(text: str, pretrained: bool, settings: dict[str, Any]) -> nn.Module:
    if text in _ENCODERS:
        module, function = _ENCODERS[text].split(":")
        load = getattr(importlib.import_module(f".{module}", __package__), function)
        return load(pretrained=pretrained, **settings)
    if text.startswith("timm/"):
        from .from_timm import load

        return load(text.removeprefix("timm/"), pretrained=pretrained, **settings)
    if is_url(text) or os.path.isdir(text) or is_hub_id(text):
        from .from_hub import load

        return load(text, pretrained=pretrained, **settings)
    raise EncoderNotFoundError(
        f"No encoder is named {quoted(text)}, and there is no folder of this name. Encoders: {listed(_ENCODERS)}; "
        "models of timm are called 'timm/NAME', as in `load_encoder('timm/resnet18')`."
    )
