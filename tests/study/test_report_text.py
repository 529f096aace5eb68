"""Findings in words never say more than the tests do, and what is missing is said."""

from __future__ import annotations

import pytest

from ciao_peft.study import Encoder, Plan, Task, methods_named
from ciao_peft.study.analysis.statistics import summarize
from ciao_peft.study.analysis.study import CIAO, Study
from ciao_peft.study.report.text import finding, interval, missing, number, p_value, printable, spread
from helpers.studies import HEAD, record, records

PAIR = ("faces", "small-face")
MINE = [0.800, 0.811, 0.820]
PAPER = "Of the paper's tasks not run here: "


def plan(**changes) -> Plan:
    settings = {"tasks": (Task(name="faces", dataset="imagefolder"),), "encoders": (Encoder(name="small-face"),)}
    return Plan(**(settings | {"methods": methods_named([HEAD, CIAO]), "seeds": 3, "epochs": 3} | changes))


def said(study: Study) -> list[str]:
    """What is missing, without the tasks of the paper."""
    return [line for line in missing(study) if not line.startswith(PAPER)]


# -- numbers as text ---------------------------------------------------------------------------------------------------


def test_a_difference_that_rounds_to_nothing_has_no_sign():
    assert [number(value, "accuracy", signed=True) for value in (-0.0004, 0.0004, 0.0)] == ["0.0"] * 3
    assert number(-0.0006, "accuracy", signed=True) == "−0.1"
    assert number(-0.0004, "concordance", signed=True) == "0.000"


def test_one_seed_has_neither_spread_nor_interval():
    one = summarize([0.8])
    assert (spread(one, "accuracy"), interval(one, "accuracy")) == ("80.0", "–")
    assert (spread(None, "accuracy"), interval(None, "accuracy"), p_value(None)) == ("–", "–", "–")


def test_the_spread_is_the_standard_deviation():
    assert spread(summarize([0.7, 0.8, 0.9]), "accuracy") == "80.0 ± 10.0"
    assert spread(summarize([0.7, 0.8, 0.9]), "concordance") == "0.800 ± 0.100"


@pytest.mark.parametrize("name", ["a\x00b", "a\ud800b", "a\u202eb"], ids=["nul", "half-a-pair", "right-to-left"])
def test_what_cannot_be_shown_is_replaced(name):
    assert printable(name) == "a\ufffdb"
    printable(name).encode()


# -- findings ----------------------------------------------------------------------------------------------------------


def test_without_ciao_nothing_is_found():
    assert "no training on this task" in finding(Study(records({HEAD: MINE})), *PAIR)


def test_one_seed_says_nothing_about_chance():
    text = finding(Study(records({CIAO: [0.8], HEAD: [0.7]})), *PAIR)
    assert "reaches 80.0 % accuracy with one seed" in text
    assert "+10.0 points with a single seed, which says nothing about chance" in text
    assert "ahead" not in text.replace("furthest ahead", "")
    assert "one seed cannot tell" in text


def test_a_clear_lead_is_called_one():
    text = finding(Study(records({CIAO: MINE, HEAD: [0.700, 0.710, 0.721]})), *PAIR)
    assert "Against the same head without it: +10.0 points" in text
    assert "CIAO is ahead." in text
    assert "That head is the best of the baselines that train no more parameters. It comes within one point" in text


def test_a_lead_of_chance_is_not_called_one():
    text = finding(Study(records({CIAO: MINE, HEAD: [0.85, 0.70, 0.79]})), *PAIR)
    assert "no difference that these seeds can tell from chance" in text
    assert "CIAO is ahead" not in text
    assert "these seeds cannot tell" in text


def test_being_behind_the_best_baseline_is_said():
    text = finding(Study(records({CIAO: MINE, HEAD: [0.7, 0.71, 0.72], "LoRA r=4": [0.900, 0.910, 0.921]})), *PAIR)
    assert "(792,000 against 1,010,504) is “LoRA r=4” with 91.0 ± 1.1: −10.0 points" in text
    assert "CIAO is behind. It does not come within one point of it" in text


