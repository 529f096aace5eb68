"""Command-line flags for the settings of a dataclass, such as `CIAOTrainingArguments`."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import inspect
import re
from collections.abc import Callable, Collection, Sequence
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args, get_origin, get_type_hints

from ..errors import CIAOError, ConfigError, quoted
from ..installed import check_installed

if TYPE_CHECKING:
    from transformers import HfArgumentParser

T = TypeVar("T")

_PLACEHOLDERS = {int: "N", float: "X", str: "TEXT", None: "TEXT"}


class LateParser(argparse.ArgumentParser):
    """A parser that gets its flags when they are first needed: `ciao --version` must not wait for torch.

    Args:
        settings: As for `argparse.ArgumentParser`.

    Attributes:
        fill: Adds the flags; called once, before words are parsed or help is shown. `None` for no more flags.
        defaults_for: Defaults that follow from what was parsed, such as those of a recipe; the words are then parsed
            again with them. `None` for none.

    Example:
        >>> parser = LateParser(prog="late")
        >>> parser.fill = lambda parser: parser.add_argument("--size", type=int)
        >>> parser.parse_args(["--size", "3"]).size
        3
    """

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self.fill: Callable[[LateParser], object] | None = None
        self.defaults_for: Callable[[argparse.Namespace], dict[str, Any]] | None = None

    def add_all(self, others: Sequence[argparse.ArgumentParser]) -> None:
        """Adds the flags of other parsers, as `parents=` does for a parser that is made with all its flags.

        Args:
            others: Parsers without `--help`.
        """
        for other in others:
            self._add_container_actions(other)
            self._defaults.update(other._defaults)

    def _filled(self) -> None:
        fill, self.fill = self.fill, None
        if fill is not None:
            fill(self)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As in `argparse`, after `fill`, and with the defaults that follow from the words.

        Args:
            args: As in `argparse`.
            namespace: As in `argparse`.
        """
        self._filled()
        found = super().parse_known_args(args, copy.copy(namespace))
        if self.defaults_for is None or not (settings := self.defaults_for(found[0])):
            return found
        before = {name: self.get_default(name) for name in settings}
        self.set_defaults(**settings)
        try:
            return super().parse_known_args(args, namespace)
        finally:
            self.set_defaults(**before)

    def format_help(self) -> str:
        """As in `argparse`, after `fill`."""
        self._filled()
        return super().format_help()


