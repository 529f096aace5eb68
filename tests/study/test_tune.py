"""`tune`: what it finds in worlds of which one knows what suits them, and how it gets there."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from dataclasses import replace

import pytest

from ciao_peft import CIAOConfig, CIAOTrainer, CIAOTrainingArguments, cache_features, get_ciao_model, load_encoder
from ciao_peft.errors import ConfigError, DataError
from ciao_peft.study import METHODS, Method, method_from_file, read_records
from ciao_peft.study.data import load_training_split
from ciao_peft.study.tuning.candidates import make_candidates
from ciao_peft.study.tuning.folds import deal
from helpers.processes import run
from helpers.tuning import HEAD, LEARNING, PAINTED, STUCK, blind_encoder, folder_of, painted, told, tuned

pytestmark = pytest.mark.filterwarnings("ignore:A single training sample each")  # of few painted faces

COLOURS = ["blue", "green", "red"] * 16
SMALL_BATCHES = {"per_device_train_batch_size": 4, "views": 1}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The built-in candidates on a few painted faces."""
    return tuned(tmp_path_factory.mktemp("tune") / "run", painted())


def test_what_only_a_mask_can_see_is_found(tmp_path):
    encoder, task = blind_encoder(tmp_path / "blind"), folder_of(tmp_path / "faces", COLOURS)
    result = tuned(tmp_path / "run", task, encoder, candidates=[STUCK, LEARNING], epochs=24, arguments=SMALL_BATCHES)
    scores = {each.name: each.mean for each in result.tried if each.epochs == 24}
    assert scores["learning"] > 0.9
    assert scores["no mask, head of stuck"] < 0.5
    assert "stuck" not in scores  # left behind after few epochs
    assert result.chosen.name == "learning"  # smaller than the last convolution, which learns it, too
    assert "The mask helps: learning is ahead of the same head without a mask" in result.verdict


def test_where_the_head_sees_enough_the_verdict_says_that_the_mask_does_not_help(tmp_path):
    task = folder_of(tmp_path / "faces", COLOURS)
    bare = Method(name="bare", config={**HEAD, "inhibition": False, "contrastive_weight": 0.0}, rates=(0.03,))
    result = tuned(tmp_path / "run", task, candidates=[STUCK, bare], epochs=16, arguments=SMALL_BATCHES)
    assert result.chosen.name != "stuck"
    assert "The mask does not help" in result.verdict
    assert json.loads((result.folder / "best.json").read_text())["config"]["inhibition"] is False


def test_every_form_head_and_loss_is_tried_and_every_head_is_there_at_the_end(found):
    assert len(found.tried) == 28
    by_epochs = Counter(each.epochs for each in found.tried)
    assert by_epochs == {1: 28 - 10, 2: 10}
    last = [each.name for each in found.tried if each.epochs == 2]
    assert {"no mask, flat", "no mask, compact", "last convolution, flat", "last convolution, compact"} <= {*last}
    masked = [name for name in last if not name.startswith(("no mask", "last"))]
    assert Counter(", flat" in name for name in masked) == {True: 3, False: 3}
    assert found.chosen.epochs == 2


def test_few_train_for_all_epochs_and_many_for_few(found):
    records = read_records(found.folder / "trials")
    assert Counter((record.epochs, record.seed) for record in records) == {
        (1, 0): 28,
        (1, 1): 28,
        (2, 0): 10,
        (2, 1): 10,
    }
    assert {record.split for record in records} == {"validation"}


