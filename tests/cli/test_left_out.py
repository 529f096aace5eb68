"""A command says once what it leaves out of the faces, however often and in however many processes it loads them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ciao_peft.cli import main
from ciao_peft.study import write_plan
from helpers.studies import plan_of, tiny_encoder
from helpers.tuning import LEARNING, folder_of

COLOURS = ["blue", "green", "red"] * 10


@pytest.fixture
def faces(tmp_path) -> Path:
    """A folder with a row too many in its table."""
    folder_of(tmp_path / "faces", COLOURS, [f"p{number // 3}" for number in range(30)])
    with (tmp_path / "faces" / "train" / "metadata.csv").open("a") as table:
        table.write("\nmissing.png,red,p1")
    return tmp_path / "faces"


def left_out(caplog) -> list[str]:
    return [message for message in caplog.messages if "left out" in message]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.filterwarnings("ignore:A single training sample each")
def test_a_tuning_says_once_what_is_left_out(processes, faces, tmp_path, caplog, capfd):
    method = {"name": LEARNING.name, "config": dict(LEARNING.config), "arguments": dict(LEARNING.arguments)}
    (tmp_path / "method.json").write_text(json.dumps({**method, "rate": LEARNING.rate, "rates": list(LEARNING.rates)}))
    words = f"tune {faces} --encoder {tiny_encoder(tmp_path / 'encoder').source} --setting min_images_per_class=0"
    words += f" --method_file {tmp_path / 'method.json'} --epochs 1 --folds 2 --views 1 --num_processes {processes}"
    assert main([*words.split(), "--output_dir", str(tmp_path / "run")]) == 0
    (said,) = left_out(caplog)
    assert said.endswith("1 x row of metadata.csv without its file: missing.png.")
    assert "without its file" not in capfd.readouterr().err  # of the other processes


def test_a_study_in_two_processes_says_once_what_is_left_out(faces, tmp_path, caplog, capfd):
    plan = plan_of(tmp_path)
    options = {"min_images_per_class": 0, "test_fraction": 0.3}
    task = replace(plan.tasks[0], name="mine", dataset="imagefolder", data_dir=str(faces), options=options)
    write_plan(replace(plan, tasks=(task,), methods=plan.methods[:1], search_rates=1), tmp_path / "plan.yaml")
    words = f"reproduce --plan {tmp_path / 'plan.yaml'} --num_processes 2"
    assert main([*words.split(), "--output_dir", str(tmp_path / "run")]) == 0
    assert len(left_out(caplog)) == 1 and "without its file" not in capfd.readouterr().err
