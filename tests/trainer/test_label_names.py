"""Labels are joined by name wherever both sides have names, and by position only where one has none."""

from __future__ import annotations

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value

from ciao_peft import CIAOConfig, CIAOTrainer, CIAOTrainingArguments, cache_features, get_ciao_model
from ciao_peft.data.expressions import AFFECTNET, FER2013
from ciao_peft.data.labels import describe_labels
from ciao_peft.errors import DataError, InputError, TrainingError
from ciao_peft.features import Samples
from helpers.fakes import SIZE, tiny_backbone

PIXELS = List(List(List(Value("float32"))))


def pictures(count, seed=0):
    return torch.randn(count, *SIZE, generator=torch.Generator().manual_seed(seed))


def classes(names, labels, seed=0):
    """A table in which each row has the class of this name."""
    features = Features({"pixel_values": PIXELS, "label": ClassLabel(names=list(names))})
    rows = {"pixel_values": pictures(len(labels), seed).tolist(), "label": [names.index(label) for label in labels]}
    return Dataset.from_dict(rows, features=features)


def values(names, rows, problem_type="regression"):
    kind = Value("float32" if problem_type == "regression" else "int64")
    features = Features({"pixel_values": PIXELS, "label": List(kind, length=len(names))})
    table = Dataset.from_dict({"pixel_values": pictures(len(rows)).tolist(), "label": rows}, features=features)
    table.info.description = describe_labels("Faces.", problem_type, names)
    return table


def trainer_for(names, problem_type="single_label_classification", **arguments):
    named = None if names is None else dict(enumerate(names))
    count = 7 if names is None else len(names)
    config = CIAOConfig(problem_type=problem_type, num_labels=count, id2label=named, hidden_sizes=())
    model = get_ciao_model(tiny_backbone(), config, input_size=SIZE)
    return CIAOTrainer(model, CIAOTrainingArguments(num_train_epochs=1, report_to="none", **arguments))


def own_answers(trainer, count):
    """What the adapter says of the pictures: a dataset with these labels is one that it knows by heart."""
    logits = trainer.predict([{"pixel_values": row} for row in pictures(count)]).logits
    return [trainer.config.id2label[index] for index in logits.argmax(dim=1).tolist()]


def spread_out(trainer):
    """An adapter that answers with several classes."""
    for parameter in trainer.model.adapters["default"].head.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(3))
    return trainer


@pytest.mark.parametrize("stored", [False, True], ids=["pixels", "features"])
def test_an_adapter_scores_the_same_on_its_own_faces_without_a_class(stored):
    trainer = spread_out(trainer_for(FER2013))
    labels = own_answers(trainer, 24)
    assert len(set(labels)) > 2
    full = classes(list(FER2013), labels)
    absent = labels[0]
    keep = [row for row, label in enumerate(labels) if label != absent]
    fewer = [name for name in FER2013 if name != absent]
    renumbered = classes(fewer, [label for label in labels if label != absent])
    renumbered = renumbered.remove_columns("pixel_values").add_column("pixel_values", full.select(keep)["pixel_values"])
    data = [full, renumbered]
    if stored:
        data = [cache_features(trainer.model, part) for part in data]
    assert [trainer.evaluate(part)["eval_accuracy"] for part in data] == [1.0, 1.0]
    assert trainer.predict(data[1]).metrics["test_accuracy"] == 1.0
    expected = [FER2013.index(labels[row]) for row in keep]
    assert trainer.predict(data[1]).labels.tolist() == expected  # the adapter's ids


def test_classes_that_the_adapter_does_not_know_are_refused_and_the_mapping_is_named():
    trainer = trainer_for(FER2013)
    data = classes(list(AFFECTNET), ["neutral", "surprise", "fear", "disgust"])
    for use in (trainer.evaluate, trainer.predict, trainer.train):
        with pytest.raises(TrainingError, match=r"does not know 'anger', 'contempt', 'happiness'.*label_mapping"):
            use(data)
    stored = cache_features(trainer.model, data)
    with pytest.raises(TrainingError, match=r"label_mapping.*'happiness' as 'happy'"):
        trainer.evaluate(stored)
    assert len(trainer.predict(data.remove_columns("label")).logits) == 4


def test_training_takes_classes_in_another_order_by_name():
    ids = [0, 1, 2, 1] * 4
    names = ["a", "b", "c"]
    there, back = (classes(order, [names[index] for index in ids]) for order in (names, names[::-1]))
    heads = []
    for data in (there, back):
        trainer = trainer_for(names, seed=1)
        trainer.train(data)
        heads.append(trainer.model.adapters["default"].state_dict())
    assert all(torch.equal(heads[0][key], heads[1][key]) for key in heads[0])
    assert there["label"] != back["label"]