class SettingsHelp(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help that shows each flag in one spelling, with a short placeholder and, where there is one, its default."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        shown = copy.copy(action)
        shown.option_strings = [flag for flag in action.option_strings if "-" not in flag.lstrip("-")]
        return super()._format_action_invocation(shown)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return _PLACEHOLDERS.get(action.type, "true|false")

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if isinstance(action, argparse._StoreFalseAction):
            return f"turns --{action.dest} off"
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


def settings_parser(settings: type[Any], *, title: str, leave_out: Collection[str] = ()) -> HfArgumentParser:
    """A parser with one flag for each field of a dataclass, to be one of the `parents` of a command's parser.

    The help is the text of the field in the dataclass's docstring. A flag takes several words where the field is a
    tuple, and a field that is true by default has a flag `--no_NAME` as well.

    Args:
        settings: The dataclass.
        title: The heading of these flags in the help.
        leave_out: Fields without a flag.

    Example:
        >>> from ciao_peft import CIAOTrainingArguments
        >>> flags = settings_parser(CIAOTrainingArguments, title="training")
        >>> parser = argparse.ArgumentParser(parents=[flags], formatter_class=SettingsHelp)
        >>> options = parser.parse_args("--learning_rate 0.01 --report_to jsonl tensorboard --output_dir runs".split())
        >>> arguments = settings_from(options, CIAOTrainingArguments)
        >>> arguments.learning_rate, arguments.report_to, arguments.seed
        (0.01, ('jsonl', 'tensorboard'), 42)
    """
    check_installed("transformers")
    from transformers import HfArgumentParser

    texts, hints = argument_texts(settings), _hints(settings)
    flags = []
    for field in dataclasses.fields(settings):
        if field.name not in leave_out:
            kind, default = _flag_type(hints[field.name]), field.default
            given: dict[str, Any] = {"metadata": {"help": texts.get(field.name, "").replace("%", "%%")}}
            if default is not None and list in (kind, get_origin(kind)):
                words = list(default) if isinstance(default, tuple) else [default]
                given["default_factory"] = lambda words=words: words
            elif default is not dataclasses.MISSING:
                given["default"] = default
            flags.append((field.name, kind, dataclasses.field(**given)))
    # A twin of the dataclass: HfArgumentParser writes into the fields of what it is given.
    twin = dataclasses.make_dataclass(settings.__name__, flags, kw_only=True, namespace={"_argument_group_name": title})
    parser = HfArgumentParser(cast("Any", twin), add_help=False)  # its hints ask for a dataclass that is written out
    for action in parser._actions:
        if {bool, str} <= set(get_args(hints.get(action.dest))) and action.default is False:
            action.nargs, action.const = "?", "true"  # `--bf16` alone, and `--bf16 auto`
    return parser


def settings_from(options: argparse.Namespace, settings: type[T], **others: Any) -> T:
    """The dataclass with the values that were parsed by `settings_parser`.

    Args:
        options: What `parse_args` returned.
        settings: The dataclass.
        others: Values of the fields that have no flag.

    Raises:
        ConfigError: the dataclass refuses a value.

    Example:
        >>> from ciao_peft import CIAOTrainingArguments
        >>> settings_from(argparse.Namespace(seed=3), CIAOTrainingArguments, learning_rate=0.1).learning_rate
        0.1
    """
    hints = _hints(settings)
    names = [field.name for field in dataclasses.fields(cast("Any", settings)) if hasattr(options, field.name)]
    return settings(**{name: _value(getattr(options, name), hints[name]) for name in names} | others)


def add_recipe(parser: LateParser) -> None:
    """Adds `--recipe NAME` and, with the flags of `CIAOConfig`, `--preset NAME`: defaults of what words leave out.

    Args:
        parser: With the flags of `CIAOTrainingArguments` and, if the recipe is to follow the form of the mask, those of
            `CIAOConfig`.

    Example:
        >>> from ciao_peft import CIAOTrainingArguments
        >>> parser = LateParser(parents=[settings_parser(CIAOTrainingArguments, title="training")])
        >>> add_recipe(parser)
        >>> options = parser.parse_args(["--recipe", "default", "--views", "1"])
        >>> options.num_train_epochs, options.views
        (12, 1)
    """
    from ..presets import PRESETS
    from ..trainer.recipes import RECIPES

    text = (
        "settings of the training by name; the flags of the training change single ones "
        "(default: by the number of pictures)"
    )
    parser.add_argument("--recipe", choices=[*RECIPES], metavar="|".join(RECIPES), help=text)
    if "--inhibition_form" in parser._option_string_actions:
        text = "settings of the adapter by name; the flags of the adapter change single ones"
        parser.add_argument("--preset", choices=[*PRESETS], metavar="|".join(PRESETS), help=text)
    parser.defaults_for = _recipe_defaults


def add_method_file(parser: LateParser) -> None:
    """Adds `--method_file FILE`: the settings of a method in a file, as defaults of what words leave out.

    Args:
        parser: With the flags of `CIAOTrainingArguments`, of `CIAOConfig` and of `add_recipe`.

    Example:
        >>> parser = LateParser()
        >>> add_method_file(parser)
        >>> parser.parse_args([]).method_file is None
        True
    """
    text = "adapter and training as a file says, such as best.json of `ciao tune`; flags change single settings"
    parser.add_argument("--method_file", metavar="FILE", help=text)
    before = parser.defaults_for

    def defaults_for(options: argparse.Namespace) -> dict[str, Any]:
        if options.method_file is None:
            return before(options) if before is not None else {}
        given = [f"--{name}" for name in ("recipe", "preset") if getattr(options, name, None) is not None]
        if given:
            parser.error(f"--method_file says how to train; leave out {' and '.join(given)}")
        try:
            settings = _settings_of_method(options.method_file)
        except CIAOError as error:
            parser.error(str(error))
        if unknown := [name for name in settings if not hasattr(options, name)]:
            parser.error(f"the method in {options.method_file!r} has settings without a flag: {', '.join(unknown)}")
        return {name: _word(value) for name, value in settings.items()}

    parser.defaults_for = defaults_for


def _settings_of_method(path: str) -> dict[str, Any]:
    """Of the adapter and of the training; they share no name."""
    from ..presets import over_paper
    from ..study import method_from_file
    from ..trainer import RECIPES

    method = method_from_file(path)
    if method.baseline is not None:
        raise ConfigError(
            f"The method {quoted(method.name)} is the baseline {quoted(method.baseline)}, and `ciao train` trains "
            "adapters of this library; `ciao reproduce --method_file` trains it."
        )
    rate = {method.rate: method.rates[0]} if len(method.rates) == 1 else {}
    return {**over_paper(method.config), **RECIPES["paper"], **rate, **method.arguments}


def _recipe_defaults(options: argparse.Namespace) -> dict[str, Any]:
    from ..config import CIAOConfig
    from ..presets import PRESETS
    from ..trainer.recipes import recipe_settings

    preset = getattr(options, "preset", None)
    asked = {} if preset is None else dict(PRESETS[preset])
    if options.recipe is not None:
        form = getattr(options, "inhibition_form", None)
        if preset is not None and form == CIAOConfig.inhibition_form:  # nobody said another one
            form = asked["inhibition_form"]
        config = CIAOConfig(problem_type="regression", num_labels=1, **({"inhibition_form": form} if form else {}))
        asked |= recipe_settings(options.recipe, config)
    return {name: _word(value) for name, value in asked.items() if hasattr(options, name)}


def _word(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def argument_texts(documented: type[Any]) -> dict[str, str]:
    """The text of each argument in the section `Args:` of a Google-style docstring.

    Example:
        >>> from ciao_peft import CIAOTrainingArguments
        >>> argument_texts(CIAOTrainingArguments)["max_steps"]
        'Updates to make instead, when above 0.'
    """
    section = re.search(r"^Args:\n((?:    .*\n|\n)+)", f"{inspect.getdoc(documented)}\n", re.MULTILINE)
    texts = {}
    for entry in re.split(r"^    (?=\S)", section[1], flags=re.MULTILINE)[1:] if section else ():
        names, _, text = entry.partition(": ")
        texts |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return texts


def _hints(settings: type[Any]) -> dict[str, Any]:
    from ..trainer.flag_values import kinds_of  # late: the room brings torch along

    return {name: kinds_of(hint) for name, hint in get_type_hints(settings).items()}


def _flag_type(hint: Any) -> Any:
    """The annotation that HfArgumentParser understands: words for a tuple, text where text is one of several types."""
    kinds = get_args(hint) if NoneType in get_args(hint) or str in get_args(hint) else (hint,)
    for kind in kinds:
        if get_origin(kind) is tuple:
            return list[get_args(kind)[0]]
    return str if str in kinds else hint


def _value(value: Any, hint: Any) -> Any:
    if isinstance(value, list):
        return value[0] if len(value) == 1 and str in get_args(hint) else tuple(value)
    if bool in get_args(hint) and str in get_args(hint) and isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower(), value)
    return value
