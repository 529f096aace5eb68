"""Packages of others: new enough, or refused before something of theirs is missed from inside."""

from __future__ import annotations

import re
from functools import cache

from .errors import OutdatedPackageError

__all__ = ["check_installed"]

# What a package imports of those with a bound of ours: too old a one fails inside it.
_BRINGS = {
    "accelerate": ("huggingface-hub",),
    "datasets": ("fsspec", "huggingface-hub", "pandas", "pyarrow"),
    "evaluate": ("datasets",),
    "timm": ("huggingface-hub", "torchvision"),
    "transformers": ("huggingface-hub",),
}


def check_installed(package: str) -> None:
    """Refuses a package that is older than this library's own metadata ask for, or that imports one that is.

    Where the metadata of either are not there, as in a checkout that was never installed, nothing is compared.

    Args:
        package: Its name as pip has it.

    Raises:
        OutdatedPackageError: it, or what it imports, is installed in a version below the bound.

    Example:
        >>> check_installed("timm")
    """
    from importlib.metadata import PackageNotFoundError, version

    for other in _BRINGS.get(package, ()):
        check_installed(other)
    try:
        installed, bound = version(package), _bound(package)
    except PackageNotFoundError:  # the import itself says that it is missing
        return
    if bound and _numbers(installed) < _numbers(bound):
        raise OutdatedPackageError(package, installed, bound)


@cache
def _bound(package: str) -> str | None:
    """The lower bound of a dependency; None where there is none."""
    from importlib.metadata import requires

    for requirement in requires("ciao_peft") or ():
        if found := re.match(rf"{re.escape(package)}(?=[<>=!~\s]).*?>=\s*([\w.]+)", requirement):
            return found[1]
    return None


def _numbers(version: str) -> tuple[int, ...]:
    """The release of a version, without what marks it as a development, local or early one."""
    release = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in release[0].split(".")] if release else []
    return tuple(numbers + [0] * (4 - len(numbers)))
