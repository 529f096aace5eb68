"""Many small affective worlds on one frozen face encoder: contrastive inhibitory adaptation.

Every public name is imported when it is first used, so that `import ciao_peft` costs next to nothing.

Example:
    >>> from ciao_peft import CIAOConfig
    >>> CIAOConfig(problem_type="regression", num_labels=2).tuning
    'decision_layer'
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import TYPE_CHECKING, Any

from ._lazy import lazy_names
from ._version import __version__ as __version__

if TYPE_CHECKING:
    from .auto import AutoCIAOModel
    from .config import CIAOConfig
    from .data import load_faces
    from .encoders import list_encoders, load_encoder
    from .errors import CIAOError
    from .features import cache_features
    from .hub import list_adapters
    from .losses import supervised_contrastive_loss
    from .model import CIAOModel, CIAOOutput, get_ciao_model
    from .online import FeatureMemory, OnlineArguments, OnlineTrainer, OnlineUpdate
    from .preprocessing import Preprocessing
    from .reader import FaceReader
    from .saliency import draw_saliency, gradcam_plus_plus, mask_strength, saliency_picture
    from .trainer import AdapterJob, AdapterTraining, CIAOTrainer, CIAOTrainingArguments, train_adapters

__all__ = [
    "AdapterJob",
    "AdapterTraining",
    "AutoCIAOModel",
    "CIAOConfig",
    "CIAOError",
    "CIAOModel",
    "CIAOOutput",
    "CIAOTrainer",
    "CIAOTrainingArguments",
    "FaceReader",
    "FeatureMemory",
    "OnlineArguments",
    "OnlineTrainer",
    "OnlineUpdate",
    "Preprocessing",
    "cache_features",
    "draw_saliency",
    "get_ciao_model",
    "gradcam_plus_plus",
    "list_adapters",
    "list_encoders",
    "load_encoder",
    "load_faces",
    "mask_strength",
    "saliency_picture",
    "supervised_contrastive_loss",
    "train_adapters",
]

_ROOM_OF = {
    "AdapterJob": "trainer",
    "AdapterTraining": "trainer",
    "AutoCIAOModel": "auto",
    "CIAOConfig": "config",
    "CIAOError": "errors",
    "CIAOModel": "model",
    "CIAOOutput": "model",
    "CIAOTrainer": "trainer",
    "CIAOTrainingArguments": "trainer",
    "FaceReader": "reader",
    "FeatureMemory": "online",
    "OnlineArguments": "online",
    "OnlineTrainer": "online",
    "OnlineUpdate": "online",
    "Preprocessing": "preprocessing",
    "cache_features": "features",
    "draw_saliency": "saliency",
    "get_ciao_model": "model",
    "gradcam_plus_plus": "saliency",
    "list_adapters": "hub",
    "list_encoders": "encoders",
    "load_encoder": "encoders",
    "load_faces": "data",
    "mask_strength": "saliency",
    "saliency_picture": "saliency",
    "supervised_contrastive_loss": "losses",
    "train_adapters": "trainer",
}


_get, __dir__ = lazy_names(__name__, _ROOM_OF)


def __getattr__(name: str) -> Any:
    if name in _ROOM_OF:
        _meet()
    return _get(name)


def _meet() -> None:
    """Tells transformers' `Auto` classes and peft of our folders, where a program has them; loads nothing otherwise."""
    for theirs, ours in (("transformers.models.auto.modeling_auto", "transformers"), ("peft.mapping", "peft")):
        if {theirs, "torch"} <= sys.modules.keys():
            # A version that lacks what is asked of it must not break this import; importing the module itself says why.
            with contextlib.suppress(ImportError, AttributeError, TypeError):
                importlib.import_module(f".integrations.{ours}", __name__)


_meet()
