"""An adapter's folder: written whole or not at all, and read with suspicion."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..checking import all_finite, check_choice
from ..config import CIAOConfig
from ..errors import AdapterConfigError, AdapterFileError, ConfigError, listed, quoted
from ..preprocessing.processors import PROCESSOR_TYPE
from ..presets import over_paper
from .auto_class_files import HUB_CONFIG_FILE, hub_config, may_be_written
from .digest import DIGEST, check_digest, read_covered, sha256_of, with_digest
from .files import MAX_JSON_BYTES, local_path, read_json, read_steadily, to_json, write_folder
from .int8 import from_int8, in_int8
from .safetensors_file import parse_tensors, read_weights

__all__ = [
    "CARD_FILE",
    "CONFIG_FILE",
    "FORMAT_VERSION",
    "PICTURE_FILE",
    "PREPROCESSOR_FILE",
    "WEIGHTS_FILE",
    "SavedAdapter",
    "check_tensors",
    "in_dtype",
    "library_versions",
    "load_adapter",
    "save_adapter",
]

FORMAT_VERSION = 3
"""The newest version of the folder's format; folders up to this version are read."""

_WITHOUT_INT8 = 2  # what is written wherever weights are not rounded, so that earlier releases read it

_WITHOUT_DIGEST = 1  # the last version whose folders have none

CONFIG_FILE = "adapter_config.json"
"""The file of the config, and of everything else that is plain data."""

WEIGHTS_FILE = "adapter_model.safetensors"
"""The file of the adapter's tensors."""

PREPROCESSOR_FILE = "preprocessor_config.json"
"""The file of what the encoder must be fed, where that is known."""

CARD_FILE = "README.md"
"""The file of the model card."""

PICTURE_FILE = "saliency.png"
"""The file of the picture on the model card, where there is one."""

_REQUIRED = {
    "peft_type": str,
    "format_version": int,
    "config": dict,
    "base_model_name_or_path": str,
    "backbone_signature": dict,
    "input_size": list,
    "convolutions": list,
    "weights_sha256": str,
    "weights_bytes": int,
}
WEIGHTS_DTYPES = ("float16", "int8")
"""What `save_pretrained` takes as `dtype`."""

_OPTIONAL = {
    "weights_dtype": str,
    "revision": (str, type(None)),
    "versions": dict,
    "training": dict,
    "trained_parameters": (int, type(None)),
}


@dataclass(frozen=True, kw_only=True)
class SavedAdapter:
    """One adapter as its folder holds it.

    Args:
        config: Its settings, with `target_modules` filled in, and with paths for `depths`.
        backbone_name: The name by which the backbone it was trained on can be loaded.
        backbone_revision: The revision of that backbone, or None.
        backbone_signature: What `ciao_peft.backbone.backbone_signature` returned for it.
        input_size: `(C, H, W)` of the pixels.
        convolutions: Geometry of each masked convolution.
        tensors: Everything the adapter owns, by flat key, such as `inhibition.0.raw_decay`.
        preprocessing: Content of `preprocessor_config.json`, or None.
        training: What was recorded of how it was made: dataset, seed, metrics. Plain data.
        trained_parameters: The number of values that its training changed.
        versions: Versions of the libraries that wrote it, by name.
        weights_dtype: `"int8"` where `tensors` holds rounded weights and their steps (`in_int8`), which those of a
            folder that was read no longer are.

    Example:
        >>> from ciao_peft import get_ciao_model, load_encoder
        >>> config = CIAOConfig(problem_type="regression", num_labels=2)
        >>> saved = get_ciao_model(load_encoder("small-face"), config).saved_adapter(training={"seed": 0})
        >>> saved.backbone_name, saved.training, saved.config.num_labels
        ('small-face', {'seed': 0}, 2)
    """

    config: CIAOConfig
    backbone_name: str
    backbone_revision: str | None
    backbone_signature: dict[str, Any]
    input_size: tuple[int, int, int]
    convolutions: list[dict[str, Any]]
    tensors: dict[str, Tensor] = field(repr=False)
    preprocessing: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    trained_parameters: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    weights_dtype: str | None = None