def test_the_chosen_one_is_written_and_trains_to_its_score(found, tmp_path):
    """By hand: the settings of `best.json` on the same people, with as many epochs."""
    method = method_from_file(found.folder / "best.json")
    assert method == found.method and method.arguments["num_train_epochs"] == 2
    task = painted()
    loaded = load_training_split(task)
    faces = loaded.folds[0].train
    parts = deal(faces, 3, "identity")
    encoder = load_encoder(found.folder.parent / "encoder")
    stored = cache_features(encoder, faces)
    scores = []
    for number in range(2):
        rest = sorted({*range(len(faces))} - {*parts[number].tolist()})
        config = CIAOConfig(**loaded.labels.as_config(), **method.config, init_seed=number)
        model = get_ciao_model(encoder, config)
        arguments = CIAOTrainingArguments(**method.arguments, seed=number, report_to="none", disable_tqdm=True)
        trainer = CIAOTrainer(model, arguments)
        trainer.train(stored.select(rest))
        scores.append(trainer.evaluate(stored.select(parts[number].tolist()))["eval_accuracy"])
        model.unload()
    assert scores == pytest.approx(list(found.chosen.scores))


def test_nobody_is_in_two_parts_and_every_row_is_in_one():
    faces = load_training_split(painted(num_train=60)).folds[0].train
    parts = deal(faces, 4, "identity")
    assert sorted(row for part in parts for row in part.tolist()) == list(range(len(faces)))
    who = [{faces[row]["identity"] for row in part.tolist()} for part in parts]
    assert all(not one & other for place, one in enumerate(who) for other in who[:place])


def test_classes_are_dealt_in_proportion_where_nobody_says_who(tmp_path):
    faces = load_training_split(folder_of(tmp_path / "faces", ["a"] * 9 + ["b"] * 6 + ["c"])).folds[0].train
    parts = deal(faces, 3, None)
    assert [Counter(faces[row]["label"] for row in part.tolist())[0] for part in parts] == [3, 3, 3]
    assert [Counter(faces[row]["label"] for row in part.tolist())[1] for part in parts] == [2, 2, 2]


def test_too_few_people_are_refused_before_anything_is_stored(tmp_path):
    task = folder_of(tmp_path / "faces", COLOURS, ["ann", "bob"] * 24)
    with pytest.raises(DataError, match="has 2 different values of 'identity', and 3 parts"):
        tuned(tmp_path / "run", task)
    assert not (tmp_path / "run").exists()


def test_a_class_with_one_picture_does_no_harm(tmp_path):
    task = folder_of(tmp_path / "faces", [*COLOURS[:24], "violet"])
    losses = {"contrastive_denominator": "class_average", "logit_adjustment": 0.5}
    rare = replace(LEARNING, name="rare", config={**LEARNING.config, **losses})
    result = tuned(tmp_path / "run", task, metric="balanced_accuracy", candidates=[LEARNING, rare])
    assert not [each for each in result.tried if each.problem]
    assert result.metric == "balanced_accuracy"


@pytest.mark.parametrize(("world", "metric", "count"), [("affect", "concordance", 40), ("signals", "macro_f1", 28)])
def test_values_and_sets_of_labels_are_tuned_too(world, metric, count, tmp_path):
    labels = load_training_split(painted(world)).labels
    candidates = make_candidates(labels.problem_type, metric, "small-data")
    assert len(candidates) == count
    some = [own for own in candidates if own.name.startswith(("gain, compact", "no mask, compact"))]
    result = tuned(tmp_path / "run", painted(world), candidates=some)
    assert result.metric == metric
    assert not [each for each in result.tried if each.problem]
    assert {len(each.scores) for each in result.tried} == {2}


def test_the_range_of_values_is_the_training_datas_own(tmp_path):
    task = folder_with_values(tmp_path / "values")
    result = tuned(tmp_path / "run", task, candidates=[LEARNING], epochs=1)
    assert result.method.config["label_range"] == [0.0, 110.5]


def folder_with_values(folder):
    """Twelve pictures with a value of 0 to 110.5 each."""
    task = folder_of(folder, ["a"] * 12)
    lines = [f"{number:03}.png,{10 * number + (0.5 if number == 11 else 0.0)}" for number in range(12)]
    (folder / "train" / "metadata.csv").write_text("\n".join(["file_name,age", *lines]))
    return replace(task, options={"label_column": ["age"]})


def test_the_same_call_trains_nothing_again(found):
    before = (found.folder / "trials" / "results.jsonl").read_bytes()
    assert told(tuned(found.folder, painted())) == told(found)
    assert (found.folder / "trials" / "results.jsonl").read_bytes() == before


