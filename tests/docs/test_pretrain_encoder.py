"""The parts of examples/pretrain_encoder.py that its result hangs on."""

from __future__ import annotations

import importlib.util
import json
import math

import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features
from PIL import Image

from ciao_peft import Preprocessing, load_encoder
from ciao_peft.errors import TrainingError
from helpers.places import EXAMPLES


@pytest.fixture(scope="module")
def script():
    path = EXAMPLES / "pretrain_encoder.py"
    spec = importlib.util.spec_from_file_location("pretrain_encoder", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_margin_is_taken_from_the_own_cosine_before_it_is_scaled(script):
    head = script.MarginSoftmax(2, 2, scale=3.0)
    head.directions.data = torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    # 60 degrees from the first direction, which is the own one, and 30 from the second.
    embedding = torch.tensor([[2 * math.cos(math.pi / 3), 2 * math.sin(math.pi / 3)]])
    own, other = 3 * (0.5 - 0.2), 3 * math.cos(math.pi / 6)
    expected = -math.log(math.exp(own) / (math.exp(own) + math.exp(other)))
    assert head(embedding, torch.tensor([0]), margin=0.2).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_augmented_faces_have_the_encoders_shape_and_hang_on_the_generator_alone(script, mode):
    channels = 3 if mode == "RGB" else 1
    preprocessing = Preprocessing(size=(24, 32), mode=mode, mean=(0.5,) * channels, std=(0.25,) * channels)
    pixels = torch.randint(0, 256, (6, 1, 36, 48), dtype=torch.uint8)

    def augmented(seed):
        return script.augment(pixels, preprocessing, torch.Generator().manual_seed(seed))

    values = augmented(1)
    assert values.shape == (6, channels, 24, 32)
    assert values.isfinite().all()
    assert values.abs().max() <= 2  # (0 - 0.5) / 0.25 to (1 - 0.5) / 0.25
    torch.rand(3)
    assert torch.equal(values, augmented(1))
    assert not torch.equal(values, augmented(2))


def painted(number, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (number, 8, 8), generator=generator, dtype=torch.uint8)
    return [Image.fromarray(picture.numpy()) for picture in pixels]


@pytest.fixture
def faces(script, monkeypatch):
    """Sixteen people in training; in the test split one of them, one with a single picture, and two who count."""
    train = {"image": painted(48), "identity": [f"p{i % 16}" for i in range(48)], "label": [0] * 48}
    test = {"image": painted(8, 1), "identity": ["p0", "p0", "x", "y", "y", "y", "z", "z"], "label": [0] * 8}
    splits = DatasetDict({"train": Dataset.from_dict(train), "test": Dataset.from_dict(test)})
    monkeypatch.setattr(script, "load_faces", lambda *args, **kwargs: DatasetDict(splits))
    return splits


def test_people_seen_in_training_and_people_with_one_picture_do_not_verify(script, faces):
    _, verification, people = script.split_people(script.parse_args(["--output_dir", "unused"]))
    assert verification["person"] == ["y", "y", "y", "z", "z"]
    assert people == {
        "training_faces": 48,
        "training_people": 16,
        "verification_faces": 5,
        "verification_people": 2,
        "people_left_out_because_in_both_splits": 1,
    }


def test_without_a_test_split_every_tenth_person_is_held_out(script, faces):
    del faces["test"]
    train, verification, people = script.split_people(script.parse_args(["--output_dir", "unused"]))
    assert {*verification["person"]} == {"p0", "p4"}  # first and eleventh: p0, p1, p10 to p15, p2, p3, p4
    assert not {*verification["person"]} & {*train["person"]}
    assert people["training_people"] == 14


def test_a_run_that_was_cut_off_goes_on_to_the_same_weights(script, faces, tmp_path, monkeypatch):
    def run(folder):
        script.main(script.parse_args(f"--output_dir {folder} --num_train_epochs 3 --batch_size 16 --cpu".split()))
        return (folder / "small_face.safetensors").read_bytes()

    whole = run(tmp_path / "whole")
    save = script.save_training_checkpoint

    def save_and_stop(accelerator, folder, history, description):
        save(accelerator, folder, history, description)
        if len(history) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(script, "save_training_checkpoint", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut")
    monkeypatch.setattr(script, "save_training_checkpoint", save)
    torch.rand(7)
    assert run(tmp_path / "cut") == whole
    assert [path.name for path in (tmp_path / "cut").glob("checkpoint-*")] == ["checkpoint-3"]
    card = json.loads((tmp_path / "cut" / "small_face.json").read_text())
    assert card["settings"]["seed"] == 0
    assert [record["epoch"] for record in card["history"]] == [1, 2, 3]
    assert 0 <= card["verification_auc"] <= 1
    assert json.loads((tmp_path / "cut" / "history.json").read_text()) == card["history"]
    one, two = ((tmp_path / name / "encoder" / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert one == two
    encoder = load_encoder(tmp_path / "cut" / "encoder")
    assert encoder.encoder_type == "small-face"
    assert encoder.preprocessing == load_encoder("small-face").preprocessing


def test_a_run_goes_on_with_its_own_settings_and_people_alone(script, faces, tmp_path):
    def run(*words):
        line = f"--output_dir {tmp_path} --num_train_epochs 1 --batch_size 24 --cpu"
        script.main(script.parse_args([*line.split(), *words]))

    run()
    before = (tmp_path / "encoder" / "config.json").read_bytes()
    with pytest.raises(TrainingError, match=r"'learning_rate' was 0\.002 and is 0\.5"):
        run("--learning_rate", "0.5")
    with pytest.raises(TrainingError, match="'project_to' was 0 and is 5"):
        run("--project_to", "5")
    train, test = faces["train"], faces["test"]
    for split, column, what in (
        ("train", train["identity"][::-1], "who_is_which_label"),
        ("test", [name.replace("y", "w") for name in test["identity"]], "who_verifies"),
    ):
        faces[split] = faces[split].remove_columns("identity").add_column("identity", column)
        with pytest.raises(
            TrainingError, match=f"cannot go on: '{what}' was '[0-9a-f]{{16}}' and is '[0-9a-f]{{16}}'. "
        ):
            run()
        faces["train"], faces["test"] = train, test
    assert (tmp_path / "encoder" / "config.json").read_bytes() == before
    run("--num_train_epochs", "2")
    assert [record["epoch"] for record in json.loads((tmp_path / "history.json").read_text())] == [1, 2]


def test_people_go_by_the_names_of_their_folders(script):
    feature = ClassLabel(names=["ann", "bea"])
    faces = Dataset.from_dict({"person": [1, 0, 1]}, features=Features({"person": feature}))
    assert script.names_of_people(faces) == ["bea", "ann", "bea"]


def test_a_plain_chain_is_trained_with_help_that_is_gone_afterwards(script, faces, tmp_path, monkeypatch):
    def narrow(name, **settings):
        return load_encoder(name, channels=[4, "pool", 4, "pool", 4, "pool", 4, "pool", 6], **settings)

    monkeypatch.setattr(script, "load_encoder", narrow)
    words = f"--encoder vggface2 --output_dir {tmp_path} --num_train_epochs 2 --batch_size 16 --cpu"
    helped = "--batch_norm --project_to 5 --dropout 0.3 --half_size_epochs 1"
    script.main(script.parse_args([*words.split(), *helped.split()]))
    encoder = load_encoder("vggface2", weights=tmp_path / "encoder")
    plain = narrow("vggface2", pretrained=False)
    assert {key: value.shape for key, value in encoder.state_dict().items()} == {
        key: value.shape for key, value in plain.state_dict().items()
    }
    card = json.loads((tmp_path / "vggface2.json").read_text())
    assert [record["size"] for record in card["history"]] == [48, 96]
    # What is saved is the network that the last epoch was judged by, but for half precision and the order of rounding.
    _, verification, _ = script.split_people(script.parse_args(["--output_dir", "unused"]))
    unseen = script.load_pixels(verification, encoder.preprocessing)
    embeddings = script.embed(encoder, unseen, encoder.preprocessing, torch.device("cpu"))
    again = script.verification_auc(embeddings, verification["person"])
    assert again == pytest.approx(card["verification_auc"], abs=1e-4)
    assert again == pytest.approx(
        card["history"][-1]["verification_auc"], abs=0.11
    )  # one pair of ten may change places


def test_a_model_of_timm_is_trained_and_loaded_again(script, faces, tmp_path):
    words = f"--encoder timm/test_resnet --output_dir {tmp_path} --num_train_epochs 1 --batch_size 24 --cpu"
    script.main(script.parse_args(words.split()))
    encoder = load_encoder(tmp_path / "encoder")
    assert encoder.architecture == {"name": "test_resnet", "num_classes": 0}
    # timm's own transform cuts the frame off; what was trained on whole faces is fed whole faces.
    theirs = load_encoder("timm/test_resnet", pretrained=False).preprocessing
    assert theirs.crop_pct < 1
    framed = Image.new("RGB", (200, 200), "white")
    framed.paste("black", (4, 4, 196, 196))
    shown = script.prepare(script.load_pixels([{"image": framed}], encoder.preprocessing), encoder.preprocessing)
    fed = encoder.preprocessing(framed)
    torch.testing.assert_close(fed[..., 0], shown[..., 0], atol=0.1, rtol=0)  # white in both
    assert (theirs(framed)[..., 0] - shown[..., 0]).abs().min() > 1
    card = json.loads((tmp_path / "timm_test_resnet.json").read_text())
    assert card["preprocessing"] == encoder.preprocessing.to_dict()
    assert encoder.preprocessing == theirs.replace(crop_pct=1.0)
    assert (tmp_path / "timm_test_resnet.safetensors").exists()