def save_adapter(
    folder: str | os.PathLike[str],
    adapter: SavedAdapter,
    extra_files: Callable[[dict[str, Any]], Mapping[str, bytes]] | None = None,
) -> Path:
    """Writes an adapter's folder; whoever reads meanwhile sees the old one or the new one.

    Args:
        folder: Made where it is missing. Files in it that are not the adapter's stay.
        adapter: What to write.
        extra_files: Makes more files of the adapter, such as its model card, from what its config will hold.

    Returns:
        The folder.

    Raises:
        AdapterFileError: a value is not finite, the folder is a file, the disk refuses, `training` is no plain data, or
            the config is larger than any that is read; what was there stays.

    Example:
        >>> import tempfile
        >>> from ciao_peft import get_ciao_model, load_encoder
        >>> config = CIAOConfig(problem_type="regression", num_labels=2)
        >>> saved = get_ciao_model(load_encoder("small-face"), config).saved_adapter()
        >>> folder = save_adapter(Path(tempfile.mkdtemp(), "fer"), saved)
        >>> load_adapter(folder).config == saved.config
        True
    """
    from safetensors.torch import save

    tensors = {key: tensor.detach().to("cpu").contiguous().clone() for key, tensor in sorted(adapter.tensors.items())}
    if broken := [key for key, tensor in tensors.items() if not all_finite(tensor)]:
        raise AdapterFileError(
            f"The adapter holds NaN or infinite values in {listed(broken)}: its training diverged. Nothing was saved "
            f"in '{folder}'; train it again with lower learning rates."
        )
    weights = save(tensors, metadata={"format": "pt"})
    record = {
        "peft_type": "CIAO",
        "format_version": _WITHOUT_INT8,
        "base_model_name_or_path": adapter.backbone_name,
        "revision": adapter.backbone_revision,
        "backbone_signature": adapter.backbone_signature,
        "input_size": list(adapter.input_size),
        "convolutions": adapter.convolutions,
        "config": adapter.config.to_dict(),
        "weights_sha256": sha256_of(weights),
        "weights_bytes": len(weights),
        "trained_parameters": adapter.trained_parameters,
        "versions": adapter.versions,
        "training": adapter.training,
    }
    if adapter.weights_dtype is not None:
        record |= {"format_version": FORMAT_VERSION, "weights_dtype": adapter.weights_dtype}
    covered = {WEIGHTS_FILE: record["weights_sha256"]}
    files = {WEIGHTS_FILE: weights}
    try:
        if adapter.preprocessing is not None:
            files[PREPROCESSOR_FILE] = to_json(adapter.preprocessing | PROCESSOR_TYPE)
            covered[PREPROCESSOR_FILE] = sha256_of(files[PREPROCESSOR_FILE])
        files[CONFIG_FILE] = with_digest(record, covered)
    except (TypeError, ValueError, RecursionError) as error:
        raise AdapterFileError(
            f"What is to be recorded of the adapter is no plain data: {error}. Nothing was saved; `training` "
            "takes finite numbers, text, true, false, None, lists and dicts."
        ) from None
    if len(files[CONFIG_FILE]) > MAX_JSON_BYTES:
        raise AdapterFileError(
            f"The config of the adapter would have {len(files[CONFIG_FILE]):,} bytes, and none above "
            f"{MAX_JSON_BYTES:,} is read. Nothing was saved; give shorter names in `id2label`, or less in "
            "`training`."
        )
    if may_be_written(folder):
        files = {HUB_CONFIG_FILE: hub_config(adapter.config), **files}
    files = {**(extra_files(record) if extra_files else {}), **files}  # the config comes last
    return write_folder(folder, files, replacing=(PREPROCESSOR_FILE, PICTURE_FILE))


