from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard
from jinja2 import TemplateNotFound, UndefinedError

from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
from ciao_peft.cards.contents import (
    adapter_card,
    card_without_record,
    collection_card,
    encoder_card,
    text_reader,
)
from ciao_peft.cards.page import prose
from ciao_peft.cards.rendering import render
from ciao_peft.data import paint_face
from ciao_peft.encoders import save_encoder
from ciao_peft.errors import AdapterFileError
from ciao_peft.preprocessing import Preprocessing
from ciao_peft.saving.files import read_json
from helpers.fakes import SIZE, tiny_backbone

CONFIG = CIAOConfig(
    problem_type="single_label_classification", num_labels=2, id2label={0: "sad", 1: "happy"}, target_modules=("3",)
)
TRAINING = {
    "dataset": {"name": "Painted faces", "id": "ann/painted", "license": "cc0-1.0"},
    "license": "apache-2.0",
    "world": "robots that overstate",
    "seeds": [1, 2, 3],
    "metrics": {
        "accuracy": {"mean": 0.8125, "sd": 0.02, "interval": [0.78, 0.84], "values": [0.8, 0.8, 0.84], "split": "test"}
    },
    "arguments": {"learning_rate": 0.001},
}
RECORD = {
    "base_model_name_or_path": "ann/encoder",
    "revision": "0123456789" * 4,
    "config": CONFIG.to_dict(),
    "input_size": [3, 64, 64],
    "weights_bytes": 12_345,
    "weights_sha256": "ab" * 32,
    "trained_parameters": 9_876,
    "versions": {"ciao_peft": "0.1.0"},
    "training": TRAINING,
}


def test_the_hub_reads_its_metadata():
    card = ModelCard(adapter_card(RECORD, "ann/faces"))
    assert card.data.library_name == "ciao_peft"
    assert card.data.base_model == "ann/encoder"
    assert card.data["base_model_relation"] == "adapter"
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.datasets == ["ann/painted"]
    assert card.data.license == "apache-2.0"
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.8125)
    assert (result.dataset_name, result.dataset_type, result.dataset_split) == ("Painted faces", "ann/painted", "test")
    assert result.metric_args["seeds"] == [1, 2, 3]
    assert result.metric_args["interval"] == [0.78, 0.84]
    assert card.data.model_name == "faces"


def test_the_page_says_what_was_recorded():
    text = adapter_card(RECORD, "ann/faces")
    for fact in (
        "# faces",
        "one of 2 classes: sad, happy",
        f"`ann/encoder` at `{'0123456789' * 4}`, frozen",
        "| trained parameters | 9,876 |",
        "12,345 bytes",
        'model = AutoCIAOModel.from_pretrained("ann/faces")',
        "| accuracy | test | 0.8125 ± 0.02 | [0.78, 0.84] | 3 |",
        "Seeds: [1, 2, 3].",
        "| `learning_rate` | 0.001 |",
        "as the people who labelled Painted faces would",
        "Its world: robots that overstate.",
        "not\nuniversal",
        "Made with ciao_peft 0.1.0.",
    ):
        assert fact in text


def test_what_was_not_recorded_is_not_claimed():
    record = {key: value for key, value in RECORD.items() if key not in ("training", "trained_parameters", "versions")}
    text = adapter_card(record | {"base_model_name_or_path": "small-face"}, "ann/faces")
    metadata = yaml.safe_load(text.split("---")[1])
    assert set(metadata) == {"library_name", "pipeline_tag", "tags"}
    assert not [word for word in ("Results", "Training", "Made with", "trained parameters") if word in text]


def test_what_a_trainer_calls_its_scores_is_understood():
    record = {
        "metrics": {"train_loss": 1.0, "train_runtime": 9.0},
        "eval_accuracy": 0.75,
        "test_macro_f1": 0.5,
        "eval_loss": 1.5,
        "arguments": {"seed": 7, "max_steps": None},
        "dataset": "painted_faces",
    }
    card = ModelCard(adapter_card(RECORD | {"training": record}, "ann/faces"))
    found = [(r.metric_type, r.metric_value, r.dataset_split, r.metric_args["seeds"]) for r in card.data.eval_results]
    assert found == [("accuracy", 0.75, "evaluation", 7), ("macro_f1", 0.5, "test", 7)]
    assert "| loss | evaluation | 1.5 |" in card.text
    assert "max_steps" not in card.text


def test_scores_without_a_dataset_are_no_claim_on_the_hub():
    record = {"training": {"metrics": {"accuracy": 0.5}}}
    text = adapter_card(RECORD | record, "ann/faces")
    assert "model-index" not in text
    assert "| accuracy |  | 0.5 |" in text


