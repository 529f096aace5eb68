"""Labels of one world read as those of another."""

from __future__ import annotations

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from ciao_peft.data import label_mapping, map_labels
from ciao_peft.data.expressions import FER2013, FERPLUS
from ciao_peft.errors import ConfigError, DataError


def faces(names, ids):
    features = Features({"label": ClassLabel(names=list(names)), "row": Value("int64")})
    return Dataset.from_dict({"label": ids, "row": list(range(len(ids)))}, features=features)


def test_every_row_keeps_its_expression_under_the_other_worlds_id():
    ids = [0, 1, 2, 3, 4, 5, 6, 3]
    mapped, lost = map_labels(faces(FER2013, ids), FERPLUS)
    assert lost == {}
    english = {"angry": "anger", "happy": "happiness", "sad": "sadness"}
    assert [FERPLUS[label] for label in mapped["label"]] == [english.get(FER2013[i], FER2013[i]) for i in ids]
    assert mapped.features["label"].names == list(FERPLUS)


def test_rows_without_a_counterpart_are_left_out_and_counted():
    mapped, lost = map_labels(faces(FERPLUS, [7, 0, 7, 1]), FER2013)
    assert lost == {"contempt": 2}
    assert mapped["row"][:] == [1, 3]


def test_what_is_not_the_same_by_name_can_be_said_and_left_out():
    names = {"joyful": "happy", "x": None, "tense": "fear"}
    mapped, lost = map_labels(faces(["joyful", "tense", "x"], [0, 1, 2]), FER2013, names)
    assert [FER2013[label] for label in mapped["label"]] == ["happy", "fear"]
    assert lost == {"x": 1}


def test_two_classes_may_become_one():
    assert label_mapping(["contempt", "disgust"], ["disgust"], {"contempt": "disgust"}) == [0, 0]


def test_rows_without_a_label_are_counted():
    assert map_labels(faces(FER2013, [0, -1]), FERPLUS)[1] == {"no label": 1}


def test_what_cannot_be_mapped_is_said():
    with pytest.raises(DataError, match="No class of 'a', 'b' means one of 'c'"):
        map_labels(faces(["a", "b"], [0, 1]), ["c"])
    with pytest.raises(ConfigError, match="Unknown label 'hapy' of the dataset; did you mean 'happy'"):
        map_labels(faces(FER2013, [0]), FERPLUS, {"hapy": "happiness"})
    values = Dataset.from_dict({"label": [[0.1, 0.2]]}, features=Features({"label": List(Value("float32"), length=2)}))
    with pytest.raises(DataError, match="one named class"):
        map_labels(values, FERPLUS)