def test_two_seeds_that_agree_to_the_last_face_say_no_more_than_two_seeds():
    """Accuracies are counts: +2.0 points twice happens by chance, in 2 of 4 choices of signs."""
    text = finding(Study(records({CIAO: [0.82, 0.72], HEAD: [0.80, 0.70]})), *PAIR)
    assert "p = 0.500 after Holm, 2 pairs), no difference that these seeds can tell from chance" in text
    assert "CIAO is ahead" not in text
    assert "cannot tell (one-sided sign-flip test, as the differences do not vary, p = 0.250)" in text


def test_a_baseline_that_is_the_best_of_several_is_tested_as_such():
    """t = 4 over three seeds: p = 0.0286 alone, twice that for the better of two."""
    spread = 3**0.5 / 1000
    scores = {CIAO: [0.80] * 3, HEAD: [0.5, 0.6, 0.7], "LoRA r=4": [0.814 - spread, 0.814, 0.814 + spread]}
    text = finding(Study(records(scores)), *PAIR)
    assert "these seeds cannot tell (one-sided paired t-test, p = 0.057 after Bonferroni for 2 baselines)" in text


def test_a_baseline_that_trains_more_leaves_the_question_open():
    text = finding(Study(records({CIAO: MINE, "full": [0.9, 0.9, 0.9]})), *PAIR)
    assert "how it stands among them is open" in text


def test_concordances_are_no_percents():
    study = Study(records({CIAO: [0.40, 0.41, 0.42], HEAD: [0.300, 0.311, 0.320]}, metric="concordance"))
    text = finding(study, *PAIR)
    assert "reaches 0.410 ± 0.010 concordance over 3 seeds" in text
    assert "+0.100 (95 %" in text
    assert "within 0.01 of it" in text
    assert "points" not in text


def test_balanced_accuracy_is_reported_against_the_same_baseline():
    lines = [record(CIAO, n, s, scores={"balanced_accuracy": s - 0.4}) for n, s in enumerate(MINE)]
    lines += [record(HEAD, n, s - 0.1, scores={"balanced_accuracy": s - 0.35}) for n, s in enumerate(MINE)]
    assert "In balanced accuracy, against the same baseline: −5.0 points" in finding(Study(lines), *PAIR)


def test_the_number_of_test_faces_bounds_what_seeds_can_say():
    # sqrt(0.8 * 0.2 / 400) = 0.02
    assert "±2.0 points (one standard error)" in finding(Study(records({CIAO: [0.79, 0.81], HEAD: [0.7, 0.71]})), *PAIR)


def test_what_is_averaged_over_clips_is_counted_in_clips():
    samples = {"train": 100, "test": 400, "scored": 16}  # sqrt(0.8 * 0.2 / 16) = 0.1
    text = finding(Study(records({CIAO: [0.79, 0.81], HEAD: [0.7, 0.71]}, samples=samples)), *PAIR)
    assert "on these 16 clips or other groups of test faces" in text
    assert "±10.0 points (one standard error)" in text


# -- what is missing ---------------------------------------------------------------------------------------------------


def test_nothing_is_missing_from_a_plan_that_was_done():
    assert said(Study(records({HEAD: MINE, CIAO: MINE}), plan())) == []


def test_planned_tasks_methods_and_seeds_without_a_record_are_named():
    tasks = (Task(name="faces", dataset="imagefolder"), Task(name="fer", dataset="fer2013"))
    assert said(Study(records({HEAD: [0.5]}), plan(tasks=tasks))) == [
        "fer: nothing was trained on it. Its files were not there, or the study has not got to it.",
        "faces, small-face: decision layer has 1 of 3 seeds (1, 2 missing).",
        "faces, small-face: no training of decision layer + CIAO.",
    ]