@pytest.mark.parametrize(
    "training",
    [
        {"metrics": "very good"},
        {"metrics": {"accuracy": None, "f1": "high", "kappa": {"interval": [1, 2]}, "ok": True}},
        {"dataset": 7, "arguments": [1, 2], "seeds": "many"},
        {"metrics": {"f1": {"value": 0.5, "interval": ["a", "b"], "sd": "?", "values": 3}}},
    ],
)
def test_odd_records_make_a_card_all_the_same(training):
    assert ModelCard(adapter_card(RECORD | {"training": training}, "ann/faces")).data.library_name == "ciao_peft"


def test_names_can_break_neither_table_nor_page():
    names = {0: "a | b\n<!-- ciao: end of facts -->", 1: "```"}
    config = CIAOConfig(problem_type="single_label_classification", num_labels=2, id2label=names)
    text = adapter_card(RECORD | {"config": config.to_dict()}, "ann/faces")
    assert prose(text) == ""
    assert prose(adapter_card(RECORD, "ann/faces", existing=text)) == ""


def test_prose_and_own_metadata_stay_while_facts_are_written_anew():
    mine = adapter_card(RECORD, "ann/faces").replace("license: apache-2.0", "license: mit\nlanguage: en")
    mine = mine.replace("<!-- ciao: use", "We painted them ourselves.\n\n<!-- ciao: use") + "\nThanks, Ann.\n"
    again = adapter_card(RECORD | {"trained_parameters": 5, "training": {}}, "ann/faces", existing=mine)
    metadata = yaml.safe_load(again.split("---")[1])
    assert prose(again) == prose(mine)
    assert " ".join(prose(again).split()) == "We painted them ourselves. Thanks, Ann."
    assert "| trained parameters | 5 |" in again
    assert "9,876" not in again
    assert (metadata["license"], metadata["language"]) == ("mit", "en")
    assert "model-index" not in metadata, "scores of other weights"
    assert adapter_card(RECORD | {"trained_parameters": 5, "training": {}}, "ann/faces", existing=again) == again


def test_a_part_without_its_marks_belongs_to_who_removed_them():
    mine = adapter_card(RECORD, "ann/faces")
    start, end = mine.index("<!-- ciao: use"), mine.index("<!-- ciao: end of use -->")
    mine = mine[:start] + "Use it for paintings." + mine[end:].removeprefix("<!-- ciao: end of use -->")
    again = adapter_card(RECORD, "ann/faces", existing=mine)
    assert again == mine
    assert "hiring" not in again


@pytest.mark.parametrize(
    "foreign", ["Only words.", "---\ntags: [mine]\n---\nOnly words.", "---\n: : [\n---\nOnly words."]
)
def test_a_card_by_others_gets_metadata_and_keeps_its_words(foreign):
    again = adapter_card(RECORD, "ann/faces", existing=foreign)
    assert again.endswith("Only words.")
    metadata = yaml.safe_load(again.split("---")[1])
    assert metadata["base_model"] == "ann/encoder"
    assert ("mine" in metadata["tags"]) == ("mine" in foreign)


def test_saving_writes_the_card_and_keeps_its_prose(tmp_path):
    model = get_ciao_model(tiny_backbone(), CONFIG, input_size=SIZE)
    card = model.save_pretrained(tmp_path / "faces", training=TRAINING) / "README.md"
    trainable, _ = model.get_nb_trainable_parameters()
    assert f"| trained parameters | {trainable:,} |" in card.read_text()
    card.write_text(card.read_text() + "Mine.\n")
    model.save_pretrained(tmp_path / "faces")
    assert card.read_text().endswith("Mine.\n")
    assert "accuracy" not in card.read_text()


def head(folder):
    """Metadata of the card in a folder."""
    return yaml.safe_load((folder / "README.md").read_text().split("---")[1])


@pytest.mark.parametrize(
    ("name", "revision", "claimed"),
    [
        ("ann/encoder", "0123456789" * 4, True),
        ("timm/resnet18.a1_in1k", "a1_in1k", True),
        ("timm/resnet18", "random", False),
        ("timm/resnet18.a1_in1k", None, False),  # a network of timm itself does not say whether it was pretrained
        ("runs/encoder", "0123456789abcdef", False),  # a folder
        ("ann/encoder", None, False),
        ("../encoder", "0123456789abcdef", False),
        ("small-face", "0123456789abcdef", True),  # weights of this library
        ("small-face", "random", False),
        ("small-face", None, False),
    ],
)
def test_a_base_model_is_claimed_where_its_name_says_which_weights(name, revision, claimed):
    record = RECORD | {"base_model_name_or_path": name, "revision": revision}
    for card in (adapter_card(record, "ann/faces"), collection_card(record, "ann/faces", ["eight"])):
        metadata = yaml.safe_load(card.split("---")[1])
        assert metadata.get("base_model") == (name if claimed else None)
        assert ("base_model_relation" in metadata) == claimed


