"""Adapters saved by every release load today and give the outputs they gave then."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import ciao_peft
from ciao_peft import CIAOConfig
from ciao_peft.model import CIAOModel
from helpers.golden import FOLDERS, WORLDS, formula_backbone, formula_pixels


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_an_adapter_of_a_release_gives_the_outputs_it_gave_then(folder):
    wanted = json.loads((folder / "outputs.json").read_text("utf-8"))
    model = CIAOModel.from_pretrained(formula_backbone(), folder).eval()
    output = model(formula_pixels())
    torch.testing.assert_close(output.logits, torch.tensor(wanted["logits"]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.embeddings, torch.tensor(wanted["embeddings"]), rtol=1e-4, atol=1e-5)


def test_this_release_has_its_golden_adapters():
    assert {folder.name for folder in FOLDERS if folder.parent.name == ciao_peft.__version__} == set(WORLDS)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_golden_outputs_are_of_trained_adapters_that_matter(folder):
    wanted = json.loads((folder / "outputs.json").read_text("utf-8"))
    model = CIAOModel.from_pretrained(formula_backbone(), folder).eval()
    model.add_adapter("fresh", model.peft_config[folder.name])
    model.set_adapter("fresh")
    assert (model(formula_pixels()).logits - torch.tensor(wanted["logits"])).abs().max() > 0.01
    assert torch.tensor(wanted["logits"]).std(dim=0).min() > 0.001  # they read the picture


@pytest.mark.parametrize("said", [{}, {"excitation_rank": None}], ids=str)
def test_a_folder_without_a_setting_that_came_later_has_the_paper_s(tmp_path, said):
    first = next(folder for folder in FOLDERS if (folder.parent.name, folder.name) == ("0.1.0", "classes"))
    folder = tmp_path / "classes"
    shutil.copytree(first, folder)
    written = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    for setting in ("excitation_rank", "contrastive_weight"):
        written["config"].pop(setting, None)
    written["config"] |= said
    (folder / "adapter_config.json").write_text(json.dumps(written), "utf-8")
    config = CIAOModel.from_pretrained(formula_backbone(), folder).peft_config["classes"]
    assert (config.excitation_rank, config.contrastive_weight) == (0, 1.0)


def test_a_folder_that_names_no_form_has_the_paper_s():
    first = next(folder for folder in FOLDERS if (folder.parent.name, folder.name) == ("0.1.0", "classes"))
    assert "inhibition_form" not in (first / "adapter_config.json").read_text("utf-8")
    model = CIAOModel.from_pretrained(formula_backbone(), first)
    assert model.peft_config["classes"].inhibition_form == "divisive"
    assert CIAOConfig.from_pretrained(first).inhibition_form == "divisive"
    assert CIAOConfig.inhibition_form != "divisive"
