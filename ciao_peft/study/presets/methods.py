"""Networks, ablations and baselines by the names that plans and tables give them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from ...checking import checked_keys
from ...door import read_json
from ...errors import ConfigError, listed, quoted
from ...urls import not_on_this_disk
from ..plan import Method, names_in_code

WITHOUT_CIAO = {"inhibition": False, "contrastive_weight": 0.0}

# Every grid has four rates, half a decade apart: as much search for each method.
HEAD_RATES = (3e-4, 1e-3, 3e-3, 1e-2)
MASK_RATES = (1e-3, 3e-3, 1e-2, 3e-2)
CONVOLUTION_RATES = (3e-4, 1e-3, 3e-3, 1e-2)
ENCODER_RATES = (1e-4, 3e-4, 1e-3, 3e-3)


def _network(name: str, tuning: str, rate: str, rates: tuple[float, ...], ciao: bool) -> Method:
    return Method(
        name=name,
        kind="network",
        config={"tuning": tuning, **({} if ciao else WITHOUT_CIAO)},
        rate=rate,
        rates=rates,
        needs="pixels" if tuning == "full" else "features",
    )


# The paper's Table I: three tuning schemes, each without and with CIAO.
NETWORKS = (
    _network("decision layer", "decision_layer", "learning_rate", HEAD_RATES, ciao=False),
    _network("decision layer + CIAO", "decision_layer", "mask_learning_rate", MASK_RATES, ciao=True),
    _network("last convolution", "last_conv", "encoder_learning_rate", CONVOLUTION_RATES, ciao=False),
    _network("last convolution + CIAO", "last_conv", "encoder_learning_rate", CONVOLUTION_RATES, ciao=True),
    _network("full", "full", "encoder_learning_rate", ENCODER_RATES, ciao=False),
    _network("full + CIAO", "full", "encoder_learning_rate", ENCODER_RATES, ciao=True),
)
"""The six networks of the paper's Table I."""


def _ablation(name: str, arguments: Mapping[str, Any] | None = None, **config: Any) -> Method:
    return Method(
        name=f"CIAO, {name}",
        kind="ablation",
        config=config,
        arguments=arguments or {},
        rate="mask_learning_rate",
        rates=MASK_RATES,
    )


# "decision layer + CIAO" with one thing changed.
ABLATIONS = (
    _ablation("no contrastive loss", contrastive_weight=0.0),
    _ablation("no task loss on the mask", task_loss_trains="head"),
    _ablation("two steps", {"two_steps": True}),
    _ablation("two steps, z = logits", {"two_steps": True}, embedding_source="logits"),
    _ablation("z = hidden", embedding_source="hidden"),
    _ablation("z = logits", embedding_source="logits"),
    _ablation("max pooling", pooling="max"),
    _ablation("average pooling", pooling="avg"),
    _ablation("constant a", learn_decay=False),
    _ablation("random start", inhibition_start="random"),
    _ablation("additive", inhibition_form="additive"),
    _ablation("subtractive", inhibition_form="subtractive"),
)

# Each grid is as long as CIAO's: as much search for everybody.
POOLED_PROBE_RATES = (3e-3, 1e-2, 3e-2, 1e-1)  # few numbers to read; each has to weigh more
FLATTENED_PROBE_RATES = (3e-5, 1e-4, 3e-4, 1e-3)
ADDED_RATES = (1e-3, 3e-3, 1e-2, 3e-2)

_PROBE = {"inhibition": False, "contrastive_weight": 0.0, "hidden_sizes": ()}


def _head(name: str, rates: tuple[float, ...] = HEAD_RATES, **parts: Any) -> Method:
    return Method(name=name, kind="rival", rate="learning_rate", rates=rates, **parts)


def _added(name: str, baseline: str, rates: tuple[float, ...] = ADDED_RATES, **settings: Any) -> Method:
    """A baseline that puts something into the encoder; its search moves the learning rate of that."""
    return Method(
        name=name,
        kind="rival",
        rate="encoder_learning_rate",
        rates=rates,
        baseline=baseline,
        settings=settings,
        needs="pixels" if settings.get("everywhere") or baseline == "norm_and_bias" else "features",
    )


