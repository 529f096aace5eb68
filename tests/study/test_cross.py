"""Trained in one world, read in another: what is compared, and what is not."""

from __future__ import annotations

import pytest
import torch
from datasets import Array3D, ClassLabel, Dataset, Features, List, Value
from torch import nn

from ciao_peft import CIAOConfig, get_ciao_model
from ciao_peft.data.labels import describe_labels
from ciao_peft.study.cross import CrossScore, cross_scores, cross_table


class Says(nn.Module):
    """A backbone whose mean per channel is the picture's, so that a head can read the answer off the picture."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(3)[:, :, None, None])
            self.conv.bias.zero_()

    def forward(self, x):
        return torch.relu(self.conv(x))


def model_of(*names):
    """Channel i of a picture is the logit of class i."""
    config = CIAOConfig(
        problem_type="single_label_classification",
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        inhibition=False,
        pooling="avg",
        hidden_sizes=(),
    )
    model = get_ciao_model(Says(), config, adapter_name="world", input_size=(3, 4, 4))
    linear = next(part for part in model.adapters["world"].head.modules() if isinstance(part, nn.Linear))
    with torch.no_grad():
        linear.weight.copy_(torch.eye(3)[: len(names)])
        linear.bias.zero_()
    return model.eval()


def faces_of(names, shown, labels):
    """Picture j is bright in channel `shown[j]`, and somewhat in the next one."""
    features = {"pixel_values": Array3D((3, 4, 4), "float32"), "label": ClassLabel(names=list(names))}
    pixels = torch.zeros(len(shown), 3, 4, 4)
    for row, channel in enumerate(shown):
        pixels[row, channel], pixels[row, (channel + 1) % 3] = 2.0, 1.0
    rows = {"pixel_values": pixels.numpy(), "label": labels}
    return Dataset.from_dict(rows, features=Features(features)).with_format("torch")


def test_an_adapter_answers_with_the_likeliest_class_that_both_worlds_have():
    model = model_of("happiness", "contempt", "sadness")
    # The third picture looks like contempt, which the world lacks, and then like sadness: right.
    faces = faces_of(["sad", "happy"], shown=[0, 2, 1, 0], labels=[1, 0, 0, 0])
    (score,) = cross_scores({"a": model}, {"b": faces})
    assert (score.classes, score.faces, score.left_out) == (2, 4, 0)
    assert score.accuracy == pytest.approx(3 / 4)
    assert score.score == pytest.approx((1 + 2 / 3) / 2)  # happy 1 of 1, sad 2 of 3


def test_faces_of_a_class_that_the_adapter_lacks_are_left_out():
    model = model_of("happiness", "contempt", "sadness")
    faces = faces_of(["sad", "happy", "bored"], shown=[0, 2, 2], labels=[1, 0, 2])
    (score,) = cross_scores({"a": model}, {"b": faces})
    assert (score.score, score.faces, score.left_out) == (1.0, 2, 1)
    (score,) = cross_scores({"a": model}, {"b": faces}, names={"bored": "sadness", "elsewhere": "contempt"})
    assert (score.score, score.faces, score.left_out) == (1.0, 3, 0)


def test_labels_that_cannot_be_compared_give_no_score():
    model = model_of("happiness", "contempt", "sadness")
    strange = faces_of(["x", "y"], shown=[0, 1], labels=[0, 1])
    values = Features({"pixel_values": Array3D((3, 4, 4), "float32"), "label": List(Value("float32"), length=2)})
    affect = Dataset.from_dict({"pixel_values": torch.rand(2, 3, 4, 4).numpy(), "label": [[0.0, 1.0]] * 2}, values)
    affect.info.description = describe_labels("", "regression", ["arousal", "valence"])
    scores = cross_scores({"a": model}, {"strange": strange, "affect": affect})
    assert [score.score for score in scores] == [None, None]
    assert cross_table(scores).splitlines()[-1] == "| a | - | - |"


def test_the_table_has_a_row_for_each_adapter_and_a_column_for_each_world():
    def score(adapter, world, value):
        return CrossScore(adapter, world, "balanced_accuracy", value, value, 7, 10, 0)

    concordance = CrossScore("c", "y", "concordance", 0.25, None, 0, 10, 0)
    table = cross_table([score("a", "x", 0.5), score("a", "y", 1.0), score("b", "x", 0.125), concordance])
    assert table.splitlines() == [
        "| read in | x | y |",
        "| --- | ---: | ---: |",
        "| a | 50.0 (7) | 100.0 (7) |",
        "| b | 12.5 (7) | - |",
        "| c | - | 25.0 |",
    ]
