"""Every exception this library raises on purpose.

Each derives from `CIAOError` and from the built-in that a caller would expect, and its message says what was given,
what there is and what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable

_LONGEST = 200
_MOST = 50


def shortened(text: str, longest: int = _LONGEST) -> str:
    """A text that fits into a message: its middle is left out where it is longer.

    Example:
        >>> shortened("a" * 1000, 11)
        'aaaa...aaaa'
    """
    side = (longest - 3) // 2
    return text if len(text) <= longest else f"{text[:side]}...{text[-side:]}"


def listed(names: Iterable[object]) -> str:
    """`'a', 'b'` in sorted order, or `none`; of many names the first ones, and how many there are.

    Example:
        >>> listed(["b", "a"]), listed([])
        ("'a', 'b'", 'none')
    """
    ordered = sorted(names, key=str)
    shown = ", ".join(shortened(repr(name)) for name in ordered[:_MOST])
    return f"{shown} and {len(ordered) - _MOST:,} more" if len(ordered) > _MOST else shown or "none"


class CIAOError(Exception):
    """Base of every error raised on purpose by this library."""


class ConfigError(CIAOError, ValueError):
    """A setting has a value that cannot work, or a name nobody knows."""


class BackboneError(CIAOError, ValueError):
    """The network given as backbone cannot carry an adapter."""


class TargetModulesError(BackboneError):
    """`target_modules` does not name convolutions that a mask can sit on."""


class UntraceableBackboneError(BackboneError, NotImplementedError):
    """Something needs the backbone cut in two, and its graph could not be traced."""


class InputError(CIAOError, ValueError):
    """Pixels, features or labels that no adapter could be right about."""


class AdapterNameError(CIAOError, ValueError):
    """An adapter name that is taken, reserved, or could leave its folder."""


class AdapterNotFoundError(CIAOError, LookupError):
    """An adapter was asked for by a name the model does not hold."""

    def __init__(self, name: object, loaded: Iterable[str]):
        message = f"No adapter named {name!r}. Loaded adapters: {listed(loaded)}."
        super().__init__(f"{message} Load one with `model.load_adapter(folder, adapter_name={name!r})`.")


class NoActiveAdapterError(CIAOError, RuntimeError):
    """The model was asked to read with its active adapter while none is active."""

    def __init__(self, loaded: Iterable[str]):
        super().__init__(
            f"No adapter is active. Loaded adapters: {listed(loaded)}. Choose one with `model.set_adapter`."
        )


class MergeError(CIAOError, NotImplementedError):
    """Merging an adapter into the backbone was asked for; M = u / (a + I) is not linear in its input."""


class FileReadError(CIAOError, OSError, ValueError):
    """A file from outside is missing, no regular file, too large, or does not hold what its kind holds."""


class AdapterFileError(CIAOError, OSError):
    """A file of a saved adapter or encoder is missing, damaged or not what its name says."""


class AdapterConfigError(AdapterFileError, ValueError):
    """`adapter_config.json` is not one this version can read."""


class BackboneMismatchError(CIAOError, ValueError):
    """The adapter was trained on another backbone than the one it is put on."""


class HubError(CIAOError, OSError):
    """The Hub did not give, or did not take, what was asked; each cause has a class of its own."""


class HubNotFoundError(HubError, FileNotFoundError):
    """No repository of that name, or a private one that this token may not see."""


class HubGatedError(HubError, PermissionError):
    """The repository exists, and its authors want to be asked for access first."""


class HubTokenError(HubError, PermissionError):
    """The token is missing, wrong, or lacks the right that was needed."""


class HubRevisionError(HubError, LookupError):
    """The repository has no such branch, tag or commit."""


class HubFileError(HubError, FileNotFoundError):
    """The repository lacks a file that was needed, or holds one too large to be it."""


class HubOfflineError(HubError, ConnectionError):
    """The Hub cannot be reached, or must not be, and the cache does not hold what was asked."""


class HubServerError(HubError, ConnectionError):
    """The Hub answered with an error of its own, or with something that is no answer."""


class HubConflictError(HubError):
    """Somebody else published to the same place at the same time, again and again."""


class DataError(CIAOError, ValueError):
    """A dataset, or one sample of it, that cannot be used as it is."""


class DataNotFoundError(DataError, FileNotFoundError):
    """A dataset's folder, file or split is not where it was looked for."""


class EncoderNotFoundError(CIAOError, LookupError):
    """No encoder goes by the name that was asked for."""


class FeatureCacheError(CIAOError, ValueError):
    """Stored features that do not belong to this backbone, preprocessing or data, or are incomplete."""


class TrainingError(CIAOError, ValueError):
    """Training was asked for with arguments or data that cannot work together."""


class DivergenceError(TrainingError, InputError):
    """Training left the numbers that a computer can hold: a loss, a weight or an answer is NaN or infinite."""


class LaunchError(CIAOError, RuntimeError):
    """The processes that were started do not see one another."""


class RecordError(CIAOError, ValueError):
    """A line of a study's results that this version cannot read, or scores that cannot be written."""


class MissingExtraError(CIAOError, ModuleNotFoundError):
    """Something needs a package that only an extra of this library brings."""

    def __init__(self, package: str, what: str, extra: str):
        super().__init__(f"{what} needs {package}: pip install 'ciao_peft[{extra}]'.", name=package)


class StudyError(CIAOError, RuntimeError):
    """A study ended with trainings that could not be done."""
