"""`ciao cross`: a table of adapters by worlds."""

from __future__ import annotations

import json

from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
from ciao_peft.cli import main
from ciao_peft.data import paint_face


def test_adapters_are_scored_in_every_world(tmp_path, capsys):
    config = CIAOConfig(
        problem_type="single_label_classification",
        num_labels=2,
        id2label={0: "happy", 1: "sad"},
        hidden_sizes=(),
    )
    get_ciao_model(load_encoder("small-face"), config).save_pretrained(tmp_path / "moods" / "adapter")
    command = f"cross {tmp_path}/moods/adapter --worlds eight affect --num_test 30 --json {tmp_path}/cross.json"
    assert main(command.split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| read in | eight | affect |"
    assert lines[2].startswith("| moods | ") and lines[2].endswith("(2) | - |")
    eight, affect = json.loads((tmp_path / "cross.json").read_text())
    assert eight["faces"] + eight["left_out"] == affect["left_out"] == 30


def test_a_world_may_be_a_folder_of_ones_own_under_any_name(tmp_path, capsys):
    for index, label in enumerate(("happy", "sad")):
        (tmp_path / "test" / label).mkdir(parents=True)
        paint_face(seed=index, size=24).save(tmp_path / "test" / label / "a.png")
    assert main(["cross", "ciao/everyday-six", "--worlds", f"mine={tmp_path}"]) == 0
    assert "| read in | mine |" in capsys.readouterr().out
    assert main(["cross", "ciao/everyday-six", "--worlds", f"mine={tmp_path}/none"]) == 1
    assert "a folder of class folders" in capsys.readouterr().err


def test_a_world_that_there_is_not_is_named(tmp_path, capsys):
    assert main(["cross", "ciao/everyday-six", "--worlds", "mars"]) == 1
    assert "There is no world 'mars'. Worlds: 'affect', 'eight'" in capsys.readouterr().err
    assert main(["cross", "ciao/everyday-six", "--worlds", "eight", "--num_test", "4", "--split", "dev"]) == 1
    assert "no split 'dev'" in capsys.readouterr().err
