"""Datasets and scores of other shapes: each is refused with what to write instead."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ciao_peft.errors import DataError, TrainingError
from helpers.fakes import SIZE
from helpers.training import faces, make_model, make_trainer

from ciao_peft import CIAOTrainer, CIAOTrainingArguments  # isort: skip

PIXELS = torch.zeros(4, *SIZE)


def frame():
    return pytest.importorskip("pandas").DataFrame({"pixel_values": [[0.0]] * 4, "labels": [0, 1, 2, 0]})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (frame, r"is a DataFrame of pandas.*`datasets.Dataset.from_pandas\(frame\)`"),
        (lambda: {"pixel_values": PIXELS, "labels": [0, 1, 2, 0]}, r"a dict of columns.*`datasets.Dataset.from_dict"),
        (lambda: torch.utils.data.DataLoader(faces()), "is a DataLoader; give its dataset, `loader.dataset`"),
        (lambda: torch.utils.data.TensorDataset(PIXELS, torch.zeros(4)), r"it has type tuple. Write `\[\{'pixel_val"),
        (lambda: "faces/train", r"is text, 'faces/train'. Load it first"),
        (lambda: np.zeros((4, *SIZE)), "it has type ndarray"),
        (lambda: {"a": 1}.items(), "cannot be asked for its length or a sample by number"),
    ],
    ids=["pandas", "columns", "loader", "pairs", "text", "array", "view"],
)
def test_a_dataset_of_another_shape_is_refused(data, message):
    trainer = make_trainer()
    for use in (trainer.train, trainer.evaluate):
        with pytest.raises(DataError, match=message):
            use(data())


def test_a_sample_that_cannot_be_looked_up_is_named():
    class Odd:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            raise KeyError(index)

    with pytest.raises(DataError, match=r"is a Odd of 3 whose sample 0 cannot be read \(KeyError: 0\)"):
        make_trainer().evaluate(Odd())


@pytest.mark.parametrize("missing", ["labels", "pixel_values"])
def test_a_row_without_what_the_first_has_is_named(missing):
    data = faces(6)
    del data[4][missing]
    with pytest.raises(DataError, match=rf"Sample 4 of .* has no '{missing}', as sample 0 has; it has the keys"):
        make_trainer().train(data)


def test_a_label_that_is_none_is_named():
    data = faces(6)
    data[3]["labels"] = None
    with pytest.raises(DataError, match="Sample 3 of train_dataset has no label"):
        make_trainer().train(data)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (None, "must return a dict of scores by name; got NoneType"),
        (0.5, "got float"),
        ({"accuracy": None}, "'accuracy' is None"),
        ({"per_class": np.zeros(3)}, "one number for each score; 'per_class' is array"),
        ({"text": "good"}, "'text' is 'good'"),
    ],
)
def test_scores_that_are_no_numbers_by_name_are_refused(scores, message):
    args = CIAOTrainingArguments(report_to="none")
    trainer = CIAOTrainer(make_model(), args, compute_metrics=lambda logits, labels: scores)
    with pytest.raises(TrainingError, match=message):
        trainer.evaluate(faces(6))


def test_scores_of_other_libraries_are_numbers():
    args = CIAOTrainingArguments(report_to="none")
    found = {"a": torch.tensor(0.5), "b": np.float32(0.25), "c": True}
    trainer = CIAOTrainer(make_model(), args, compute_metrics=lambda logits, labels: found)
    scores = trainer.evaluate(faces(6))
    assert (scores["eval_a"], scores["eval_b"], scores["eval_c"]) == (0.5, 0.25, 1.0)


@pytest.mark.parametrize("place", ["runs/mine", "elsewhere"])
def test_the_folder_of_tensorboard_is_not_doubled(tmp_path, place):
    pytest.importorskip("tensorboard")
    trainer = make_trainer(output_dir=tmp_path / place, report_to="tensorboard", num_train_epochs=1)
    trainer.train(faces())
    events = [path for path in tmp_path.rglob("events.out.tfevents*") if "eval" not in path.name]
    assert not any("runs/mine/runs" in str(path) for path in events)
    assert tmp_path / (place if place == "runs/mine" else "elsewhere/runs/default") in {path.parent for path in events}
