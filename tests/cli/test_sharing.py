from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
from ciao_peft.cli import main
from ciao_peft.encoders import save_encoder
from helpers.fakes import SIZE, tiny_backbone

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

CONFIG = CIAOConfig(problem_type="regression", num_labels=2, id2label={0: "arousal", 1: "valence"})


@pytest.fixture
def folder(tmp_path):
    training = {"dataset": "painted_faces", "metrics": {"concordance": 0.5}, "seed": 3}
    return get_ciao_model(tiny_backbone(), CONFIG, input_size=SIZE).save_pretrained(tmp_path / "fer", training=training)


@pytest.fixture
def ann(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_ann")
    return hub


def test_publish_pull_and_inspect_go_round(ann, folder, capsys):
    assert main(["publish", str(folder), "ann/fer", "--private", "--message", "first"]) == 0
    assert capsys.readouterr().out.strip() == f"{ann.url}/ann/fer/commit/{ann.repos['ann/fer'].branches['main']}"
    assert ann.repos["ann/fer"].private
    assert ann.repos["ann/fer"].at("main").title == "first"
    assert main(["pull", "ann/fer", "--json"]) == 0
    pulled = json.loads(capsys.readouterr().out)
    assert pulled["revision"] == ann.repos["ann/fer"].branches["main"]
    assert main(["inspect", "ann/fer", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["config"] == CONFIG.to_dict() | {"target_modules": ["3"]}
    assert (facts["folder"], facts["revision"]) == (pulled["folder"], pulled["revision"])
    assert facts["weights_bytes"] == len(ann.files("ann/fer")["adapter_model.safetensors"])


def test_inspect_is_readable(folder, capsys):
    assert main(["inspect", str(folder)]) == 0
    lines = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert lines["problem"] == "regression: arousal, valence"
    assert lines["backbone"] == "Sequential"
    assert lines["concordance"] == "0.5"
    assert lines["checksum"].endswith("(checked)")


@pytest.mark.parametrize(
    ("changes", "mask"),
    [
        ({}, "M = max(1, a0) (u + E) / (a + I); I from a copy of the convolution, E of rank 32"),
        ({"inhibition_form": "divisive", "excitation_rank": 0}, "M = u / (a + I); I from a copy of the convolution"),
        ({"inhibition": False, "excitation_rank": 2}, "M = u + E; E of rank 2"),
        ({"inhibition": False}, None),
    ],
    ids=str,
)
def test_inspect_and_the_card_say_what_masks(tmp_path, capsys, changes, mask):
    config = CIAOConfig(problem_type="regression", num_labels=2, **changes)
    folder = get_ciao_model(tiny_backbone(), config, input_size=SIZE).save_pretrained(tmp_path / "moods")
    assert main(["inspect", str(folder)]) == 0
    said = capsys.readouterr().out
    lines = dict(line.split(None, 1) for line in said.replace("mask after", "mask_after").splitlines())
    assert lines.get("mask") == mask
    assert ("excitation_rank" in lines) == (changes.get("excitation_rank") is not None)
    assert (f"| mask | {mask} |" if mask else "without inhibition") in (folder / "README.md").read_text()
    assert "| mask | None |" not in (folder / "README.md").read_text()


def test_publish_knows_an_encoder_from_an_adapter(ann, tmp_path, capsys):
    encoder = load_encoder("small-face", pretrained=False, channels=[4, "pool", 8], embedding_size=6)
    assert main(["publish", str(save_encoder(encoder, tmp_path / "encoder")), "ann/encoder"]) == 0
    assert load_encoder("ann/encoder").input_size == (3, 64, 64)


def test_a_proposal_prints_where_to_look(ann, folder, capsys, monkeypatch):
    main(["publish", str(folder), "ann/fer"])
    (folder / "README.md").write_text("Better words.")
    monkeypatch.setenv("HF_TOKEN", "hf_bob")
    capsys.readouterr()
    assert main(["publish", str(folder), "ann/fer", "--create_pr"]) == 0
    assert capsys.readouterr().out.strip() == f"{ann.url}/ann/fer/discussions/1"
    assert "Better words." in ann.files("ann/fer", "refs/pr/1")["README.md"].decode()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inspect", "nowhere"], "ciao: No adapter folder at 'nowhere'"),
        (["inspect", "ann/none"], "ciao: 'ann/none' is not on the Hub, or private"),
        (["pull", "fer"], "ciao: 'fer' is no name of a repository; give `user/name`."),
        (["publish", "nowhere", "ann/fer"], "ciao: No adapter folder at 'nowhere'"),
    ],
)
def test_an_error_is_one_line_and_status_1(ann, words, message, capsys):
    assert main(words) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_help_costs_no_torch():
    code = (
        "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); from ciao_peft.cli import main; "
    )
    command = [sys.executable, "-c", code + "main(['publish', '--help'])"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.endswith("False\n")


def test_inspect_shows_every_setting_that_is_not_the_default(tmp_path, capsys):
    changes = {
        "inhibition_form": "gain",
        "inhibition_rank": 2,
        "excitation_rank": 1,
        "spatial_maps": 3,
        "contrastive_prototypes": "simplex",
        "logit_adjustment": 1.0,
        "class_prior": (0.25, 0.75),
        "probability_temperature": 1.5,
        "hidden_sizes": (),
    }
    config = CIAOConfig(problem_type="single_label_classification", num_labels=2, **changes)
    model = get_ciao_model(tiny_backbone(), config, input_size=SIZE)
    assert main(["inspect", str(model.save_pretrained(tmp_path / "moods", dtype="int8"))]) == 0
    lines = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines() if " " in line)
    assert lines["weights"].endswith(" bytes in int8")
    kept = {name: value if isinstance(value, str) else json.dumps(value) for name, value in changes.items()}
    assert {name: lines[name].strip() for name in changes} == kept
    assert "dropout" not in lines and "depths" not in lines and "temperature" not in lines
