from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import subprocess
import sys

import pytest

from ciao_peft.config import CIAOConfig, check_adapter_name
from ciao_peft.errors import AdapterNameError, CIAOError, ConfigError

EVERYTHING_CHANGED = {
    "problem_type": "single_label_classification",
    "num_labels": 2,
    "id2label": {0: "brow raised", 1: "口"},
    "tuning": "full",
    "inhibition": False,
    "inhibition_form": "subtractive",
    "inhibition_rank": 16,
    "excitation_rank": 4,
    "inhibition_start": "random",
    "target_modules": ("features.28", "branch.0.conv"),
    "decay_init": 0.25,
    "learn_decay": False,
    "pooling": "max",
    "spatial_maps": 8,
    "depths": ("features.0", "features.7"),
    "depth_grid": 2,
    "frames": 10,
    "recurrent_size": 128,
    "hidden_sizes": (),
    "dropout": 0.0,
    "temperature": 0.005,
    "contrastive_weight": 0.0,
    "task_loss_trains": "head",
    "contrastive_denominator": "negatives",
    "contrastive_prototypes": "simplex",
    "contrastive_reduction": "sum",
    "embedding_source": "logits",
    "num_bins": 3,
    "label_range": (0.0, 9.0),
    "multi_label_positives": "same_set",
    "regression_loss": "ccc",
    "logit_adjustment": 0.5,
    "class_prior": (0.25, 0.75),
    "probability_temperature": 2.5,
    "train_batch_norm": True,
    "init_seed": 2**40,
}


def classes(**changes):
    return CIAOConfig(**{"problem_type": "single_label_classification", "num_labels": 3, **changes})


def test_every_setting_survives_json_unchanged():
    config = CIAOConfig(**EVERYTHING_CHANGED)
    defaults = CIAOConfig(problem_type="single_label_classification", num_labels=2)
    for setting in dataclasses.fields(CIAOConfig):
        assert setting.name in EVERYTHING_CHANGED, f"{setting.name} is not covered here"
        if setting.name not in ("problem_type", "num_labels"):
            assert getattr(config, setting.name) != getattr(defaults, setting.name), (
                f"{setting.name} is not changed here"
            )
    again = CIAOConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.to_dict() == config.to_dict()
    assert {f.name: type(getattr(again, f.name)) for f in dataclasses.fields(again)} == {
        f.name: type(getattr(config, f.name)) for f in dataclasses.fields(config)
    }


def test_copies_and_pickles_are_equal():
    config = CIAOConfig(**EVERYTHING_CHANGED)
    assert copy.deepcopy(config) == config
    assert pickle.loads(pickle.dumps(config)) == config


def test_equal_configs_have_equal_hashes():
    one, other = classes(decay_init=1, label_range=(0, 1)), classes(decay_init=1.0, label_range=(0.0, 1.0))
    assert one == other
    assert hash(one) == hash(other)
    assert len({one, other, classes(decay_init=2)}) == 2


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        classes().temperature = 1.0


def test_the_mapping_that_was_given_stays_the_callers():
    names = {0: "a", 1: "b", 2: "c"}
    config = classes(id2label=names)
    names[0] = "changed"
    assert config.id2label[0] == "a"


def test_labels_are_named_by_number_when_no_names_are_given():
    assert classes().id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}


@pytest.mark.parametrize(
    ("changes", "rank"),
    [
        ({}, 32),
        ({"excitation_rank": None}, 32),
        ({"excitation_rank": 0}, 0),
        ({"inhibition": False}, 0),
        ({"tuning": "last_conv"}, 0),
        ({"tuning": "full"}, 0),
        ({"tuning": "full", "excitation_rank": 4}, 4),
    ],
)
def test_a_mask_on_the_frozen_encoder_has_excitation_unless_told(changes, rank):
    assert classes(**changes).excitation_rank == rank