def test_a_killed_tuning_goes_on_to_the_same_result(tmp_path):
    method = tmp_path / "learning.json"
    method.write_text(json.dumps({"name": LEARNING.name, "config": dict(LEARNING.config), "rates": [0.1]}))
    whole, encoder = tuned(tmp_path / "whole", painted(), candidates=[method_from_file(method)]), tmp_path / "encoder"
    words = (
        f"tune --dataset painted_faces --world eight --num_train {PAINTED['num_train']} --num_test 2 --setting size=32"
    )
    words += f" --setting num_validation=2 --epochs 2 --folds 2 --views 1 --encoder {encoder} --method_file {method}"
    words = [*words.split(), "--output_dir", str(tmp_path / "run")]
    assert run("killed_study", 7, *words).returncode == -signal.SIGKILL
    assert len(read_records(tmp_path / "run" / "trials")) == 7  # of six on the first rung, and six on the second
    assert not (tmp_path / "run" / "best.json").exists()
    assert run("killed_study", -1, *words).returncode == 0
    assert len(read_records(tmp_path / "run" / "trials")) == 12 == len(read_records(whole.folder / "trials"))
    assert run("killed_study", 0, *words).returncode == 0  # nothing is left to be killed in


def test_two_processes_come_to_the_same_result(tmp_path):
    candidates = [LEARNING, STUCK]
    one = tuned(tmp_path / "one", painted(), candidates=candidates)
    two = tuned(tmp_path / "two", painted(), candidates=candidates, num_processes=2, num_threads=1)
    assert told(one) == told(two)
    assert len(read_records(two.folder / "trials")) == len(read_records(one.folder / "trials"))


def test_the_features_are_stored_once_with_depths_for_those_that_read_some(tmp_path):
    deep = Method(name="deep", config={**HEAD, "depths": 1}, rate="mask_learning_rate", rates=(0.01,))
    result = tuned(tmp_path / "run", painted(), candidates=[LEARNING, deep])
    assert not [each for each in result.tried if each.problem]
    (place,) = (result.folder / "trials" / "features").glob("*/official/features")
    (store,) = (name for name in os.listdir(place) if not name.startswith("."))
    assert store.startswith("train-depths-")


def test_a_candidate_that_cannot_be_trained_is_named_and_the_others_go_on(tmp_path):
    wrong = Method(name="wrong", config={**HEAD, "depths": ["nowhere"]}, rate="mask_learning_rate", rates=(0.01,))
    result = tuned(tmp_path / "run", painted(), candidates=[LEARNING, wrong])
    (failed,) = (each for each in result.tried if each.name == "wrong")
    assert not failed.scores and "nowhere" in failed.problem
    assert "nowhere" in (result.folder / "candidates.md").read_text()


def test_diverging_is_a_result(tmp_path):
    wild = Method(
        name="wild", config=HEAD, arguments={"max_grad_norm": 0.0, "optim": "sgd"}, rate="learning_rate", rates=(1e9,)
    )
    result = tuned(tmp_path / "run", painted(), candidates=[LEARNING, wild])
    assert {each.name: each.problem for each in result.tried}["wild"] == "diverged"
    assert "diverged" in (result.folder / "candidates.md").read_text()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"metric": "rmse"}, "has the metric 'rmse'"),
        ({"folds": 1}, "folds"),
        ({"recipe": "quick"}, "Unknown recipe"),
        ({"num_processes": 0}, "num_processes"),
        ({"depths": 0}, "depths"),
        ({"candidates": [METHODS["LoRA r=4"]]}, "must be an adapter of this library"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_stored(changes, text, tmp_path):
    with pytest.raises(ConfigError, match=text):
        tuned(tmp_path / "run", painted(), **changes)
    assert not (tmp_path / "run").exists()


def test_a_task_with_a_share_of_its_training_split_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="train_fraction"):
        tuned(tmp_path / "run", replace(painted(), train_fraction=0.5))