def test_methods_that_were_not_begun_stand_in_one_line():
    three = plan(methods=methods_named([HEAD, CIAO, "LoRA r=4"]))
    assert said(Study(records({HEAD: MINE}), three)) == [
        "faces, small-face: no training of decision layer + CIAO; LoRA r=4."
    ]


def test_without_a_plan_every_method_is_expected_with_every_seed():
    assert said(Study(records({HEAD: MINE, CIAO: [0.5]}))) == [
        "faces, small-face: decision layer + CIAO has 1 of 3 seeds (1, 2 missing)."
    ]


def test_without_a_plan_a_network_that_only_one_task_has_is_missing_on_the_other():
    lines = [*records({HEAD: MINE, CIAO: MINE}), *records({HEAD: MINE}, task="other")]
    assert said(Study(lines)) == ["other, small-face: no training of decision layer + CIAO."]


def test_trainings_that_do_not_compare_are_pointed_out():
    lines = [*records({HEAD: MINE}), *records({CIAO: MINE}, encoder_revision="2", samples={"train": 99, "test": 400})]
    assert said(Study(lines)) == [
        "faces, small-face: the trainings are of 2 different weights of the encoder; they do not compare.",
        "faces, small-face: the trainings are of 2 different numbers of training faces; they do not compare.",
    ]


def test_seeds_with_different_settings_are_pointed_out():
    lines = [record(HEAD, 0, 0.5, epochs=1.0), record(HEAD, 1, 0.5, epochs=2.0)]
    assert said(Study(lines)) == [
        "faces, small-face: decision layer was trained with different settings in different seeds."
    ]


def test_records_of_an_earlier_plan_are_left_aside_and_counted():
    lines = [*records({HEAD: MINE, CIAO: MINE}), *records({HEAD: [0.1, 0.2]}, epochs=9.0), record("full", 0, 0.9)]
    assert said(Study(lines, plan())) == [
        "Left aside, because they do not fit the plan as it is now: 3 of 9 records (2 of decision layer; 1 of full). "
        "They are of other epochs, settings, rates or seeds, or of what the plan does not name."
    ]
    assert said(Study(records({HEAD: MINE, CIAO: [0.5, 0.6]}), plan(epochs=9, seeds=2)))[1:] == [
        "Left aside, because they do not fit the plan as it is now: 5 of 5 records (3 of decision layer; 2 of decision "
        "layer + CIAO). They are of other epochs, settings, rates or seeds, or of what the plan does not name."
    ]


def test_clips_and_the_frames_of_as_many_clips_compare():
    frames = records({HEAD: MINE}, samples={"train": 90, "test": 30, "scored": 10}, config={"inhibition": False})
    clips = records({CIAO: MINE}, samples={"train": 30, "test": 10, "scored": 10}, config={"frames": 3})
    assert said(Study([*frames, *clips])) == []
    fewer = records({CIAO: MINE}, samples={"train": 29, "test": 9, "scored": 9}, config={"frames": 3})
    assert said(Study([*frames, *fewer])) == [
        "faces, small-face: the trainings are of 2 different numbers of test faces or clips; they do not compare."
    ]
    other = records({"full": MINE}, samples={"train": 80, "test": 30, "scored": 10})
    assert said(Study([*frames, *clips, *other])) == [
        "faces, small-face: the trainings are of 2 different numbers of training faces; they do not compare."
    ]


def test_arousal_and_valence_are_missing_where_only_categories_were_learned():
    (line,) = missing(Study(records({HEAD: MINE}, task="affectnet", dataset="affectnet")))
    assert "AffectNet, arousal; AffectNet, valence; FER;" in line
    assert "categorical" not in line


def test_the_papers_tasks_that_were_not_run_are_listed():
    (line,) = missing(Study(records({HEAD: MINE}, task="fer", dataset="fer2013")))
    assert line.startswith(PAPER)
    assert "JAFFE" in line
    assert "FER;" not in line