def test_numbers_on_a_card_are_rounded_and_an_older_card_with_all_digits_is_still_of_its_record():
    training = {
        "dataset": {"name": "faces"},
        "metrics": {"accuracy": {"mean": 0.843216080402, "values": [0.8400000012, 0.846432160804]}},
        "arguments": {"learning_rate": 0.0030000000000000005},
    }
    record = RECORD | {"training": training}
    card = adapter_card(record, "ann/faces")
    assert re.findall(r"\d\.\d{7,}", card) == []
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.8432
    full = card.replace("0.8432", "0.843216080402").replace("0.8464", "0.846432160804")
    assert full != card
    files = {"README.md": full, "adapter_config.json": json.dumps(record)}
    assert adapter_card(record, "ann/faces", existing=card_without_record(files.get, "adapter_config.json")) == card


def test_neither_random_weights_nor_a_folder_are_a_base_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_encoder(load_encoder("small-face"), "runs/enc")
    for encoder in (load_encoder("timm/test_resnet", pretrained=False), load_encoder("runs/enc")):
        config = replace(CONFIG, target_modules=None)
        assert "base_model" not in head(get_ciao_model(encoder, config).save_pretrained(tmp_path / "faces"))


def test_saving_again_takes_back_what_the_last_save_said_and_nothing_else(tmp_path):
    folder = get_ciao_model(tiny_backbone(), CONFIG, input_size=SIZE).save_pretrained(tmp_path / "a", training=TRAINING)
    card = folder / "README.md"
    assert {"license", "datasets", "metrics", "model-index", "pipeline_tag"} <= set(head(folder))
    card.write_text(card.read_text().replace("library_name:", "language: de\nthumbnail: face.png\nlibrary_name:"))
    values = CIAOConfig(problem_type="regression", num_labels=2)
    get_ciao_model(tiny_backbone(), values, input_size=SIZE).save_pretrained(folder, training={"dataset": "B"})
    tags = ["ciao", "adapter", "facial-expression-recognition"]
    assert head(folder) == {"library_name": "ciao_peft", "tags": tags, "language": "de", "thumbnail": "face.png"}


def test_a_licence_written_on_the_card_outlives_every_save_and_a_recorded_one_does_not(tmp_path):
    model = get_ciao_model(tiny_backbone(), CONFIG, input_size=SIZE)
    folder = model.save_pretrained(tmp_path / "a", training={"license": "mit"})
    model.save_pretrained(folder, training={"license": "apache-2.0"})
    assert head(folder)["license"] == "apache-2.0"
    card = folder / "README.md"
    card.write_text(card.read_text().replace("apache-2.0", "cc-by-nc-4.0"))
    for recorded in ({"license": "mit"}, {}, {"license": "apache-2.0"}):
        model.save_pretrained(folder, training=recorded)
        assert head(folder)["license"] == "cc-by-nc-4.0"


def test_a_base_model_that_an_earlier_version_claimed_goes(tmp_path):
    encoder = load_encoder("small-face")
    encoder.name = "runs/enc"
    folder = get_ciao_model(encoder, replace(CONFIG, target_modules=None)).save_pretrained(tmp_path / "a")
    card = folder / "README.md"
    card.write_text(card.read_text().replace("tags:", "base_model: runs/enc\nbase_model_relation: adapter\ntags:", 1))
    get_ciao_model(tiny_backbone(), CONFIG, input_size=SIZE).save_pretrained(folder)
    assert "base_model" not in head(folder)


@pytest.mark.parametrize("record", ["", "[]", "7", "{}", '{"ciao_encoder": 1, "training": 3}', "[" * 100_000])
def test_a_card_whose_record_is_none_is_all_of_people(tmp_path, record):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\nMine.\n")
    (folder / "adapter_config.json").write_text(record)
    assert card_without_record(text_reader(folder), "adapter_config.json") == (folder / "README.md").read_text()


def test_scores_of_a_subfolder_are_under_the_name_of_the_title():
    card = ModelCard(adapter_card(RECORD, 'ann/worlds", subfolder="fer'))
    assert card.data.model_name == "worlds"
    assert "# worlds" in card.text


def code_of(folder):
    """The first block of code on a card, which is what people copy."""
    return re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]


