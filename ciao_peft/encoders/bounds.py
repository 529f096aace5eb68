"""What a file may ask for when an encoder is built from it: no other source, no more memory than its weights need."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..door import open_file, parse_json
from ..errors import AdapterFileError, ConfigError, FileReadError, shortened
from ..saving.safetensors_file import MAX_HEADER_BYTES, kind_of

__all__ = ["bounded_building", "check_config", "weights_budget"]

MOST_TENSORS = 50_000
"""How many tensors a network may make while it is built; the largest of timm make some thousands."""

BYTES_WITHOUT_WEIGHTS = 2 * 2**30
"""How large a network may be that is built with random weights."""

_SLACK = 256 * 2**20  # of what is made and dropped while a network is built
_LARGEST, _LARGEST_COUNT = 2**24, 100_000
_COUNTS = ("num_", "_num_", "depth", "n_layer")
_PLACES = re.compile(r"\s*(?:hf[-_]hub|local[-_]dir|https?|ftp|s3|gs|file|hf)\s*:", re.IGNORECASE)
# Settings that make transformers or timm look elsewhere, wherever in a config they stand.
_ELSEWHERE = {
    *("use_pretrained_backbone", "quantization_config", "use_kernels", "checkpoint_path", "pretrained_cfg_overlay"),
    *("hf_hub_id", "hf_hub_filename", "url", "state_dict", "cache_dir"),
}


def check_config(config: Any, where: str) -> None:
    """Refuses what would make the building of a network look elsewhere, or build without an end.

    Args:
        config: Plain data from a file: the architecture of an encoder, or a config of transformers or timm.
        where: The file, for the message.

    Raises:
        ConfigError: something in it, however deep, names another repository, folder, file or address; or a number in
            it is larger than any network needs.

    Example:
        >>> check_config({"backbone_config": {"backbone": "hf-hub:evil/x"}}, "config.json")
        Traceback (most recent call last):
        ...
        ciao_peft.errors.ConfigError: 'config.json' says with 'backbone' that a part comes from 'hf-hub:evil/x'. ...
    """
    import timm

    level: list[tuple[str, Any]] = [("", config)]
    while level:
        inner: list[tuple[str, Any]] = []
        for key, value in level:
            if isinstance(value, Mapping):
                inner += [(str(name), item) for name, item in value.items()]
            elif isinstance(value, (list, tuple)):
                inner += [(key, item) for item in value]
            if key in _ELSEWHERE and value:
                raise _elsewhere(where, key, value)
            if isinstance(value, str):
                names_a_kernel = key.endswith("attn_implementation") and "/" in value
                # The name of a network of timm, and no place where one could be found.
                no_network = key == "backbone" and not timm.is_model(value.partition(".")[0])
                if _PLACES.match(value) or names_a_kernel or no_network:
                    raise _elsewhere(where, key, value)
            most = _LARGEST_COUNT if key.startswith(_COUNTS) else _LARGEST
            if isinstance(value, int) and abs(value) > most:
                got = shortened(repr(value), 40)
                raise ConfigError(
                    f"'{where}' has {got} as {shortened(repr(key))}; no network needs more than {most:,}."
                )
        level = inner


def _elsewhere(where: str, key: str, value: Any) -> ConfigError:
    return ConfigError(
        f"'{where}' says with {shortened(repr(key))} that a part comes from {shortened(repr(value))}. A file brings "
        "its own weights and names no other place. Make the model yourself if you trust it, and give it to "
        "`get_ciao_model`."
    )


def weights_budget(path: Path) -> int:
    """How many bytes a network may take whose weights lie in a file.

    Args:
        path: A file of safetensors, of which the header is read; it may be missing.

    Raises:
        AdapterFileError: it is no regular file, or has another size than its header says: it is cut, or has a hole.

    Example:
        >>> weights_budget(Path("no such file")) == BYTES_WITHOUT_WEIGHTS
        True
    """
    if not os.path.exists(path):
        return BYTES_WITHOUT_WEIGHTS
    with open_file(path, error=AdapterFileError) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= min(size - 8, MAX_HEADER_BYTES) else b""
    try:
        entries = parse_json(header, path)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
        promised = 8 + length + max(ends, default=0)
    except (FileReadError, AttributeError, LookupError, TypeError):
        raise AdapterFileError(f"'{path}' has no header of safetensors{kind_of(path)}. Get it anew.") from None
    if size != promised:
        raise AdapterFileError(f"'{path}' has {size:,} bytes, and its header tells of {promised:,}. Get it anew.")
    return 4 * size + _SLACK  # weights in a quarter of the network's precision


@contextlib.contextmanager
def bounded_building(max_bytes: int, where: str) -> Iterator[None]:
    """While it is open, this thread makes tensors of so many bytes in all, and no more; other threads are left alone.

    Args:
        max_bytes: Of all tensors together, on whatever device.
        where: The file, for the message.

    Raises:
        AdapterFileError: more was asked for, before it is allocated.

    Example:
        >>> with bounded_building(1000, "config.json"):
        ...     torch.nn.Linear(10**6, 10**6)
        Traceback (most recent call last):
        ...
        ciao_peft.errors.AdapterFileError: 'config.json' describes a network of more than 1,000 bytes...
    """
    with _Bounded(max_bytes, where):
        yield


class _Bounded(TorchFunctionMode):
    """Adds up what the functions that make tensors are asked for, before they make it."""

    def __init__(self, max_bytes: int, where: str):
        super().__init__()
        self._max_bytes, self._where = max_bytes, where
        self._bytes = self._made = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _MAKERS:
            self._made += 1
            self._bytes += _asked_for(name, args, kwargs)
            if self._bytes > self._max_bytes or self._made > MOST_TENSORS:
                what = f"{self._max_bytes:,} bytes" if self._bytes > self._max_bytes else f"{MOST_TENSORS:,} tensors"
                raise AdapterFileError(
                    f"'{self._where}' describes a network of more than {what}, which its weights cannot fill."
                )
        return func(*args, **kwargs)


_MAKERS = {
    *("empty", "zeros", "ones", "full", "rand", "randn", "randint", "eye", "arange", "linspace", "logspace"),
    *("randperm", "empty_strided", "new_empty", "new_zeros", "new_ones", "new_full", "repeat", "empty_like"),
    *("zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "clone", "tensor"),
}


def _asked_for(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    dtype = kwargs.get("dtype")
    itemsize = dtype.itemsize if isinstance(dtype, torch.dtype) else 4
    first = args[0] if args else kwargs.get("size", kwargs.get("end", kwargs.get("n", 0)))
    numbers = [value for value in args if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if name in ("linspace", "logspace"):
        return int(abs(args[2] if len(args) > 2 else kwargs.get("steps", 0))) * itemsize
    if name == "arange":
        numbers = [*numbers, kwargs.get("end", 0)]
        return int(max(map(abs, numbers), default=0)) * itemsize
    if name == "eye":
        sides = [*numbers[:2], kwargs.get("m", 1)] if len(numbers) < 2 else numbers
        return int(abs(sides[0] * max(sides[1], sides[0] if len(numbers) == 1 else sides[1]))) * itemsize
    if isinstance(first, torch.Tensor):
        if name.endswith("_like") or name == "clone":
            return first.nbytes
        if name == "tensor":
            return 0
        sizes = args[1] if len(args) > 1 and isinstance(args[1], (tuple, list)) else numbers
        times = first.numel() if name == "repeat" else 1
        return _product(kwargs.get("size", sizes)) * times * itemsize
    if name == "tensor":
        return 0
    sizes = next((value for value in (*args, kwargs.get("size")) if isinstance(value, (tuple, list))), numbers)
    return _product(sizes) * itemsize


def _product(sizes: Any) -> int:
    return abs(math.prod(int(side) for side in sizes if isinstance(side, (int, float)))) if sizes else 0
