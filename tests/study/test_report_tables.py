"""Tables of a report with numbers that can be worked out by hand."""

from __future__ import annotations

import math

import pytest

from ciao_peft.study import Encoder, Plan, Task, methods_named
from ciao_peft.study.analysis.study import CIAO, Study
from ciao_peft.study.report import Table, headlines, parameters, ranking, table_one, table_two
from ciao_peft.study.report.tables import methods, paired_tests, searches
from helpers.studies import HEAD, SIZES, record, records, searched

PAIR = ("faces", "small-face")
FER = {"task": "fer", "dataset": "fer2013", "encoder": "vggface2"}


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def column(table: Table, name: str) -> list[str]:
    return [row[table.header.index(name)] for row in texts(table)]


def strong(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row if cell.strong] for row in table.rows]


def test_every_row_has_a_cell_for_every_column():
    lines = records({CIAO: [0.8, 0.9], HEAD: [0.7, 0.8], "CIAO, additive": [0.5, 0.6]}, scores={"macro_f1": 0.5})
    study = Study([*lines, *searched(HEAD, {0.001: 0.5, 0.01: 0.4}), *searched(CIAO, {0.01: 0.5})])
    found = [headlines(study), table_one(study), parameters(study), methods(study), searches(study, *PAIR)]
    found += [ranking(study, *PAIR, kinds, "title") for kinds in (("network", "rival"), ("ablation",))]
    found += [paired_tests(study, *PAIR, metric) for metric in ("accuracy", "macro_f1")]
    for table in found:
        assert {len(row) for row in table.rows} == {len(table.header)}


def test_how_sure_answers_are_stands_in_the_tables_where_it_was_measured():
    measured = records({CIAO: [0.8, 0.9]}, scores={"calibration_error": 0.031})
    table = ranking(Study([*measured, *records({HEAD: [0.7, 0.8]})]), *PAIR, ("network", "rival"), "title")
    assert table is not None
    assert column(table, "calibration error") == ["3.1 ± 0.0", "–"]
    table = ranking(Study(records({CIAO: [0.8], HEAD: [0.7]})), *PAIR, ("network", "rival"), "title")
    assert table is not None and "calibration error" not in table.header


# -- Table I and Table II ----------------------------------------------------------------------------------------------


def test_table_one_stands_beside_the_papers_numbers():
    study = Study(records({HEAD: [0.50, 0.52], CIAO: [0.60, 0.64]}, **FER))
    table = table_one(study)
    assert table.header[-2:] == ("paper, −", "paper, CIAO")
    sd = [f"{100 * math.sqrt(2) * half:.1f}" for half in (0.01, 0.02)]  # of two values that far from their mean
    expected = ["fer", "accuracy", "vggface2", "decision layer", f"51.0 ± {sd[0]}", f"62.0 ± {sd[1]}", "2"]
    assert texts(table) == [[*expected, "55.3", "68.2"]]
    assert strong(table) == [[f"62.0 ± {sd[1]}"]]


def test_where_the_paper_has_no_numbers_their_columns_are_left_out():
    table = table_one(Study(records({HEAD: [0.5], CIAO: [0.6]})))
    assert table.header[-1] == "seeds"
    assert "did not run" in table.note


def test_regressed_values_are_rows_of_their_own():
    lines = [
        record(name, 0, sum(pair) / 2, task="av", dataset="affectnet", encoder="vggface2", metric="concordance")
        for name, pair in ((HEAD, (0.2, 0.4)), (CIAO, (0.5, 0.3)))
    ]
    for line, pair in zip(lines, ((0.2, 0.4), (0.5, 0.3)), strict=True):
        line.scores.update(concordance_arousal=pair[0], concordance_valence=pair[1])
    table = table_one(Study(lines))
    assert column(table, "task") == ["av, arousal", "av, valence"]
    assert column(table, "−") == ["0.200", "0.400"]
    assert column(table, "CIAO") == ["0.500", "0.300"]
    assert column(table, "paper, CIAO") == ["0.47", "0.58"]
    assert strong(table) == [["0.500"], ["0.400"]]  # the better one, which need not be CIAO


def test_equal_means_are_not_set_off_and_half_a_pair_is_shown():
    study = Study(records({HEAD: [0.5, 0.5], CIAO: [0.5], "full": [0.7]}))
    table = table_one(study)
    assert strong(table) == [[], []]
    assert texts(table)[0][3:] == ["full", "70.0", "–", "1"]
    assert texts(table)[1][3:] == ["decision layer", "50.0 ± 0.0", "50.0", "2/1"]


def test_table_two_is_the_papers_baselines_and_our_own_numbers():
    assert table_two(Study(records({HEAD: [0.5]}))) is None
    table = table_two(Study(records({"full + CIAO": [0.75, 0.77]}, **FER)))
    assert texts(table) == [
        ["FER", "ResMaskNet", "76.8", "–"],
        ["FER", "Inception", "72.4", "–"],
        ["FER", "DeepEm.", "70", "–"],
        ["FER", "VGG, full + CIAO", "76.1", "76.0 ± 1.4"],
        ["FER", "PK, decision layer + CIAO", "70.2", "–"],
    ]