def load_adapter(folder: str | os.PathLike[str]) -> SavedAdapter:
    """Reads an adapter's folder; nothing in it is executed, unpickled or imported.

    Args:
        folder: A folder that `save_adapter` wrote.

    Returns:
        The adapter. Its tensors are mapped from the file.

    Raises:
        AdapterFileError: a file is missing, truncated, altered, or of another kind.
        AdapterConfigError: `adapter_config.json` is not one this version can read.

    Example:
        >>> load_adapter("no/such/folder")
        Traceback (most recent call last):
        ...
        ciao_peft.errors.AdapterFileError: No adapter folder at 'no/such/folder'. Give a folder that \
`save_pretrained` wrote.
    """
    return read_steadily(local_path(folder), _load)


def _load(folder: Path) -> SavedAdapter:
    if not folder.is_dir():
        raise AdapterFileError(f"No adapter folder at '{folder}'. Give a folder that `save_pretrained` wrote.")
    path = folder / CONFIG_FILE
    record = read_json(path)
    config = _check_record(record, path)
    weights = read_weights(folder / WEIGHTS_FILE, record["weights_bytes"], record["weights_sha256"])
    covered, preprocessing = {WEIGHTS_FILE: record["weights_sha256"]}, None
    preprocessor = folder / PREPROCESSOR_FILE
    if os.path.lexists(preprocessor):  # a link that leads nowhere is an error, not "none"
        stored, covered[PREPROCESSOR_FILE] = read_covered(preprocessor)
        preprocessing = {key: value for key, value in stored.items() if PROCESSOR_TYPE.get(key) != value}
    if record["format_version"] > _WITHOUT_DIGEST:
        check_digest(record, covered, path, version=_WITHOUT_DIGEST)
    tensors = parse_tensors(weights, folder / WEIGHTS_FILE)
    return SavedAdapter(
        config=config,
        backbone_name=record["base_model_name_or_path"],
        backbone_revision=record.get("revision"),
        backbone_signature=record["backbone_signature"],
        input_size=tuple(record["input_size"]),
        convolutions=record["convolutions"],
        tensors=from_int8(tensors, folder / WEIGHTS_FILE) if "weights_dtype" in record else tensors,
        preprocessing=preprocessing,
        training=record.get("training", {}),
        trained_parameters=record.get("trained_parameters"),
        versions=record.get("versions", {}),
    )


def _check_record(record: dict[str, Any], path: Path) -> CIAOConfig:
    def refuse(what: str) -> NoReturn:
        raise AdapterConfigError(f"'{path}' {what}")

    if record.get("peft_type") != "CIAO":
        refuse(f"is of peft_type {quoted(record.get('peft_type'))}; this library reads 'CIAO'.")
    version = record.get("format_version")
    if type(version) is not int or version < 1:
        refuse(f"has format_version {quoted(version)}, which is no version.")
    if version > FORMAT_VERSION:
        refuse(
            f"has format_version {version}; this version reads up to {FORMAT_VERSION}. Upgrade: pip install -U "
            "ciao_peft."
        )
    required = _REQUIRED | ({DIGEST: str} if version > _WITHOUT_DIGEST else {})
    if unknown := set(record) - set(required) - set(_OPTIONAL):
        refuse(f"has unknown entries {listed(unknown)}; none is ignored, as it could change the mathematics.")
    if missing := set(required) - set(record):
        refuse(f"lacks {listed(missing)}.")
    for name, kind in (required | _OPTIONAL).items():
        if name in record and (not isinstance(record[name], kind) or isinstance(record[name], bool)):
            refuse(f"has {quoted(record[name])} for {quoted(name)}, which is of the wrong type.")
    if record.get("weights_dtype", "int8") != "int8":
        refuse(f"has weights in {quoted(record['weights_dtype'])}; this version knows 'int8'.")
    size, signature = record["input_size"], record["backbone_signature"]
    if len(size) != 3 or not all(type(n) is int and 1 <= n <= 65_536 for n in size):
        refuse(f"has the input_size {quoted(size)}; three whole numbers were expected.")
    numbers = [signature.get("weights"), signature.get("tensors")]
    plain = all(isinstance(row, list) and len(row) == 16 for row in numbers) and all(
        type(n) in (int, float) and abs(n) < 1e9 for row in numbers for n in row
    )
    if not plain or not isinstance(signature.get("architecture"), str):
        refuse("has a backbone_signature that is none.")
    try:
        config = CIAOConfig.from_dict(over_paper(record["config"]))
    except ConfigError as error:
        raise AdapterConfigError(f"'{path}': {error}") from error
    if config.target_modules is None or len(record["convolutions"]) != len(config.target_modules):
        refuse("does not name one convolution for each geometry in 'convolutions'.")
    if isinstance(config.depths, int):
        refuse(f"has {config.depths} for 'depths', where a saved adapter names them.")
    return config