def test_lists_become_tuples():
    config = classes(hidden_sizes=[4, 2], label_range=[0, 1], target_modules=["a.b"])
    assert (config.hidden_sizes, config.label_range, config.target_modules) == ((4, 2), (0, 1), ("a.b",))
    assert classes(depths=["a", "b"]).depths == ("a", "b") and classes(depths=3).depths == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"problem_type": "classification"},
            "`problem_type` must be one of 'multi_label_classification', 'regression'",
        ),
        ({"tuning": None}, "`tuning` must be one of 'decision_layer', 'full', 'last_conv'; got None"),
        ({"pooling": []}, r"`pooling` must be one of .* got \[\]"),
        (
            {"inhibition_form": "divide"},
            "`inhibition_form` must be one of 'additive', 'divisive', 'gain', 'rescaled', 'subtractive'; got",
        ),
        ({"inhibition_start": None}, "`inhibition_start` must be one of 'copy', 'random'; got None"),
        ({"learn_decay": 0}, "`learn_decay` must be true or false; got 0"),
        ({"task_loss_trains": "mask"}, "`task_loss_trains` must be one of 'all', 'head'; got 'mask'"),
        ({"inhibition": 1}, "`inhibition` must be true or false; got 1"),
        ({"train_batch_norm": "yes"}, "`train_batch_norm` must be true or false; got 'yes'"),
        ({"num_labels": 1}, "`num_labels` must be 2 or more for single_label_classification; got 1"),
        ({"num_labels": 0}, "`num_labels` must be a whole number from 1 to 1e.06; got 0"),
        ({"num_labels": 3.0}, "`num_labels` must be a whole number .* got 3.0"),
        ({"num_labels": True}, "`num_labels` must be a whole number .* got True"),
        ({"num_bins": 1}, "`num_bins` must be a whole number from 2 to 1000; got 1"),
        ({"init_seed": -1}, "`init_seed` must be a whole number from 0 .* got -1"),
        ({"init_seed": 2**63}, "`init_seed`"),
        ({"decay_init": 0}, "`decay_init` must be a number from 1e-05 to 1e.06; got 0"),
        ({"decay_init": 1e-6}, "`decay_init`"),  # the floor of `a` itself: nothing above it is left to learn
        ({"decay_init": float("nan")}, "`decay_init` .* got nan"),
        ({"temperature": 0.0}, "`temperature` must be a number from 1e-06 to 1e.06; got 0.0"),
        ({"temperature": float("inf")}, "`temperature` .* got inf"),
        ({"temperature": "0.1"}, "`temperature` .* got '0.1'"),
        ({"contrastive_weight": -0.1}, "`contrastive_weight` must be a number from 0 .* got -0.1"),
        ({"dropout": 1.0}, "`dropout` must be a number from 0 to 0.999; got 1.0"),
        (
            {"depths": ()},
            r"`depths` must be a non-empty tuple of module paths, or a number of units, 1 to 64; got \(\)",
        ),
        ({"depths": 0}, "`depths` .* got 0"),
        ({"depths": 65}, "`depths` .* got 65"),
        ({"depths": 1.5}, "`depths` .* got 1.5"),
        ({"depths": True}, "`depths` .* got True"),
        ({"depths": "layer1"}, "`depths` .* got 'layer1'"),
        ({"depths": ("a", 3)}, "`depths` must be a non-empty tuple of module paths"),
        ({"depths": ("a", "b", "a")}, "`depths` must be without repetition"),
        ({"depths": tuple(map(str, range(65)))}, "`depths` must be 64 paths at most"),
        ({"depth_grid": 0}, "`depth_grid` must be a whole number from 1 to 16; got 0"),
        ({"depth_grid": 17}, "`depth_grid` must be a whole number from 1 to 16; got 17"),
        ({"frames": 10}, "`frames` and `recurrent_size` go together: .*; got 10 and None"),
        ({"recurrent_size": 8}, "`frames` and `recurrent_size` go together: .*; got None and 8"),
        ({"frames": 0, "recurrent_size": 8}, "`frames` must be a whole number from 1 to 10000; got 0"),
        ({"frames": 10, "recurrent_size": 8.0}, "`recurrent_size` must be a whole number .* got 8.0"),
        ({"hidden_sizes": 256}, "`hidden_sizes` must be up to 16 whole numbers of 1 or more; got 256"),
        ({"hidden_sizes": (0,)}, r"`hidden_sizes` .* got \(0,\)"),
        ({"hidden_sizes": (8.0,)}, r"`hidden_sizes` .* got \(8.0,\)"),
        ({"hidden_sizes": (True,)}, r"`hidden_sizes` .* got \(True,\)"),
        ({"hidden_sizes": (4,) * 17}, "`hidden_sizes`"),
        ({"label_range": (1, 1)}, r"`label_range` must be two finite numbers, the lower one first; got \(1, 1\)"),
        ({"label_range": (0, float("inf"))}, "`label_range` .* got"),
        ({"label_range": (float("nan"), 1)}, "`label_range` .* got"),
        ({"label_range": (0, 10**400)}, "`label_range` .* got"),
        ({"label_range": (0, 1, 2)}, "`label_range`"),
        ({"label_range": "01"}, "`label_range`"),
        ({"target_modules": "layer4"}, "`target_modules` must be a non-empty tuple of module paths; got 'layer4'"),
        ({"target_modules": ()}, "`target_modules` must be a non-empty tuple"),
        ({"inhibition_rank": 0}, "`inhibition_rank` must be"),
        ({"inhibition_rank": True}, "`inhibition_rank` must be"),
        ({"excitation_rank": -1}, "`excitation_rank` must be"),
        ({"excitation_rank": "all"}, "`excitation_rank` must be"),
        ({"inhibition_rank": 4, "inhibition_start": "random"}, "leave one of them out"),
        ({"spatial_maps": 0}, "`spatial_maps` must be"),
        ({"spatial_maps": 8, "pooling": "avg"}, "`spatial_maps` weights positions"),
        (
            {"contrastive_denominator": "class_average", "problem_type": "regression"},
            "goes by the class of each sample",
        ),
        ({"logit_adjustment": -1}, "`logit_adjustment` must be"),
        ({"logit_adjustment": 1, "problem_type": "regression"}, "are for one class of several"),
        ({"class_prior": (0.5, 0.5)}, "`class_prior` must be 3 shares above 0"),
        ({"class_prior": (0.5, 0.5, 0.0)}, "`class_prior` must be 3 shares above 0"),
        ({"class_prior": (0.5, 0.5, 0.5)}, "must add up to 1; they add up to 1.5"),
        ({"class_prior": "abc"}, "`class_prior` must be 3 shares above 0"),
        ({"probability_temperature": 0}, "`probability_temperature` must be"),
        ({"target_modules": ("",)}, "`target_modules` must be a non-empty tuple"),
        ({"target_modules": ("a", "a")}, "`target_modules` must be without repetition"),
        ({"id2label": {0: "a", 1: "b"}}, r"`id2label` must name every index from 0 to 2 .* it names \[0, 1\]"),
        ({"id2label": {0: "a", 1: "\ud800", 2: "b"}}, r"of `id2label` is no text: half of a sign is missing"),
        ({"id2label": {0: "a", 1: "b", 2: "c", 3: "d"}}, r"`id2label` must name every index .* \[0, 1, 2, 3\]"),
        ({"id2label": {"zero": "a"}}, "`id2label` must map indices to names; got {'zero': 'a'}"),
        ({"id2label": ["a", "b", "c"]}, "`id2label` must map indices to names"),
        (
            {"id2label": {0: "a", 1: "b", 2: "a"}},
            "`id2label` must give each index a name of its own; 'a' is there twice",
        ),
        ({"id2label": {0: "a", "0": "b", 1: "c", 2: "d"}}, "`id2label` must map indices to names"),
        ({"id2label": {0.5: "a", 1: "b", 2: "c"}}, "`id2label` must map indices to names"),
    ],
    ids=lambda value: "-".join(f"{k}={v!r}"[:40] for k, v in value.items()) if isinstance(value, dict) else None,
)
def test_a_value_that_cannot_work_is_refused_by_name(changes, message):
    with pytest.raises(ConfigError, match=message):
        classes(**changes)


