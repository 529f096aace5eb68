"""The `config.json` of an adapter's folder: by it, transformers' `Auto` classes and the Hub know what the folder is."""

from __future__ import annotations

import os

from ..config import CIAOConfig
from ..door import parse_json, read_file
from ..errors import CIAOError
from .files import MAX_JSON_BYTES, local_path, to_json

__all__ = ["HUB_CONFIG_FILE", "hub_config", "is_no_other_models", "may_be_written"]

HUB_CONFIG_FILE = "config.json"
"""The file that tells others what the folder is. This library reads nothing from it."""

_MODEL_TYPE = "ciao"


def hub_config(config: CIAOConfig) -> bytes:
    """The content of an adapter's `config.json`: its kind, its labels and its problem.

    Args:
        config: Of the adapter.

    Example:
        >>> import json
        >>> json.loads(hub_config(CIAOConfig(problem_type="regression", num_labels=1)))["model_type"]
        'ciao'
    """
    return to_json(
        {
            "model_type": _MODEL_TYPE,
            "architectures": ["CIAOForImageClassification"],
            "problem_type": config.problem_type,
            "id2label": {str(index): name for index, name in config.id2label.items()},
            "label2id": {name: index for index, name in config.id2label.items()},
        }
    )


def is_no_other_models(content: bytes | str | None) -> bool:
    """Whether a `config.json` may be written in place of this one: there is none, or it is an adapter's.

    Args:
        content: Of the file that is there; None where there is none.

    Example:
        >>> is_no_other_models(None), is_no_other_models('{"model_type": "resnet"}')
        (True, False)
    """
    if content is None:
        return True
    try:
        value = parse_json(content if isinstance(content, bytes) else content.encode(), HUB_CONFIG_FILE)
    except CIAOError:
        return False
    return isinstance(value, dict) and value.get("model_type") == _MODEL_TYPE


def may_be_written(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder has no `config.json`, or an adapter's: that of another model stays.

    Args:
        folder: Where an adapter is to be saved.

    Example:
        >>> import tempfile
        >>> may_be_written(tempfile.mkdtemp())
        True
    """
    path = local_path(folder) / HUB_CONFIG_FILE
    if not os.path.lexists(path):
        return True
    try:
        return is_no_other_models(read_file(path, MAX_JSON_BYTES))
    except CIAOError:
        return False
