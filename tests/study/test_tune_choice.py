"""Which candidates go on, which one is chosen, and what is said of the mask: by arithmetic."""

from __future__ import annotations

import math

import pytest

from ciao_peft import CIAOConfig, CIAOTrainingArguments
from ciao_peft.errors import ConfigError, TrainingError
from ciao_peft.study import METHODS, Method, Task, tune
from ciao_peft.study.tuning.candidates import (
    head_of,
    make_candidates,
    settings_of_recipe,
    what_trains,
    with_baselines,
)
from ciao_peft.study.tuning.choice import Tried, choose, table_of, verdict_of
from ciao_peft.study.tuning.halving import epochs_of_rungs, going_on
from ciao_peft.trainer import recipe_for

BARE = {"inhibition": False, "contrastive_weight": 0.0}


def tried(name: str, *scores: float, numbers: int = 100, epochs: float = 12, problem: str | None = None) -> Tried:
    return Tried(name, epochs=epochs, scores=scores, numbers=numbers, seconds=1.0, problem=problem)


def test_the_standard_error_is_that_of_the_mean():
    """Of 0.1, 0.2, 0.6: mean 0.3, squared differences 0.04 + 0.01 + 0.09 over 2, the root of it by the root of 3."""
    one = tried("one", 0.1, 0.2, 0.6)
    assert one.mean == pytest.approx(0.3)
    assert one.standard_error == pytest.approx(math.sqrt(0.14 / 2) / math.sqrt(3))


def test_the_smallest_within_one_standard_error_of_the_best_is_chosen():
    best = tried("best", 0.80, 0.84, numbers=900)  # 0.82 ± 0.02
    at_the_edge = tried("edge", 0.801, 0.801, numbers=50)
    below = tried("below", 0.799, 0.799, numbers=10)
    assert choose([best, at_the_edge, below]).name == "edge"
    assert choose([best, below]).name == "best"
    larger = tried("larger", 0.83, 0.80, numbers=1000)
    assert choose([best, larger]).name == "best"


def test_only_the_last_rung_is_chosen_from():
    lucky = tried("lucky", 0.99, 0.99, numbers=1, epochs=3)
    assert choose([lucky, tried("last", 0.5, 0.5)]).name == "last"


def test_without_a_score_nothing_is_chosen():
    with pytest.raises(TrainingError, match="odd: diverged"):
        choose([tried("odd", problem="diverged")])


def test_a_quarter_of_each_kind_goes_on_and_at_least_one():
    masks = [Method(name=f"mask {n}") for n in range(5)]
    compact = [Method(name=f"compact {n}", config={"spatial_maps": 8, "hidden_sizes": []}) for n in range(4)]
    bare = [Method(name="bare", config=BARE)]
    scores = {own.name: n / 100 for n, own in enumerate(masks)} | {own.name: 0.9 for own in compact} | {"bare": 0.0}
    kept = [own.name for own in going_on([*masks, *compact, *bare], scores)]
    assert kept == ["mask 3", "mask 4", "compact 0", "bare"]


def test_what_diverged_does_not_go_on():
    methods = [Method(name="wild"), Method(name="tame"), Method(name="missing")]
    assert [own.name for own in going_on(methods, {"wild": -math.inf, "tame": 0.1})] == ["tame"]
    assert going_on(methods, {}) == ()


@pytest.mark.parametrize(
    ("epochs", "rungs"), [(12, (1, 3, 12)), (24, (2, 6, 24)), (60, (4, 15, 60)), (2, (1, 2)), (0.5, (0.5,))]
)
def test_each_rung_has_four_times_the_epochs(epochs, rungs):
    assert epochs_of_rungs(epochs) == rungs


def verdict(masked: tuple[float, float], bare: tuple[float, float], last: tuple[float, float]) -> str:
    methods = [
        Method(name="gain"),
        Method(name="bare", config=BARE),
        Method(name="last", config={**BARE, "tuning": "last_conv"}),
        Method(name="other head", config={**BARE, "hidden_sizes": []}),
    ]
    reached = [tried("gain", *masked), tried("bare", *bare), tried("last", *last), tried("other head", 0.99, 0.99)]
    return verdict_of(reached, methods, "accuracy")


def test_the_verdict_compares_part_by_part_with_the_same_head():
    """Both parts differ by 3 and 1 points from the bare head: 2 ± 1, however hard each part is."""
    said = verdict((0.83, 0.61), (0.80, 0.60), (0.82, 0.62))
    assert said.startswith("The mask helps: gain is ahead of the same head without a mask (+2.00 ± 1.00 points")
    assert "level with the last convolution unfrozen under the same head (+0.00 ± 1.00 points" in said


def test_the_verdict_says_where_the_mask_does_not_help():
    assert verdict((0.80, 0.60), (0.80, 0.61), (0.7, 0.5)).startswith("The mask does not help: gain is level with")
    behind = verdict((0.80, 0.60), (0.82, 0.62), (0.84, 0.63))
    assert behind.startswith("The mask does not help, and the last convolution unfrozen is better: gain is behind")