def test_categories_and_affects_of_one_dataset_stand_in_their_own_rows():
    shared = {"dataset": "affectnet", "encoder": "vggface2"}
    categories = record(CIAO, 0, 0.61, task="affectnet", **shared)
    affects = record(CIAO, 0, 0.5, task="affectnet_av", metric="concordance", **shared)
    affects.scores.update(concordance_arousal=0.41, concordance_valence=0.59)
    for lines in ([categories, affects], [affects, categories]):
        table = table_two(Study(lines))
        here = {row[0]: row[3] for row in texts(table) if row[1] == "VGG, decision layer + CIAO"}
        assert here == {
            "AffectNet, arousal": "0.410",
            "AffectNet, valence": "0.590",
            "AffectNet, categorical": "61.0",
        }
    assert {row[0] for row in texts(table_two(Study([categories])))} == {"AffectNet, categorical"}


def test_beside_the_papers_jaffe_stands_the_task_that_is_split_as_the_paper_says():
    shared = {"dataset": "jaffe", "encoder": "vggface2"}
    by_emotion = record(CIAO, 0, 0.9, task="jaffe", **shared)
    by_person = record(CIAO, 0, 0.6, task="jaffe_subjects", **shared)
    for lines in ([by_emotion, by_person], [by_person, by_emotion]):
        table = table_two(Study(lines))
        assert column(table, "here") == ["–", "–", "–", "90.0"]
        assert "jaffe_subjects" not in table.note
    alone = table_two(Study([by_person]))
    assert column(alone, "here") == ["–", "–", "–", "60.0"]
    assert "JAFFE is the task “jaffe_subjects”, which is not split as the paper splits it" in alone.note


def test_a_plan_says_how_a_task_of_ones_own_is_split():
    tasks = tuple(
        Task(name=name, dataset="jaffe", options={} if protocol is None else {"protocol": protocol})
        for name, protocol in (("a", None), ("b", "leave-one-emotion-out"))
    )
    plan = Plan(tasks=tasks, encoders=(Encoder(name="vggface2"),), methods=methods_named([CIAO]), epochs=3)
    lines = [record(CIAO, 0, s, task=name, dataset="jaffe", encoder="vggface2") for name, s in (("a", 0.6), ("b", 0.9))]
    assert column(table_two(Study(lines, plan)), "here")[-1] == "90.0"
    assert [Study(lines, plan).protocol(name) for name in "abc"] == [
        "leave-one-subject-out",  # the default of JAFFE
        "leave-one-emotion-out",
        None,
    ]
    assert Study(lines).protocol("a") is None


# -- methods side by side ----------------------------------------------------------------------------------------------


def test_a_ranking_is_sorted_and_gives_the_lead_of_ciao():
    study = Study(records({CIAO: [0.80, 0.82], HEAD: [0.70, 0.74], "LoRA r=4": [0.90, 0.90], "full": [0.85, 0.85]}))
    table = ranking(study, *PAIR, ("network", "rival"), "Networks and baselines")
    assert column(table, "method") == ["LoRA r=4", "full", CIAO, HEAD]
    assert column(table, "CIAO − it") == ["−9.0", "−4.0", "–", "+9.0"]
    assert column(table, "trained") == [f"{SIZES[name]:,}" for name in ("LoRA r=4", "full", CIAO, HEAD)]
    assert strong(table)[2][0] == CIAO


def test_only_p_values_below_the_level_are_set_off():
    study = Study(records({CIAO: [0.80, 0.81, 0.82], HEAD: [0.70, 0.711, 0.72], "LoRA r=4": [0.79, 0.82, 0.80]}))
    table = ranking(study, *PAIR, ("network", "rival"), "")
    p = dict(zip(column(table, "method"), (row[table.header.index("p")] for row in table.rows), strict=True))
    assert p[HEAD].strong
    assert p[HEAD].value < 0.05 < p["LoRA r=4"].value
    assert not p["LoRA r=4"].strong


def test_ablations_are_beside_ciao_and_without_them_there_is_no_table():
    study = Study(records({CIAO: [0.8], HEAD: [0.7], "CIAO, additive": [0.9]}))
    assert column(ranking(study, *PAIR, ("ablation",), ""), "method") == ["CIAO, additive", CIAO]
    assert ranking(Study(records({CIAO: [0.8], HEAD: [0.7]})), *PAIR, ("ablation",), "") is None


def test_a_method_without_the_main_score_is_left_out_of_a_ranking():
    lines = records({CIAO: [0.8], HEAD: [0.7]})
    study = Study([*lines, record("LoRA r=4", 0, 0.5, metric="macro_f1")])
    assert column(ranking(study, *PAIR, ("network", "rival"), ""), "method") == [CIAO, HEAD]


