"""Every exception that this library raises on purpose.

Each derives from `CIAOError` and from the built-in exception that a caller would expect. Its message says what was
given, what is available and what to do next.

Example:
    >>> from ciao_peft import CIAOError, load_encoder
    >>> try:
    ...     load_encoder("small-fase")
    ... except CIAOError as error:
    ...     print(type(error).__name__, isinstance(error, LookupError))
    EncoderNotFoundError True
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .url_secrets import url_without_secrets, without_secrets

_LONGEST = 200
_LONGEST_VALUE = 80
_LONGEST_MESSAGE = 4000
_MOST = 50


def shortened(text: str, longest: int = _LONGEST) -> str:
    """A text that fits into a message: its middle is left out where it is longer, and what is secret in its URLs.

    Example:
        >>> shortened("a" * 1000, 11)
        'aaaa...aaaa'
        >>> shortened("Nothing at https://ann:key@example.org/fer?token=1f.")
        'Nothing at https://***@example.org/fer?token=***.'
    """
    text = without_secrets(text)
    side = (longest - 3) // 2
    return text if len(text) <= longest else f"{text[:side]}...{text[-side:]}"


def quoted(value: object, longest: int = _LONGEST_VALUE) -> str:
    """A value from outside as it is shown in a message: as Python writes it, its middle left out where it is longer.

    Example:
        >>> quoted([0] * 1000, 20)
        '[0, 0, 0...0, 0, 0]'
    """
    if isinstance(value, str):
        value = url_without_secrets(value)
    return shortened(repr(value), longest)


def listed(names: Iterable[object]) -> str:
    """Writes names for a message: quoted, sorted and separated by commas.

    Args:
        names: Names to write.

    Returns:
        `none` where there are no names.

    Example:
        >>> listed(["valence", "arousal"]), listed([])
        ("'arousal', 'valence'", 'none')
    """
    ordered = sorted(names, key=str)
    shown = ", ".join(shortened(repr(name)) for name in ordered[:_MOST])
    return f"{shown} and {len(ordered) - _MOST:,} more" if len(ordered) > _MOST else shown or "none"


class CIAOError(Exception):
    """Base of every error raised on purpose by this library.

    Catch it to handle whatever this library refuses; errors of other libraries and mistakes in code pass through. No
    message is longer than 4,000 characters, whatever a file holds: its middle is left out. None repeats what is secret
    in a URL: name and password, and the values of a query.

    Example:
        >>> issubclass(ConfigError, CIAOError), issubclass(ConfigError, ValueError)
        (True, True)
    """

    def __init__(self, *values: Any, **named: Any):
        texts = [shortened(value, _LONGEST_MESSAGE) if isinstance(value, str) else value for value in values]
        super().__init__(*texts, **named)


class ConfigError(CIAOError, ValueError):
    """A setting has a value that cannot work, or a name nobody knows.

    Example:
        >>> from ciao_peft import CIAOConfig
        >>> CIAOConfig(problem_type="regression", num_labels=2, dropout=1.5)
        Traceback (most recent call last):
        ...
        ciao_peft.errors.ConfigError: `dropout` must be a number from 0 to 0.999; got 1.5.
    """


class BackboneError(CIAOError, ValueError):
    """The network given as backbone cannot carry an adapter.

    Example:
        >>> from torch import nn
        >>> from ciao_peft import CIAOConfig, get_ciao_model
        >>> config = CIAOConfig(problem_type="regression", num_labels=1)
        >>> get_ciao_model(nn.Linear(2, 2), config, input_size=(3, 16, 16))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ciao_peft.errors.BackboneError: Linear cannot be called on pixels of (3, 16, 16): ...
    """


class TargetModulesError(BackboneError):
    """`target_modules` does not name convolutions that a mask can sit on, or `depths` no maps before the mask.

    Example:
        >>> from torch import nn
        >>> from ciao_peft import CIAOConfig, get_ciao_model
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        >>> config = CIAOConfig(problem_type="regression", num_labels=1, target_modules=("1",))
        >>> get_ciao_model(net, config, input_size=(3, 16, 16))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ciao_peft.errors.TargetModulesError: `target_modules` names '1', a ReLU; a mask sits on a Conv2d. ...
    """


class UntraceableBackboneError(BackboneError, NotImplementedError):
    """The backbone has to be cut in two, as for caching its features, and its graph could not be traced."""


class InputError(CIAOError, ValueError):
    """Pixels, features or labels that no adapter could be right about.

    Example:
        >>> import torch
        >>> from ciao_peft import supervised_contrastive_loss
        >>> supervised_contrastive_loss(torch.rand(4, 8), torch.zeros(3))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ciao_peft.errors.InputError: `embeddings` must be (B, D), with `labels` of (B,) ...
    """


class AdapterNameError(CIAOError, ValueError):
    """An adapter name that is taken, reserved, or could leave its folder.

    Example:
        >>> from ciao_peft.config import check_adapter_name
        >>> check_adapter_name("../jaffe")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ciao_peft.errors.AdapterNameError: An adapter cannot be named '../jaffe': ...
    """


class AdapterNotFoundError(CIAOError, LookupError):
    """An adapter was asked for by a name that the model does not hold.

    Args:
        name: Name that was asked for.
        loaded: Names of the adapters that the model holds.

    Example:
        >>> print(AdapterNotFoundError("jafe", ["fer2013", "jaffe"]))  # doctest: +ELLIPSIS
        No adapter named 'jafe'. Loaded adapters: 'fer2013', 'jaffe'. Load one with ...
    """

    def __init__(self, name: object, loaded: Iterable[str]):
        message = f"No adapter named {quoted(name)}. Loaded adapters: {listed(loaded)}."
        super().__init__(f"{message} Load one with `model.load_adapter(folder, adapter_name={quoted(name)})`.")


class NoActiveAdapterError(CIAOError, RuntimeError):
    """The model was called with its active adapter while none is active.

    Args:
        loaded: Names of the adapters that the model holds.

    Example:
        >>> print(NoActiveAdapterError(["jaffe"]))
        No adapter is active. Loaded adapters: 'jaffe'. Choose one with `model.set_adapter`.
    """

    def __init__(self, loaded: Iterable[str]):
        super().__init__(
            f"No adapter is active. Loaded adapters: {listed(loaded)}. Choose one with `model.set_adapter`."
        )


class MergeError(CIAOError, NotImplementedError):
    """An adapter cannot be merged into the backbone: M = (u + E) / (a + I) is not linear in its input."""


class FileReadError(CIAOError, OSError, ValueError):
    """A file from outside is missing, no regular file, too large, or does not hold what its kind holds."""


class AdapterFileError(CIAOError, OSError):
    """A file of a saved adapter or encoder is missing, damaged or not what its name says.

    Example:
        >>> from torch import nn
        >>> from ciao_peft import CIAOConfig, get_ciao_model
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        >>> model = get_ciao_model(net, CIAOConfig(problem_type="regression", num_labels=1), input_size=(3, 16, 16))
        >>> model.load_adapter("nowhere")
        Traceback (most recent call last):
        ...
        ciao_peft.errors.AdapterFileError: No adapter folder at 'nowhere'. Give a folder that `save_pretrained` wrote.
    """


class AdapterConfigError(AdapterFileError, ValueError):
    """This version cannot read an adapter's `adapter_config.json`."""


