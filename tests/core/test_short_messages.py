"""No message of an error is long, whatever a file or a caller gives."""

from __future__ import annotations

import json
import pickle

import pytest

from ciao_peft import CIAOConfig, Preprocessing
from ciao_peft.errors import AdapterFileError, CIAOError, FeatureCacheError, quoted
from ciao_peft.saving.safetensors_file import parse_tensors
from ciao_peft.study import plan_from_flags
from ciao_peft.study.plan_file import plan_from_dict
from helpers.fakes import wrap

LONG = "a" * 1_000_000
NUMBERS = [0] * 300_000


def header(entries):
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


SAYS_MUCH = {
    "preprocessing: a constant": lambda: Preprocessing.from_dict(Preprocessing().to_dict() | {"do_resize": NUMBERS}),
    "preprocessing: size": lambda: Preprocessing.from_dict(Preprocessing().to_dict() | {"size": NUMBERS}),
    "preprocessing: resample": lambda: Preprocessing.from_dict(Preprocessing().to_dict() | {"resample": NUMBERS}),
    "preprocessing: mode": lambda: Preprocessing(mode=LONG),
    "timm: channels": lambda: Preprocessing.from_timm({"input_size": (LONG, 2, 2), "mean": (0,), "std": (1,)}),
    "safetensors: dtype": lambda: parse_tensors(
        header({"a": {"dtype": LONG, "shape": [], "data_offsets": [0, 0]}}), "model.safetensors"
    ),
    "safetensors: name": lambda: parse_tensors(
        header({LONG: {"dtype": "F32", "shape": [NUMBERS], "data_offsets": [0, 0]}}), "model.safetensors"
    ),
    "config: problem": lambda: CIAOConfig(problem_type=LONG, num_labels=2),
    "config: names": lambda: CIAOConfig(problem_type="regression", num_labels=2, id2label={LONG: LONG, 1: 1}),
    "an adapter's name": lambda: wrap().set_adapter(LONG),
    "plan: a name": lambda: plan_from_dict({"tasks": {" " + LONG: None}, "encoders": [], "methods": []}),
    "plan: a method": lambda: plan_from_flags(["fer=data"], ["small-face"], [LONG]),
}


@pytest.mark.parametrize("case", SAYS_MUCH)
def test_a_value_from_outside_is_not_quoted_whole(case):
    with pytest.raises(CIAOError) as caught:
        SAYS_MUCH[case]()
    assert len(str(caught.value)) < 900


def test_no_error_of_ours_is_longer_than_a_page_and_short_ones_are_as_they_were():
    said = str(AdapterFileError(f"'{LONG}' is damaged. Save it again."))
    assert len(said) <= 4000
    assert said.startswith("'aaa") and said.endswith("a' is damaged. Save it again.")
    assert str(FeatureCacheError("no")) == "no"
    assert AdapterFileError(2, "gone", "path").filename == "path"
    assert isinstance(pickle.loads(pickle.dumps(AdapterFileError("no"))), AdapterFileError)
    assert quoted(LONG).count("a") == 74
    assert quoted("short") == "'short'"