@pytest.mark.parametrize("problem_type", ["regression", "multi_label_classification"])
def test_one_label_is_enough_where_it_means_something(problem_type):
    assert CIAOConfig(problem_type=problem_type, num_labels=1).num_labels == 1


def test_config_errors_are_value_errors_and_errors_of_this_library():
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ConfigError, CIAOError)


def test_an_unknown_setting_is_refused_with_the_nearest_known_one():
    with pytest.raises(ConfigError, match="'temprature' of CIAOConfig; did you mean 'temperature'"):
        CIAOConfig.from_dict({**classes().to_dict(), "temprature": 0.1})
    with pytest.raises(ConfigError, match=r"Unknown setting 'zzz' of CIAOConfig; known settings: .*'temperature'"):
        CIAOConfig.from_dict({**classes().to_dict(), "zzz": 0.1})


def test_missing_settings_are_listed():
    with pytest.raises(ConfigError, match="CIAOConfig needs 'num_labels', 'problem_type'"):
        CIAOConfig.from_dict({})


@pytest.mark.parametrize(
    "name", ["a", "ab", "default2", "x.y", "training", "fer-2013", "_", "A9", "a" * 96, "__init__", "console", "nul-1"]
)
def test_a_name_that_can_be_a_folder_everywhere_is_accepted(name):
    assert check_adapter_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "/x",
        "a/b",
        "a\\b",
        "a:b",
        "a b",
        "-a",
        ".a",
        "a.",
        "a\n",
        "a\0",
        "é",
        "a" * 97,
        None,
        3,
        b"a",
    ],
)
def test_a_name_that_could_leave_its_folder_is_refused(name):
    with pytest.raises(AdapterNameError, match="An adapter cannot be named"):
        check_adapter_name(name)


@pytest.mark.parametrize("name", ["con", "NUL", "com1.x", "LPT9"])
def test_a_name_that_is_a_device_on_windows_is_refused(name):
    with pytest.raises(AdapterNameError, match="An adapter cannot be named"):
        check_adapter_name(name)


def test_the_name_of_the_untouched_backbone_is_taken():
    with pytest.raises(AdapterNameError, match="'__base__' stands for the untouched backbone"):
        check_adapter_name("__base__")


def test_a_config_needs_no_torch():
    code = "import sys, ciao_peft.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