class BackboneMismatchError(CIAOError, ValueError):
    """The adapter was trained on another backbone than the one it is loaded onto."""


class HubError(CIAOError, OSError):
    """A download from the Hub or an upload to it failed; each cause has a class of its own.

    Example:
        >>> issubclass(HubGatedError, HubError), issubclass(HubGatedError, PermissionError)
        (True, True)
    """


class HubNotFoundError(HubError, FileNotFoundError):
    """No repository of that name, or a private one that this token may not see."""


class HubGatedError(HubError, PermissionError):
    """The repository exists, and its authors have to grant access first."""


class HubTokenError(HubError, PermissionError):
    """The token is missing, wrong, or lacks the right that was needed."""


class HubRevisionError(HubError, LookupError):
    """The repository has no such branch, tag or commit."""


class HubFileError(HubError, FileNotFoundError):
    """The repository lacks a file that is needed, or holds one that is too large to be it."""


class HubOfflineError(HubError, ConnectionError):
    """The Hub cannot be reached, or must not be, and the cache does not hold what was asked for."""


class HubServerError(HubError, ConnectionError):
    """The Hub responded with an error of its own, or with something that cannot be understood."""


class HubConflictError(HubError):
    """Every attempt to publish met another upload to the same place at the same time."""


class RemoteError(CIAOError, OSError):
    """A folder in an object store or on a web server could not be read or written; each cause has a class of its own.

    Example:
        >>> issubclass(RemoteAccessError, RemoteError), issubclass(RemoteAccessError, PermissionError)
        (True, True)
    """


class RemoteURLError(RemoteError, ValueError):
    """A URL that is not read or written, whatever lies there."""


