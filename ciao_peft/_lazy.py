"""Public names that are imported when they are first used, so that importing a package costs next to nothing."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["from_above", "lazy_names", "moved_names"]


def from_above(module: str, name: str) -> Any:
    """A name of a room further up, for the few methods of a model that start what is built on top of models.

    Args:
        module: The module in this package, such as `"online"`.
        name: Name in it.

    Example:
        >>> from_above("online", "OnlineArguments").__name__
        'OnlineArguments'
    """
    return getattr(importlib.import_module(f".{module}", __package__), name)


def lazy_names(package: str, module_of: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Makes `__getattr__` and `__dir__` for the `__init__.py` of a package.

    Args:
        package: `__name__` of the package.
        module_of: Maps each public name to the module that defines it, relative to the package.

    Returns:
        `__getattr__`, which imports a name, or a public module of the package, when it is first used and raises
        `AttributeError` for an unknown one; and `__dir__`, which lists all names and imports none.

    Example:
        >>> get, _ = lazy_names("ciao_peft", {"CIAOConfig": "config"})
        >>> get("CIAOConfig").__name__
        'CIAOConfig'
    """

    def __getattr__(name: str) -> Any:
        if name not in module_of:
            if not name.startswith("_") and importlib.util.find_spec(f"{package}.{name}") is not None:
                return importlib.import_module(f".{name}", package)  # which makes it an attribute of the package
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f".{module_of[name]}", package), name)
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *module_of})

    return __getattr__, __dir__


def moved_names(old: str, new: str) -> Callable[[str], Any]:
    """Makes `__getattr__` for a module that is kept for one release under its old name.

    Args:
        old: `__name__` of the old module.
        new: Full name of the module that has the names now.

    Returns:
        `__getattr__`, which gets a name from the new module and warns with a `DeprecationWarning`.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     decay_start = moved_names("ciao_peft.starting", "ciao_peft.calibration")("decay_start")
        >>> decay_start.__module__
        'ciao_peft.calibration'
    """

    def __getattr__(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        try:
            value = getattr(importlib.import_module(new), name)
        except AttributeError:
            raise AttributeError(f"module {old!r} has no attribute {name!r}; it is {new!r} now") from None
        warnings.warn(f"`{old}` is `{new}` now; import {name!r} from there.", DeprecationWarning, stacklevel=2)
        return value

    return __getattr__
