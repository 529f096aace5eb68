"""What is written on disk alone refuses a URL; as a path, `s3://bucket` would be a folder `s3:` here."""

from __future__ import annotations

from pathlib import Path

import pytest

from ciao_peft import CIAOConfig, CIAOTrainer, CIAOTrainingArguments, get_ciao_model, load_encoder, load_faces
from ciao_peft.cli import main
from ciao_peft.data import align_folder
from ciao_peft.encoders import save_encoder
from ciao_peft.errors import ConfigError, DataError, RemoteURLError
from ciao_peft.hub import read_adapter
from ciao_peft.saving import local_path, write_file, write_folder

URL = "memory://bucket/somewhere"


@pytest.fixture(autouse=True)
def empty(tmp_path, cache, monkeypatch):
    """The working folder, in which nothing may be made."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    assert not [*folder.iterdir()]


@pytest.fixture
def model():
    return get_ciao_model(load_encoder("small-face"), CIAOConfig(problem_type="regression", num_labels=2), "fer")


def save_encoder_of(model):
    return lambda url: save_encoder(model.backbone, url)


@pytest.mark.parametrize("write", [local_path, lambda url: write_file(url, ""), lambda url: write_folder(url, {})])
def test_a_url_is_no_path_on_this_disk(write):
    with pytest.raises(RemoteURLError, match=f"expected; got '{URL}', which is a URL"):
        write(URL)


@pytest.mark.parametrize("url", [Path(URL), Path("s3://bucket/fer"), "https:/example.org/fer"], ids=str)
def test_a_url_that_a_path_shortened_is_told_and_makes_no_folder(url, model):
    with pytest.raises(RemoteURLError, match="which is a URL"):
        local_path(url)
    for use in (
        model.save_pretrained,
        lambda url: model.load_adapter(url, "other"),
        read_adapter,
        save_encoder_of(model),
    ):
        with pytest.raises(RemoteURLError, match=r"lost a slash, as in a `Path`\. Give it as text"):
            use(url)


def test_the_message_repeats_no_password():
    with pytest.raises(RemoteURLError) as caught:
        local_path("https://user:secret@example.org/fer")
    assert "secret" not in str(caught.value)


def test_an_export_refuses_a_url(model):
    with pytest.raises(RemoteURLError, match="which is a URL"):
        model.export_onnx(URL)


def test_a_training_refuses_a_url():
    with pytest.raises(ConfigError, match=r"`output_dir` must be a folder on this disk.*save_adapter"):
        CIAOTrainingArguments(output_dir=URL)


@pytest.mark.parametrize(
    "command",
    [["train", "--data_dir", "faces"], ["suggest", "faces"], ["reproduce"]],
    ids=lambda command: command[0],
)
def test_commands_refuse_a_url(command, capsys):
    assert main([*command, "--output_dir", URL])
    assert "which is a URL" in capsys.readouterr().err


@pytest.mark.parametrize("url", [URL, Path(URL)], ids=repr)
def test_faces_are_aligned_and_kept_on_this_disk(url):
    with pytest.raises(DataError, match="which is a URL"):
        align_folder("faces", url)
    with pytest.raises(DataError, match="which is a URL"):
        load_faces("painted_faces", num_train=2, num_validation=1, num_test=1, cache_dir=url)


def test_a_trainer_saves_into_a_store_and_says_where(model):
    trainer = CIAOTrainer(model, CIAOTrainingArguments(disable_tqdm=True))
    folder = trainer.save_adapter(URL)
    assert (folder / "adapter_config.json").is_file()
    assert read_adapter(URL)[0].config.problem_type == "regression"
