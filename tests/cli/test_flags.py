"""Flags: one spelling, the old ones still accepted, and one for every setting of a dataclass."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import re

import pytest

from ciao_peft import CIAOConfig, CIAOTrainingArguments
from ciao_peft.cli import make_parser
from ciao_peft.cli.arguments import LateParser, SettingsHelp, argument_texts, settings_from, settings_parser
from ciao_peft.errors import ConfigError
from helpers.places import REPOSITORY


def train_parser():
    """The parser of `ciao train`, with all its flags."""
    (commands,) = (action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    parser = commands.choices["train"]
    parser.format_help()
    return parser


def commands_of(parser):
    """The parser and, however deep, the parsers of its commands."""
    found = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += [below for command in action.choices.values() for below in commands_of(command)]
    return found


def test_every_flag_in_help_is_in_snake_case():
    parsers = commands_of(make_parser())
    assert len(parsers) > 10
    flags = [flag for parser in parsers for flag in re.findall(r"^  (?:-\w, )?--([\w-]+)", parser.format_help(), re.M)]
    assert {"create_pr", "force_download", "channel_order", "output_dir", "num_train_epochs"} <= set(flags)
    assert [flag for flag in flags if "-" in flag] == []


def test_every_flag_added_in_the_sources_is_in_snake_case():
    flags = [
        value.value
        for room in ("ciao_peft", "examples", "benchmarks", "docs")
        for path in (REPOSITORY / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("add_argument")
        for value in node.args
        if isinstance(value, ast.Constant) and value.value.startswith("--")
    ]
    assert len(flags) > 50
    assert [flag for flag in flags if "-" in flag[2:]] == []


@pytest.mark.parametrize(
    ("words", "name", "value", "default"),
    [
        ("publish folder ann/fer --create-pr", "create_pr", True, False),
        ("pull ann/fer --force-download", "force_download", True, False),
        ("convert-encoder file folder --channel-order bgr", "channel_order", "bgr", "auto"),
    ],
)
def test_old_spellings_mean_what_the_new_ones_mean(words, name, value, default):
    parser = make_parser()
    old = words.replace(f"--{name.replace('_', '-')}", f"--{name}")
    assert getattr(parser.parse_args(words.split()), name) == value
    assert getattr(parser.parse_args(old.split()), name) == value
    assert getattr(parser.parse_args(words.partition(" --")[0].split()), name) == default


def test_every_training_setting_is_a_flag_of_train_with_help():
    parser = train_parser()
    helps = {flag: action.help for action in parser._actions for flag in action.option_strings}
    for field in dataclasses.fields(CIAOTrainingArguments):
        assert len(helps[f"--{field.name}"].split()) >= 3, field.name
    offered = {field.name for field in dataclasses.fields(CIAOConfig)} - {"problem_type", "num_labels", "id2label"}
    assert {f"--{name}" for name in offered - {"init_seed"}} <= set(helps)


def test_every_flag_of_train_has_a_help_of_its_own():
    helps = {action.dest: action.help for action in train_parser()._actions if action.help != argparse.SUPPRESS}
    same = {text: [name for name in helps if helps[name] == text] for text in helps.values()}
    assert [names for text, names in same.items() if len(names) > 1] == []
    assert not [name for name, text in helps.items() if len((text or "").split()) < 3]


def test_the_flags_of_train_wait_until_they_are_needed():
    (commands,) = (action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    assert commands.choices["train"].fill is not None
    assert train_parser().fill is None


def test_a_flag_may_decide_the_defaults_of_others_and_what_is_said_stays():
    parser = LateParser()
    for name in ("recipe", "epochs", "rate"):
        parser.add_argument(f"--{name}", default="usual")
    parser.defaults_for = lambda options: {"epochs": "many", "rate": "low"} if options.recipe == "long" else {}
    read = [vars(parser.parse_args(words.split())) for words in ("--recipe long --rate high", "")]
    assert read[0] == {"recipe": "long", "epochs": "many", "rate": "high"}
    assert read[1] == {"recipe": "usual", "epochs": "usual", "rate": "usual"}


def test_without_flags_train_has_the_defaults_of_the_library():
    options = train_parser().parse_args([])
    assert settings_from(options, CIAOTrainingArguments) == CIAOTrainingArguments(output_dir="runs/train")
    given = {"problem_type": "regression", "num_labels": 2}
    assert settings_from(options, CIAOConfig, **given) == CIAOConfig(**given)


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ("--num_train_epochs 0.5 --max_steps 3 --seed 7", {"num_train_epochs": 0.5, "max_steps": 3, "seed": 7}),
        ("--bf16", {"bf16": True}),
        ("--bf16 auto --compile cuda-graphs", {"bf16": "auto", "compile": "cuda-graphs"}),
        ("--compile --feature_device cpu", {"compile": True, "feature_device": "cpu"}),
        ("--bf16 false --class_balanced_batches", {"class_balanced_batches": True}),
        (
            "--class_balanced_batches false --greater_is_better true",
            {"class_balanced_batches": False, "greater_is_better": True},
        ),
        ("--resume_from_checkpoint auto", {"resume_from_checkpoint": "auto"}),
        ("--resume_from_checkpoint True", {"resume_from_checkpoint": True}),
        ("--resume_from_checkpoint runs/checkpoint-3", {"resume_from_checkpoint": "runs/checkpoint-3"}),
        ("--report_to none", {"report_to": "none"}),
        ("--report_to jsonl tensorboard", {"report_to": ("jsonl", "tensorboard")}),
        (
            "--optim sgd --eval_strategy steps --eval_steps 5",
            {"optim": "sgd", "eval_strategy": "steps", "eval_steps": 5},
        ),
        ("--mask_learning_rate 0.25", {"mask_learning_rate": 0.25}),
    ],
)
def test_flags_become_the_training_settings_they_name(words, settings):
    options = train_parser().parse_args(words.split())
    assert settings_from(options, CIAOTrainingArguments) == CIAOTrainingArguments(output_dir="runs/train", **settings)


def test_flags_become_the_adapters_settings_they_name():
    words = "--no_inhibition --tuning full --hidden_sizes 64 32 --label_range 0 2 --target_modules layer4 --dropout 0.1"
    config = settings_from(
        train_parser().parse_args(words.split()), CIAOConfig, problem_type="regression", num_labels=2
    )
    given = {"hidden_sizes": (64, 32), "label_range": (0.0, 2.0), "target_modules": ("layer4",), "dropout": 0.1}
    assert config == CIAOConfig(problem_type="regression", num_labels=2, tuning="full", inhibition=False, **given)


def test_a_value_that_the_dataclass_refuses_is_its_error():
    with pytest.raises(ConfigError, match="`class_balance` must be a number from 0 to 1"):
        settings_from(train_parser().parse_args(["--class_balance", "2"]), CIAOTrainingArguments)


def test_making_flags_leaves_the_dataclass_as_it_was():
    before = [(field.type, dict(field.metadata)) for field in dataclasses.fields(CIAOTrainingArguments)]
    settings_parser(CIAOTrainingArguments, title="training")
    assert [(field.type, dict(field.metadata)) for field in dataclasses.fields(CIAOTrainingArguments)] == before


def test_texts_are_read_from_a_docstring_by_name():
    class Documented:
        """A thing.

        Args:
            first, second: Share
                a text.
            third: 100 % of it.

        Example:
            none: here
        """

    assert argument_texts(Documented) == {"first": "Share a text.", "second": "Share a text.", "third": "100 % of it."}
    assert argument_texts(type("Bare", (), {"__doc__": None})) == {}


def test_a_percent_sign_in_a_docstring_is_no_format():
    @dataclasses.dataclass
    class Settings:
        """Settings.

        Args:
            share: From 0 % to 100 %.
        """

        share: float = 0.0

    flags = settings_parser(Settings, title="all")
    text = argparse.ArgumentParser(parents=[flags], formatter_class=SettingsHelp).format_help()
    assert "From 0 % to 100 %. (default: 0.0)" in text


def test_the_old_name_of_the_weight_settings_still_answers():
    arguments = CIAOTrainingArguments(lr_scheduler_type="constant")
    with pytest.warns(DeprecationWarning, match="`weight_settings`"):
        assert arguments.what_decides_the_weights(may_go_on=False) == arguments.weight_settings(may_go_on=False)