def test_regressed_values_are_joined_by_their_names():
    rows = [[0.5, -0.25], [0.125, 0.75]]
    trainer = trainer_for(["arousal", "valence"], "regression")
    straight = trainer.predict(values(["arousal", "valence"], rows))
    crossed = trainer.predict(values(["valence", "arousal"], [row[::-1] for row in rows]))
    assert crossed.labels.tolist() == straight.labels.tolist() == rows
    assert crossed.metrics == straight.metrics
    with pytest.raises(TrainingError, match=r"does not know 'dominance'"):
        trainer.evaluate(values(["arousal", "dominance"], rows))


def test_a_label_that_the_dataset_lacks_is_no_zero():
    trainer = trainer_for(["fear", "joy", "rage"], "multi_label_classification")
    with pytest.raises(TrainingError, match="lacks 'rage'"):
        trainer.evaluate(values(["joy", "fear"], [[0, 1], [1, 1]], "multi_label_classification"))
    got = trainer.predict(values(["rage", "joy", "fear"], [[1, 0, 0], [0, 1, 0]], "multi_label_classification"))
    assert got.labels.tolist() == [[0, 0, 1], [0, 1, 0]]


def test_a_distribution_over_fewer_classes_gives_the_others_nothing():
    trainer = trainer_for(["fear", "joy", "rage"])
    table = values(["rage", "fear"], [[0.75, 0.25], [0.0, 1.0]])
    table.info.description = describe_labels("Faces.", "single_label_classification", ["rage", "fear"])
    assert trainer.predict(table).labels.tolist() == [[0.25, 0.0, 0.75], [1.0, 0.0, 0.0]]


def test_names_that_nobody_gave_mean_the_same_by_position():
    data = classes(list(FER2013), ["happy", "sad", "angry", "neutral"])
    assert trainer_for(None).predict(data).labels.tolist() == data["label"][:]
    unnamed = [{"pixel_values": row, "labels": n} for n, row in enumerate(pictures(3))]
    assert trainer_for(FER2013).predict(unnamed).labels.tolist() == [0, 1, 2]


class Own(torch.utils.data.Dataset):
    """A dataset whose list of labels says something else than its samples."""

    def __init__(self, listed, given):
        self.labels, self.given = listed, given

    def __len__(self):
        return len(self.given)

    def __getitem__(self, index):
        return {"pixel_values": torch.zeros(SIZE), "labels": self.given[index]}


def test_the_samples_count_and_not_the_datasets_own_list_of_labels():
    assert Samples(Own([1, 2, 3], [0, 1, 2]), None).labels().tolist() == [0, 1, 2]
    late = Own([0, 1, 1], [0, 1, 0])
    samples = Samples(late, None)
    samples.pixels([0, 1, 2])  # read before anybody asked for labels, as when features are stored
    assert samples.labels().tolist() == [0, 1, 0]
    assert cache_features(tiny_backbone(), late).labels.tolist() == [0, 1, 0]


def test_a_list_of_labels_that_is_found_wrong_while_it_is_used_is_refused():
    samples = Samples(Own([0, 1, 1], [0, 1, 0]), None)
    assert samples.labels().tolist() == [0, 1, 1]  # the first sample agrees, and no other was read
    samples.pixels([0, 1])
    with pytest.raises(DataError, match="another label than the dataset's own list"):
        samples.pixels([1, 2])


def test_a_transform_that_numbers_the_classes_anew_is_believed():
    table = classes(["a", "b"], ["a", "b", "b"])

    def swapped(rows):
        return {**rows, "label": [1 - label for label in rows["label"]]}

    assert Samples(table.with_transform(swapped), None).labels().tolist() == [1, 0, 0]


def test_a_dataset_of_your_own_may_name_its_labels():
    data = Own([0, 1], [0, 1])
    data.label_names = ["joy", "fear"]
    assert trainer_for(["fear", "joy"]).predict(data).labels.tolist() == [1, 0]


def test_values_beyond_the_range_of_the_config_are_not_trained():
    data = [{"pixel_values": row, "labels": [1.0 + n % 9, 5.0]} for n, row in enumerate(pictures(9))]
    trainer = trainer_for(["arousal", "valence"], "regression")
    with pytest.raises(TrainingError, match=r"run from 1 to 9, beyond label_range=\(-1, 1\).*`label_range=\(1, 9\)`"):
        trainer.train(data)
    assert "eval_loss" in trainer.evaluate(data)  # nothing is drawn together there


def test_an_id_without_a_name_is_refused():
    data = Own([0, 5], [0, 5])
    data.label_names = ["joy", "fear"]
    with pytest.raises(InputError, match=r"run from 0 to 1 \(joy, fear\); got 5 at row 1"):
        trainer_for(["fear", "joy"]).evaluate(data)
