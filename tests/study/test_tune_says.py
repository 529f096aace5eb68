"""What `tune` says while it works, and what it refuses before it works."""

from __future__ import annotations

import re

import pytest

from ciao_peft.errors import ConfigError, DataError
from ciao_peft.study import Task, method_from_file
from helpers.tuning import LEARNING, folder_of, tuned

pytestmark = pytest.mark.filterwarnings("ignore:A single training sample each")  # of few pictures

COLOURS = ["blue", "green", "red"] * 4


def lines_of(capsys) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("tune: ")]


@pytest.fixture
def short(tmp_path):
    """A tuning of three candidates in one rung, which says what it does."""
    task = folder_of(tmp_path / "faces", COLOURS)
    settings = {"candidates": [LEARNING], "epochs": 1, "disable_tqdm": None}
    return lambda **changes: tuned(tmp_path / "run", task, **{**settings, **changes})


def test_a_log_gets_a_line_for_each_training_with_its_score(short, capsys):
    result = short()
    first, *trainings = lines_of(capsys)
    assert first.startswith("tune: 3 candidates, 2 parts, rungs of 1 epochs: 6 trainings. ")
    assert len(trainings) == 6
    for number, line in enumerate(trainings, start=1):
        assert re.fullmatch(
            rf"tune: {number} of 6 after .+: [\w ,]+, epochs 1, part [12] of 2: accuracy [01]\.\d{{3}}", line
        )
    scores = {each.name: each.scores for each in result.tried}
    assert any(f"learning, epochs 1, part 2 of 2: accuracy {scores['learning'][1]:.3f}" in line for line in trainings)
    short()
    assert lines_of(capsys) == [first.replace("trainings.", "trainings; 6 are there from before.")]


def test_processes_that_share_the_work_are_told_of_once(short, capsys):
    short(num_processes=2, num_threads=1)
    _, *trainings = lines_of(capsys)
    assert sorted(int(line.split()[1]) for line in trainings)[-1] == 6
    assert len(trainings) == len({line.split(": ")[2] for line in trainings}) == 6


def test_nothing_is_said_where_nobody_listens(short, capsys):
    short(disable_tqdm=True)
    assert lines_of(capsys) == []


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (["a"] * 12, "All 12 pictures of the training split of 'folder' have the label 'a'"),
        (["a", "b", "c"], "0 of the 3 classes of 'folder' have two training pictures or more"),
        (["a"] * 12 + ["b"], "1 of the 2 classes of 'folder' have two training pictures or more"),
    ],
)
def test_labels_that_no_candidate_can_learn_are_refused_at_the_start(labels, text, tmp_path):
    with pytest.raises(DataError, match=text):
        tuned(tmp_path / "run", folder_of(tmp_path / "faces", labels))
    assert not (tmp_path / "run").exists()


def test_values_that_are_all_the_same_are_refused_at_the_start(tmp_path):
    table = folder_of(tmp_path / "faces", ["a"] * 6)
    path = tmp_path / "faces" / "train" / "metadata.csv"
    names = [line.split(",")[0] for line in path.read_text().splitlines()[1:]]
    path.write_text("\n".join(["file_name,pain", *(f"{name},2.5" for name in names)]))
    task = Task(name="pain", dataset="imagefolder", data_dir=table.data_dir, options={"label_column": ["pain"]})
    with pytest.raises(DataError, match=r"All 6 pictures of the training split of 'pain' have the label '\[2\.5\]'"):
        tuned(tmp_path / "run", task)


def test_a_method_file_that_is_not_there_says_who_writes_one(tmp_path):
    with pytest.raises(ConfigError, match=r"nope\.json' is missing, .* `ciao tune` and `ciao search` write one"):
        method_from_file(tmp_path / "nope.json")
    with pytest.raises(ConfigError, match=r"is a folder, not the JSON file of a method\. `ciao tune`"):
        method_from_file(tmp_path)
    (tmp_path / "best.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"is a folder, .*\. Name the file in it: '.*best\.json'"):
        method_from_file(tmp_path)
