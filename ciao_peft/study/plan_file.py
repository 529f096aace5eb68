"""A plan as plain data, as flags of a command line and as a YAML file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..checking import checked_keys
from ..door import read_yaml
from ..errors import ConfigError, quoted, shortened
from ..saving import local_path, refusals_told, write_file
from .plan import Encoder, Plan, names_in_files
from .presets import TASKS, methods_named, preset_method, task_from

PLAN_FILE = "plan.yaml"
"""A study's plan, in its folder."""


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """Plain data, as a plan file has it; `plan_from_dict` gives an equal plan back.

    Example:
        >>> plan = plan_from_flags(["fer=data/fer"], ["small-face"], ["decision layer"], seeds=3)
        >>> plan_to_dict(plan)["tasks"], plan_from_dict(plan_to_dict(plan)) == plan
        ({'fer': {'data_dir': 'data/fer'}}, True)
    """
    rest = _differing(plan)
    return {
        "tasks": {task.name: _differing(task, TASKS.get(task.name)) for task in plan.tasks},
        "methods": {
            method.name: names_in_files(_differing(method, preset_method(method.name))) for method in plan.methods
        },
        "encoders": {
            encoder.name: _differing(encoder) if encoder.preprocessing else encoder.source for encoder in plan.encoders
        },
        **{name: value for name, value in rest.items() if name not in ("tasks", "methods", "encoders")},
    }


def plan_from_dict(values: Mapping[str, Any]) -> Plan:
    """The plan that a plan file holds: presets by name, or everything spelled out.

    Raises:
        ConfigError: an unknown key, name or value.

    Example:
        >>> values = {"tasks": {"fer": "data/fer"}, "encoders": ["small-face"], "methods": ["networks"], "seeds": 2}
        >>> plan = plan_from_dict(values)
        >>> len(plan.methods), plan.seeds
        (6, (0, 1))
    """
    values = checked_keys("a plan", values, [part.name for part in fields(Plan)])
    for name in ("tasks", "methods", "encoders"):
        values[name] = _by_name(name, values.get(name))
    values["tasks"] = tuple(task_from(name, changes) for name, changes in values["tasks"].items())
    values["encoders"] = tuple(_encoder_from(name, given) for name, given in values["encoders"].items())
    values["methods"] = methods_named(values["methods"])
    return Plan(**values)


def _encoder_from(name: str, given: Any) -> Encoder:
    """An encoder by its name: its source, or what differs from an encoder of that name."""
    if isinstance(given, Mapping):
        keys = [part.name for part in fields(Encoder) if part.name != "name"]
        return Encoder(name=name, **checked_keys(f"the encoder {quoted(name)}", given, keys))
    return Encoder(name=name, source=given)


def _by_name(what: str, given: Any) -> dict[str, Any]:
    """What a plan has by name; a list of names and nothing at all are understood."""
    given = given or {}
    names: list[Any] = list(given) if isinstance(given, (Mapping, list, tuple)) else [None]
    if not all(isinstance(name, str) for name in names):
        raise ConfigError(f"`{what}` of a plan must be names, or names with values; got {shortened(repr(given))}.")
    return dict(given) if isinstance(given, Mapping) else dict.fromkeys(names)


def plan_from_flags(tasks: Iterable[str], encoders: Iterable[str], methods: Iterable[str], **rest: Any) -> Plan:
    """The plan that flags of a command line describe: `NAME=DIR` for tasks, `NAME` or `NAME=SOURCE` for encoders.

    Raises:
        ConfigError: an unknown name or key.

    Example:
        >>> plan = plan_from_flags(["fer=data/fer"], ["small-face", "mine=runs/mine"], ["decision layer"], seeds=3)
        >>> plan.tasks[0].data_dir, plan.encoders[1].source, plan.seeds
        ('data/fer', 'runs/mine', (0, 1, 2))
    """

    def pairs(words: Iterable[str]) -> dict[str, str | None]:
        return {name: value if equals else None for name, equals, value in (word.partition("=") for word in words)}

    return plan_from_dict({"tasks": pairs(tasks), "encoders": pairs(encoders), "methods": list(methods), **rest})


def read_plan(path: str | Path) -> Plan:
    """The plan in a YAML file.

    Raises:
        ConfigError: there is no such file, it is no YAML, or it holds something unknown.
    """
    return plan_from_dict(read_yaml(local_path(path), error=ConfigError))


def write_plan(plan: Plan, path: str | Path) -> None:
    """Writes a plan as YAML; whoever reads meanwhile sees the old file or the new one.

    Raises:
        ConfigError: the disk refuses; the old file stays.

    Example:
        >>> import tempfile
        >>> plan = plan_from_flags(["fer=data/fer"], ["small-face"], ["decision layer"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_plan(plan, Path(folder) / "plan.yaml")
        ...     read_plan(Path(folder) / "plan.yaml") == plan
        True
    """
    import yaml

    text = yaml.safe_dump(plan_to_dict(plan), sort_keys=False, allow_unicode=True, width=120)
    with refusals_told(ConfigError, path, "Make room there, or give another folder."):
        write_file(path, text)


def save_plan(plan: Plan, folder: Path) -> None:
    """Writes `plan.yaml` of a study; whoever reads meanwhile sees the old one or the new one.

    Raises:
        ConfigError: the disk refuses; the old one stays.
    """
    write_plan(plan, folder / PLAN_FILE)


def load_plan(folder: Path) -> Plan:
    """The plan of a study that was begun.

    Raises:
        ConfigError: there is none.

    Example:
        >>> import tempfile
        >>> plan = plan_from_flags(["fer=data/fer"], ["small-face"], ["decision layer"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_plan(plan, Path(folder))
        ...     load_plan(Path(folder)) == plan
        True
    """
    if not (folder / PLAN_FILE).is_file():
        raise ConfigError(
            f"'{folder}' holds no study to go on with. Say what to train: `--plan FILE`, or `--tasks NAME=DIR ...` "
            "with `--encoders` and `--methods`."
        )
    return read_plan(folder / PLAN_FILE)


def _differing(item: Any, base: Any = None) -> dict[str, Any]:
    """Values of a dataclass that differ from another one's, or from its defaults."""
    differing = {}
    for part in fields(item):
        value = getattr(item, part.name)
        default = part.default_factory() if part.default_factory is not dataclasses.MISSING else part.default
        if part.name != "name" and value != (default if base is None else getattr(base, part.name)):
            differing[part.name] = list(value) if isinstance(value, tuple) else value
    return differing