def test_the_verdict_without_a_mask_says_so():
    assert "No candidate with a mask" in verdict_of(
        [tried("bare", 0.5, 0.6)], [Method(name="bare", config=BARE)], "accuracy"
    )


def test_the_table_has_scores_sizes_and_what_went_wrong():
    rows = [tried("gain, a|b", 0.5, 0.6, numbers=50_000), tried("odd", problem="diverged", epochs=1)]
    lines = table_of(rows, rows[0], "concordance").splitlines()
    assert "0.550 ± 0.050" in lines[2] and "50,000 | 0.10" in lines[2] and "**gain, a\\|b** chosen" in lines[2]
    assert "diverged" in lines[3]


def test_a_megabyte_is_half_a_million_numbers_of_float16():
    assert tried("one", 0.5, numbers=500_000).megabytes == 1.0


@pytest.mark.parametrize(
    ("problem", "metric"),
    [
        ("single_label_classification", "accuracy"),
        ("single_label_classification", "balanced_accuracy"),
        ("regression", "concordance"),
        ("multi_label_classification", "macro_f1"),
    ],
)
@pytest.mark.parametrize("recipe", ["default", "small-data", "thorough", "paper"])
def test_every_candidate_is_a_valid_adapter_and_training_of_its_own(problem, metric, recipe):
    candidates = make_candidates(problem, metric, recipe, depths=2, mask_rates=True)
    names = [own.name for own in candidates]
    assert len({*names}) == len(names)
    configs = [CIAOConfig.preset("paper", problem_type=problem, num_labels=3, **own.config) for own in candidates]
    rates = [own.rates for own in candidates]
    assert len({(config, rate, own.rate) for config, rate, own in zip(configs, rates, candidates, strict=True)}) == len(
        names
    )
    for own in candidates:
        CIAOTrainingArguments(**{**settings_of_recipe(recipe), **own.arguments, own.rate: own.rates[0]})
    kinds = {(what_trains(own.config), head_of(own.config)) for own in candidates}
    assert len(kinds) == 9  # three heads, each with a mask, without, and under the last convolution unfrozen


def test_rates_are_the_recipes():
    by_name = {own.name: own for own in make_candidates("single_label_classification", "accuracy", "default")}
    assert by_name["subtractive, flat, contrastive"].rates == (1e-3,)
    assert by_name["rescaled, flat, contrastive"].rates == (1e-2,)
    assert by_name["last convolution, flat"].rates == (3e-3,)
    assert by_name["last convolution, flat"].rate == "encoder_learning_rate"


def test_rare_classes_are_weighed_only_where_the_metric_counts_classes_alike():
    def adjusted(metric: str) -> int:
        candidates = make_candidates("single_label_classification", metric, "default")
        return sum("logit_adjustment" in own.config for own in candidates)

    assert (adjusted("accuracy"), adjusted("balanced_accuracy"), adjusted("macro_f1")) == (0, 24, 24)


def test_the_recipe_follows_the_number_of_pictures():
    assert [recipe_for(count) for count in (190, 1_999, 2_000, 8_343)] == ["small-data"] * 2 + ["default"] * 2


def test_ones_own_candidates_get_the_baselines_that_they_lack():
    mine = Method(name="mine", config={"hidden_sizes": [64], "logit_adjustment": 0.5}, rates=(0.01,))
    bare = Method(name="bare", config={**BARE, "hidden_sizes": [64]}, rates=(0.01,))
    added = with_baselines([mine, bare], "default")[2:]
    assert [own.name for own in added] == ["last convolution, head of mine"]
    assert added[0].config == {**BARE, "tuning": "last_conv", "hidden_sizes": [64], "logit_adjustment": 0.5}


@pytest.mark.parametrize("name", ["LoRA r=4", "full", "decision layer"])
def test_a_candidate_that_is_no_adapter_on_features_with_one_rate_is_refused(name):
    with pytest.raises(ConfigError, match="must be an adapter of this library"):
        with_baselines([METHODS[name]], "default")


def test_candidates_that_are_none_are_refused_before_anything_is_trained(tmp_path):
    options = {"world": "eight", "num_train": 24, "num_validation": 2, "num_test": 2, "size": 32}
    task = Task(name="painted", dataset="painted_faces", options=options)
    for candidate, message in (
        (Method(name="typo", config={"excitation": 4}, rates=(0.01,)), r"'typo': Unknown .*'excitation'"),
        (Method(name="range", config={"excitation_rank": -1}, rates=(0.01,)), r"'range': `excitation_rank` must be"),
        ("gain", r"`candidates` must hold `Method"),
    ):
        with pytest.raises(ConfigError, match=message):
            tune(task, "small-face", tmp_path / "tune", candidates=[candidate], epochs=1, folds=2, disable_tqdm=True)
    assert not (tmp_path / "tune").exists()