BASELINES: tuple[Method, ...] = (
    _head("linear probe (pooled)", POOLED_PROBE_RATES, config={**_PROBE, "pooling": "avg"}),
    _head("linear probe (flattened)", FLATTENED_PROBE_RATES, config={**_PROBE, "pooling": "flatten"}),
    _head("MLP head", baseline="wide_head"),
    _added("LoRA r=4", "lora", rank=4),
    _added("LoRA r=16", "lora", rank=16),
    _added("LoRA r=64", "lora", rank=64),
    _added("scale and shift", "scale_and_shift"),
    _added("residual adapters", "residual_adapters"),
    _head("Head2Toe", baseline="head2toe", needs="pixels"),
    _added("LoRA everywhere r=16", "lora", rank=16, everywhere=True),
    _added("scale and shift everywhere", "scale_and_shift", everywhere=True),
    _added("norm and bias", "norm_and_bias"),
    _added("residual adapters everywhere", "residual_adapters", everywhere=True),
)
"""What people use instead, on the same encoder, features and budget: those from stored features first."""

METHODS: dict[str, Method] = {method.name: method for method in (*NETWORKS, *ABLATIONS, *BASELINES)}
"""Every method of the library by its name."""

GROUPS: dict[str, tuple[str, ...]] = {
    group: tuple(method.name for method in methods)
    for group, methods in (("networks", NETWORKS), ("ablations", ABLATIONS), ("baselines", BASELINES))
}
"""The names of the methods of each group."""


_OLD_GROUPS = {"rivals": "baselines"}


def preset_method(name: str) -> Method:
    """The method that a plan starts from when it names one: the preset, or an empty ablation.

    Example:
        >>> preset_method("full").config["tuning"], preset_method("mine").kind
        ('full', 'ablation')
    """
    return METHODS.get(name) or Method(name=name, kind="ablation")


def methods_named(names: Mapping[str, Any] | list[str]) -> tuple[Method, ...]:
    """Methods by their names, by the names of groups (`"networks"`, `"ablations"`, `"baselines"`), or spelled out.

    Args:
        names: Names; or names with what differs from the method of that name (from an empty one, where there is none).

    Raises:
        ConfigError: an unknown name or key.

    Example:
        >>> [method.name for method in methods_named(["decision layer", "decision layer + CIAO"])]
        ['decision layer', 'decision layer + CIAO']
        >>> methods_named({"hot": {"config": {"temperature": 1.0}}})[0].config
        {'temperature': 1.0}
    """
    methods: dict[str, Method] = {}
    keys = [part.name for part in dataclasses.fields(Method) if part.name != "name"]
    for name, changes in names.items() if isinstance(names, Mapping) else dict.fromkeys(names).items():
        group = _OLD_GROUPS.get(name, name)
        if group in GROUPS and changes is None:
            methods |= {member: METHODS[member] for member in GROUPS[group]}
            continue
        if name not in METHODS and changes is None:
            raise ConfigError(
                f"There is no method {quoted(name)}. Methods: {listed(METHODS)}; groups: {listed(GROUPS)}."
            )
        changes = checked_keys(f"the method {quoted(name)}", names_in_code(changes or {}), keys)
        methods[name] = dataclasses.replace(preset_method(name), **changes)
    return tuple(methods.values())


def method_from_file(path: str | os.PathLike[str]) -> Method:
    """A method in a JSON file, such as the `best.json` of a search, for a plan or a training of one's own.

    `CIAOConfig.preset("paper", **labels_of(faces).as_config(), **method.config)` and
    `CIAOTrainingArguments.recipe("paper", **method.arguments)` take its settings.

    Raises:
        ConfigError: there is no such file, it is no JSON, or has keys that are unknown.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "best.json"
        ...     _ = path.write_text('{"name": "hot", "config": {"temperature": 1.0}}')
        ...     method_from_file(path).config
        {'temperature': 1.0}
    """
    if os.path.isdir(path) or not os.path.lexists(path):
        best = os.path.join(path, "best.json")
        hint = (
            not_on_this_disk(path) or " `ciao tune` and `ciao search` write one, best.json, into their `--output_dir`."
        )
        if os.path.isfile(best):
            hint = f" Name the file in it: {quoted(best)}."
        what = "a folder" if os.path.isdir(path) else "missing"
        raise ConfigError(f"{quoted(os.fspath(path))} is {what}, not the JSON file of a method.{hint}")
    values = read_json(path, error=ConfigError)
    keys = [part.name for part in dataclasses.fields(Method)]
    values = checked_keys(f"the method in {str(path)!r}", values, [*keys, "rival", "search"])
    values.pop("search", None)  # how it was found
    if "name" not in values:
        raise ConfigError(f"The method in {str(path)!r} has no 'name'.")
    return Method(**names_in_code(values))
