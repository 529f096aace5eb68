"""Every example runs, on painted faces and with tiny settings."""

from __future__ import annotations

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.places import REPOSITORY

# Script in examples/ -> its command lines. {faces} is a folder of painted faces with `train/` and `test/`, a
# `metadata.csv` in each with the columns `expression` and `identity`; {tmp} an empty folder of the test's own.
EXAMPLES: dict[str, list[str]] = {
    "pretrain_encoder.py": [
        "--data_dir {faces} --output_dir {tmp}/encoder --num_train_epochs 1 --batch_size 8 --cpu",
    ],
    "pretrain_pk.py": [
        "--data_dir {faces} --output_dir {tmp}/pk --num_train_epochs 1 --batch_size 14 --channels 4 4 4 8 "
        "--widths 8 8 4 4 4 --cpu",
    ],
    "quickstart.py": [
        "--output_dir {tmp}/quickstart --num_train 48 --num_test 16 --num_train_epochs 1",
    ],
    "train.py": [
        "--dataset imagefolder --data_dir {faces} --label_column expression --min_images_per_class 2 "
        "--num_train_epochs 2 --output_dir {tmp}/run --tuning last_conv --save_strategy epoch",
        "--world affect --num_train 24 --num_test 8 --num_train_epochs 1 --output_dir {tmp}/run --no_inhibition "
        "--recipe default",
        "--align five-points --world seven --num_train 16 --num_test 8 --num_train_epochs 1 --output_dir {tmp}/run",
    ],
}


@pytest.fixture(scope="session")
def faces(tmp_path_factory) -> Path:
    from ciao_peft import load_faces

    folder = tmp_path_factory.mktemp("faces")
    settings = {"num_train": 40, "num_validation": 0, "num_test": 16, "images_per_identity": 4, "size": 48}
    for split, rows in load_faces("painted_faces", cache_dir=folder / "cache", **settings).items():
        (folder / "images" / split).mkdir(parents=True)
        with (folder / "images" / split / "metadata.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["file_name", "expression", "identity"])
            for number, row in enumerate(rows):
                row["image"].save(folder / "images" / split / f"{number}.png")
                expression = rows.features["label"].int2str(row["label"])
                table.writerow([f"{number}.png", expression, f"p{row['identity']}"])
    return folder / "images"


def run_example(script: str, arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs it as a user would, from another folder than the repository."""
    command = [sys.executable, str(REPOSITORY / "examples" / script), *arguments]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=environment, timeout=600, check=False
    )


def test_every_example_has_a_command_line_here():
    assert {path.name for path in (REPOSITORY / "examples").glob("*.py")} == set(EXAMPLES)


@pytest.mark.parametrize(("script", "arguments"), [(script, line) for script in EXAMPLES for line in EXAMPLES[script]])
def test_runs_and_prints_its_result(script, arguments, faces, tmp_path):
    result = run_example(script, arguments.format(faces=faces, tmp=tmp_path).split(), tmp_path)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.strip()


def test_the_quickstart_runs_again_in_its_folder_with_other_sizes(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("quickstart", REPOSITORY / "examples" / "quickstart.py")
    quickstart = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(quickstart)
    monkeypatch.setattr(quickstart, "WORLDS", ("affect",))  # one world is enough to store features for
    for sizes in ("--num_train 24 --num_test 8", "--num_train 24 --num_test 12", "--num_train 16 --num_test 12"):
        quickstart.main(quickstart.parse_args(f"--output_dir {tmp_path} --num_train_epochs 1 {sizes}".split()))
        assert "with CIAO" in capsys.readouterr().out


def test_training_on_a_folder_without_a_test_split_says_how_to_get_one_and_the_card_names_the_folder(tmp_path):
    from ciao_peft.data import paint_face

    for label in ("calm", "glad"):
        (tmp_path / "moods" / label).mkdir(parents=True)
        for seed in range(20):
            paint_face(seed=seed, size=24).save(tmp_path / "moods" / label / f"{seed}.png")
    line = ["--dataset", "imagefolder", "--data_dir", "moods", "--output_dir", "run", "--num_train_epochs", "1"]
    refused = run_example("train.py", line, tmp_path)
    assert refused.returncode == 1
    assert "moods has no test split: make folders train/ and test/ in it" in refused.stderr
    assert run_example("train.py", [*line, "--protocol", "k-fold"], tmp_path).returncode == 0
    assert "people who labelled moods would" in (tmp_path / "run" / "adapter" / "README.md").read_text()
