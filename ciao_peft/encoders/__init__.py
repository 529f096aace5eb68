"""Encoders by name: networks trained without affect labels, each with the preprocessing it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .attributes import with_preprocessing as with_preprocessing
    from .conversion import convert_encoder as convert_encoder
    from .dlib_face import DlibFace as DlibFace
    from .dlib_network import convert_dlib as convert_dlib
    from .folder import save_encoder as save_encoder
    from .loading import list_encoders as list_encoders
    from .loading import load_encoder as load_encoder
    from .prior_knowledge import PriorKnowledge as PriorKnowledge
    from .push import publish_encoder as publish_encoder
    from .push import push_encoder as push_encoder
    from .small_face import SmallFace as SmallFace
    from .vggface2 import VGGFace2 as VGGFace2

__all__ = [
    "DlibFace",
    "PriorKnowledge",
    "SmallFace",
    "VGGFace2",
    "convert_dlib",
    "convert_encoder",
    "list_encoders",
    "load_encoder",
    "publish_encoder",
    "push_encoder",
    "save_encoder",
    "with_preprocessing",
]

_MODULE_OF = {
    "DlibFace": "dlib_face",
    "PriorKnowledge": "prior_knowledge",
    "SmallFace": "small_face",
    "VGGFace2": "vggface2",
    "convert_dlib": "dlib_network",
    "convert_encoder": "conversion",
    "list_encoders": "loading",
    "load_encoder": "loading",
    "publish_encoder": "push",
    "push_encoder": "push",
    "save_encoder": "folder",
    "with_preprocessing": "attributes",
}

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
