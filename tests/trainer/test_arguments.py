"""Arguments of a training: what is refused by name, and what becomes of them."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from ciao_peft import CIAOTrainingArguments
from ciao_peft.errors import (
    ConfigError,
)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": 0}, "`learning_rate` must be a number from 1e-12 to any size; got 0"),
        ({"learning_rate": 1e30}, "`learning_rate` must be a number from 1e-12 to 1e+09; got 1e+30"),
        ({"learning_rate": "1e-3"}, "`learning_rate` must be a number"),
        ({"learning_rate": math.nan}, "`learning_rate` must be a number"),
        ({"mask_learning_rate": -1}, "`mask_learning_rate` must be a number from 0"),
        ({"num_train_epochs": 0}, "`num_train_epochs`"),
        ({"per_device_train_batch_size": 0}, "`per_device_train_batch_size` must be a whole number from 1"),
        ({"per_device_train_batch_size": 2.0}, "`per_device_train_batch_size` must be a whole number"),
        ({"gradient_accumulation_steps": True}, "`gradient_accumulation_steps` must be a whole number"),
        ({"optim": "lion"}, "`optim` must be one of 'adamw', 'sgd'; got 'lion'"),
        ({"lr_scheduler_type": "step"}, "`lr_scheduler_type` must be one of"),
        ({"warmup_ratio": 1.5}, "`warmup_ratio` must be a number from 0 to 1"),
        ({"class_balance": 2}, "`class_balance` must be a number from 0 to 1"),
        ({"bf16": True, "fp16": True}, "Choose one of `bf16` and `fp16`"),
        ({"bf16": 1}, "`bf16` must be true, false or 'auto'; got 1"),
        ({"eval_strategy": "steps"}, "`eval_steps` goes with `eval_strategy='steps'`; got None with 'steps'"),
        ({"save_steps": 5}, "`save_steps` goes with `save_strategy='steps'`; got 5 with 'no'"),
        ({"save_strategy": "epoch"}, "give `output_dir`"),
        ({"resume_from_checkpoint": True}, "give `output_dir`"),
        ({"report_to": "tensorboard"}, "give `output_dir`"),
        ({"report_to": [1]}, "`report_to` must be text"),
        ({"eval_strategy": "no", "load_best_model_at_end": True}, "`load_best_model_at_end` needs evaluations"),
        ({"eval_strategy": "no", "early_stopping_patience": 2}, "`early_stopping_patience` needs evaluations"),
        ({"feature_cache": None}, "`feature_cache` must be text"),
        ({"seed": -1}, "`seed` must be a whole number from 0"),
    ],
)
def test_an_argument_that_cannot_work_is_refused_by_name(values, message):
    with pytest.raises(ConfigError) as caught:
        CIAOTrainingArguments(**values)
    assert message in str(caught.value)


def test_arguments_survive_json_and_refuse_unknown_ones():
    arguments = CIAOTrainingArguments(output_dir="out", report_to=["jsonl", "tensorboard"], seed=3)
    assert CIAOTrainingArguments.from_dict(json.loads(json.dumps(arguments.to_dict()))) == arguments
    with pytest.raises(ConfigError, match=r"Unknown setting 'learning_rat'.*did you mean 'learning_rate'"):
        CIAOTrainingArguments.from_dict({"learning_rat": 1})
    with pytest.raises(dataclasses.FrozenInstanceError):
        arguments.seed = 4


def test_rates_rise_in_the_warm_up_and_fall_along_half_a_cosine():
    arguments = CIAOTrainingArguments(warmup_ratio=0.2, lr_scheduler_type="cosine")
    rates = [arguments.rate_factor(step, 10) for step in range(10)]
    assert rates[:2] == [0.5, 1.0]
    assert rates[2:] == pytest.approx([(1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)])
    assert CIAOTrainingArguments(lr_scheduler_type="constant").rate_factor(9, 10) == 1.0


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", {}),
        ("--learning_rate 0.5 --num_train_epochs 3", {"learning_rate": 0.5, "num_train_epochs": 3}),
        ("--bf16", {"bf16": True}),
        ("--bf16 auto", {"bf16": "auto"}),
        ("--compile inductor", {"compile": "inductor"}),
        ("--output_dir runs --resume_from_checkpoint", {"output_dir": "runs", "resume_from_checkpoint": True}),
        ("--resume_from_checkpoint runs/checkpoint-5", {"resume_from_checkpoint": "runs/checkpoint-5"}),
        ("--output_dir r --report_to jsonl,tensorboard", {"output_dir": "r", "report_to": ("jsonl", "tensorboard")}),
        ("--report_to none --eval_strategy no", {"report_to": "none", "eval_strategy": "no"}),
        ("--class_balanced_batches", {"class_balanced_batches": True}),
        ("--views 1 --num_train_epochs 5", {"views": 1, "num_train_epochs": 5.0}),
    ],
)
def test_transformers_parser_reads_them(flags, expected):
    from transformers import HfArgumentParser

    (parsed,) = HfArgumentParser(CIAOTrainingArguments).parse_args_into_dataclasses(flags.split())
    assert parsed == CIAOTrainingArguments(**expected)
