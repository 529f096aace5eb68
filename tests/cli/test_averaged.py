"""Scores by clip on the command line: the mean answer of the rows of each."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ciao_peft import AutoCIAOModel
from ciao_peft.cli import main
from ciao_peft.data import paint_face

MOODS = ("happiness", "sadness")


@pytest.fixture
def table(tmp_path):
    """Six clips of three frames each, half of them in the test split."""
    lines = ["photo,emotion,clip,part"]
    for index in range(18):
        paint_face(seed=index, size=40).save(tmp_path / f"{index}.png")
        clip = index // 3
        lines.append(f"{index}.png,{MOODS[clip % 2]},c{clip},{('train', 'test')[clip // 2 % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return tmp_path / "labels.csv"


def words(table, *more):
    given = ["--csv", str(table), "--label_column", "emotion", "--image_column", "photo", "--split_column", "part"]
    return [*given, "--min_images_per_class", "0", *more]


def test_evaluate_scores_the_mean_answer_of_each_clip(table, capsys):
    out = table.with_name("scores.json")
    by = ["--group_by", "clip", "--average_by", "clip", "--json", str(out)]
    assert main(["evaluate", "ciao/painted-eight", *words(table, *by)]) == 0
    assert "by clip, 2 of them:" in capsys.readouterr().out
    (found,) = json.loads(out.read_text()).values()
    model = AutoCIAOModel.from_pretrained("ciao/painted-eight")
    pixels = [model.preprocessing(str(table.with_name(f"{index}.png"))) for index in (*range(6, 9), *range(9, 12))]
    with torch.no_grad():
        logits = model(torch.cat(pixels)).logits
    names = list(model.peft_config[model.active_adapter].id2label.values())
    right = [names[logits[3 * clip : 3 * clip + 3].mean(0).argmax()] == MOODS[clip] for clip in (0, 1)]
    assert found["averaged"]["things"] == 2
    assert found["averaged"]["scores"]["accuracy"] == pytest.approx(np.mean(right))


def test_train_tells_them_and_keeps_them(table, capsys):
    run = table.with_name("run")
    small = ["--num_train_epochs", "1", "--report_to", "none", "--hidden_sizes", "8", "--output_dir"]
    assert main(["train", *words(table, "--group_by", "clip", "--average_by", "clip"), *small, str(run)]) == 0
    assert "by clip, 2 of them:" in capsys.readouterr().out
    record = json.loads((run / "adapter" / "adapter_config.json").read_text())["training"]
    assert record["averaged"]["by"] == "clip" and record["averaged"]["things"] == 2


def test_what_cannot_be_averaged_is_refused(table, capsys):
    assert main(["evaluate", "ciao/painted-eight", *words(table, "--average_by", "clip")]) == 1
    assert "`--average_by` names 'clip', which is no column of the faces" in capsys.readouterr().err
    table.write_text(table.read_text().replace(",c3,", ",c2,"))
    by = ["--group_by", "clip", "--average_by", "clip"]
    assert main(["evaluate", "ciao/painted-eight", *words(table, *by)]) == 1
    assert "are both of 'c2' in 'identity', and have different labels" in capsys.readouterr().err