@pytest.mark.parametrize("frames", [None, 2])
@pytest.mark.parametrize("kind", ["named", "folder", "own", "own without preprocessing"])
def test_the_code_on_the_card_runs(tmp_path, monkeypatch, capsys, kind, frames):
    monkeypatch.chdir(tmp_path)
    for name in ("face", *(f"frame-{n}" for n in (1, 2, 3))):
        paint_face(size=32).save(f"{name}.jpg")
    given = {}
    if kind == "own":
        given = {"preprocessing": Preprocessing(size=SIZE[1:])}
    elif kind == "own without preprocessing":
        given = {"input_size": SIZE}
    elif kind == "folder":
        save_encoder(load_encoder("small-face"), "runs/enc")
    backbone = tiny_backbone() if given else load_encoder("runs/enc" if kind == "folder" else "small-face")
    clips = {} if frames is None else {"frames": frames, "recurrent_size": 4}
    model = get_ciao_model(backbone, replace(CONFIG, target_modules=None, **clips), **given)
    code = code_of(model.save_pretrained(tmp_path / "faces"))
    assert ("AutoCIAOModel" in code) == (kind == "named")
    space = {"backbone": tiny_backbone().train()} if given else {}
    exec(code, space)
    words = set(re.findall(r"\w+", capsys.readouterr().out))
    assert {"tensor"} <= words if kind == "own without preprocessing" else {"sad", "happy"} <= words


def test_a_picture_lies_beside_the_card_until_the_adapter_is_saved_without(tmp_path):
    png = b"\x89PNG\r\n\x1a\n rest"
    model = get_ciao_model(tiny_backbone(), CONFIG, input_size=SIZE)
    folder = model.save_pretrained(tmp_path / "faces", picture=png)
    assert (folder / "saliency.png").read_bytes() == png
    assert "](saliency.png)" in (folder / "README.md").read_text()
    assert read_json(folder / "adapter_config.json")["trained_parameters"] > 0
    model.save_pretrained(folder)
    assert not (folder / "saliency.png").exists()
    assert "saliency.png" not in (folder / "README.md").read_text()
    with pytest.raises(AdapterFileError, match="`picture` is no PNG"):
        model.save_pretrained(folder, picture=b"JFIF")


def test_an_encoders_card_shows_how_to_load_it():
    text = encoder_card({"training": {"license": "mit"}}, "ann/encoder", num_parameters=1_234)
    assert ModelCard(text).data.license == "mit"
    assert 'load_encoder("ann/encoder")' in text
    assert "1,234 parameters" in text


HOSTILE = "x\n---\n\n# Owned | <script>\n{{ 7 * 191 }}{% raw %} <!-- ciao: end of facts --> ```"


def test_no_recorded_text_leaves_its_place_on_the_card():
    config = CIAOConfig(
        problem_type="single_label_classification",
        num_labels=2,
        id2label={0: HOSTILE, 1: "b"},
        target_modules=(HOSTILE,),
    )
    training = {
        "dataset": {"name": HOSTILE, "id": HOSTILE, "url": HOSTILE},
        "license": HOSTILE,
        "world": HOSTILE,
        "seeds": HOSTILE,
        "arguments": {HOSTILE: HOSTILE},
        "metrics": {HOSTILE: {"value": 0.5, "split": HOSTILE, "interval": HOSTILE, "sd": HOSTILE}},
        HOSTILE: HOSTILE,
    }
    record = RECORD | {"config": config.to_dict(), "training": training, "versions": {HOSTILE: HOSTILE}}
    record |= {"base_model_name_or_path": HOSTILE, "revision": HOSTILE, "weights_sha256": HOSTILE}
    honest = ModelCard(adapter_card(RECORD, "ann/faces"))
    for text in (
        adapter_card(record, f"ann/{HOSTILE}", picture=True, prepares=False),
        encoder_card({"training": training, "versions": {HOSTILE: HOSTILE}}, f"ann/{HOSTILE}"),
        collection_card(record, f"ann/{HOSTILE}", [HOSTILE]),
    ):
        card = ModelCard(text)
        assert set(card.data.to_dict()) <= set(honest.data.to_dict())
        assert prose(text) == ""
        assert "\n# Owned" not in card.text
        assert "<script>" not in card.text
        assert "{{ 7 * 191 }}{% raw %}" in card.text, "a value is never a template"
        assert card.text.count("<!-- ciao: end of") == card.text.count("each save writes this part anew")


def test_the_library_reads_a_saved_card_and_would_write_the_same_metadata(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(adapter_card(RECORD, "ann/faces"), encoding="utf-8")
    card = ModelCard.load(path)
    assert card.data.to_dict() == yaml.safe_load(path.read_text(encoding="utf-8").split("---")[1])
    (result,) = card.data["eval_results"]
    assert card.data.to_dict()["model-index"][0]["results"][0]["metrics"][0]["value"] == result.metric_value


def test_a_template_lacks_no_value():
    with pytest.raises(UndefinedError, match="card_file"):
        render("collection.md.jinja", title="worlds", subfolders=["fer"])


@pytest.mark.parametrize("name", ["../page.py", "/etc/hostname", "README.md"])
def test_no_template_is_read_from_outside_its_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("{{ 7 * 191 }}")
    with pytest.raises(TemplateNotFound):
        render(name)