def test_paired_tests_show_every_p_value():
    study = Study(records({CIAO: [0.80, 0.90, 0.70], HEAD: [0.79, 0.88, 0.67]}))  # 0.01, 0.02, 0.03
    table = paired_tests(study, *PAIR, "accuracy")
    (row,) = texts(table)
    # t = 2 sqrt(3) with two degrees of freedom: p = 1 - t / sqrt(2 + t²)
    p = 1 - math.sqrt(12 / 14)
    assert [row[0], row[1], row[2], row[4], row[-1]] == [HEAD, "+2.0", "1.0", "+2.00", "3"]
    assert row[5:8] == [f"{p:.3f}", "0.250", "0.250"]
    assert paired_tests(study, *PAIR, "macro_f1") is None


def test_the_headline_is_ciao_against_its_head_and_the_best_baseline():
    study = Study(records({CIAO: [0.80, 0.81], HEAD: [0.70, 0.71], "LoRA r=4": [0.90, 0.9101]}))
    (row,) = texts(headlines(study))
    assert row[:5] == ["faces", "small-face", "accuracy", "80.5 ± 0.7", "+10.0"]
    assert row[6:8] == ["LoRA r=4", "−10.0"]
    assert row[-1] == "no"
    assert headlines(Study(records({HEAD: [0.7]}))) is None


@pytest.mark.parametrize(
    ("baseline", "verdict"), [([0.80, 0.8101], "yes"), ([0.90, 0.9101], "no"), ([0.85, 0.75], "cannot tell")]
)
def test_a_headline_says_whether_ciao_is_within_a_point(baseline, verdict):
    study = Study(records({CIAO: [0.80, 0.81], "LoRA r=4": baseline}))
    assert column(headlines(study), "within a point") == [verdict]


def test_no_baseline_is_the_best_of_many_for_certain_by_chance():
    """t = 4 over three seeds is p = 0.029 alone, and 0.057 for the better of two baselines."""
    spread = math.sqrt(3) / 1000
    ahead = [0.80 + 0.014 + step for step in (-spread, 0, spread)]
    one = {CIAO: [0.80] * 3, "LoRA r=4": ahead}
    assert column(headlines(Study(records(one))), "within a point") == ["no"]
    two = one | {"LoRA r=16": [0.5, 0.6, 0.7]}
    assert column(headlines(Study(records(two))), "within a point") == ["cannot tell"]


# -- parameters, learning rates, settings ------------------------------------------------------------------------------


def test_parameters_are_means_over_tasks_without_ablations():
    lines = records({HEAD: [0.5, 0.6]}, parameters={"trained": 100})
    lines += records({HEAD: [0.5]}, parameters={"trained": 201}, task="other")
    lines += records({"CIAO, additive": [0.5]}, parameters={"trained": 7})
    assert texts(parameters(Study(lines))) == [["small-face", HEAD, "150", "2"]]
    assert parameters(Study([record("m", 0, 0.5)])) is None


def test_the_papers_part_of_the_parameters_is_given_for_its_encoders():
    table = parameters(Study(records({CIAO: [0.5]}, parameters={"trained": 3_000_000}, **FER)))
    # A copy of the last convolution, 512 x 512 x 3 x 3 + 512, and 512 values of a.
    assert texts(table) == [["vggface2", CIAO, "3,000,000", "1", f"{512 * 512 * 9 + 512 + 512:,}"]]


def test_a_search_says_what_diverged_and_what_is_at_the_edge():
    lines = [
        *searched(HEAD, {0.0003: 0.5, 0.001: 0.7, 0.003: 0.6, 0.01: None}),
        *searched(CIAO, {0.01: 0.5, 0.03: 0.6}),
    ]
    study = Study([*lines, record(HEAD, 0, 0.8, arguments={"learning_rate": 0.001})])
    table = searches(study, *PAIR)
    assert texts(table) == [
        [HEAD, "head", "0.0003: 50.0", "0.001: 70.0", "0.003: 60.0", "0.01: diverged", "", "1"],
        [CIAO, "mask", "0.01: 50.0", "0.03: 60.0", "–", "–", "highest", "1"],
    ]
    assert strong(table) == [["0.001: 70.0"], ["0.03: 60.0"]]
    assert all(cell.value is None or math.isfinite(cell.value) for row in table.rows for cell in row)
    assert searches(Study(records({HEAD: [0.5]})), *PAIR) is None


def test_where_every_rate_diverged_none_is_set_off():
    study = Study([*searched(CIAO, {0.01: None, 0.03: None}), record(HEAD, 0, 0.8)])
    assert strong(searches(study, *PAIR)) == [[]]


def test_methods_are_shown_with_the_settings_their_trainings_share():
    shared = {"config": {"inhibition": False}, "settings": {"rank": 4}}
    lines = [
        record("LoRA r=4", seed, 0.5, arguments={"encoder_learning_rate": rate, "weight_decay": decay}, **shared)
        for seed, rate, decay in ((0, 0.1, 0.0), (1, 0.2, 1.0))
    ]
    assert texts(methods(Study(lines))) == [["LoRA r=4", "baseline", "rank=4, inhibition=false", "3", "2"]]