def in_dtype(tensors: Mapping[str, Tensor], dtype: str | None) -> dict[str, Tensor]:
    """An adapter's tensors as they are to be saved: weights in a smaller dtype, vectors and numbers as they are.

    Args:
        tensors: Everything the adapter owns.
        dtype: `"float16"`, `"int8"` (`in_int8`), or None for the dtypes that they have.

    Raises:
        ConfigError: another dtype.
        AdapterFileError: a finite weight is beyond what the dtype holds.

    Example:
        >>> halves = in_dtype({"0.weight": torch.ones(2, 2), "0.bias": torch.ones(2)}, "float16")
        >>> {key: str(tensor.dtype) for key, tensor in halves.items()}
        {'0.weight': 'torch.float16', '0.bias': 'torch.float32'}
    """
    if dtype is None:
        return dict(tensors)
    check_choice("dtype", dtype, WEIGHTS_DTYPES)
    if dtype == "int8":
        return in_int8(tensors)
    smaller = {key: tensor.half() for key, tensor in tensors.items() if tensor.is_floating_point() and tensor.ndim > 1}
    if large := [key for key, half in smaller.items() if all_finite(tensors[key]) and not all_finite(half)]:
        raise AdapterFileError(
            f"The adapter has weights beyond 65504 in {listed(large)}, which float16 does not hold. Save it without "
            "`dtype`."
        )
    return dict(tensors) | smaller


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Refuses tensors that are not exactly the expected ones, in name, shape and kind of number.

    Args:
        tensors: Tensors from a folder.
        expected: The tensors that an adapter with the folder's config has.
        where: The folder, for the message.

    Raises:
        AdapterFileError: lists what is missing, what is more, and what has another shape.

    Example:
        >>> check_tensors({"head.0.bias": torch.zeros(3)}, {"head.0.bias": torch.zeros(2)}, "runs/fer")
        Traceback (most recent call last):
        ...
        ciao_peft.errors.AdapterFileError: The adapter in 'runs/fer' has 'head.0.bias' of shape (3,) for (2,). \
Nothing was loaded.
    """
    problems: list[str] = []
    if missing := set(expected) - set(tensors):
        problems.append(f"lacks {listed(missing)}")
    if more := set(tensors) - set(expected):
        problems.append(f"holds {listed(more)}, which no adapter with this config has")
    for key in sorted(set(expected) & set(tensors)):
        if tensors[key].shape != expected[key].shape:
            problems.append(f"has {quoted(key)} of shape {tuple(tensors[key].shape)} for {tuple(expected[key].shape)}")
        elif not _same_kind(tensors[key].dtype, expected[key].dtype):
            problems.append(f"has {quoted(key)} in {tensors[key].dtype} for {expected[key].dtype}")
        elif tensors[key].dtype != expected[key].dtype and not all_finite(tensors[key].to(expected[key].dtype)):
            problems.append(f"has {quoted(key)} with values that {expected[key].dtype} cannot hold")
    if problems:
        raise AdapterFileError(f"The adapter in '{where}' {'; '.join(problems)}. Nothing was loaded.")


def _same_kind(one: torch.dtype, other: torch.dtype) -> bool:
    return one == other or (one.is_floating_point and other.is_floating_point)


def library_versions() -> dict[str, str]:
    """Versions of Python, torch, this library and safetensors, to be recorded with what they wrote.

    Example:
        >>> sorted(library_versions())
        ['ciao_peft', 'python', 'safetensors', 'torch']
    """
    import platform
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("ciao_peft", "safetensors"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # run from a source tree that is not installed
            versions[name] = "not installed"
    return versions
