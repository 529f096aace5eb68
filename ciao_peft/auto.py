"""Makes a model from an adapter alone, on the backbone that the adapter names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .backbone import backbone_signature
from .config import check_adapter_name
from .encoders import list_encoders, load_encoder
from .errors import BackboneError, CIAOError, listed, quoted
from .hub import RepoFile, is_hub_id, name_from, read_adapter, read_pretrained
from .installed import check_installed
from .model import CIAOModel
from .preprocessing import Preprocessing
from .remote import is_url
from .saving import MAX_JSON_BYTES, SavedAdapter, read_json
from .surroundings import RANDOM_STATE, outside_inference, random_state_kept

__all__ = ["AutoCIAOModel"]


class AutoCIAOModel:
    """Makes a `CIAOModel` from an adapter alone.

    The backbone is one of this library's encoders, an encoder in a repository or folder, a model of timm (`timm/NAME`)
    or one of transformers, by its repository. No code of a repository is ever run, and no name in a config is imported.

    Raises:
        TypeError: it is called itself; the model comes from `from_pretrained`.

    Example:
        >>> AutoCIAOModel()
        Traceback (most recent call last):
        ...
        TypeError: Call `AutoCIAOModel.from_pretrained(source)`; it makes a CIAOModel.
    """

    def __init__(self) -> None:
        raise TypeError("Call `AutoCIAOModel.from_pretrained(source)`; it makes a CIAOModel.")

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        adapter_name: str | None = None,
        *,
        preprocessing: Preprocessing | None = None,
        check_preprocessing: bool = True,
        **hub: Any,
    ) -> CIAOModel:
        """A model with one saved adapter, active, in eval mode, on the backbone that the adapter names.

        Args:
            source: A folder that `save_pretrained` wrote, a name of `ciao_peft.list_adapters()`, `user/name` on the
                Hub, or the URL of a folder in a store.
            adapter_name: Name to hold it under; the source's last part when left out.
            preprocessing: What the backbone must be fed; what the adapter was trained on when left out.
            check_preprocessing: As for `CIAOModel.load_adapter`.
            **hub: `subfolder`, `revision`, `token`, `cache_dir`, `local_files_only`, `force_download` and
                `storage_options`, as `ciao_peft.hub.read_pretrained` takes them. Those that are not about one
                repository or store hold for the backbone's too.

        Raises:
            BackboneError: the adapter names a backbone that cannot be loaded by name; give it to
                `CIAOModel.from_pretrained`.
            BackboneMismatchError: what goes by that name today is not what the adapter was trained on.
            AdapterFileError, HubError: as `CIAOModel.load_adapter`.

        Example:
            >>> import tempfile
            >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
            >>> config = CIAOConfig(problem_type="regression", num_labels=2)
            >>> folder = get_ciao_model(load_encoder("small-face"), config).save_pretrained(tempfile.mkdtemp() + "/fer")
            >>> AutoCIAOModel.from_pretrained(folder).active_adapter
            'fer'
        """
        name = name_from(source, hub.get("subfolder")) if adapter_name is None else adapter_name
        check_adapter_name(name)
        saved, snapshot = read_adapter(source, **hub)
        options = {key: hub[key] for key in ("token", "cache_dir", "local_files_only") if key in hub}
        if preprocessing is None and saved.preprocessing is not None:
            preprocessing = Preprocessing.from_dict(saved.preprocessing)
        with random_state_kept(), RANDOM_STATE, outside_inference():
            backbone = _backbone_of(saved, preprocessing, options, foreign=snapshot.repo_id is not None)
        return CIAOModel._from_saved(
            backbone,
            name,
            saved,
            str(snapshot),
            preprocessing,
            check_backbone=True,
            check_preprocessing=check_preprocessing,
        ).eval()


def _backbone_of(
    saved: SavedAdapter, preprocessing: Preprocessing | None, options: dict[str, Any], foreign: bool
) -> nn.Module:
    name = saved.backbone_name
    if name == "dlib-face":  # one name for every depth that is in the package

        def cut(pretrained: bool, levels: int) -> nn.Module:
            return load_encoder(name, pretrained=pretrained, levels=levels)

        return _same_architecture(saved, cut, [3, 2, 1])
    if name in list_encoders():
        return load_encoder(name)
    if name.startswith("timm/"):
        return _from_timm(saved)
    if is_hub_id(name) and not re.fullmatch("[0-9a-f]{16}", saved.backbone_revision or ""):
        return _from_repository(saved, preprocessing, options)
    # What has a digest for its revision came from a folder, whose name may look like a stranger's repository.
    if os.path.isdir(name) and not foreign:  # a path that others wrote means nothing here
        return load_encoder(name, preprocessing=preprocessing)
    if is_url(name):
        raise BackboneError(
            f"The adapter was trained on {quoted(name)}; no address is called on because an adapter names it. If it is "
            f"yours: `CIAOModel.from_pretrained(load_encoder({quoted(name)}), source)`."
        )
    raise BackboneError(
        f"The adapter was trained on {quoted(name)}, which is neither an encoder of this library "
        f"({listed(list_encoders())}) "
        "nor `timm/NAME` nor a repository. Make that backbone yourself and call `CIAOModel.from_pretrained(backbone, "
        "source)`."
    )


def _from_timm(saved: SavedAdapter) -> nn.Module:
    name = saved.backbone_name
    if "." not in name and saved.backbone_revision not in (None, "default", "random"):
        name = f"{name}.{saved.backbone_revision}"
    choices = [{"num_classes": 0}, {"num_classes": 1000}]

    def make(pretrained: bool, choice: dict[str, Any]) -> nn.Module:
        return load_encoder(name, pretrained=pretrained, **choice)

    with _named(name):
        return _same_architecture(saved, make, choices)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Raises the errors of other libraries as one that says which backbone it is about."""
    try:
        yield
    except CIAOError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise BackboneError(f"The adapter's backbone {quoted(name)} cannot be loaded: {error}") from error


def _from_repository(saved: SavedAdapter, preprocessing: Preprocessing | None, options: dict[str, Any]) -> nn.Module:
    name, revision = saved.backbone_name, saved.backbone_revision
    pinned = {"revision": revision} if revision and re.fullmatch("[0-9a-f]{40}", revision) else {}

    def read_config(folder: Path) -> dict[str, Any]:
        return read_json(folder / "config.json")

    config, _ = read_pretrained(name, read_config, [RepoFile("config.json", MAX_JSON_BYTES)], **pinned, **options)
    if "model_type" not in config:
        return load_encoder(name, preprocessing=preprocessing, **pinned, **options)
    check_installed("transformers")
    from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

    with _named(name):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **pinned, **options)

    def make(pretrained: bool, kind: Any) -> nn.Module:
        if not pretrained:
            return kind.from_config(config, trust_remote_code=False)
        return kind.from_pretrained(name, trust_remote_code=False, use_safetensors=True, **pinned, **options).eval()

    with _named(name):
        return _same_architecture(saved, make, [AutoModel, AutoModelForImageClassification])


def _same_architecture(saved: SavedAdapter, make: Callable[[bool, Any], nn.Module], choices: list[Any]) -> nn.Module:
    """The first choice whose tensors have the names and shapes that the adapter knows, else the first."""
    architecture = saved.backbone_signature["architecture"]
    fitting = (choice for choice in choices if _empty_architecture(make, choice) == architecture)
    return make(True, next(fitting, choices[0]))


def _empty_architecture(make: Callable[[bool, Any], nn.Module], choice: Any) -> str:
    with torch.device("meta"):
        return backbone_signature(make(False, choice))["architecture"]
