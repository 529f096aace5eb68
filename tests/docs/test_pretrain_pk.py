"""The parts of examples/pretrain_pk.py that its result hangs on, on painted noise and with few channels."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
from PIL import Image

from ciao_peft import load_encoder
from ciao_peft.errors import TrainingError
from helpers.places import EXAMPLES

TINY = "--channels 4 4 4 8 --widths 8 8 4 4 4 --batch_size 4 --latent_size 6 --cpu"


@pytest.fixture(scope="module")
def script():
    path = EXAMPLES / "pretrain_pk.py"
    spec = importlib.util.spec_from_file_location("pretrain_pk", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def faces(tmp_path):
    """Ten pictures in two folders, and arousal and valence of eight of them."""
    generator = torch.Generator().manual_seed(0)
    folder, lines = tmp_path / "faces", ["file_name,valence,arousal"]
    for number in range(10):
        path = folder / ("ab"[number % 2]) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(torch.randint(0, 256, (20, 16), generator=generator, dtype=torch.uint8).numpy()).save(path)
        if number < 8:
            lines.append(f"{path.relative_to(folder)},{number / 10},-0.5")
    (folder / "metadata.csv").write_text("\n".join(lines))
    return folder


def test_any_folder_of_pictures_will_do(script, faces):
    paths, conditions = script.find_faces(faces, conditional=False)
    assert [path.name for path in paths] == [f"{n}.png" for n in (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)]
    assert conditions is None
    with pytest.raises(SystemExit, match="No pictures"):
        script.find_faces(faces / "c", conditional=False)


def test_arousal_comes_before_valence_whatever_the_table_says(script, faces):
    paths, conditions = script.find_faces(faces, conditional=True)
    assert len(paths) == 8
    assert conditions[3].tolist() == pytest.approx([-0.5, 0.3])
    (faces / "metadata.csv").write_text("file_name,valence\na/0.png,0")
    with pytest.raises(SystemExit, match="lacks arousal"):
        script.find_faces(faces, conditional=True)
    (faces / "metadata.csv").write_text("file_name,valence,arousal\na/0.png,0,7")
    with pytest.raises(SystemExit, match="between -1 and 1"):
        script.find_faces(faces, conditional=True)


def test_pixels_survive_the_way_into_bytes_and_back(script):
    values = torch.arange(256).float() / 127.5 - 1
    assert torch.equal(script.to_bytes(values), torch.arange(256, dtype=torch.uint8))


@pytest.mark.parametrize("conditional", [False, True])
def test_a_run_that_was_cut_off_goes_on_to_the_same_weights(script, conditional, faces, tmp_path, monkeypatch):
    words = f"--data_dir {faces} --num_train_epochs 2 --warmup_steps 3 {TINY}"
    words += " --conditional --batch_norm" * conditional

    def run(folder):
        script.main(script.parse_args(f"{words} --output_dir {folder}".split()))
        return (folder / "encoder" / "model.safetensors").read_bytes()

    whole = run(tmp_path / "whole")
    save = script.save_training_checkpoint

    def save_and_stop(accelerator, folder, history, description):
        save(accelerator, folder, history, description)
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "save_training_checkpoint", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut")
    monkeypatch.setattr(script, "save_training_checkpoint", save)
    torch.rand(7)
    assert run(tmp_path / "cut") == whole
    assert [path.name for path in (tmp_path / "cut").glob("checkpoint-*")] == ["checkpoint-2"]

    encoder = load_encoder("prior_knowledge", weights=tmp_path / "whole" / "encoder")
    assert encoder.architecture == {"channels": [4, 4, 4, 8]}
    assert [*encoder.state_dict()] == [f"chain.{place}.{part}" for place in (0, 2, 4, 6) for part in ("weight", "bias")]
    training = json.loads((tmp_path / "whole" / "encoder" / "config.json").read_text())["training"]
    assert training["faces"] == (8 if conditional else 10)
    assert [record["epoch"] for record in training["history"]] == [1, 2]
    assert all(("emotion" in record) == conditional for record in training["history"])
    resumed = json.loads((tmp_path / "cut" / "history.json").read_text())
    assert [record | {"seconds": 0} for record in resumed] == [
        record | {"seconds": 0} for record in training["history"]
    ]
    with Image.open(tmp_path / "whole" / "reconstructions" / "epoch-2.png") as grid:
        assert grid.size == (8 * 96, (6 if conditional else 2) * 96)


def test_a_run_goes_on_with_its_own_settings_and_faces_alone(script, faces, tmp_path):
    def run(words=""):
        line = f"--data_dir {faces} --output_dir {tmp_path / 'run'} --num_train_epochs 1 {TINY} --conditional {words}"
        script.main(script.parse_args(line.split()))

    run()
    before = (tmp_path / "run" / "encoder" / "config.json").read_bytes()
    with pytest.raises(TrainingError, match="'latent_size' was 6 and is 7"):
        run("--latent_size 7")
    with pytest.raises(TrainingError, match="'max_faces' was None and is 5; 'faces' was 8 and is 5; 'which_faces' was"):
        run("--max_faces 5")
    table = (faces / "metadata.csv").read_text()
    for old, new in (("b/7.png,0.7,", "b/7.png,0.6,"), ("b/7.png", "b/9.png")):
        assert old in table
        (faces / "metadata.csv").write_text(table.replace(old, new))
        with pytest.raises(
            TrainingError, match=r"cannot go on: 'which_faces' was '[0-9a-f]{16}' and is '[0-9a-f]{16}'"
        ):
            run()
    assert (tmp_path / "run" / "encoder" / "config.json").read_bytes() == before
    (faces / "metadata.csv").write_text(table)
    faces = faces.rename(tmp_path / "elsewhere")
    run("--num_train_epochs 2")
    assert len(json.loads((tmp_path / "run" / "history.json").read_text())) == 2


def test_training_draws_one_face_closer_to_itself(script, faces, tmp_path):
    (faces / "metadata.csv").unlink()
    for path in sorted(faces.rglob("*.png"))[1:]:
        Image.new("RGB", (16, 16), (200, 120, 60)).save(path)
    losses = []
    for epochs in (1, 12):
        words = f"--data_dir {faces} --output_dir {tmp_path / 'run'} --num_train_epochs {epochs} {TINY}"
        script.main(script.parse_args([*words.split(), "--learning_rate", "0.003"]))
        record = json.loads((tmp_path / "run" / "encoder" / "config.json").read_text())
        losses.append(record["training"]["history"][-1]["reconstruction"])
    assert losses[1] < 0.7 * losses[0]
    assert len(record["training"]["history"]) == 12


def test_a_training_may_begin_with_the_weights_of_an_earlier_one(script, faces, tmp_path):
    def run(folder, words=""):
        line = f"--data_dir {faces} --output_dir {tmp_path / folder} --num_train_epochs 1 {TINY} {words}"
        script.main(script.parse_args(line.split()))
        return json.loads((tmp_path / folder / "encoder" / "config.json").read_text())

    with pytest.raises(SystemExit, match="holds no finished training"):
        run("second", f"--start_dir {tmp_path / 'first'}")
    first = run("first")
    still = "--learning_rate 1e-12"  # so small that float32 keeps the weights as they were
    second = run("second", f"--start_dir {tmp_path / 'first'} {still} --seed 7")
    assert second["training"]["started_from"] == first["training"]
    assert second["weights_sha256"] == first["weights_sha256"]
    assert second["training"]["history"][0]["reconstruction"] != first["training"]["history"][0]["reconstruction"]
    assert run("alone", f"{still} --seed 7")["weights_sha256"] != first["weights_sha256"]
    with pytest.raises(SystemExit, match="are of other sizes; give --channels"):
        run("third", f"--start_dir {tmp_path / 'first'} --latent_size 7")
    run("first", "--num_train_epochs 2")
    with pytest.raises(TrainingError, match="'started_from' was"):
        run("second", f"--start_dir {tmp_path / 'first'} {still} --seed 7 --num_train_epochs 2")