class RemoteNotFoundError(RemoteError, FileNotFoundError):
    """The store lacks a file that is needed, or it is not in the cache and the network must not be used."""


class RemoteFileError(RemoteError, ValueError):
    """A file in the store is larger than any that is fetched, does not say its size, or finds no room here."""


class RemoteAccessError(RemoteError, PermissionError):
    """The store refuses: credentials are missing, wrong, or lack the right that was needed."""


class RemoteServerError(RemoteError, ConnectionError):
    """The store cannot be reached, answered with an error of its own, or did not answer in time."""


class RemoteConflictError(RemoteError):
    """What lies in the store changed again and again while it was read or written."""


class DataError(CIAOError, ValueError):
    """A dataset, or one sample of it, that cannot be used as it is.

    Example:
        >>> import numpy as np
        >>> from ciao_peft import Preprocessing
        >>> Preprocessing()(np.zeros((8, 8, 3)))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ciao_peft.errors.DataError: Arrays of pixels must be uint8 (0 to 255) or uint16; got float64. ...
    """


class DataNotFoundError(DataError, FileNotFoundError):
    """A dataset's folder, file or split is not where it was looked for.

    Example:
        >>> from ciao_peft import Preprocessing
        >>> Preprocessing()("face.png")
        Traceback (most recent call last):
        ...
        ciao_peft.errors.DataNotFoundError: There is no picture at 'face.png'.
    """


class EncoderNotFoundError(CIAOError, LookupError):
    """No encoder goes by the name that was asked for.

    Example:
        >>> from ciao_peft import load_encoder
        >>> load_encoder("small-fase")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ciao_peft.errors.EncoderNotFoundError: No encoder is named 'small-fase', ...
    """


class FeatureCacheError(CIAOError, ValueError):
    """Stored features that do not belong to this backbone, preprocessing or data, or are incomplete."""


class TrainingError(CIAOError, ValueError):
    """Arguments, data or a checkpoint of a training that cannot work together."""


class DivergenceError(TrainingError, InputError):
    """Training diverged: a loss, a weight or an output is NaN or infinite."""


class LaunchError(CIAOError, RuntimeError):
    """The processes that were started together do not see one another, or one of them has ended."""


class RecordError(CIAOError, ValueError):
    """A line of a study's results that this version cannot read, or scores that cannot be written."""


class MissingExtraError(CIAOError, ModuleNotFoundError):
    """A function needs a package that is installed with an extra of this library only.

    Args:
        package: Package that is missing.
        what: What needs it; the subject of the message.
        extra: Name of the extra.

    Example:
        >>> print(MissingExtraError("optuna", "The search", "search"))
        The search needs optuna: pip install 'ciao_peft[search]'.
    """

    def __init__(self, package: str, what: str, extra: str):
        super().__init__(f"{what} needs {package}: pip install 'ciao_peft[{extra}]'.", name=package)


class OutdatedPackageError(CIAOError, ImportError):
    """A package that this library builds on is installed in a version below its bound.

    Args:
        package: Which.
        version: The version that is installed.
        bound: The oldest version that will do.

    Example:
        >>> print(OutdatedPackageError("timm", "1.0.20", "1.0.31"))
        ciao_peft needs timm 1.0.31 or newer, and 1.0.20 is installed: pip install --upgrade timm.
    """

    def __init__(self, package: str, version: str, bound: str):
        needed = f"ciao_peft needs {package} {bound} or newer, and {shortened(version, 40)} is installed"
        super().__init__(f"{needed}: pip install --upgrade {package}.", name=package)


class StudyError(CIAOError, RuntimeError):
    """A study ended with trainings that could not be done."""


class ExportError(CIAOError, RuntimeError):
    """A model, or a part of it, could not be written as ONNX, or what was written computes something else.

    Example:
        >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
        >>> model = get_ciao_model(load_encoder("small-face"), CIAOConfig(problem_type="regression", num_labels=1))
        >>> model.export_onnx(".")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ciao_peft.errors.ExportError: '.' is not empty and holds no earlier export. ...
    """


class CorrectionError(InputError):
    """Corrections from which an adapter cannot learn: none at all, or all of one class and nothing to rehearse."""


class ContradictionError(CorrectionError):
    """The same face has two labels in one call."""


class UnknownLabelError(CorrectionError, LookupError):
    """A correction has a label that the adapter does not know."""


class MemoryMismatchError(BackboneMismatchError):
    """A memory of stored features that another encoder, preprocessing or cut made."""


class UndoError(CIAOError, RuntimeError):
    """There is no update to undo, or the adapter was changed elsewhere since."""
