"""`ciao tune`, and `ciao train` from what it wrote."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from ciao_peft import AutoCIAOModel
from ciao_peft.cli import main
from helpers.studies import tiny_encoder
from helpers.tuning import LEARNING, folder_of

pytestmark = pytest.mark.filterwarnings("ignore:A single training sample each")
COLOURS = ["blue", "green", "red"] * 10


def method_file(folder, **changes):
    """A candidate in a file."""
    method = replace(LEARNING, **changes)
    path = folder / "learning.json"
    values = {"name": method.name, "config": dict(method.config), "arguments": dict(method.arguments)}
    path.write_text(json.dumps({**values, "rate": method.rate, "rates": list(method.rates)}))
    return path


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A folder of faces with people, and what was tuned on it."""
    folder = tmp_path_factory.mktemp("tune")
    folder_of(folder / "faces", COLOURS, [f"p{number // 3}" for number in range(30)])
    encoder = tiny_encoder(folder / "encoder").source
    words = f"tune {folder / 'faces'} --label_column label --encoder {encoder} --method_file {method_file(folder)}"
    words += f" --setting min_images_per_class=0 --epochs 2 --folds 2 --views 1 --output_dir {folder / 'run'}"
    return folder, words.split()


def test_a_folder_is_tuned_and_an_adapter_trained_from_it(tuned, tmp_path, capsys):
    folder, words = tuned
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "| candidate " in printed and "Chosen: " in printed
    best = folder / "run" / "best.json"
    about = json.loads(best.read_text())
    assert f"ciao train --data_dir {folder / 'faces'}" in printed and f"--method_file {best}" in printed
    assert about["search"]["pictures"] == 30 and about["search"]["metric"] == "accuracy"
    train = f"train --data_dir {folder / 'faces'} --label_column label --encoder {words[words.index('--encoder') + 1]}"
    train += f" --setting min_images_per_class=0 --test_fraction 0.3 --method_file {best} --report_to none"
    assert main([*train.split(), "--output_dir", str(tmp_path / "run"), "--num_train_epochs", "1"]) == 0
    config = AutoCIAOModel.from_pretrained(tmp_path / "run" / "adapter").peft_config["adapter"]
    for name, value in about["config"].items():
        kept = getattr(config, name)
        assert (list(kept) if isinstance(kept, tuple) else kept) == value


def test_people_are_held_out_where_a_column_says_who(tuned, capsys, monkeypatch):
    from ciao_peft.cli import make_parser
    from ciao_peft.cli import tune as command

    _, words = tuned
    for more, who in (([], "identity"), (["--group_by", "identity"], "identity"), (["--group_by", "none"], None)):
        options = make_parser().parse_args([*words, *more])
        command._place_data(options)
        assert command._task(options).group_by == who


def test_flags_go_before_the_method_in_the_file(tmp_path):
    from ciao_peft.cli import make_parser

    path = method_file(tmp_path, arguments={"learning_rate": 0.03, "num_train_epochs": 7.0})
    options = make_parser().parse_args(["train", "--method_file", str(path)])
    assert (options.learning_rate, options.num_train_epochs, options.mask_learning_rate) == (0.03, 7.0, 0.1)
    assert (options.hidden_sizes, options.inhibition_form, options.inhibition_rank) == ([4], "subtractive", 4)
    options = make_parser().parse_args(
        ["train", "--method_file", str(path), "--learning_rate", "0.5", "--hidden_sizes", "3"]
    )
    assert (options.learning_rate, options.num_train_epochs, options.hidden_sizes) == (0.5, 7.0, [3])


@pytest.mark.parametrize("config", [{}, {"excitation_rank": None}], ids=str)
def test_a_method_in_a_file_has_the_paper_s_preset_where_it_says_nothing(tmp_path, config):
    from ciao_peft.cli import make_parser

    options = make_parser().parse_args(["train", "--method_file", str(method_file(tmp_path, config=config))])
    assert (options.inhibition_form, options.excitation_rank, options.contrastive_weight) == ("divisive", 0, 1.0)


@pytest.mark.parametrize(
    ("content", "more", "text"),
    [
        (None, [], "is missing"),
        ({"name": "x", "config": {}}, ["--recipe", "default"], "leave out --recipe"),
        ({"name": "x", "config": {}}, ["--preset", "compact"], "leave out --preset"),
        ({"name": "x", "baseline": "lora", "rates": [0.1]}, [], "is the baseline 'lora'"),
        ({"name": "x", "config": {"temprature": 1}}, [], "settings without a flag: temprature"),
        ({"name": "x", "colour": 1}, [], "colour"),
    ],
)
def test_a_method_that_train_cannot_start_from_is_refused(content, more, text, tmp_path, capsys):
    path = tmp_path / "method.json"
    if content is not None:
        path.write_text(json.dumps(content))
    with pytest.raises(SystemExit):
        main(["train", "--method_file", str(path), *more])
    assert re.search(text, capsys.readouterr().err)


def test_data_is_said_once(tmp_path, capsys):
    assert main(["tune", str(tmp_path), "--data_dir", str(tmp_path)]) == 1
    assert "both say where the faces are" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(tuned, tmp_path, monkeypatch, capsys):
    import ciao_peft.study.tuning.halving as halving

    def interrupted(self, on_progress=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(halving.Halving, "work", interrupted)
    _, words = tuned
    with pytest.raises(SystemExit) as stopped:
        main([*words[:-1], str(tmp_path / "run")])
    assert stopped.value.code == 130
    assert "the same command goes on" in capsys.readouterr().out
