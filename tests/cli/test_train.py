"""`ciao train` and `ciao evaluate`: what they load, what they say, what they leave behind."""

from __future__ import annotations

import json

import pytest

from ciao_peft import AutoCIAOModel
from ciao_peft.cli import main

SMALL = "--num_train 60 --num_test 12 --num_train_epochs 1 --report_to none --hidden_sizes 8"


@pytest.fixture(scope="module")
def seven(tmp_path_factory):
    """A folder with an adapter of the world `seven`."""
    folder = tmp_path_factory.mktemp("train") / "run"
    assert main(f"train --world seven {SMALL} --output_dir {folder}".split()) == 0
    return folder


def test_train_saves_an_adapter_its_card_and_a_confusion_matrix(seven):
    model = AutoCIAOModel.from_pretrained(seven / "adapter")
    assert "contempt" not in model.peft_config["adapter"].id2label.values()
    assert "painted_faces seven" in (seven / "adapter" / "README.md").read_text()
    assert (seven / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")


def test_train_without_a_test_split_says_how_to_get_one(tmp_path, capsys):
    from ciao_peft.data import paint_face

    for label in ("calm", "glad"):
        (tmp_path / "moods" / label).mkdir(parents=True)
        paint_face(size=24).save(tmp_path / "moods" / label / "a.png")
    command = ["train", "--data_dir", str(tmp_path / "moods"), "--min_images_per_class", "1"]
    assert main([*command, "--output_dir", str(tmp_path / "run")]) == 1
    assert "moods has no test split: make folders train/ and test/" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_train_learns_from_a_folder_of_pictures_without_labels(tmp_path, capsys):
    from ciao_peft.data import paint_face

    folder = tmp_path / "others"
    command = f"train --world seven {SMALL} --views 2 --output_dir {tmp_path / 'run'} --unlabelled {folder}"
    assert main(command.split()) == 1
    assert "is no folder. Give one that holds pictures" in capsys.readouterr().err
    folder.mkdir()
    assert main(command.split()) == 1
    assert "There is no picture in" in capsys.readouterr().err
    for index in range(5):
        paint_face(seed=index, size=24).save(folder / f"{index}.png")
    assert main([*command.split(), "--adaptive_confidence"]) == 0
    assert "5 faces without labels to learn from as well." in capsys.readouterr().out
    saved = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert saved["training"]["arguments"]["unlabelled_samples"] == 5
    assert saved["training"]["arguments"]["adaptive_confidence"] is True


def test_a_setting_without_a_flag_of_its_own_reaches_the_dataset(capsys):
    assert main(["evaluate", "ciao/everyday-six", "--num_test", "4", "--setting", "size=8"]) == 1
    assert "size" in capsys.readouterr().err


def test_evaluate_joins_classes_by_name_and_counts_faces_of_other_classes(seven, tmp_path, capsys):
    out = tmp_path / "scores.json"
    command = f"evaluate {seven / 'adapter'} --world eight --num_train 4 --num_test 60 --json {out}"
    assert main(command.split()) == 0
    (found,) = json.loads(out.read_text()).values()
    assert found["faces"] + sum(found["left_out"].values()) == 60
    assert set(found["left_out"]) == {"contempt"}
    printed = capsys.readouterr().out
    assert f"left out: {found['left_out']['contempt']} of contempt" in printed
    assert f"accuracy {found['scores']['accuracy']:.4f}" in printed


def test_evaluate_reads_a_few_faces_and_the_only_part_there_is(seven, tmp_path, capsys):
    from ciao_peft.data import paint_face

    lines = ["File Name;emotion"]
    for index, label in enumerate(("happy", "sad", "joyful")):
        paint_face(seed=index, size=24).save(tmp_path / f"{index}.png")
        lines.append(f"{index}.png;{label}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    command = f"evaluate {seven / 'adapter'} --csv {tmp_path / 'labels.csv'} --label_column emotion"
    assert main([*command.split(), "--map", "joyful=happiness"]) == 0
    assert "3 faces of labels, train" in capsys.readouterr().out
    assert main([*command.split(), "--split", "test"]) == 1
    assert "no split 'test'. It has: 'train'" in capsys.readouterr().err


def test_evaluate_takes_a_map_of_labels(seven, tmp_path):
    out = tmp_path / "scores.json"
    command = f"evaluate {seven / 'adapter'} --world eight --num_train 4 --num_test 60 --json {out} --map fear="
    assert main([*command.split(), "--map", "contempt=disgust"]) == 0
    (found,) = json.loads(out.read_text()).values()
    assert set(found["left_out"]) == {"fear"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--world affect", "labelled for regression"),
        ("--split nowhere", "no split 'nowhere'"),
        ("--map happy", "LABEL=LABEL"),
        ("--map joyful=happiness", "Unknown label 'joyful'"),
        ("--setting world=affect --world affect", "--world"),
    ],
)
def test_evaluate_says_what_does_not_fit(seven, capsys, words, message):
    assert main(f"evaluate {seven / 'adapter'} --num_train 4 --num_test 8 {words}".split()) == 1
    assert message in capsys.readouterr().err


def test_train_calibrates_by_folds_of_people(tmp_path, capsys):
    command = f"train --world seven {SMALL} --output_dir {tmp_path / 'run'} --calibration_folds"
    for folds, message in (("1", "`--calibration_folds` must be 2 or more, or 0 for none; got 1"), ("-3", "got -3")):
        assert main([*command.split(), folds]) == 1
        assert message in capsys.readouterr().err
    assert main([*command.split(), "2", "--unlabelled", str(tmp_path)]) == 1
    assert "trains without the pictures of `--unlabelled`" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main([*command.split(), "2"]) == 0
    said = capsys.readouterr().out
    assert "Calibration, fold 1 of 2: another adapter learns" in said
    config = AutoCIAOModel.from_pretrained(tmp_path / "run" / "adapter").peft_config["adapter"]
    assert f"Temperature of the probabilities: {config.probability_temperature:.2f}." in said
    assert config.probability_temperature != 1


def test_train_has_no_temperature_for_values(tmp_path, capsys):
    command = f"train --world affect {SMALL} --output_dir {tmp_path / 'run'} --calibration_folds 2"
    assert main(command.split()) == 1
    assert "no probability, and no temperature" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
