"""Which mixed precision helps: bfloat16 only where the processor has instructions for it."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from .arguments import CIAOTrainingArguments

__all__ = ["computes_in_bf16", "precision_of", "warn_of_slow_bf16"]

CPU_INFO = Path("/proc/cpuinfo")
"""Where Linux says what the processor can do."""

_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""Of `/proc/cpuinfo`, on Intel's, AMD's and Arm's processors."""


def computes_in_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16. Without, it is emulated, several times slower than float32.

    Args:
        device: A CPU or an accelerator. One that nobody can ask counts as having none.

    Example:
        >>> isinstance(computes_in_bf16(torch.device("cpu")), bool), computes_in_bf16(torch.device("meta"))
        (True, False)
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "xpu":
        return torch.xpu.is_available()
    return device.type == "cpu" and _cpu_has_bf16()


def _cpu_has_bf16() -> bool:
    known = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    if any(bool(supported()) for supported in known if supported is not None):
        return True
    try:
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = (line.partition(":")[2].split() for line in lines if line.lower().startswith(("flags", "features")))
    return any(_FLAGS & set(own) for own in flags)


def precision_of(args: CIAOTrainingArguments, device: torch.device) -> str | None:
    """The precision that arguments ask for: `"bf16"`, `"fp16"`, `"no"`, or None to leave it to the launcher.

    Args:
        args: `bf16` and `fp16` count.
        device: Where training runs; with `bf16="auto"` it decides.

    Example:
        >>> precision_of(CIAOTrainingArguments(bf16=True), torch.device("cpu"))
        'bf16'
        >>> precision_of(CIAOTrainingArguments(bf16="auto"), torch.device("meta"))
        'no'
    """
    if args.bf16 == "auto":
        return "bf16" if computes_in_bf16(device) else "no"
    return "bf16" if args.bf16 else "fp16" if args.fp16 else None


def warn_of_slow_bf16(args: CIAOTrainingArguments, device: torch.device) -> None:
    """Warns where `bf16=True` makes training slower.

    Args:
        args: `bf16` counts.
        device: Where training runs.
    """
    if args.bf16 is True and not computes_in_bf16(device):
        warnings.warn(
            f"This {'processor' if device.type == 'cpu' else device.type} has no instructions for bfloat16, which is "
            "several times slower here than float32. `bf16='auto'` takes it only where it helps.",
            stacklevel=4,
        )
